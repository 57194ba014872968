"""The pages in a real browser: log in, look, hear events, log out; and scripts of other people on a page of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browser, find_browser
from gateway_site import Site, gateway_site
from lab import wait_until

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here: apt-get install chromium")

# From the plugin guide of the predecessor, with straight quotes.
GUIDE = """
const eventSource = new EventSource('/events');
eventSource.onmessage = (event) => {
  const msg = JSON.parse(event.data);
  if (msg.topic === 'notification') {
    const {endpoint, plugin, topic, data} = msg.data;
    console.log(`${endpoint}/${plugin}: ${topic}`, data);
  }
};
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with gateway_site() as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser(PROGRAM or "") as made:
        yield made


@pytest.fixture
def page(site: Site, chromium: Browser) -> Browser:
    """A fresh page, logged out."""
    chromium.ask("Network.clearBrowserCookies")
    chromium.open(f"{site.url}/")
    chromium.wait_for("!document.getElementById('login').hidden")
    chromium.said.clear()
    chromium.faults.clear()
    return chromium


def log_in(page: Browser, token: str) -> None:
    page.run(f"document.getElementById('token').value = {token!r}; document.querySelector('#login button').click()")


def keep_picture(page: Browser, name: str) -> None:
    """Where ORBIT_TEST_PICTURES names a directory, somebody wants to look."""
    if (place := os.environ.get("ORBIT_TEST_PICTURES")) is not None:
        page.screenshot(Path(place) / f"{name}.png")


def test_who_logs_in_sees_endpoints_plugins_and_events_as_they_happen(site: Site, page: Browser) -> None:
    keep_picture(page, "login")
    log_in(page, site.token)
    page.wait_for("document.getElementById('line').textContent === 'live'")
    row = page.wait_for("document.querySelector('#endpoints tr')?.innerText")
    assert "hpc1" in row and "present" in row and "math 0.1.0" in row

    for number in range(5):
        site.http.post("/hpc1/math/add", json={"a": number, "b": 1})

    page.wait_for("document.querySelectorAll('#events tr').length >= 5")
    assert "result" in page.run("document.querySelector('#events tr').innerText")
    keep_picture(page, "status")
    assert page.faults == []


def test_the_page_follows_endpoints_that_come_and_go(site: Site, page: Browser) -> None:
    log_in(page, site.token)
    page.wait_for("document.querySelectorAll('#endpoints tr').length === 1")

    second = site.lab.start_endpoint("hpc2", plugins="math")
    page.wait_for("document.getElementById('endpoints').innerText.includes('hpc2')")
    second.end()
    page.wait_for("!/hpc2\\s+present/.test(document.getElementById('endpoints').innerText)")


def test_a_wrong_token_is_told_and_a_logout_is_one(site: Site, page: Browser) -> None:
    log_in(page, "nonsense")
    page.wait_for("document.getElementById('refused').textContent.includes('not known')")

    log_in(page, site.token)
    page.wait_for("!document.getElementById('view').hidden")
    page.run("document.getElementById('leave').click()")
    page.wait_for("!document.getElementById('login').hidden")
    assert page.run("fetch('/endpoints').then((answer) => answer.status)") == 401


def test_the_api_is_shown_without_anything_from_elsewhere(site: Site, page: Browser) -> None:
    log_in(page, site.token)
    page.wait_for("!document.getElementById('view').hidden")
    page.open(f"{site.url}/docs")
    page.wait_for("document.querySelectorAll('.operation').length > 20")
    page.run("document.querySelector('[data-words*=\"/hpc1/math/add \"]').open = true")
    page.wait_for("document.querySelectorAll('[data-words*=\"/hpc1/math/add \"] pre').length > 0")
    page.run("document.querySelector('[data-words*=\"/hpc1/math/add \"]').scrollIntoView()")
    keep_picture(page, "docs")
    assert page.faults == []


def test_the_script_of_the_guide_hears_events_on_a_page_of_ours(site: Site, page: Browser) -> None:
    page.run(f"fetch('/auth', {{method: 'POST', headers: {{Authorization: 'Bearer {site.token}'}}}}).then((one) => one.status)")
    page.run(GUIDE + "; new Promise((done) => { eventSource.onopen = () => done(true); })")

    def is_heard() -> bool:
        site.http.post("/hpc1/math/mul", json={"a": 6, "b": 7})
        return any(said[0] == "hpc1/math: result" for said in page.said)

    wait_until(is_heard)
    said = next(said for said in page.said if said[0] == "hpc1/math: result")
    assert said[1]["op"] == "mul" and said[1]["result"] == "42"
    assert page.faults == []


def test_a_script_within_the_page_is_not_run(site: Site, page: Browser) -> None:
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.caught = 1\">')")
    wait_until(lambda: any("Content Security Policy" in fault for fault in page.faults))
    assert page.run("window.caught") is None

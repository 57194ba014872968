"""What Prometheus scrapes, what health says, and that the dashboard shows figures that there are."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_site import Site, gateway_site
from lab import wait_until
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana-dashboard.json"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with gateway_site(plugins="math,sysinfo,rhapsody") as made:
        yield made


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(site: Site) -> Samples:
    """All figures, those of the broker among them, which has two seconds to tell them."""

    def complete() -> Samples:
        samples = scrape_once(site)
        return samples if value(samples, "orbit_broker_up") else {}

    return wait_until(complete, what="the broker tells its figures")


def scrape_once(site: Site) -> Samples:
    answer = site.http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def test_requests_their_time_and_their_errors_are_counted_by_plugin_and_operation(site: Site) -> None:
    before = scrape(site)
    for number in range(3):
        site.http.post("/hpc1/math/add", json={"a": number, "b": 1})
    site.http.get("/hpc1/math/history/session.none")
    site.asking().get("/endpoints")
    after = scrape(site)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("orbit_http_requests_total", plugin="math", operation="add", status="200") == 3
    assert grown("orbit_http_request_seconds_count", plugin="math", operation="add") == 3
    assert grown("orbit_http_request_seconds_bucket", plugin="math", operation="add", le="+Inf") == 3
    assert grown("orbit_http_requests_total", plugin="math", operation="history", status="404") == 1
    assert grown("orbit_http_errors_total", code="not-found") == 1
    assert grown("orbit_http_errors_total", code="auth-required") == 1
    assert grown("orbit_http_bytes_total", direction="in") > 0 and grown("orbit_http_bytes_total", direction="out") > 0
    assert grown("orbit_broker_requests_total") >= 3


def test_a_scrape_tells_of_participants_queues_tasks_and_the_process(site: Site) -> None:
    wait_until(lambda: value(scrape(site), "orbit_participants", role="endpoint", state="present") == 1)
    wait_until(lambda: value(scrape(site), "orbit_participants", role="gateway", state="present") == 1)
    samples = scrape(site)

    assert value(samples, "orbit_broker_up") == 1
    names = {name for name, _ in samples}
    assert {"orbit_queue_messages", "orbit_queue_bytes", "orbit_broker_events_total", "orbit_sse_readers"} <= names
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "orbit_broker_memory_bytes"} <= names


def test_tasks_are_counted_by_their_state(site: Site) -> None:
    tasks = [{"uid": f"t{number}", "executable": "/bin/true"} for number in range(3)]
    assert site.http.post("/hpc1/rhapsody/submit", json={"tasks": tasks}).status_code == 200

    wait_until(lambda: value(scrape(site), "orbit_tasks", state="DONE") == 3)
    assert value(scrape(site), "orbit_tasks", state="RUNNING") == 0


def test_readers_of_events_are_counted(site: Site) -> None:
    with site.http.stream("GET", "/events") as stream:
        assert stream.status_code == 200
        wait_until(lambda: value(scrape(site), "orbit_sse_readers") == 1)
    wait_until(lambda: value(scrape(site), "orbit_sse_readers") == 0)


def test_a_caller_cannot_make_labels(site: Site) -> None:
    before = len(scrape(site))
    for number in range(300):
        site.http.get(f"/nowhere{number}/plugin{number}/operation{number}")
        site.http.get(f"/hpc1/math/operation{number}")
        site.http.get(f"/{number}")
    samples = scrape(site)

    assert not [labels for _, labels in samples if any("operation1" in text or "nowhere" in text for _, text in labels)]
    assert len(samples) < before + 60


def test_health_needs_no_token_and_readiness_follows_the_broker(site: Site) -> None:
    nobody = site.asking()

    assert nobody.get("/healthz").json() == {"status": "ok"}
    wait_until(lambda: nobody.get("/readyz").status_code == 200)
    assert nobody.get("/metrics").status_code == 401


def test_the_dashboard_shows_figures_that_there_are(site: Site) -> None:
    site.http.post("/hpc1/math/add", json={"a": 1, "b": 1})
    site.http.get("/nowhere")
    names = {name for name, _ in scrape(site)} | {
        "orbit_drops_total",
        "orbit_tasks",
    }  # what there is none of has no cause and no state
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]

    assert len(queries) >= 10
    for query in queries:
        used = set(re.findall(r"\b((?:orbit|process)_[a-z_]+)\b", query))
        assert used and used <= names, query
        assert query.count("(") == query.count(")")


def test_every_figure_is_documented(site: Site) -> None:
    text = (DASHBOARD.parent / "http.md").read_text()
    site.http.get("/nowhere")
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in scrape(site) if name.startswith("orbit_")}

    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_without_a_broker_the_gateway_lives_and_is_not_ready() -> None:
    with gateway_site(plugins="math") as site:
        assert site.lab.broker is not None
        os.kill(site.lab.broker.pid, signal.SIGKILL)
        wait_until(lambda: site.http.get("/readyz").status_code == 503)

        assert site.asking().get("/healthz").status_code == 200
        assert value(scrape_once(site), "orbit_broker_up") == 0

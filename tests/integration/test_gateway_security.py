"""An outsider at the gateway: what is not permitted is refused in the envelope of errors, and the next good call works."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from gateway_site import ALL, Site, gateway_site
from lab import wait_until

from orbit_zmq.security.tokens import TokenList

EVENTS = "/events?topic=nothing"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with gateway_site(plugins="math,sysinfo,test") as made:
        yield made


@pytest.fixture(autouse=True)
def _works_afterwards(site: Site) -> Iterator[None]:
    yield
    assert site.works()


def tokens(site: Site) -> TokenList:
    return TokenList(site.lab.place / "state" / "gateway")


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The envelope of a refusal, checked."""
    assert answer.status_code == status, answer.text
    said: dict[str, Any] = answer.json()
    assert said["error"] is True and said["status_code"] == status and said["code"] == code, said
    return said


def whole_answer(line: socket.socket) -> bytes:
    """What comes until the gateway closes the line, which it may do by a reset where it was sent more than it read."""
    line.settimeout(60)
    parts = []
    with line, suppress(ConnectionResetError):
        while part := line.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def body_of(answer: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return said


# Who


@pytest.mark.parametrize(
    "path", ["/endpoints", "/events", "/metrics", "/openapi.json", "/hpc1/math/version", "/nothing/is/here"]
)
def test_without_a_token_the_answer_names_the_line_that_is_missing(site: Site, path: str) -> None:
    answer = site.asking().get(path)

    assert "Authorization: Bearer <token>" in refused(answer, 401, "auth-required")["detail"]
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "line",
    ["Bearer nonsense", "Bearer", "Basic am9lOmpvZQ==", "", "Bearer orbit_" + "A" * 43, "Bearer \u00e9"],
    ids=["nonsense", "no token", "basic", "nothing", "unknown", "no ascii"],
)
def test_a_wrong_token_is_refused(site: Site, line: str) -> None:
    refused(site.asking().get("/endpoints", headers={b"Authorization": line.encode()}), 401, "auth-required")


def test_a_token_that_has_expired_or_was_revoked_is_refused_at_once(site: Site) -> None:
    short = site.lab.token("short", expires_s=0.3)
    gone = site.lab.token("gone")
    assert site.asking(gone).get("/endpoints").status_code == 200

    tokens(site).revoke("gone")

    assert "is not known" in refused(site.asking(gone).get("/endpoints"), 401, "auth-required")["detail"]
    wait_until(lambda: site.asking(short).get("/endpoints").status_code == 401)
    assert "expired" in site.asking(short).get("/endpoints").json()["detail"]


def test_the_end_of_a_token_is_the_end_of_its_streams(site: Site) -> None:
    token = site.lab.token("listens")
    browser, _ = site.browser(token)
    with site.asking(token).stream("GET", "/events") as one, browser.stream("GET", "/events") as other:
        streams = [stream.iter_bytes() for stream in (one, other)]
        assert all(next(stream) for stream in streams)

        tokens(site).revoke("listens")

        for stream in streams:
            with suppress(httpx.RemoteProtocolError):  # cut off in the middle
                assert sum(len(piece) for piece in stream) < 10_000  # to its end
    assert "Traceback" not in site.lab.log_of("gateway")


def test_what_a_token_was_receiving_when_it_ended_is_not_taken_for_whole(site: Site) -> None:
    session = site.http.post("/hpc1/test/register_session", json={}).json()["sid"]
    path = f"/hpc1/test/produce/{session}?total_bytes=1000000000&pause_s=0.05"
    with site.asking(site.lab.token("receives")).stream("GET", path) as stream:
        pieces = stream.iter_raw()
        assert next(pieces)
        tokens(site).revoke("receives")

        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass


def test_the_end_of_a_token_is_the_end_of_its_browsers(site: Site) -> None:
    browser, _ = site.browser(site.lab.token("ends"))
    assert browser.get("/auth").json()["token"] == "ends"

    tokens(site).revoke("ends")

    refused(browser.get("/endpoints"), 401, "auth-required")


def test_nothing_on_disk_is_a_token_or_a_cookie(site: Site) -> None:
    token = site.lab.token("kept")
    browser, _ = site.browser(token)
    directory = site.lab.place / "state" / "gateway"
    kept = [path for path in directory.rglob("*") if path.is_file()]

    assert {path.name for path in kept} >= {"tokens.json", "browsers.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept if path.suffix == ".json")
    for secret in (token, browser.cookies["orbit_session"]):
        assert not any(secret.encode() in path.read_bytes() for path in kept)
        assert secret not in site.lab.log_of("gateway")


# What


def test_a_token_does_what_its_rights_say(site: Site) -> None:
    reader = site.asking(site.lab.token("reader", rights=("read",)))

    assert reader.get("/hpc1/math/version").status_code == 200
    assert (
        "needs the right write" in refused(reader.post("/hpc1/math/add", json={"a": 1, "b": 1}), 403, "not-permitted")["detail"]
    )
    refused(reader.post("/broker/terminate"), 403, "not-permitted")
    refused(reader.post("/endpoint/disconnect/hpc1"), 403, "not-permitted")
    paths = reader.get("/openapi.json").json()["paths"]
    assert "/hpc1/math/history" in paths and "/hpc1/math/add" not in paths and "/broker/terminate" not in paths


def test_a_token_reaches_the_endpoints_and_plugins_that_it_names(site: Site) -> None:
    elsewhere = site.asking(site.lab.token("elsewhere", endpoints=("hpc2",)))
    one = site.asking(site.lab.token("one", plugins=("sysinfo",)))

    refused(elsewhere.get("/hpc1/math/version"), 404, "not-found")
    assert elsewhere.get("/endpoints").json()["total"] == 0
    refused(one.get("/hpc1/math/version"), 403, "not-permitted")
    assert one.get("/endpoints").json()["endpoints"][0]["plugins"] == ["sysinfo"]
    assert not [path for path in one.get("/openapi.json").json()["paths"] if path.startswith("/hpc1/math")]


def test_a_token_that_is_limited_to_a_part_ends_nothing_that_is_more(site: Site) -> None:
    one_plugin = site.asking(site.lab.token("one-plugin", plugins=("math",), rights=ALL))
    one_endpoint = site.asking(site.lab.token("one-endpoint", endpoints=("hpc2",), rights=("run", "admin")))

    for asking in (one_plugin, one_endpoint):
        refused(asking.post("/endpoint/disconnect/hpc1"), 403, "not-permitted")
        refused(asking.post("/broker/terminate"), 403, "not-permitted")
        assert "/broker/terminate" not in asking.get("/openapi.json").json()["paths"]
    refused(one_endpoint.post("/endpoint/disconnect/hpc2"), 404, "not-found")


def test_the_session_of_another_user_does_not_exist(site: Site) -> None:
    own = site.http.post("/hpc1/math/register_session", json={}).json()["sid"]
    stranger = site.asking(site.lab.token("stranger", user="mallory"))

    answer = stranger.get(f"/hpc1/math/history/{own}")

    assert answer.status_code in (403, 404), answer.text
    assert site.http.get(f"/hpc1/math/history/{own}").status_code == 200


# Browsers


def test_the_cookie_of_a_browser_is_not_the_token_and_no_script_can_read_it(site: Site) -> None:
    answer = site.asking(site.token).post("/auth")
    line = answer.headers["set-cookie"]

    assert site.token not in line
    assert {"httponly", "samesite=strict"} <= set(line.lower().split("; "))
    assert re.search(r"Max-Age=\d+", line)


def test_a_browser_changes_nothing_without_the_line_that_a_page_of_ours_knows(site: Site) -> None:
    browser, csrf = site.browser(site.token)

    assert browser.get("/hpc1/math/version").status_code == 200
    assert "X-CSRF-Token" in refused(browser.post("/hpc1/math/add", json={"a": 1, "b": 1}), 403, "not-permitted")["detail"]
    refused(browser.post("/hpc1/math/add", headers={"X-CSRF-Token": "guessed"}, json={"a": 1, "b": 1}), 403, "not-permitted")
    refused(browser.post("/broker/terminate"), 403, "not-permitted")
    _, of_another = site.browser(site.token)
    refused(browser.post("/hpc1/math/add", headers={"X-CSRF-Token": of_another}, json={"a": 1, "b": 1}), 403, "not-permitted")
    assert browser.post("/hpc1/math/add", headers={"X-CSRF-Token": csrf}, json={"a": 1, "b": 1}).status_code == 200


def test_a_browser_that_has_left_needs_a_token_again(site: Site) -> None:
    browser, csrf = site.browser(site.token)
    cookie = dict(browser.cookies)
    refused(browser.delete("/auth"), 403, "not-permitted")

    assert browser.delete("/auth", headers={"X-CSRF-Token": csrf}).status_code == 200

    refused(
        site.asking().get("/endpoints", headers={"Cookie": f"orbit_session={cookie['orbit_session']}"}), 401, "auth-required"
    )


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
def test_pages_of_other_origins_are_refused(site: Site, origin: str) -> None:
    answer = site.asking(site.token, Origin=origin).post("/hpc1/math/add", json={"a": 1, "b": 1})

    refused(answer, 403, "not-permitted")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_of_another_origin_gets_no_permission(site: Site) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = site.asking().options("/hpc1/math/add", headers=headers)

    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site_said", ["cross-site", "same-site"])
def test_what_a_page_from_elsewhere_embeds_is_refused(site: Site, site_said: str) -> None:
    browser, _ = site.browser(site.token)

    refused(browser.get("/endpoints", headers={"Sec-Fetch-Site": site_said, "Sec-Fetch-Mode": "no-cors"}), 403, "not-permitted")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil.example", "[::1"]
)
def test_a_name_that_is_not_ours_is_refused(site: Site, host: str) -> None:
    refused(site.asking(site.token).get("/endpoints", headers={"Host": host}), 403, "not-permitted")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "10.1.2.3"])
def test_names_and_addresses_of_this_machine_are_taken(site: Site, host: str) -> None:
    assert site.asking(site.token).get("/endpoints", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/endpoints", "/hpc1/math/version", "/nothing"])
def test_every_answer_bears_the_headers_that_keep_browsers_from_harm(site: Site, path: str) -> None:
    headers = site.http.get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "frame-ancestors 'none'" in policy


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "//hpc1/math/version", "/hpc1//math/version", "/hpc1/math//version", "/hpc1/math/../sysinfo/homedir",
        "/hpc1/./math/version", "/hpc1/%2e%2e/math/version", "/hpc1%2fmath%2fversion", "/hpc1/math/history%2fdefault",
        "/%2e%2e/%2e%2e/etc/passwd", "/status.js/../../users.py", "/hpc1/math/%00", "/hpc1/math/%0a",
        "/hpc1\\math\\version", "//endpoints", "/..%2fendpoints",
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_token", [False, True])
def test_a_path_that_could_mean_two_things_means_nothing(site: Site, path: str, has_token: bool) -> None:
    token = f"Authorization: Bearer {site.token}\r\n" if has_token else ""
    answer = site.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\n\r\n".encode())
    said = body_of(answer)

    assert said["error"] is True
    assert said["status_code"] in ((400, 404) if has_token else (400, 401, 404))


# HTTP that is none


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: +5\r\n",
        b"Host: evil.example\r\n",
        b"Authorization: Bearer other\r\n",
        b"X: a\r\n\tfolded\x00\r\n",
    ],
    ids=["both", "two lengths", "two codings", "space", "unknown coding", "sign", "two hosts", "two tokens", "nul"],
)
def test_a_request_that_two_readers_would_read_differently_is_refused(site: Site, lines: bytes) -> None:
    head = b"POST /hpc1/math/add HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + site.token.encode() + b"\r\n" + lines
    hidden = b"GET /endpoints HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + site.token.encode() + b"\r\n\r\n"
    answer = site.raw(head + b"\r\n" + b"0\r\n\r\n" + hidden)

    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer[:200]
    assert b'"total"' not in answer
    assert b'"result"' not in answer


@pytest.mark.parametrize("junk", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_what_is_no_http_is_told_so(site: Site, junk: bytes) -> None:
    answer = site.raw(junk + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert body_of(answer)["code"] == "invalid-argument"


def test_a_head_of_ten_megabytes_is_refused_before_it_is_read(site: Site) -> None:
    one_line = b"GET /endpoints HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (10 << 20) + b"\r\n\r\n"
    many_lines = b"GET /endpoints HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * (10 << 20 >> 4) + b"\r\n"

    for request in (one_line, many_lines):
        answer = site.raw(request)
        assert not answer or answer.startswith(b"HTTP/1.1 431"), answer[:100]  # whoever still sends may find the line cut
    answer = site.raw(one_line[:40_000])
    assert answer.startswith(b"HTTP/1.1 431") and body_of(answer)["status_code"] == 431


def test_heads_that_come_byte_by_byte_are_ended_and_hold_up_nobody(site: Site) -> None:
    slow = [site.connect() for _ in range(100)]
    for line in slow:
        line.sendall(b"GET /endpoints HTTP/1.1\r\nHost: localhost\r\nX-")
    begun_at = time.monotonic()
    assert site.works()

    for line in slow:
        with suppress(ConnectionError):  # it may have been ended before
            line.sendall(b"a")
    heard = [whole_answer(line) for line in slow]

    assert time.monotonic() - begun_at < 60
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in heard), heard[0][:100]
    assert body_of(heard[0])["error"] is True


def test_a_silent_connection_is_ended(site: Site) -> None:
    assert whole_answer(site.connect()).startswith(b"HTTP/1.1 408")


def test_a_body_larger_than_the_limit_is_refused(site: Site) -> None:
    lines = f"Host: localhost\r\nAuthorization: Bearer {site.token}\r\nContent-Length: {1 << 40}"
    head = f"POST /hpc1/math/add HTTP/1.1\r\n{lines}\r\n\r\n"

    assert site.raw(head.encode()).startswith(b"HTTP/1.1 413")


@pytest.mark.long
def test_a_body_that_stands_still_is_not_waited_for(site: Site) -> None:
    lines = f"Host: localhost\r\nAuthorization: Bearer {site.token}\r\nContent-Length: 100"
    begun_at = time.monotonic()
    answer = site.raw(f"POST /hpc1/math/add HTTP/1.1\r\n{lines}\r\n\r\n{{".encode(), timeout_s=200)

    assert 25 < time.monotonic() - begun_at < 150
    assert not answer or answer.startswith(b"HTTP/1.1 4")


# Where


def test_on_the_network_it_speaks_tls_with_a_certificate_whose_fingerprint_it_has_told() -> None:
    with gateway_site(http="0.0.0.0:0") as site:
        silent = socket.create_connection(("127.0.0.1", int(site.netloc.rpartition(":")[2])), 60)
        told = site.gateway.ready["fingerprint"]
        port = site.netloc.rpartition(":")[2]
        pem = ssl.get_server_certificate(("127.0.0.1", int(port)))
        local = httpx.get(f"https://127.0.0.1:{port}/healthz", verify=False, timeout=60)

        assert site.url.startswith("https://")
        assert local.json() == {"status": "ok"}
        assert "strict-transport-security" in local.headers
        kept = site.lab.place / "state" / "gateway"
        assert pem.strip() == (kept / "gateway.crt").read_text().strip()
        assert (kept / "gateway.key").stat().st_mode & 0o077 == 0
        if shutil.which("openssl"):
            command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(kept / "gateway.crt")]
            assert told in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert "; secure" in site.asking(site.token).post("/auth").headers["set-cookie"].lower()
        with silent:
            assert whole_answer(silent) == b""  # who does not even begin is not waited for


@pytest.mark.long
@pytest.mark.timeout(300)
def test_sessions_of_a_browser_end_a_minute_after_its_last_stream_and_request(site: Site) -> None:
    browser, csrf = site.browser(site.token)
    line = {"X-CSRF-Token": csrf}

    def register(asking: httpx.Client, **arguments: str) -> str:
        return str(asking.post("/hpc1/math/register_session", headers=line, json=arguments).json()["sid"])

    left, kept, of_program = register(browser), register(browser, lifetime="persistent"), register(site.http)
    with browser.stream("GET", EVENTS) as stream:
        assert stream.status_code == 200
        heard_until = time.monotonic() + 65
        for _ in stream.iter_raw():
            if time.monotonic() > heard_until:
                break
        assert site.http.get(f"/hpc1/math/session_status/{left}").status_code == 200

    def has_ended() -> bool:
        return site.http.get(f"/hpc1/math/session_status/{left}").status_code == 410

    gone_at = time.monotonic()
    wait_until(has_ended, within_s=80)
    assert time.monotonic() - gone_at > 55
    for sid in (kept, of_program):
        assert site.http.get(f"/hpc1/math/session_status/{sid}").status_code == 200

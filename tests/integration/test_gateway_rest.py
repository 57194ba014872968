"""REST through real processes: a broker, an endpoint and a gateway, asked by plain HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgpack
import psutil
import pytest
from lab import Lab, wait_until, within

EVERY_PLUGIN = {
    ("POST", "register_session"),
    ("POST", "unregister_session/{sid}"),
    ("GET", "version"),
    ("GET", "list_sessions"),
    ("GET", "health"),
    ("GET", "ui_config"),
}
ROUTES = {
    "sysinfo": {("GET", "homedir"), ("GET", "host_role"), ("GET", "metrics/{sid}")},
    "rhapsody": {
        ("POST", "submit/{sid}"),
        ("POST", "wait/{sid}"),
        ("GET", "list_tasks/{sid}"),
        ("GET", "task/{sid}/{uid}"),
        ("POST", "cancel/{sid}/{uid}"),
        ("POST", "cancel_all/{sid}"),
        ("GET", "statistics/{sid}"),
    },
}
GROWTH_BYTES = 64 << 20


class Site:
    """What runs, and two ways to ask it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.endpoint = lab.start_endpoint(plugins="test,sysinfo,math,rhapsody")
        self.gateway = lab.start_gateway("--only", "rest,sse")
        self.url: str = self.gateway.ready["http"]
        self.token = lab.token(rights=("read", "write", "run", "admin"))
        self.http = self.asking(self.token)
        self.client = lab.client()

    def asking(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.lab.stack.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=60))

    def session(self, plugin: str = "test", **arguments: Any) -> str:
        answer = self.http.post(f"/hpc1/{plugin}/register_session", json=arguments)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["sid"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    lab = Lab(place)
    with within(place):
        try:
            lab.start_broker()
            yield Site(lab)
        finally:
            lab.close()
            shutil.rmtree(place, ignore_errors=True)


def envelope(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert {"error", "status_code", "detail", "code", "hint", "transient"} <= body.keys()
    assert (body["error"], body["status_code"], body["code"]) == (True, status, code)
    return body


# The documented routes


@pytest.mark.parametrize("plugin", sorted(ROUTES))
def test_every_documented_route_of_a_plugin_is_there(site: Site, plugin: str) -> None:
    operations = site.client.operations(site.client.resolve("hpc1"))[plugin].values()

    assert {(one.method, one.path) for one in operations} >= EVERY_PLUGIN | ROUTES[plugin]


@pytest.mark.parametrize("plugin", ["sysinfo", "rhapsody", "math", "test"])
def test_every_plugin_answers_the_routes_that_all_have(site: Site, plugin: str) -> None:
    sid = site.session(plugin)
    assert sid.startswith("session.") and len(sid) == len("session.") + 8

    assert site.http.get(f"/hpc1/{plugin}/version").json()["plugin"] == plugin
    assert site.http.get(f"/hpc1/{plugin}/health").json()["status"] in ("ok", "degraded")
    assert sid in str(site.http.get(f"/hpc1/{plugin}/list_sessions").json()["sessions"])
    assert site.http.get(f"/hpc1/{plugin}/ui_config").json()["plugin_name"] == plugin
    assert site.http.post(f"/hpc1/{plugin}/unregister_session/{sid}").json() == {}
    envelope(site.http.get(f"/hpc1/{plugin}/session_status/{sid}"), 410, "session-closed")


def test_sysinfo_over_http(site: Site) -> None:
    sid = site.session("sysinfo")

    assert site.http.get("/hpc1/sysinfo/homedir").json()["homedir"]
    assert site.http.get("/hpc1/sysinfo/host_role").json()["role"]
    metrics = site.http.get(f"/hpc1/sysinfo/metrics/{sid}").json()
    assert {"system", "cpu", "memory", "disks", "network", "gpus"} <= metrics.keys()


def test_tasks_over_http_from_their_submission_to_their_results(site: Site) -> None:
    sid = site.session("rhapsody", backends=["concurrent"])
    at = f"/hpc1/rhapsody/{{}}/{sid}"
    status = site.http.get(at.format("session_status"), params={"wait_s": 25}).json()
    assert status["status"] == "ready"
    tasks = [{"uid": f"t{number}", "executable": "/bin/echo", "arguments": [str(number)]} for number in range(3)]

    assert site.http.post(at.format("submit"), json={"tasks": tasks}).status_code == 200

    def are_done() -> bool:
        states = site.http.post(at.format("wait"), json={"uids": ["t0", "t1", "t2"]}).json()
        return all(one["state"] == "DONE" for one in states)

    wait_until(are_done)
    assert site.http.get(f"{at.format('task')}/t1").json()["stdout"].strip() == "1"
    assert "t2" in site.http.get(at.format("list_tasks")).text
    assert site.http.get(at.format("statistics")).status_code == 200
    assert site.http.post(f"{at.format('cancel')}/t0").status_code == 200
    assert site.http.post(at.format("cancel_all")).status_code == 200
    envelope(site.http.get(f"{at.format('task')}/nope"), 404, "not-found")


def test_math_over_http_takes_arguments_from_the_body_and_the_query(site: Site) -> None:
    sid = site.session("math")

    assert site.http.post(f"/hpc1/math/add/{sid}", json={"a": 2, "b": 3}).json()["result"] == 5
    assert site.http.post(f"/hpc1/math/add/{sid}", params={"a": 2, "b": 3}).json()["result"] == 5
    assert envelope(site.http.post(f"/hpc1/math/div/{sid}?a=1&b=0"), 422, "internal")["type"] == "builtins.ZeroDivisionError"


def test_without_a_session_id_the_default_session_is_meant(site: Site) -> None:
    answer = site.http.post("/hpc1/test/where", json={"text": "here"})

    assert (answer.json()["sid"], answer.json()["text"]) == ("default", "here")


# The broker


def test_the_endpoints_are_listed_in_two_shapes(site: Site) -> None:
    def rows() -> list[dict[str, Any]]:
        return list(site.http.get("/endpoints").json()["endpoints"])

    def page() -> Any:
        return site.http.post("/endpoint/list").json()["data"]["endpoints"]["hpc1"]["plugins"]["sysinfo"]["ui_config"]

    wait_until(lambda: len(rows()) == 1 and rows()[0]["connected"])  # who is silent for a while is shown without either
    wait_until(page)
    (row,) = rows()
    listed = site.http.post("/endpoint/list").json()["data"]

    assert row == {"name": "hpc1", "plugins": ["math", "rhapsody", "sysinfo", "test"], "connected": True, "plugin_count": 4}
    assert listed["broker"] == {"url": site.lab.url}
    assert listed["endpoints"]["hpc1"]["endpoint"] == {"role": "standalone", "liveness": "present"}
    plugin = listed["endpoints"]["hpc1"]["plugins"]["sysinfo"]
    assert (plugin["namespace"], plugin["enabled"], plugin["type"]) == ("/hpc1/sysinfo", True, "sysinfo")
    assert plugin["ui_config"]["title"]


def test_an_endpoint_that_is_disconnected_ends(site: Site) -> None:
    other = site.lab.start_endpoint("hpc2")

    envelope(site.http.post("/endpoint/disconnect/nobody"), 404, "not-found")
    envelope(site.http.post("/endpoint/disconnect/broker"), 400, "invalid-argument")
    assert site.http.post("/endpoint/disconnect/hpc2").json() == {"status": "shutdown", "endpoint": "hpc2"}

    assert other.wait() == 1
    wait_until(lambda: [row["name"] for row in site.http.get("/endpoints").json()["endpoints"]] == ["hpc1"])


def test_a_broker_that_is_terminated_ends_and_says_so_first(lab: Lab) -> None:
    gateway = lab.start_gateway("--only", "rest")
    plain = {"Authorization": f"Bearer {lab.token('plain')}"}
    admin = {"Authorization": f"Bearer {lab.token('boss', rights=('read', 'admin'))}"}
    with httpx.Client(base_url=gateway.ready["http"], timeout=60) as http:
        envelope(http.post("/broker/terminate", headers=plain), 403, "not-permitted")
        assert http.post("/broker/terminate", headers=admin).json()["status"] == "terminating"

        assert lab.broker is not None and lab.broker.wait() == 0


# Bodies


def test_bodies_and_answers_may_be_msgpack(site: Site) -> None:
    sid = site.session()
    value = {"bytes": b"\x00\xff", "text": "ä", "number": 1 << 40, "none": None}
    kind = "application/msgpack"
    answer = site.http.request(
        "GET",
        f"/hpc1/test/echo_any/{sid}",
        content=msgpack.packb({"value": value}),
        headers={"Content-Type": kind, "Accept": kind},
    )

    assert answer.headers["content-type"] == kind
    assert msgpack.unpackb(answer.content) == value


def test_what_json_cannot_say_is_said_in_another_way(site: Site) -> None:
    sid = site.session()
    value = {"bytes": b"\x00\xff", "infinite": float("inf"), "nan": [float("nan")]}
    packed = {"content": msgpack.packb({"value": value}), "headers": {"Content-Type": "application/msgpack"}}

    assert site.http.request("GET", f"/hpc1/test/echo_any/{sid}", **packed).json() == {
        "bytes": "AP8=",
        "infinite": None,
        "nan": [None],
    }


def test_raw_bytes_come_back_as_they_went(site: Site) -> None:
    sid = site.session()
    answer = site.http.post(f"/hpc1/test/echo_raw/{sid}", content=bytes(range(256)) * 1000)

    assert (answer.content, answer.headers["content-type"]) == (bytes(range(256)) * 1000, "application/octet-stream")


def test_a_body_that_is_too_large_for_arguments_is_refused(site: Site) -> None:
    sid = site.session()
    with socket.create_connection((urlsplit(site.url).hostname, urlsplit(site.url).port)) as line:
        head = f"POST /hpc1/test/where/{sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.token}\r\n"
        line.sendall(f"{head}Content-Length: {100 << 20}\r\n\r\n".encode())
        line.settimeout(60)
        with line.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("body", [b"{", b"[1]", b"3", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_map_of_arguments_is_refused(site: Site, body: bytes) -> None:
    envelope(site.http.post("/hpc1/test/where", content=body), 400, "invalid-argument")
    envelope(
        site.http.post("/hpc1/test/where", content=b"\xc1", headers={"Content-Type": "application/msgpack"}),
        400,
        "invalid-argument",
    )


def grown_by(processes: dict[str, psutil.Process], before: dict[str, int]) -> dict[str, int]:
    return {name: peak_of(process) - before[name] for name, process in processes.items()}


def peak_of(process: psutil.Process) -> int:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.long
def test_a_gigabyte_goes_up_and_down_without_a_copy_in_any_process(site: Site) -> None:
    sid = site.session()
    assert site.lab.broker is not None
    pids = {"broker": site.lab.broker.pid, "endpoint": site.endpoint.pid, "gateway": site.gateway.pid}
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: process.memory_info().rss for name, process in processes.items()}
    block = bytes(1 << 20)

    up = site.http.post(f"/hpc1/test/count/{sid}", content=(block for _ in range(1024)), headers={"Orbit-Deadline-S": "110"})
    assert up.json() == 1 << 30
    received = 0
    with site.http.stream(
        "GET", f"/hpc1/test/produce/{sid}", params={"total_bytes": 1 << 30}, headers={"Orbit-Deadline-S": "110"}
    ) as down:
        for piece in down.iter_raw():
            received += len(piece)

    assert received == 1 << 30
    grown = grown_by(processes, before)
    assert max(grown.values()) < GROWTH_BYTES, grown


def test_streams_go_both_ways_at_once_and_keep_their_bytes(site: Site) -> None:
    sid = site.session()
    data = bytes(range(256)) * 4_000  # what fits into buffers, as this client reads when it has written all

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]

    with site.http.stream("POST", f"/hpc1/test/copy/{sid}", content=pieces()) as answer:
        assert b"".join(answer.iter_raw()) == data


def test_a_stream_that_breaks_is_not_taken_for_a_whole_one(site: Site) -> None:
    sid = site.session()
    with (
        pytest.raises(httpx.RemoteProtocolError),
        site.http.stream("GET", f"/hpc1/test/produce_and_fail/{sid}", params={"total_bytes": 8_000_000}) as answer,
    ):
        for _ in answer.iter_raw():
            pass

    assert site.http.get("/hpc1/test/version").status_code == 200
    wait_until(lambda: "answer-broken-off" in site.lab.log_of("gateway"))
    assert "Traceback" not in site.lab.log_of("gateway")


# Errors


def test_without_a_token_the_answer_names_the_line_that_is_missing(site: Site) -> None:
    answer = httpx.get(f"{site.url}/endpoints", timeout=60)

    body = envelope(answer, 401, "auth-required")
    assert "Authorization: Bearer" in body["detail"] + body["hint"]
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_texts_that_callers_look_for_are_in_detail(site: Site) -> None:
    gone = site.session(lifetime="ttl", ttl=0.2)

    unknown = envelope(site.http.get("/hpc1/test/echo/session.x", params={"text": "a"}), 404, "not-found")
    assert unknown["detail"] == "unknown session id: session.x"

    def has_expired() -> bool:
        return f"session expired: {gone}" in site.http.get(f"/hpc1/test/session_status/{gone}").text

    def has_expired_after_a_while() -> bool:
        time.sleep(0.5)  # every call counts as activity
        return has_expired()

    wait_until(has_expired_after_a_while)
    assert envelope(site.http.get(f"/hpc1/test/session_status/{gone}"), 410, "session-expired")


def test_a_missing_argument_is_told_from_a_wrong_one(site: Site) -> None:
    missing = envelope(site.http.post("/hpc1/test/where", json={}), 422, "invalid-argument")
    wrong = envelope(site.http.get("/hpc1/test/sleep", params={"seconds": "soon"}), 400, "invalid-argument")
    unknown = envelope(site.http.post("/hpc1/test/where", json={"text": "a", "txt": "b"}), 400, "invalid-argument")

    assert missing["details"]["fields"] == ["text"] and "'text' is missing" in missing["detail"]
    assert "seconds" in wrong["detail"]
    assert unknown["hint"] == "Did you mean 'text'?"


def test_what_is_not_there_is_not_found(site: Site) -> None:
    assert "nowhere" in envelope(site.http.get("/nowhere/test/version"), 404, "not-found")["detail"]
    assert "plugin tst" in envelope(site.http.get("/hpc1/tst/version"), 404, "not-found")["detail"]
    envelope(site.http.get("/hpc1/test/no/such/route"), 404, "not-found")
    envelope(site.http.get("/"), 404, "not-found")
    envelope(site.http.get("/hpc1/test/a%0Ab"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/hpc1/test/version", {"GET"}),
        ("PUT", "/hpc1/test/where/default", {"POST"}),
        ("PUT", "/hpc1/test/where", {"POST"}),
        ("OPTIONS", "/hpc1/test/where", {"POST"}),
        ("GET", "/hpc1/test/where", {"POST"}),
        ("DELETE", "/hpc1/test/echo", {"GET"}),
        ("PUT", "/endpoints", {"GET", "HEAD"}),
        ("GET", "/endpoint/list", {"POST"}),
        ("GET", "/broker/terminate", {"POST"}),
        ("POST", "/events", {"GET", "HEAD"}),
    ],
)
def test_a_path_that_takes_another_method_says_which(site: Site, method: str, path: str, allowed: set[str]) -> None:
    refused = site.http.request(method, path)

    envelope(refused, 405, "invalid-argument")
    assert set(refused.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["//test/version", "/hpc1//version", "/hpc1/test/%2e%2e/version", "/hpc1%2ftest/version/x"])
def test_a_path_that_could_be_read_in_two_ways_is_refused(site: Site, path: str) -> None:
    with socket.create_connection((urlsplit(site.url).hostname, urlsplit(site.url).port)) as line:
        line.settimeout(20)
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.token}\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode())
        assert line.recv(65536).split(b" ")[1] in (b"400", b"404")

    assert site.http.get("/hpc1/test/version").status_code == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("ValueError", 422),
        ("ZeroDivisionError", 422),
        ("OSError", 500),
        ("KeyError", 500),
        ("TypeError", 500),
        ("OddError", 500),
    ],
)
def test_what_the_code_over_there_raises_is_told_with_its_type(site: Site, kind: str, status: int) -> None:
    told = envelope(site.http.post("/hpc1/test/fail", json={"kind": kind, "message": "no luck"}), status, "internal")

    assert "no luck" in told["detail"] and told["type"].endswith(kind) and "Traceback" in told["traceback"]


def test_what_our_own_code_refuses_bears_no_traceback(site: Site) -> None:
    refused = envelope(site.http.post("/hpc1/test/where", json={}), 422, "invalid-argument")

    assert "traceback" not in refused and ".py" not in json.dumps(refused)


def test_without_a_broker_a_request_is_refused_soon_and_the_next_one_works(lab: Lab) -> None:
    lab.start_endpoint("hpc1", plugins="math")
    gateway = lab.start_gateway()
    http = lab.stack.enter_context(httpx.Client(base_url=gateway.ready["http"], timeout=60))
    http.headers["Authorization"] = f"Bearer {lab.token()}"
    assert http.get("/hpc1/math/version").status_code == 200
    assert lab.broker is not None
    os.kill(lab.broker.pid, signal.SIGKILL)
    lab.broker.wait()
    wait_until(lambda: http.get("/readyz").status_code == 503)  # what is on its way to the broker would wait for it

    for path in ("/hpc1/math/version", "/endpoints", "/openapi.json", "/events"):
        answer = http.get(path)
        refused = envelope(answer, 503, "broker-unreachable")
        assert refused["transient"] is True and "Try again" in refused["hint"] and answer.headers["retry-after"]
    lab.start_broker(tcp=None)
    wait_until(lambda: http.get("/readyz").status_code == 200)
    wait_until(lambda: http.get("/hpc1/math/version").status_code == 200)


def test_the_deadline_is_the_callers(site: Site) -> None:
    sid = site.session()
    late = site.http.get(f"/hpc1/test/sleep/{sid}", params={"seconds": 20}, headers={"Orbit-Deadline-S": "0.3"})

    assert envelope(late, 504, "deadline-exceeded")["transient"] is True
    wrong = site.http.get(f"/hpc1/test/sleep/{sid}", params={"seconds": 0}, headers={"Orbit-Deadline-S": "nan"})
    envelope(wrong, 400, "invalid-argument")


def test_a_call_whose_caller_goes_away_is_ended(site: Site) -> None:
    sid = site.session()
    with pytest.raises(httpx.ReadTimeout):
        site.http.get(f"/hpc1/test/sleep/{sid}", params={"seconds": 300}, headers={"Orbit-Deadline-S": "400"}, timeout=1.0)

    def has_ended() -> bool:
        load = {handle.name: handle.facts.load for handle in site.client.endpoints()}["hpc1"]
        return load.get("running") == 0

    wait_until(has_ended, what="the call has ended")


def test_the_ids_of_a_request_are_in_the_endpoints_log_and_in_the_answer(site: Site) -> None:
    sid = site.session()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = site.http.post(
        f"/hpc1/test/write_log/{sid}", json={"text": "hello"}, headers={"X-Request-ID": "mine-17", "traceparent": trace}
    )

    assert answer.headers["x-request-id"] == "mine-17"

    def lines() -> list[dict[str, Any]]:
        *whole, _ = site.lab.log_of("hpc1").split("\n")
        return [json.loads(line) for line in whole if "mine-17" in line]

    wait_until(lambda: len(lines()) >= 2)
    assert {line["event"] for line in lines()} == {"written-here", "written-in-a-thread"}
    assert all(line["trace"] == f"mine-17 {trace}" for line in lines())
    assert site.http.get("/endpoints").headers["x-request-id"]


def test_a_gateway_that_ends_answers_its_calls_and_breaks_its_streams_off(lab: Lab) -> None:
    lab.start_endpoint("hpc1")
    gateway = lab.start_gateway("--only", "rest,sse")
    http = lab.stack.enter_context(httpx.Client(base_url=gateway.ready["http"], timeout=60))
    http.headers["Authorization"] = f"Bearer {lab.token()}"
    answers: list[httpx.Response] = []
    lasting: dict[str, Any] = {"params": {"seconds": 300}, "headers": {"Orbit-Deadline-S": "400"}}
    call = threading.Thread(target=lambda: answers.append(http.get("/hpc1/test/sleep", **lasting)))
    call.start()
    with http.stream("GET", "/hpc1/test/produce", params={"total_bytes": 1 << 30, "pause_s": 0.05}) as download:
        pieces = download.iter_raw()
        assert next(pieces)
        client = lab.client()
        wait_until(lambda: {one.name: one.facts.load for one in client.endpoints()}["hpc1"].get("running") == 2)
        gateway.terminate()

        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass
    call.join(60)
    assert gateway.wait() == 0
    assert [envelope(answer, 503, "shutting-down")["transient"] for answer in answers] == [True]
    assert "Traceback" not in lab.log_of("gateway")


# Rights


def test_a_token_may_do_what_its_rights_say_and_no_more(site: Site) -> None:
    reader = site.asking(site.lab.token("reader", rights=("read",)))
    elsewhere = site.asking(site.lab.token("elsewhere", endpoints=("hpc9",)))
    narrow = site.asking(site.lab.token("narrow", plugins=("sysinfo",)))

    assert reader.get("/hpc1/sysinfo/homedir").status_code == 200
    assert "write" in envelope(reader.post("/hpc1/test/register_session", json={}), 403, "not-permitted")["detail"]
    envelope(elsewhere.get("/hpc1/sysinfo/homedir"), 404, "not-found")
    assert elsewhere.get("/endpoints").json() == {"endpoints": [], "total": 0}
    assert narrow.get("/hpc1/sysinfo/homedir").status_code == 200
    envelope(narrow.get("/hpc1/math/version"), 403, "not-permitted")
    assert list(narrow.post("/endpoint/list").json()["data"]["endpoints"]["hpc1"]["plugins"]) == ["sysinfo"]
    envelope(narrow.post("/broker/terminate"), 403, "not-permitted")


def test_another_user_neither_reaches_the_endpoint_nor_the_sessions(site: Site) -> None:
    sid = site.session()
    other = site.asking(site.lab.token("other", user="somebody"))

    envelope(other.get("/hpc1/sysinfo/homedir"), 403, "not-permitted")
    envelope(other.get(f"/hpc1/test/echo/{sid}", params={"text": "a"}), 404, "not-found")
    envelope(other.post("/endpoint/disconnect/hpc1"), 403, "not-permitted")


def test_many_callers_at_once_each_get_their_own_answer(site: Site) -> None:
    sid = site.session()
    wrong: list[str] = []

    def ask(caller: int) -> None:
        with httpx.Client(base_url=site.url, headers=site.http.headers, timeout=60) as http:
            for number in range(20):
                text = f"{caller}-{number}"
                if http.get(f"/hpc1/test/echo/{sid}", params={"text": text}).json() != text:
                    wrong.append(text)

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong

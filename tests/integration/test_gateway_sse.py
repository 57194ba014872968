"""Server-sent events through real processes: what readers hear, what they are told when they cannot, and who is cut off."""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import sseclient
from lab import Lab, lasting_port, wait_until, within

from orbit_zmq.paths import gateway_dir
from orbit_zmq.security.tokens import TokenList

LISTENING_S = 60.0


class Reader(threading.Thread):
    """One connection that remembers what it hears; `reconnects`: it goes on with Last-Event-ID when it is cut."""

    def __init__(self, url: str, token: str, *, last: int | None = None, reconnects: bool = False, **filters: Any) -> None:
        super().__init__(daemon=True)
        self.messages: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.last = last
        self.opened = 0
        self.comments = 0
        self._url = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        self._path = f"/events?{query}" if query else "/events"
        self._reconnects = reconnects
        self._stopped = False
        self._line: socket.socket | None = None
        self.start()
        wait_until(lambda: self.opened, LISTENING_S, "the stream is open")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those that the sessions tell; not that they are ready."""
        told = [message["data"] for message in self.messages if message["topic"] == "notification"]
        return [event for event in told if event["topic"] != "session_status"]

    @property
    def numbers(self) -> list[int]:
        return [event["data"]["number"] for event in self.events]

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.messages if message["topic"] == topic]

    def stop(self) -> None:
        self._stopped = True
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        while not self._stopped:
            with suppress(OSError, http.client.HTTPException, ValueError):  # cut
                self._read()
            if not self._reconnects:
                return
            threading.Event().wait(0.05)

    def _read(self) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=100)
        headers = dict(self._headers)
        if self.last is not None:
            headers["Last-Event-ID"] = str(self.last)
        connection.request("GET", self._path, headers=headers)
        self._line = connection.sock
        response = connection.getresponse()
        if response.status != 200:
            return
        id_: int | None = None
        for line in iter(response.readline, b""):
            if line.startswith(b"id: "):
                id_ = int(line[4:])
            elif line.startswith(b":"):
                self.comments += 1
            elif line.startswith(b"data: "):
                self._take(json.loads(line[6:]), id_)
                id_ = None

    def _take(self, message: dict[str, Any], id_: int | None) -> None:
        self.messages.append(message)
        if id_ is not None:
            self.last = id_
            if message["topic"] == "notification" and message["data"]["topic"] != "session_status":
                self.ids.append(id_)
        if message["topic"] == "topology":
            self.opened += 1


class Site:
    """What one test runs."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.token = lab.token()
        self.gateway = lab.start_gateway("--only", "rest,sse", http=f"127.0.0.1:{lasting_port()}")
        self.url: str = self.gateway.ready["http"]
        self.readers: list[Reader] = []

    def reader(self, **options: Any) -> Reader:
        self.readers.append(Reader(self.url, options.pop("token", self.token), **options))
        return self.readers[-1]

    def restart_gateway(self) -> None:
        self.gateway = self.lab.start_gateway("--only", "rest,sse", http=urlsplit(self.url).netloc)

    def close(self) -> None:
        for reader in self.readers:
            reader.stop()


@pytest.fixture
def site(lab: Lab) -> Iterator[Site]:
    lab.start_endpoint("hpc1")
    made = Site(lab)
    yield made
    made.close()


def heard_all(reader: Reader, count: int) -> Callable[[], bool]:
    return lambda: len(reader.ids) >= count


def test_a_reader_gets_the_topology_and_then_events_in_the_documented_frames(site: Site) -> None:
    client = site.lab.client()
    reader = site.reader()
    session = client.get_plugin("hpc1", "test")
    session.tell(first=1, count=3)
    wait_until(heard_all(reader, 3))

    (first, *_) = reader.of("topology")
    assert first["endpoints"]["hpc1"]["plugins"]["test"]["namespace"] == "/hpc1/test"
    told = [message for message in reader.messages if message["data"].get("topic") == "news"]
    assert told[-1]["data"] == {
        "endpoint": "hpc1",
        "plugin": "test",
        "topic": "news",
        "data": {"number": 3, "from": session.sid},
    }
    assert told[-1]["meta"]["session"] == session.sid
    assert reader.numbers == [1, 2, 3] and reader.ids == sorted(set(reader.ids))


def test_the_python_of_the_documents_reads_them(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    printed: list[Any] = []
    token, opened = site.token, threading.Event()

    def run() -> None:
        response = requests.get(f"{site.url}/events", stream=True, headers={"Authorization": f"Bearer {token}"}, timeout=100)
        client: Any = sseclient.SSEClient(response)  # type: ignore[arg-type]  # it takes whatever gives bytes
        for event in client.events():
            msg = json.loads(event.data)
            opened.set()
            if msg["topic"] == "notification":
                printed.append(msg["data"])
            if printed and printed[-1]["topic"] == "news":
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert opened.wait(60)
    session.tell(first=7, count=1)
    thread.join(60)

    told = printed[-1]
    assert (told["endpoint"], told["plugin"], told["topic"], told["data"]["number"]) == ("hpc1", "test", "news", 7)


def test_a_reader_hears_what_its_filters_take(site: Site) -> None:
    client = site.lab.client()
    one, two = (client.get_plugin("hpc1", "test") for _ in range(2))
    mine, rare, both, none = (
        site.reader(session=one.sid),
        site.reader(topic="rare"),
        site.reader(plugin="test", endpoint="hpc1"),
        site.reader(endpoint="hpc9"),
    )
    one.tell(first=1, count=2)
    two.tell(first=10, count=2, topic="rare")
    two.tell(first=20, count=1, topic="rare_batch")
    wait_until(heard_all(both, 5))
    wait_until(lambda: heard_all(mine, 2)() and heard_all(rare, 3)())

    assert (mine.numbers, rare.numbers, none.numbers) == ([1, 2], [10, 11, 20], [])
    wrong = requests.get(f"{site.url}/events?colour=red", headers={"Authorization": f"Bearer {site.token}"}, timeout=60)
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid-argument")


def test_a_token_for_a_type_of_plugin_hears_its_instances(site: Site) -> None:
    site.lab.start_endpoint("hpc2", plugins="test:left,math")
    left, math = (site.lab.client().get_plugin("hpc2", plugin) for plugin in ("left", "math"))
    heard = site.reader(token=site.lab.token("of-type", plugins=("test",)))
    math.add(a=1, b=2)
    left.tell(first=0, count=5)
    wait_until(heard_all(heard, 5))
    again = site.reader(token=site.lab.token("of-type-too", plugins=("test",)), last=0)
    wait_until(heard_all(again, 5))

    assert {event["plugin"] for event in [*heard.events, *again.events]} == {"left"}


def test_nobody_hears_another_users_events(site: Site) -> None:
    other = site.reader(token=site.lab.token("other", user="somebody"))
    elsewhere = site.reader(token=site.lab.token("elsewhere", endpoints=("hpc9",)))
    mine = site.reader()
    site.lab.client().get_plugin("hpc1", "test").tell(first=1, count=5)
    wait_until(heard_all(mine, 5))

    assert (other.events, elsewhere.events) == ([], [])
    assert elsewhere.of("topology")[0]["endpoints"] == {}


def test_whose_token_is_revoked_hears_nothing_more(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    leaver, stayer = site.reader(token=site.lab.token("leaver")), site.reader()
    session.tell(first=0, count=5)
    wait_until(lambda: heard_all(leaver, 5)() and heard_all(stayer, 5)())
    TokenList(gateway_dir()).revoke("leaver")
    session.tell(first=5, count=5)
    wait_until(lambda: heard_all(stayer, 10)() and leaver.of("closed"))

    assert leaver.numbers == list(range(5)) and leaver.of("closed") == [{"reason": "auth-required"}]


def test_whose_token_is_revoked_is_told_so_while_nothing_happens(site: Site) -> None:
    leaver = site.reader(token=site.lab.token("leaver"), topic="nothing")
    TokenList(gateway_dir()).revoke("leaver")

    wait_until(lambda: leaver.of("closed"))
    assert leaver.of("closed") == [{"reason": "auth-required"}]


def test_who_asks_for_the_head_alone_is_given_no_stream(site: Site) -> None:
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {site.token}"
        head = http.head(f"{site.url}/events", timeout=60)

        assert head.status_code == 200 and head.headers["content-type"].startswith("text/event-stream")
        assert http.get(f"{site.url}/endpoints", timeout=60).status_code == 200


def test_a_change_of_the_topology_is_told(site: Site) -> None:
    reader = site.reader()
    second = site.lab.start_endpoint("hpc2")
    wait_until(lambda: "hpc2" in reader.of("topology")[-1]["endpoints"])
    second.end()

    wait_until(lambda: "hpc2" not in reader.of("topology")[-1]["endpoints"])


def test_one_subscriber_one_callback_and_one_reader_hear_the_same(site: Site) -> None:
    site.lab.start_endpoint("hpc2")
    client, listener = site.lab.client(), site.lab.client()
    sessions = [client.get_plugin("hpc1" if number % 2 else "hpc2", "test") for number in range(5)]
    called: list[tuple[Any, ...]] = []
    plain: list[Any] = []
    listener.subscribe(lambda *event: called.append(event), with_meta=True)
    threading.Thread(target=_hear_raw, args=(site.lab.url, plain), daemon=True).start()
    reader = site.reader()

    def are_listening() -> bool:
        sessions[0].tell(first=0, count=1, topic="first")
        return bool(called and plain)

    wait_until(are_listening)
    threads = [threading.Thread(target=one.tell, kwargs={"first": 0, "count": 2_000}) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_until(heard_all(reader, 10_000))
    wait_until(lambda: sum(event[2] == "news" for event in called) == 10_000)
    wait_until(lambda: sum(event.topic == "news" for event in plain) == 10_000)
    wait_until(lambda: sum(event["topic"] == "news" for event in reader.events) == 10_000)

    by_reader = [
        (
            message["data"]["endpoint"],
            message["meta"]["session"],
            message["meta"]["number"],
            json.dumps(message["data"]["data"]),
        )
        for message in reader.messages
        if message["topic"] == "notification" and message["data"]["topic"] == "news"
    ]
    by_callback = [
        (event[0], event[4]["session"], event[4]["number"], json.dumps(event[3])) for event in called if event[2] == "news"
    ]
    by_sub = [(event.endpoint, event.session, event.number, json.dumps(event.data)) for event in plain if event.topic == "news"]
    assert len(by_reader) == 10_000 and not reader.of("missed")
    for endpoint in ("hpc1", "hpc2"):
        streams = [[event for event in heard if event[0] == endpoint] for heard in (by_reader, by_callback, by_sub)]
        assert streams[0] == streams[1] == streams[2]
        numbers = [event[2] for event in streams[0]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _hear_raw(url: str, heard: list[Any]) -> None:
    """The asyncio client's iterator: a SUB socket of its own."""
    import asyncio

    from orbit_zmq import AsyncClient

    async def hear() -> None:
        async with AsyncClient(url=url) as client:
            async for event in client.events():
                heard.append(event)

    asyncio.run(hear())


def test_a_reader_that_comes_back_is_given_what_it_has_missed(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    witness, reader = site.reader(), site.reader()
    session.tell(first=0, count=10)
    wait_until(lambda: heard_all(reader, 10)() and heard_all(witness, 10)())
    reader.stop()
    session.tell(first=10, count=50)
    wait_until(heard_all(witness, 60))
    back = site.reader(last=reader.last)
    wait_until(heard_all(back, 50))

    assert back.numbers == list(range(10, 60)) and back.ids == witness.ids[10:] and not back.of("missed")


def test_a_number_that_was_never_given_is_answered_by_missed(site: Site) -> None:
    reader = site.reader(last=10**9)
    wait_until(lambda: reader.of("missed"))

    assert reader.of("missed") == [{"endpoint": None, "count": None}]


def test_a_gateway_that_is_killed_in_mid_stream_loses_and_doubles_nothing(site: Site) -> None:
    site.lab.start_endpoint("hpc2")
    client = site.lab.client()
    sessions = [client.get_plugin(f"hpc{number}", "test") for number in (1, 2)]
    readers = [site.reader(reconnects=True) for _ in range(3)]
    count = 3_000
    threads = [
        threading.Thread(target=one.tell, kwargs={"first": 0, "count": count, "per_s": 400, "deadline_s": 100})
        for one in sessions
    ]
    for thread in threads:
        thread.start()
    for part in (1, 2):
        wait_until(heard_all(readers[0], part * count // 2), 60)
        os.kill(site.gateway.pid, signal.SIGKILL)
        site.gateway.wait()
        site.restart_gateway()
    for thread in threads:
        thread.join(100)
    for reader in readers:
        wait_until(heard_all(reader, 2 * count), 60)

    for reader in readers:
        heard = Counter((event["data"]["from"], event["data"]["number"]) for event in reader.events)
        assert set(heard.values()) == {1} and len(heard) == 2 * count and not reader.of("missed")
        for session in sessions:
            numbers = [event["data"]["number"] for event in reader.events if event["data"]["from"] == session.sid]
            assert numbers == list(range(count))
    assert readers[0].ids == readers[1].ids == readers[2].ids


def test_a_reader_that_had_heard_nothing_before_the_kill_gets_what_happened_meanwhile(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    reader = site.reader(reconnects=True)
    os.kill(site.gateway.pid, signal.SIGKILL)
    site.gateway.wait()
    session.tell(first=0, count=20)
    site.restart_gateway()
    wait_until(heard_all(reader, 20))

    assert reader.numbers == list(range(20))


def test_readers_go_on_while_the_disk_is_full_and_a_kill_after_it_loses_nothing(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    reader = site.reader(reconnects=True)
    session.tell(first=0, count=10)
    wait_until(heard_all(reader, 10))

    def written_bytes() -> int:
        return max(path.stat().st_size for path in (site.lab.place / "state" / "gateway").glob("*.index"))

    size = written_bytes()
    before = resource.prlimit(site.gateway.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    session.tell(first=10, count=100, per_s=100)
    wait_until(heard_all(reader, 110))
    assert written_bytes() == size
    resource.prlimit(site.gateway.pid, resource.RLIMIT_FSIZE, before)
    session.tell(first=110, count=300, per_s=100)  # for longer than from one attempt to write to the next
    wait_until(heard_all(reader, 410))
    os.kill(site.gateway.pid, signal.SIGKILL)
    site.gateway.wait()
    session.tell(first=410, count=10)
    site.restart_gateway()
    wait_until(heard_all(reader, 420))

    assert reader.numbers == list(range(420)) and reader.ids == list(range(reader.ids[0], reader.ids[0] + 420))
    assert not reader.of("missed")


def test_a_damaged_index_is_told_and_the_gateway_goes_on(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    reader = site.reader(reconnects=True)
    session.tell(first=0, count=10)
    wait_until(heard_all(reader, 10))
    os.kill(site.gateway.pid, signal.SIGKILL)
    site.gateway.wait()
    for path in (site.lab.place / "state" / "gateway").glob("*.index"):
        path.write_bytes(b"\x00nothing like an index" + path.read_bytes()[: path.stat().st_size // 2])
    site.restart_gateway()
    wait_until(lambda: reader.of("missed"))
    session.tell(first=10, count=10)
    wait_until(lambda: 19 in reader.numbers)

    assert "index-damaged" in site.lab.log_of("gateway")


def test_a_broker_that_is_killed_is_not_noticed_by_readers(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    reader = site.reader()
    session.tell(first=0, count=5)
    wait_until(heard_all(reader, 5))
    assert site.lab.broker is not None
    os.kill(site.lab.broker.pid, signal.SIGKILL)
    site.lab.broker.wait()
    site.lab.start_broker(tcp=None)
    session.tell(first=5, count=5)
    wait_until(heard_all(reader, 10))

    assert reader.numbers == list(range(10)) and reader.opened >= 1


def test_a_gateway_that_ends_says_so_to_its_readers(site: Site) -> None:
    reader = site.reader()
    site.gateway.terminate()

    wait_until(lambda: reader.of("closed"))
    assert reader.of("closed") == [{"reason": "shutting-down"}]
    assert site.gateway.wait() == 0


class Stuck:
    """A connection that asks for everything and reads nothing."""

    def __init__(self, url: str, token: str) -> None:
        self.line = socket.socket()
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.line.connect((urlsplit(url).hostname, urlsplit(url).port))
        self.line.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode())

    def read_to_the_end(self) -> bytes:
        self.line.settimeout(60)
        parts = []
        with suppress(ConnectionResetError):
            while part := self.line.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)


def test_a_reader_that_does_not_read_is_cut_off_with_a_word_and_nobody_else_notices(site: Site) -> None:
    session = site.lab.client().get_plugin("hpc1", "test")
    stuck, began_at = Stuck(site.url, site.token), time.monotonic()
    reader = site.reader()
    count = 60_000
    for first in range(0, count, 10_000):
        session.tell(first=first, count=10_000)
        wait_until(heard_all(reader, first + 10_000), 60)
    wait_until(lambda: "reader-cut-off" in site.lab.log_of("gateway"))

    assert reader.numbers == list(range(count)) and not reader.of("missed")
    took_s = time.monotonic() - began_at  # after 30 s the kernel cuts it off without a word
    assert b'"closed","data":{"reason":"too-slow"}' in stuck.read_to_the_end() or took_s > 25


@pytest.mark.long
@pytest.mark.timeout(400)
def test_five_hundred_readers_lose_nothing() -> None:
    """480 hear ten of the two thousand events a second, 20 hear all of them, one never reads."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    lab = Lab(place)
    with within(place), ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        stack.callback(lab.close)
        lab.start_broker()
        lab.start_endpoint("hpc1")
        site = Site(lab)
        stack.callback(site.close)
        client = lab.client()
        quiet, loud = (client.get_plugin("hpc1", "test") for _ in range(2))
        few = [site.reader(session=quiet.sid) for _ in range(480)]
        everything = [site.reader() for _ in range(20)]
        stuck = Stuck(site.url, site.token)
        process = psutil.Process(site.gateway.pid)
        before = process.memory_info().rss
        seconds = 20
        began = time.monotonic()
        threads = [
            threading.Thread(
                target=session.tell, kwargs={"first": 0, "count": seconds * per_s, "per_s": per_s, "deadline_s": 200}
            )
            for session, per_s in ((quiet, 10), (loud, 1_990))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        for reader in everything:
            wait_until(heard_all(reader, seconds * 2_000), 120)
        for reader in few:
            wait_until(heard_all(reader, seconds * 10), 60)

        grown = process.memory_info().rss - before
        print(f"told in {time.monotonic() - began:.1f} s, the gateway has grown by {grown >> 20} MiB")
        assert all(reader.numbers == list(range(seconds * 10)) for reader in few)
        for reader in everything:
            loud_ones = [event["data"]["number"] for event in reader.events if event["data"]["from"] == loud.sid]
            assert loud_ones == list(range(seconds * 1_990)) and not reader.of("missed")
        assert grown < 192 << 20  # what is kept for readers that come back is at most a third of it
        stuck.line.close()

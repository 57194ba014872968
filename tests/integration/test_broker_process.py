"""The broker as a process: routing between real sockets, faults of peers, keys, and its own start and end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from raw_peer import CALM, PATIENCE_S, BrokerProcess, Peer, running_broker, until

from orbit_zmq.models import BrokerStatus
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import KEY_LIST, OWNER_KEY, load_keypair, make_keypair, own_user

Connect = Callable[..., Peer]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with running_broker(tmp_path_factory.mktemp("broker"), "--tcp", "tcp://127.0.0.1:0") as running:
        yield running
        assert running.process.poll() is None
        assert "rule-failed" not in running.log.read_text()


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def connect(broker: BrokerProcess, context: zmq.Context[Any]) -> Connect:
    return partial(connected, broker, context)


def connected(broker: BrokerProcess, context: zmq.Context[Any], role: str = "client", **facts: Any) -> Peer:
    peer = Peer(context, broker.address)
    welcome = peer.hello(role, **facts)
    assert welcome["version"] == 1, welcome
    return peer


def a_call_works(connect: Connect) -> None:
    name = f"good-{random.getrandbits(32):08x}"
    endpoint, client = connect("endpoint", name=name), connect()
    client.call(1, name, "echo", {"text": "hello"})
    endpoint.serve_one()
    header, body = client.receive()
    assert (header["k"], header["i"], msgpack.unpackb(body)) == (8, 1, {"text": "hello"})


def test_a_call_goes_to_the_endpoint_and_its_reply_comes_back(connect):
    endpoint, client = connect("endpoint", name="hpc1"), connect()
    client.call(1, "hpc1", "echo", {"text": "hello"}, s="somebody", u="mallory", x="00-ab-cd-01")

    request = endpoint.serve_one()
    header, body = client.receive()

    assert request["c"] == client.incarnation and request["t"] == endpoint.incarnation
    assert request["s"].endswith(client.incarnation[-4:].hex())
    assert request["u"] == own_user()
    assert request["x"] == "00-ab-cd-01"
    assert (header["i"], header["s"], "c" in header) == (1, "hpc1", False)
    assert msgpack.unpackb(body) == {"text": "hello"}


def test_a_name_that_is_taken_is_refused_while_its_holder_answers(connect, broker, context):
    holder = connect("endpoint", name="hpc2", environment={"hostname": "h", "pid": 9})
    newcomer = Peer(context, broker.address)
    newcomer.send({"k": 1}, {"versions": [1, 1], "incarnation": newcomer.incarnation, "role": "endpoint", "name": "hpc2"})

    probe, _ = holder.receive()
    assert (probe["k"], probe["f"]) == (5, 512)
    holder.send({"k": 5})

    header, body = newcomer.receive()
    error = msgpack.unpackb(body)
    assert (header["k"], error["code"], error["details"]) == (9, "name-taken", {"host": "h", "pid": 9})


def test_a_name_whose_holder_says_nothing_goes_to_the_newcomer(tmp_path, context):
    with running_broker(tmp_path, intervals=(*CALM, "name_probe_s=0.3")) as broker:
        connected(broker, context, "endpoint", name="hpc3")

        newcomer = connected(broker, context, "endpoint", name="hpc3")

        resolved = connected(broker, context).ask_broker(1, "resolve", {"endpoint": "hpc3"})
        assert resolved["incarnation"] == newcomer.incarnation


@pytest.fixture
def quick_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """One that counts an endpoint as lost soon after its connection has closed."""
    with running_broker(tmp_path, intervals=(*CALM, "closed_lost_s=0.5")) as running:
        yield running


def test_a_call_to_an_endpoint_that_is_killed_ends_with_an_error_soon(quick_broker, context):
    script = """
import sys, zmq
sys.path[:0] = sys.argv[2:]
from raw_peer import Peer
peer = Peer(zmq.Context(), sys.argv[1])
peer.hello("endpoint", name="victim")
print("ready", flush=True)
peer.receive()
print("has it", flush=True)
peer.receive()
"""
    roots = quick_broker.environment["PYTHONPATH"].split(os.pathsep)
    victim = subprocess.Popen([sys.executable, "-c", script, quick_broker.address, *roots], stdout=subprocess.PIPE)
    client = connected(quick_broker, context)
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        client.call(1, "victim", "sleep")
        assert victim.stdout.readline() == b"has it\n"
    finally:
        victim.kill()
        victim.wait(PATIENCE_S)
        if victim.stdout is not None:
            victim.stdout.close()
    started = time.monotonic()

    header, body = client.receive()

    assert (header["k"], msgpack.unpackb(body)["code"]) == (9, "outcome-unknown")
    assert time.monotonic() - started < 16.0


def test_an_endpoint_that_comes_back_on_a_new_connection_gets_what_waited(connect, broker, context):
    endpoint, client = connect("endpoint", name="hpc4"), connect()
    client.call(1, "hpc4", "echo")
    assert endpoint.receive()[0]["i"] == 1
    endpoint.close()
    until(lambda: client.ask_broker(90, "resolve", {"endpoint": "hpc4"})["state"] == "suspect")
    client.call(2, "hpc4", "echo")
    again = Peer(context, broker.address)
    again.incarnation = endpoint.incarnation

    assert "name" in again.hello("endpoint", name="hpc4")
    assert again.receive()[0]["i"] == 2
    resend, _ = client.receive()
    assert (resend["k"], resend["e"], resend["t"]) == (12, "hpc4", endpoint.incarnation)
    client.call(1, "hpc4", "echo", t=endpoint.incarnation, f=16)
    header, _ = again.receive()
    assert (header["i"], header["f"] & 16) == (1, 16)


def test_bye_for_good_ends_calls_at_once(connect):
    endpoint, client = connect("endpoint", name="hpc5"), connect()
    client.call(1, "hpc5", "echo")
    endpoint.receive()

    endpoint.send({"k": 4, "f": 64})

    assert msgpack.unpackb(client.receive()[1])["code"] == "outcome-unknown"
    assert client.ask_broker(2, "resolve", {"endpoint": "hpc5"})["code"] == "not-found"


def test_who_says_no_hello_is_asked_who_it_is(broker, context):
    stranger = Peer(context, broker.address)
    stranger.call(1, "broker", "ping")

    assert stranger.receive()[0]["k"] == 3
    assert "name" in stranger.hello()
    assert stranger.ask_broker(1, "ping") == {}


def test_junk_of_any_kind_is_survived_and_a_good_call_works_after_it(connect, broker, context):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    known, stranger = connect("endpoint", name="junk"), Peer(context, broker.address)
    good = msgpack.packb({"k": 7, "i": 1, "e": "junk", "o": "x", "l": 1.0})
    for _ in range(2_000):
        frame = bytearray(good if source.random() < 0.7 else source.randbytes(source.randrange(60)))
        for _ in range(source.randrange(4)):
            if frame:
                frame[source.randrange(len(frame))] = source.randrange(256)
        frames = [bytes(frame), *(source.randbytes(source.randrange(30)) for _ in range(source.choice([0, 1, 1, 1, 2, 20])))]
        for peer in (known, stranger):
            with contextlib.suppress(zmq.Again):
                peer.socket.send_multipart(frames, zmq.DONTWAIT)
    a_call_works(connect)
    watcher = connect()

    def drops() -> dict[str, int]:
        return BrokerStatus.model_validate(read_all(watcher, "status")).drops

    until(lambda: {"bad-header", "wrong-frames"} <= drops().keys())
    assert drops().get("rule-failed", 0) == 0


def test_a_frame_that_is_too_large_cuts_its_peer_and_nobody_else(connect):
    greedy = connect()
    greedy.send({"k": 5}, b"x" * (2 << 20))

    a_call_works(connect)


def test_a_peer_that_reads_nothing_does_not_delay_another(connect):
    lazy, endpoint = connect(), connect("endpoint", name="hpc6")
    for call_id in range(1, 801):
        lazy.call(call_id, "hpc6", "echo", b"x" * 60_000)
        endpoint.serve_one()
        if call_id % 200 == 0:
            endpoint.send({"k": 5})
    started = time.monotonic()
    a_call_works(connect)
    assert time.monotonic() - started < 20.0


def read_all(client: Peer, operation: str, arguments: Any = b"", *, chunk: int = 0) -> Any:
    """An answer of the broker that may come as chunks."""
    client.call(77, "broker", operation, arguments)
    header, body = client.receive()
    if not header.get("f", 0) & 2:
        return msgpack.unpackb(body)
    parts: list[bytes] = []
    while True:
        found, part = client.receive()
        assert (found["k"], found["a"], found.get("q", 0)) == (10, 1, len(parts))
        parts.append(part)
        last = found.get("f", 0) & 8
        client.send({"k": 11, "i": 77, "a": 1, "q": len(parts), "m": len(parts) + 4, "f": last})
        if last:
            whole = b"".join(parts)
            return whole if header["f"] & 1 else msgpack.unpackb(whole)


def test_a_large_catalogue_is_told_in_chunks(connect):
    catalogue = msgpack.packb({"p": {"doc": "x" * 700_000}})
    digest = hashlib.sha256(catalogue).digest()
    endpoint, client = connect("endpoint", name="hpc7", catalogue=digest), connect()
    endpoint.send({"k": 6}, {"catalogue_body": catalogue})

    assert read_all(client, "describe", {"catalogue": digest}) == catalogue


def test_status_tells_of_processes_memory_and_files(connect, broker):
    status = BrokerStatus.model_validate(read_all(connect(), "status"))

    assert status.pid == broker.process.pid
    assert status.memory_bytes > 1 << 20 and status.open_files > 3
    assert status.open_files_limit >= status.open_files
    assert (status.ipc, status.tcp) == (broker.ready["ipc"], broker.ready["tcp"])
    assert status.versions["libzmq"] == zmq.zmq_version()


def test_over_tcp_a_listed_key_is_admitted_with_its_user_role_and_names(broker, context):
    listed = KeyList.load(broker.state_dir / KEY_LIST).admit("hpc9", "endpoint", "grace")
    keys = (broker.ready["public_key"], listed.public, listed.secret)

    welcome = Peer(context, broker.ready["tcp"], keys).hello("endpoint", name="hpc9.sub")
    assert (welcome["name"], welcome["user"]) == ("hpc9.sub", "grace")
    for role, name in (("endpoint", "other"), ("admin", "x")):
        assert Peer(context, broker.ready["tcp"], keys).hello(role, name=name)["code"] == "not-permitted"


def test_a_revoked_key_is_out_at_once(broker, context):
    keys = KeyList.load(broker.state_dir / KEY_LIST)
    listed = keys.admit("short", "client")
    peer = Peer(context, broker.ready["tcp"], (broker.ready["public_key"], listed.public, listed.secret))
    assert "name" in peer.hello()

    keys.revoke("short")

    header, body = peer.receive()
    assert (header["k"], msgpack.unpackb(body)["code"]) == (9, "auth-required")


@pytest.mark.parametrize("kind", ["unlisted", "null", "wrong server key"])
def test_over_tcp_nobody_else_gets_a_word(broker, context, connect, kind):
    pair = make_keypair()
    curve = {
        "unlisted": (broker.ready["public_key"], pair.public, pair.secret),
        "null": None,
        "wrong server key": (make_keypair().public, pair.public, pair.secret),
    }[kind]
    stranger = Peer(context, broker.ready["tcp"], curve)
    stranger.socket.setsockopt(zmq.SNDTIMEO, 0)
    with contextlib.suppress(zmq.Again):
        stranger.send({"k": 1}, {"versions": [1, 1], "incarnation": stranger.incarnation, "role": "client"})

    with pytest.raises(TimeoutError):
        stranger.receive(0.5)
    a_call_works(connect)


def test_sigterm_says_back_soon_and_ends_in_time(tmp_path, context):
    with running_broker(tmp_path) as broker:
        peer = Peer(context, broker.address)
        peer.hello()
        started = time.monotonic()

        broker.process.send_signal(signal.SIGTERM)

        header, _ = peer.receive()
        assert (header["k"], header.get("f", 0)) == (4, 0)
        assert broker.wait() == 0
        assert time.monotonic() - started < 12.0
        assert not (tmp_path / "run" / "broker.json").exists()


def test_drain_answers_says_bye_for_good_and_ends(tmp_path, context):
    with running_broker(tmp_path) as broker:
        assert json.loads((tmp_path / "run" / "broker.json").read_text())["pid"] == broker.process.pid
        peer = Peer(context, broker.address)
        peer.hello("admin")

        assert peer.ask_broker(1, "drain") == {}
        header, _ = peer.receive()
        assert (header["k"], header["f"]) == (4, 64)
        assert broker.wait() == 0


def test_a_broker_ends_with_its_parent(tmp_path, context):
    with running_broker(tmp_path, "--exit-with-parent") as broker:
        peer = Peer(context, broker.address)
        peer.hello()
        assert broker.process.stdin is not None

        broker.process.stdin.close()

        header, _ = peer.receive()
        assert (header["k"], header["f"]) == (4, 64)
        assert broker.wait() == 0


def test_a_place_that_is_taken_is_an_error_that_names_it(broker, tmp_path):
    second = BrokerProcess(tmp_path, "--ipc", broker.ready["ipc"])

    assert second.ready["error"]["code"] == "address-taken"
    assert broker.ready["ipc"] in second.ready["error"]["message"]
    assert second.wait() == 1


def test_a_tcp_port_that_is_taken_is_an_error_that_names_it(broker, tmp_path):
    second = BrokerProcess(tmp_path, "--tcp", broker.ready["tcp"])

    assert second.ready["error"]["code"] == "address-taken"
    assert second.wait() == 1


@pytest.mark.parametrize("change", ["lost_s=never", "nonsense=3", "lost_s=-1", "lost_s"])
def test_a_wrong_interval_is_refused(tmp_path: Path, change):
    wrong = BrokerProcess(tmp_path, intervals=(change,))

    assert wrong.ready["error"]["code"] == "invalid-argument"
    assert wrong.wait() == 2


def test_after_a_kill_a_new_broker_serves_the_peers_that_come_back(tmp_path, context):
    with running_broker(tmp_path) as broker:
        peer = Peer(context, broker.address)
        first = peer.hello()["epoch"]
        broker.end(signal.SIGKILL)
    with running_broker(tmp_path, intervals=(*CALM, "settle_s=100")) as broker:
        client, endpoint = Peer(context, broker.address), Peer(context, broker.address)
        assert client.hello()["epoch"] != first
        client.call(5, "hpc", "echo", {"a": 1}, t=endpoint.incarnation, f=16)
        assert client.ask_broker(6, "ping") == {}
        assert endpoint.hello("endpoint", name="hpc")["name"] == "hpc"

        assert endpoint.serve_one()["f"] & 16
        assert client.receive()[0]["i"] == 5


def test_a_damaged_list_of_keys_leaves_the_old_one_in_force_and_says_so(tmp_path, context):
    with running_broker(tmp_path, "--tcp", "tcp://127.0.0.1:0") as broker:
        path = broker.state_dir / KEY_LIST
        listed = KeyList.load(path).admit("guest", "client")
        whole = path.read_text()
        curve = (broker.ready["public_key"], listed.public, listed.secret)
        admin = Peer(context, broker.address)
        admin.hello("admin")
        assert "epoch" in Peer(context, broker.ready["tcp"], curve).hello()

        def damage() -> str:
            return str(read_all(admin, "status")["security"]["key_list_damage"])

        path.write_text(whole[:-40])
        assert "keys.json" in until(damage)
        assert "epoch" in Peer(context, broker.ready["tcp"], curve).hello()
        refused = admin.ask_broker(1_000, "revoke", {"name": "guest"})
        assert refused["code"] == "conflict" and path.read_text() == whole[:-40]
        assert "key-list-damaged" in broker.log.read_text()

        path.write_text(whole)
        until(lambda: not damage())
        admin.call(1_001, "broker", "revoke", {"name": "guest"})
        while (answer := admin.receive())[0].get("i") != 1_001:
            pass
        assert msgpack.unpackb(answer[1])["revoked"] == ["guest"]


def test_connections_that_say_nothing_more_stay_whatever_their_address(tmp_path, context):
    with running_broker(tmp_path, "--tcp", "tcp://*:0", intervals=("heartbeat_s=60", "suspect_s=60")) as broker:
        owner = load_keypair(broker.state_dir / OWNER_KEY)
        port = broker.ready["tcp"].rpartition(":")[2]
        curve = (broker.ready["public_key"], owner.public, owner.secret)
        context.setsockopt(zmq.IPV6, 1)
        peers = [Peer(context, f"tcp://{host}:{port}", curve) for host in ("127.0.0.1", "[::1]") if can_reach(host, port)]
        assert all("epoch" in peer.hello() for peer in peers)
        later = Peer(context, f"tcp://127.0.0.1:{port}", curve)

        until(lambda: read_all(peers[0], "status")["security"]["connections_reaped"])
        later.close()
        for peer in peers:
            assert read_all(peer, "ping") == {}
        assert read_all(peers[0], "status")["security"]["connections_reaped"] == 1


def can_reach(host: str, port: str) -> bool:
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
    except OSError:
        return False
    return True

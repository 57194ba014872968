"""Events when something goes wrong: a broker is killed, a key expires, a plugin floods, a subscriber is stuck."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import pytest
import zmq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from lab import Lab, wait_until

from orbit_zmq import Client, Endpoint, Plugin, PluginSession
from orbit_zmq.errors import OrbitError
from orbit_zmq.paths import state_dir
from orbit_zmq.place import find_broker
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import KEY_LIST

GROWTH_BYTES = 96 << 20  # what is kept of one stream and what allocators make of it; a flood of seconds is several times that


class NewsSession(PluginSession):
    """Has nothing to do."""


class NewsPlugin(Plugin):
    plugin_name = "news"
    session_class = NewsSession


class Heard(list[int]):
    """A callback that remembers the numbers."""

    def __call__(self, endpoint: str, plugin: str, topic: str, data: int) -> None:
        self.append(data)


class Telling:
    """Tells numbers at a rate until it is stopped."""

    def __init__(self, plugin: Plugin, pause_s: float) -> None:
        self.count = 0
        self._plugin, self._pause_s = plugin, pause_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self.count

    def _run(self) -> None:
        while not self._stopped.wait(self._pause_s):
            self._plugin.send_notification("news", self.count)
            self.count += 1


def has_grown(value: Callable[[], int], before: int, by: int) -> bool:
    return value() >= before + by


def test_a_broker_that_is_killed_while_events_flow_loses_none_uncounted(lab: Lab) -> None:
    with Endpoint("hpc1", url=lab.url, plugins=[NewsPlugin]) as endpoint:
        client, heard = lab.client(), Heard()
        subscription = client.subscribe(heard)
        telling = Telling(endpoint.plugins[0], 0.001)
        try:
            for _ in range(2):
                wait_until(partial(has_grown, heard.__len__, len(heard), 100))
                assert lab.broker is not None
                os.kill(lab.broker.pid, signal.SIGKILL)
                lab.broker.end()
                before = telling.count
                wait_until(partial(has_grown, lambda: telling.count, before, 100))
                lab.start_broker(tcp=None)
            wait_until(partial(has_grown, heard.__len__, len(heard), 100))
        finally:
            told = telling.stop()
        wait_until(lambda: len(heard) + subscription.missed == told)

    assert heard == sorted(set(heard)) and subscription.missed == 0 and heard[-1] == told - 1


def test_the_last_events_before_the_broker_was_killed_are_heard_when_nothing_follows(lab: Lab) -> None:
    with Endpoint("hpc1", url=lab.url, plugins=[NewsPlugin]) as endpoint:
        client, heard = lab.client(), Heard()
        subscription = client.subscribe(heard)
        for number in range(500):
            endpoint.plugins[0].send_notification("news", number)
        assert lab.broker is not None
        os.kill(lab.broker.pid, signal.SIGKILL)
        lab.broker.end()
        lab.start_broker(tcp=None)

        wait_until(lambda: len(heard) + subscription.missed == 500)
    assert heard == list(range(500))


def raw_subscriber(stack: ExitStack, place: Any, keys: Any, address: str) -> zmq.Socket[bytes]:
    context: zmq.Context[Any] = stack.enter_context(zmq.Context())
    socket: zmq.Socket[bytes] = stack.enter_context(context.socket(zmq.SUB))
    socket.linger = 0
    socket.curve_serverkey = place.server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
    socket.connect(address)
    socket.subscribe(b"")
    socket.subscribe(b"b/here")
    while True:  # events may be heard before
        assert socket.poll(60_000)
        if socket.recv_multipart() == [b"b/here"]:
            return socket


def opens(frames: list[bytes], key: bytes) -> bool:
    topic, mark, sealed = frames
    try:
        ChaCha20Poly1305(key).decrypt(mark[8:], sealed, topic + mark)
    except InvalidTag:
        return False
    return True


def drained(socket: zmq.Socket[bytes], patience_s: float = 0.0, at_most_s: float = 30.0) -> list[list[bytes]]:
    """What is there, and comes until nothing has come for so long."""
    found, ends_at = [], time.monotonic() + at_most_s
    while socket.poll(int(patience_s * 1000)) and time.monotonic() < ends_at:
        found.append(socket.recv_multipart())
    return [frames for frames in found if len(frames) == 3]


def test_a_party_whose_key_expires_unseals_nothing_more_and_the_others_miss_nothing(lab: Lab) -> None:
    client = lab.client(lab.tcp)
    user = client._link.user
    keys = KeyList.load(state_dir() / KEY_LIST)
    pair = keys.admit("partner", "client", "eve", rights=("read", "act-for"), expires=time.time() + 600)
    assert lab.broker is not None
    address, public = lab.broker.ready["events_tcp"], lab.broker.ready["public_key"]
    join = JoinString((lab.tcp,), (address,), public, pair, "partner", "client")
    with Endpoint("hpc1", url=lab.tcp, plugins=[NewsPlugin]) as endpoint, ExitStack() as stack:
        heard = Heard()
        subscription = client.subscribe(heard)
        telling = Telling(endpoint.plugins[0], 0.002)
        stack.callback(telling.stop)
        partner = stack.enter_context(Client(join=join.encode(), connect_timeout_s=60))
        assert partner._link.user == "eve"
        old = partner._ask_broker("keys", {"audiences": [user]})[user]
        socket = raw_subscriber(stack, find_broker(lab.tcp), pair, address)
        wait_until(lambda: any(opens(frames, old["key"]) for frames in drained(socket)))

        expires = time.time() + 3.0
        keys._replace_all([replace(entry, expires=expires) if entry.name == "partner" else entry for entry in keys])
        wait_until(lambda: client._ask_broker("keys", {})[user]["key_id"] != old["key_id"])
        assert time.time() >= expires
        drained(socket, patience_s=2.0)  # what was on its way before; its connection has been cut
        wait_until(partial(has_grown, heard.__len__, len(heard), 200))
        overheard = drained(socket)
        with pytest.raises(OrbitError):
            partner._ask_broker("keys", {"audiences": [user]})
        told = telling.stop()
        wait_until(lambda: len(heard) == told)

    assert not any(opens(frames, old["key"]) for frames in overheard)
    assert heard == list(range(told)) and subscription.missed == 0


@pytest.mark.parametrize("source", ["thread", "loop"])
def test_a_flood_is_heard_or_counted_and_fills_nobody(lab: Lab, source: str) -> None:
    endpoint = lab.start_endpoint("hpc1")
    assert lab.broker is not None
    processes = [psutil.Process(pid) for pid in (endpoint.pid, lab.broker.pid, os.getpid())]
    client = lab.client(lab.tcp)
    plugin = client.get_plugin("hpc1", "test")
    release, heard = threading.Event(), Heard()
    stuck = client.subscribe(lambda *event: release.wait(200))
    subscription = client.subscribe(heard)
    with ExitStack() as stack:
        place = find_broker(lab.tcp)
        raw_subscriber(stack, place, place.keys, lab.broker.ready["events_tcp"])  # never reads
        told = plugin.flood("loop", 0.2)
        before = [process.memory_info().rss for process in processes]
        told += plugin.flood(source, 3.0)
        grown = [process.memory_info().rss - size for process, size in zip(processes, before, strict=True)]
        assert plugin.echo(text="well") == "well"
        wait_until(lambda: len(heard) + subscription.missed == told)
    release.set()
    wait_until(lambda: stuck.missed == subscription.missed or len(heard) > 65_536)

    assert max(grown) < GROWTH_BYTES, grown
    assert sum(later <= earlier for earlier, later in itertools.pairwise(heard)) <= 1  # where the second flood begins

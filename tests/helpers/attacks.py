"""Attempts to get in, to pass for another, or to reach what is not one's own; each says how many messages came through.

The scene is a real broker over TCP and parties made of nothing but pyzmq and msgpack. `vault` is ada's endpoint and counts
what reaches it; `mallory` and `eve` are another user's endpoint and client, with keys that are listed. An attack passes when
nothing reached the vault or a stranger, and ada's next call works.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgpack
import psutil
import zmq
from raw_peer import Peer, running_broker

from orbit_zmq.errors import ProtocolError
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import KEY_LIST, OWNER_KEY, KeyPair, load_keypair, make_keypair
from orbit_zmq.wire.header import IDEMPOTENT, RESENT, STREAM, STREAMED, Kind
from orbit_zmq.wire.seal import KEY_ID_BYTES, Opener

CALM = ("settle_s=0.1", "suspect_s=900", "lost_s=1800")  # nobody here says heartbeats
BATCH = 50  # connections at once
PATIENCE_S = 60.0  # it passes only when something is broken
NEWS_OF_ITSELF = (Kind.WELCOME, Kind.HEARTBEAT, Kind.KEYS, Kind.RESEND, Kind.HOLDERS, Kind.TIP, Kind.WHO_ARE_YOU)
ENDINGS = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)
OPERATIONS = {"test": ("echo", "once", "fork", "unheard-of"), "sysinfo": ("metrics", "ping"), "rhapsody": ("submit", "wait")}
CATALOGUE = msgpack.packb(
    {
        plugin: {"plugin": plugin, "version": "1", "operations": [{"name": name, "effect": "read"} for name in names]}
        for plugin, names in OPERATIONS.items()
    }
)


@dataclass(frozen=True)
class Outcome:
    """What came of one kind of attack."""

    attack: str
    attempts: int
    reached: int  # messages that came to an endpoint, or to somebody in another's name
    leaked: int  # messages that a stranger got out
    good_call: bool  # ada's next call works
    took_s: float

    @property
    def is_held(self) -> bool:
        return self.reached == self.leaked == 0 and self.good_call


class Scene:
    """A broker and who takes part."""

    def __init__(self, place: Path) -> None:
        self.stack = ExitStack()
        self.broker = self.stack.enter_context(running_broker(place, "--tcp", "tcp://127.0.0.1:0", intervals=CALM))
        self.context = self.stack.enter_context(zmq.Context())
        self.context.set(zmq.MAX_SOCKETS, 8_192)
        self.requests: str = self.broker.ready["tcp"]
        self.events: str = self.broker.ready["events_tcp"]
        self.server_key: str = self.broker.ready["public_key"]
        self.keys = KeyList.load(self.broker.state_dir / KEY_LIST)
        self.told: list[int] = []  # numbers of the vault's events for ada
        self._ids = itertools.count(1)
        self._pairs = {"admin": load_keypair(self.broker.state_dir / OWNER_KEY)}
        for name, role, user in (("vault", "endpoint", "ada"), ("ada", "client", "ada"), ("eve", "client", "eve")):
            self._pairs[name] = self.keys.admit(name, role, user)
        self._pairs["mallory"] = self.keys.admit("mallory", "endpoint", "eve")

    def close(self) -> None:
        for name in ("vault", "ada", "eve", "mallory", "admin", "desk"):
            if name in self.__dict__:
                self.__dict__[name].close()
        self.stack.close()

    # Who takes part, once somebody asks for them

    @cached_property
    def vault(self) -> Peer:
        plugins = {plugin: {"plugin": plugin, "version": "1"} for plugin in OPERATIONS}
        session = {"id": "session.of-ada", "plugin": "test", "user": "ada", "lifetime": "persistent"}
        vault = self.enter("vault", "endpoint", name="vault", plugins=plugins, sessions=[session])
        return vault

    @cached_property
    def desk(self) -> Peer:
        """Another endpoint of ada's, which is shared with eve; a session of ada's is there."""
        session = {"id": "session.at-desk", "plugin": "test", "user": "ada", "lifetime": "persistent"}
        share = {"eve": {"plugins": ["*"], "rights": ["read", "write", "run"]}}
        return self.enter("vault", "endpoint", name="vault.desk", sessions=[session], share=share)

    @cached_property
    def ada(self) -> Peer:
        return self.enter("ada", "client")

    @cached_property
    def eve(self) -> Peer:
        return self.enter("eve", "client")

    @cached_property
    def mallory(self) -> Peer:
        return self.enter("mallory", "endpoint", name="mallory")

    @cached_property
    def admin(self) -> Peer:
        return self.enter("admin", "admin")

    def enter(self, key: str, role: str, **facts: Any) -> Peer:
        """A party with a listed key, welcomed."""
        peer = Peer(self.context, self.requests, self.curve(self._pairs[key]))
        welcome = peer.hello(role, **facts)
        assert "epoch" in welcome, welcome
        return peer

    def curve(self, pair: KeyPair, server_key: str = "") -> tuple[str, str, str]:
        return (server_key or self.server_key, pair.public, pair.secret)

    def audiences_of(self, peer: Peer) -> dict[str, Any]:
        """Tags and keys of what a party may hear, as of now."""
        found: dict[str, Any] = self.ask(peer, "keys")
        return found

    def subscriber(self, key: str, kind: int = zmq.SUB) -> zmq.Socket[bytes]:
        """A connection to where events are published."""
        made: zmq.Socket[bytes] = self.context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVHWM, 0)
        made.curve_serverkey, made.curve_publickey, made.curve_secretkey = (
            part.encode() for part in self.curve(self._pairs[key])
        )
        made.connect(self.events)
        return made

    # What is asked of them

    def tell(self, value: int) -> int:
        """The vault tells ada an event; its number, once the broker has it."""
        if not self.told:
            self.told.append(_last_number(self))
        number = self.told[-1] + 1
        self.vault.send({"k": Kind.EVENT, "i": number, "o": "news", "p": "test", "w": "ada", "y": 1.0}, {"n": value})
        self.settle(self.vault)
        self.told.append(number)
        return number

    def next_id(self) -> int:
        return next(self._ids)

    def settle(self, peer: Peer) -> list[tuple[dict[str, Any], bytes]]:
        """All that has come to a peer until the broker has dealt with what it sent."""
        call_id = self.next_id()
        peer.call(call_id, "broker", "ping", p="")
        found: list[tuple[dict[str, Any], bytes]] = []
        while True:
            header, body = peer.receive()
            if header.get("i") == call_id and header["k"] == Kind.REPLY:
                return found
            found.append((header, body))

    def reached(self, peer: Peer) -> int:
        """How many messages of others have come to an endpoint."""
        return sum(header["k"] not in NEWS_OF_ITSELF for header, _ in self.settle(peer))

    def leaked(self, peer: Peer) -> int:
        """How many messages came to a party that are no errors and no news of itself."""
        return sum(header["k"] not in (*NEWS_OF_ITSELF, Kind.ERROR) for header, _ in self.settle(peer))

    def ask(self, peer: Peer, operation: str, **arguments: Any) -> Any:
        """The broker's answer."""
        call_id = self.next_id()
        peer.call(call_id, "broker", operation, arguments, p="")
        while True:
            header, body = peer.receive()
            if header.get("i") == call_id:
                return msgpack.unpackb(body)

    def good_call(self) -> bool:
        """Ada calls her endpoint."""
        vault, ada, call_id, text = self.vault, self.ada, self.next_id(), os.urandom(8)
        ada.call(call_id, "vault", "echo", {"text": text}, p="test")
        while (request := vault.receive())[0]["k"] != Kind.REQUEST:
            pass
        vault.send({"k": 8, "i": call_id, "c": request[0]["c"], "t": vault.incarnation}, request[1])
        while (answer := ada.receive())[0].get("i") != call_id:
            pass
        return bool(answer[0]["k"] == Kind.REPLY) and msgpack.unpackb(answer[1]) == {"text": text}

    def knock(self, attempts: int, curve: Callable[[], tuple[str, str, str] | None]) -> int:
        """Connect so often, say hello and a call into it; how many got any word back, or stayed."""
        came = 0
        for first in range(0, attempts, BATCH):
            knockers = [Peer(self.context, self.requests, curve(), ENDINGS) for _ in range(min(BATCH, attempts - first))]
            for knocker in knockers:
                knocker.socket.setsockopt(zmq.SNDTIMEO, 0)
                try:
                    knocker.send({"k": 1}, {"versions": [1, 1], "incarnation": knocker.incarnation, "role": "client"})
                    knocker.call(1, "vault", "once", {"key": "knock"}, p="test")
                except zmq.Again:
                    pass
            for knocker in knockers:
                assert knocker.monitor is not None
                came += not knocker.monitor.poll(int(PATIENCE_S * 1000)) or bool(knocker.socket.poll(0))
                knocker.close()
        return came


class Subscriber:
    """A party of ada's with a key of its own that listens, learns new keys as they are told, and remembers what it opened."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene = scene
        scene._pairs[name] = scene.keys.admit(name, "client", "ada")
        self.peer = scene.enter(name, "client")
        self.line = scene.subscriber(name)
        self._keys: dict[bytes, Opener] = {}
        self._held: list[list[bytes]] = []  # sealed under a key that is not known yet
        self._heard: set[int] = set()
        found = scene.audiences_of(self.peer)
        self._learn(found)
        self.line.subscribe(f"{found['ada']['tag']}/".encode())
        _barrier(self.line)

    def hear(self, number: int, wait_s: float = PATIENCE_S) -> bool:
        """Whether the event of that number has been heard, now or within that time."""
        deadline = time.monotonic() + wait_s
        while True:
            self._listen()
            if number in self._heard or time.monotonic() >= deadline:
                return number in self._heard
            self.line.poll(20)

    def close(self) -> None:
        self.peer.close()
        self.line.close()

    def _learn(self, audiences: dict[str, Any]) -> None:
        self._keys |= {facts["key_id"]: Opener(facts["key"]) for facts in audiences.values()}

    def _listen(self) -> None:
        while self.peer.socket.poll(0):
            header, body = self.peer.socket.recv_multipart()
            if msgpack.unpackb(header)["k"] == Kind.KEYS:
                self._learn(msgpack.unpackb(body))
        while self.line.poll(0):
            self._held.append(self.line.recv_multipart())
        frames_of_none = []
        for frames in self._held:
            opener = self._keys.get(frames[1][:KEY_ID_BYTES]) if len(frames) == 3 else None
            if opener is None:
                frames_of_none.append(frames)
                continue
            header = msgpack.unpackb(opener.open(*frames)[0])
            if header["k"] == Kind.EVENT:
                self._heard.add(header["i"])
        self._held = frames_of_none


@contextmanager
def scene(place: Path) -> Iterator[Scene]:
    made = Scene(place)
    try:
        yield made
    finally:
        made.close()


# Floods of strangers


@dataclass(frozen=True)
class Flood:
    """What a flood did to those who belong."""

    connections: int
    calls: int  # that ada made meanwhile, one after the other
    calls_failed: int
    slowest_call_s: float
    longest_round_s: float  # of the broker's loop
    left_after_s: float  # until none of the connections was left


def connect_and_close(scene: Scene, count: int) -> Flood:
    """Strangers that connect and go away at once, to both ports."""
    return _flood(scene, count, lambda address: socket.create_connection(address, timeout=PATIENCE_S).close())


def stay_silent(scene: Scene, count: int) -> Flood:
    """Strangers that connect and say nothing."""
    lines: list[socket.socket] = []
    try:
        return _flood(scene, count, lambda address: lines.append(socket.create_connection(address, timeout=PATIENCE_S)))
    finally:
        for line in lines:
            line.close()


def shake_hands_and_stay(scene: Scene, count: int) -> Flood:
    """Parties with a key that is listed, who never say hello, nor subscribe."""
    lines: list[zmq.Socket[bytes]] = []

    def connect(address: tuple[str, int]) -> None:
        line: zmq.Socket[bytes] = scene.context.socket(zmq.DEALER if len(lines) % 2 else zmq.SUB)
        line.setsockopt(zmq.LINGER, 0)
        line.setsockopt(zmq.RECONNECT_IVL, -1)
        pair = scene.curve(scene._pairs["eve"])
        line.curve_serverkey, line.curve_publickey, line.curve_secretkey = (part.encode() for part in pair)
        line.connect(scene.requests if len(lines) % 2 else scene.events)
        lines.append(line)

    try:
        return _flood(scene, count, connect)
    finally:
        for line in lines:
            line.close()


def _flood(scene: Scene, count: int, connect: Callable[[tuple[str, int]], None]) -> Flood:
    ports = [int(address.rpartition(":")[2]) for address in (scene.requests, scene.events)]
    assert scene.good_call()
    before = _strangers(scene)
    stop, calls = threading.Event(), [0, 0, 0.0]

    def call_on() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                calls[1] += not scene.good_call()
            except TimeoutError:
                calls[1] += 1
            calls[0] += 1
            calls[2] = max(calls[2], time.monotonic() - began)

    caller = threading.Thread(target=call_on)
    caller.start()
    try:
        for number in range(count):
            connect(("127.0.0.1", ports[number % 2]))
        ended_at = time.monotonic()
        while _strangers(scene) > before and time.monotonic() < ended_at + PATIENCE_S:
            time.sleep(0.05)  # there is nothing that tells
        left_after_s = time.monotonic() - ended_at
    finally:
        stop.set()
        caller.join()
    round_s = float(scene.ask(scene.admin, "status")["loop"]["longest_round_lately_s"])
    return Flood(count, int(calls[0]), int(calls[1]), round(calls[2], 4), round_s, round(left_after_s, 2))


def _strangers(scene: Scene) -> int:
    """Connections that the broker's process has open."""
    return len(psutil.Process(scene.broker.process.pid).net_connections("tcp"))


# The attacks: each answers (reached, leaked)


def no_key(scene: Scene, attempts: int) -> tuple[int, int]:
    """Bytes over plain TCP: a greeting that asks for CURVE, and then what is no handshake."""
    host, port = scene.requests.removeprefix("tcp://").rsplit(":", 1)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    leaked = 0
    for number in range(attempts):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as line:
            junk = b"\x04\x17\x05HELLO" + os.urandom(17) if number % 2 else os.urandom(200)
            line.sendall(greeting + junk)
            if number % 20 == 1:  # the broker says its greeting, and ends the connection
                heard = b""
                while more := _receive(line):
                    heard += more
                leaked += len(heard) > 128  # a greeting, and an error without a reason
    return scene.reached(scene.vault), leaked


def null(scene: Scene, attempts: int) -> tuple[int, int]:
    leaked = scene.knock(attempts, lambda: None)
    return scene.reached(scene.vault), leaked


def unlisted(scene: Scene, attempts: int) -> tuple[int, int]:
    leaked = scene.knock(attempts, lambda: scene.curve(make_keypair()))
    return scene.reached(scene.vault), leaked


def wrong_server_key(scene: Scene, attempts: int) -> tuple[int, int]:
    pair, other = scene._pairs["ada"], make_keypair().public
    leaked = scene.knock(attempts, lambda: scene.curve(pair, other))
    return scene.reached(scene.vault), leaked


def expired(scene: Scene, attempts: int) -> tuple[int, int]:
    """Keys whose time is over: a few, each used often."""
    pairs = [make_keypair() for _ in range(10)]
    for pair in pairs:
        name = f"late-{pair.public[:6].encode().hex()}"
        answer = scene.ask(scene.admin, "invite", key=pair.public, name=name, role="client", user="ada", expires_s=0.01)
        assert "entry" in answer, answer
    turns = itertools.cycle(pairs)
    time.sleep(0.02)  # the keys' time is by the wall clock
    leaked = scene.knock(attempts, lambda: scene.curve(next(turns)))
    return scene.reached(scene.vault), leaked


def revoked_in_mid_connection(scene: Scene, attempts: int) -> tuple[int, int]:
    """Keys of ada's own, revoked while connected, that go on calling."""
    reached = leaked = 0
    for first in range(0, attempts, BATCH):
        names = [f"short-{number}" for number in range(first, min(first + BATCH, attempts))]
        pairs = {name: make_keypair() for name in names}
        for name, pair in pairs.items():
            assert "entry" in scene.ask(scene.admin, "invite", key=pair.public, name=name, role="client", user="ada")
        peers = [Peer(scene.context, scene.requests, scene.curve(pair)) for pair in pairs.values()]
        for peer in peers:
            assert "epoch" in peer.hello()
        calls = {scene.next_id(): name for name in names}
        for call_id, name in calls.items():
            scene.admin.call(call_id, "broker", "revoke", {"name": name}, p="")
        while calls:
            header, _ = scene.admin.receive()
            if header["k"] == Kind.REPLY:
                calls.pop(header["i"], None)
        for peer in peers:
            peer.socket.setsockopt(zmq.SNDTIMEO, 0)
            try:
                peer.call(1, "vault", "once", {"key": "revoked"}, p="test")
                peer.send({"k": 1}, {"versions": [1, 1], "incarnation": peer.incarnation, "role": "client"})
                peer.call(2, "vault", "once", {"key": "revoked"}, p="test")
            except zmq.Again:
                pass
        reached += scene.reached(scene.vault)
        for peer in peers:
            leaked += _words(peer)
            peer.close()
    return reached, leaked


def name_of_another(scene: Scene, attempts: int) -> tuple[int, int]:
    leaked = 0
    names = ("vault", "vault.x", "mallory2", "broker", "*", "Mallory", "mallory/../vault")
    thief = Peer(scene.context, scene.requests, scene.curve(scene._pairs["mallory"]))
    for number in range(attempts):
        incarnation = scene.vault.incarnation if number % 5 == 4 else os.urandom(16)
        role = ("endpoint", "admin", "gateway")[number % 3]
        hello = {"versions": [1, 1], "incarnation": incarnation, "role": role, "name": names[number % len(names)]}
        thief.send({"k": 1}, hello)
        header, _ = thief.receive()
        leaked += header["k"] != Kind.ERROR
    thief.close()
    return scene.reached(scene.vault), leaked


def forged_reply(scene: Scene, attempts: int) -> tuple[int, int]:
    """Answers to a call of ada's that is open at the vault, in every kind, with all that a forger could have seen."""
    mallory, call_id = scene.mallory, scene.next_id()
    scene.settle(mallory)
    scene.ada.call(call_id, "vault", "echo", {"text": "truth"}, p="test")
    while (request := scene.vault.receive())[0]["k"] != Kind.REQUEST:
        pass
    caller = request[0]["c"]
    lie = {"code": "internal", "message": "a lie"}
    for number in range(attempts):
        kind = (Kind.REPLY, Kind.ERROR, Kind.CHUNK, Kind.CREDIT)[number % 4]
        target = scene.vault.incarnation if number % 8 < 4 else mallory.incarnation
        mallory.send({"k": kind, "i": call_id, "c": caller, "t": target, "s": "vault", "u": "ada", "a": 1}, lie)
    scene.settle(mallory)
    came = scene.settle(scene.ada)
    scene.vault.send({"k": 8, "i": call_id, "c": caller, "t": scene.vault.incarnation}, request[1])
    while (answer := scene.ada.receive())[0].get("i") != call_id:
        pass
    is_true = answer[0]["k"] == Kind.REPLY and answer[0]["s"] == "vault"
    return scene.reached(scene.vault), sum(header["k"] not in NEWS_OF_ITSELF for header, _ in came) + (not is_true)


def forged_source(scene: Scene, attempts: int) -> tuple[int, int]:
    """Requests, cancels and updates in ada's name; what goes to eve's own endpoint arrives under eve's name."""
    leaked = 0
    scene.settle(scene.mallory)
    for number in range(attempts):
        claimed: dict[str, Any] = {"s": "ada", "u": "ada", "c": scene.ada.incarnation, "r": 7}
        if number % 3 == 0:
            claimed["b"] = "ada"
        if number % 7 == 0:
            scene.eve.send({"k": Kind.CANCEL, "i": number + 1, "e": "vault", "t": scene.vault.incarnation, **claimed})
        if number % 11 == 0:
            scene.eve.send({"k": Kind.UPDATE, "i": number + 1}, {"opened": [{"id": "session.of-ada", "user": "eve"}]})
        endpoint = "vault" if number % 2 or "b" in claimed else "mallory"
        scene.eve.call(scene.next_id(), endpoint, "once", {"key": "forged"}, **({"p": "test"} | claimed))
        if number % BATCH == BATCH - 1:
            leaked += scene.leaked(scene.eve)
            leaked += sum(header.get("u") != "eve" or header.get("s") == "ada" for header in _requests(scene))
    leaked += scene.leaked(scene.eve)
    return scene.reached(scene.vault), leaked + sum(header.get("u") != "eve" for header in _requests(scene))


def session_of_another(scene: Scene, attempts: int) -> tuple[int, int]:
    """By its id alone, by its id and endpoint, and at an endpoint that is shared."""
    leaked = 0
    scene.settle(scene.desk)
    places = [("", "session.of-ada", ""), ("vault", "session.of-ada", "test"), ("vault.desk", "session.at-desk", "test")]
    places += [("", "session.at-desk", "test"), ("vault.desk", "session.at-desk", "")]
    for number in range(attempts):
        endpoint, session, plugin = places[number % len(places)]
        scene.eve.call(scene.next_id(), endpoint, "once", {"key": "session"}, p=plugin, n=session)
        if number % 10 == 0:
            found = scene.ask(scene.eve, "resolve", session=session)
            leaked += found.get("code") != "not-found"
        if number % BATCH == BATCH - 1:
            leaked += scene.leaked(scene.eve)
    leaked += scene.leaked(scene.eve)
    return scene.reached(scene.vault) + scene.reached(scene.desk), leaked


def audience_of_another(scene: Scene, attempts: int) -> tuple[int, int]:
    """Eve listens to everything and sends all sorts up the event socket, mallory tells events to ada; ada hears her own."""
    ada, eve, up = scene.subscriber("ada"), scene.subscriber("eve"), scene.subscriber("eve", zmq.XSUB)
    keys, own = scene.audiences_of(scene.ada), scene.audiences_of(scene.eve)
    ada.subscribe(f"{keys['ada']['tag']}/".encode())
    for listener in (ada, eve):
        _barrier(listener)
    eve.subscribe(b"")
    _barrier(eve)
    junk = [
        [b""],
        [b"\x01"],
        [b"\x00"],
        [b"x" * 200],
        [b"\x01" + keys["ada"]["tag"].encode()],
        [b"a", b"", b"\x01b"],
        [b"\x02"],
    ]
    heard = overheard = 0
    first = _last_number(scene) + 1
    for number in range(attempts):
        up.send_multipart(junk[number % len(junk)])
        audience = ("ada", "all", "eve2", "")[number % 4]
        scene.mallory.send({"k": Kind.EVENT, "i": number + 1, "o": "news", "p": "test", "w": audience, "y": 1.0}, {"a": "lie"})
        scene.mallory.send({"k": Kind.TIP}, {"ada": number + 9})
        scene.vault.send({"k": Kind.EVENT, "i": first + number, "o": "news", "p": "test", "w": "ada", "y": 1.0}, {"n": number})
        if number % 20 == 0:
            overheard += scene.ask(scene.eve, "keys", audiences=["ada"]).get("code") != "not-permitted"
            overheard += scene.ask(scene.eve, "tips", audiences=["ada"]).get("code") != "not-permitted"
        if number % BATCH == BATCH - 1:
            scene.settle(scene.mallory)
            scene.settle(scene.vault)
            heard, overheard = heard + _opened(ada, keys), overheard + _opened(eve, own)
    scene.settle(scene.vault)
    deadline = time.monotonic() + PATIENCE_S
    while heard < attempts and time.monotonic() < deadline:
        heard += _opened(ada, keys)
    overheard += _opened(eve, own)
    for line in (ada, eve, up):
        line.close()
    return scene.reached(scene.vault), overheard + abs(attempts - heard)


def plugins_of_another(scene: Scene, attempts: int) -> tuple[int, int]:
    """Every operation of every plugin of ada's endpoint, and some that it does not have, in every form."""
    leaked = 0
    calls = [(plugin, name) for plugin, names in OPERATIONS.items() for name in (*names, "register_session", "ping")]
    calls += [("", "replay"), ("", "ping"), ("nothing", "x")]
    forms = (0, RESENT, IDEMPOTENT, STREAMED, STREAM, RESENT | IDEMPOTENT)
    for number in range(attempts):
        plugin, name = calls[number % len(calls)]
        target = {"t": scene.vault.incarnation} if number % 2 else {}
        caller = scene.eve if number % 3 else scene.mallory
        caller.call(scene.next_id(), "vault", name, {"key": "plugin"}, p=plugin, f=forms[number % len(forms)], **target)
        caller.send({"k": Kind.CHUNK, "i": scene.next_id(), "e": "vault", "a": number % 4, "t": scene.vault.incarnation}, b"x")
        if number % BATCH == BATCH - 1:
            leaked += scene.leaked(scene.eve) + scene.leaked(scene.mallory)
    leaked += scene.leaked(scene.eve) + scene.leaked(scene.mallory)
    return scene.reached(scene.vault), leaked


def administration(scene: Scene, attempts: int) -> tuple[int, int]:
    """Ending the broker, and the list of keys, without the right to them."""
    leaked, before = 0, len(scene.ask(scene.admin, "list_keys"))
    pair = make_keypair()
    more = {"key": pair.public, "name": "mallory.x", "role": "endpoint"}
    asks: list[tuple[str, dict[str, Any]]] = [
        ("drain", {}),
        ("revoke", {"name": "ada"}),
        ("revoke", {"name": "owner"}),
        ("invite", more | {"role": "admin"}),
        ("invite", more | {"user": "ada"}),
        ("invite", more | {"name": "vault.y"}),
        ("invite", more | {"rights": ["act-for"]}),
    ]
    for number in range(attempts):
        operation, arguments = asks[number % len(asks)]
        asker = scene.eve if number % 2 else scene.mallory
        leaked += scene.ask(asker, operation, **arguments).get("code") != "not-permitted"
    after = scene.ask(scene.admin, "list_keys")
    return scene.reached(scene.vault), leaked + (len(after) != before)


ATTACKS: dict[str, Callable[[Scene, int], tuple[int, int]]] = {
    "no-key": no_key,
    "null": null,
    "unlisted": unlisted,
    "wrong-server-key": wrong_server_key,
    "expired-join-string": expired,
    "revoked-in-mid-connection": revoked_in_mid_connection,
    "name-of-another": name_of_another,
    "forged-reply": forged_reply,
    "forged-source": forged_source,
    "session-of-another": session_of_another,
    "audience-of-another": audience_of_another,
    "plugins-of-another": plugins_of_another,
    "administration": administration,
}


def attack(scene: Scene, name: str, attempts: int) -> Outcome:
    """Try it so often, then have ada call."""
    assert scene.good_call()
    began = time.monotonic()
    reached, leaked = ATTACKS[name](scene, attempts)
    took_s = time.monotonic() - began
    return Outcome(name, attempts, reached, leaked, scene.good_call(), round(took_s, 1))


def _receive(line: socket.socket) -> bytes:
    try:
        return line.recv(4096)
    except (ConnectionError, TimeoutError):
        return b""


def _words(peer: Peer) -> int:
    """Messages that came to a connection that the broker has ended, but for the reason."""
    count = 0
    while peer.socket.poll(0):
        header, _ = peer.socket.recv_multipart()
        count += msgpack.unpackb(header)["k"] not in (*NEWS_OF_ITSELF, Kind.ERROR)
    return count


def _requests(scene: Scene) -> list[dict[str, Any]]:
    """Headers of the requests that came to mallory, each answered."""
    headers = [header for header, _ in scene.settle(scene.mallory) if header["k"] == Kind.REQUEST]
    for header in headers:
        refusal = {"code": "busy", "message": "no"}
        scene.mallory.send({"k": 9, "i": header["i"], "c": header["c"], "t": scene.mallory.incarnation}, refusal)
    return headers


def _barrier(listener: zmq.Socket[bytes]) -> None:
    """Wait until the subscriptions made so far are in force."""
    mark = b"b/" + os.urandom(8).hex().encode()
    listener.subscribe(mark)
    while listener.poll(int(PATIENCE_S * 1000)):
        if listener.recv_multipart() == [mark]:
            return
    raise TimeoutError("the barrier was not echoed")


def _opened(listener: zmq.Socket[bytes], keys: dict[str, Any]) -> int:
    """How many events of endpoints these keys open; one that mallory tells counts as a hundred."""
    openers = {facts["key_id"]: Opener(facts["key"]) for facts in keys.values()}
    count = 0
    while listener.poll(50):
        frames = listener.recv_multipart()
        if len(frames) != 3 or frames[1][:KEY_ID_BYTES] not in openers:
            continue
        try:
            header = msgpack.unpackb(openers[frames[1][:KEY_ID_BYTES]].open(*frames)[0])
        except ProtocolError:
            continue
        if header["k"] in (Kind.EVENT, Kind.TIP) and header["s"] != "broker":
            count += 100 if header["s"] != "vault" else header["k"] == Kind.EVENT
    return count


def _last_number(scene: Scene) -> int:
    """Of the vault's stream for ada."""
    scene.ask(scene.ada, "keys")
    streams = scene.ask(scene.ada, "tips")["streams"]
    return max((last for audience, endpoint, *_, last in streams if (audience, endpoint) == ("ada", "vault")), default=0)

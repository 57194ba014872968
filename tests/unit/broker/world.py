"""A broker without sockets or a clock: peers say something, the rules answer, and every step is checked.

`take` gives what was sent since the last time, so that a test that compares it with a list also says that nothing else was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from orbit_broker import answers, dispatch, presence
from orbit_broker.check import check
from orbit_broker.out import Out, next_message, was_sent
from orbit_broker.state import Identity, Participant, State
from orbit_zmq.wire.header import Header, Kind, decode_header, encode_header

EPOCH = b"E" * 16


@dataclass(frozen=True)
class Sent:
    """One message that a peer received."""

    to: str
    kind: Kind
    header: Header
    body: bytes

    @property
    def value(self) -> Any:
        return msgpack.unpackb(self.body) if self.body else None

    @property
    def code(self) -> str:
        return str(self.value["code"]) if self.kind == Kind.ERROR else ""


def identity(user: str = "ada", role: str = "admin", **changes: Any) -> Identity:
    made = Identity(f"key of {user}", user, role, lambda name: True, lambda endpoint, plugin: True)
    return replace(made, **changes)


def incarnation(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()[:16]


class World:
    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.state = State(epoch=EPOCH, started_at=self.now, **{"settle_s": 0.001, **settings})
        self.state.facts = {
            "protocol_versions": (1, 1),
            "versions": {},
            "hostname": "here",
            "pid": 1,
            "ipc": None,
            "tcp": None,
            "events_ipc": None,
            "events_tcp": None,
            "open_files_limit": 1,
        }
        self.state.measure = lambda: {"memory_bytes": 1, "open_files": 1}
        self.out = Out()
        self.sent: list[Sent] = []
        self.stuck: set[str] = set()  # labels of peers whose socket takes nothing
        self.gone: set[bytes] = set()  # routing ids of connections that are broken
        self.labels: dict[bytes, str] = {}  # routing id -> who reads there
        self.incarnations: dict[str, bytes] = {}
        self.routes: dict[str, bytes] = {}
        self._connections = 0
        self.pass_time(0.01)

    # What happens

    def connect(self, label: str, role: str = "client", *, as_: Identity | None = None, **hello: Any) -> list[Sent]:
        """A process opens a connection and says hello; what was sent because of it."""
        self._connections += 1
        routing_id = b"\x01" + f"{label}/{self._connections}".encode()
        self.labels[routing_id] = label
        self.routes[label] = routing_id
        return self.hello(label, role, as_=as_, **hello)

    def hello(self, label: str, role: str = "client", *, as_: Identity | None = None, **changes: Any) -> list[Sent]:
        self.incarnations.setdefault(label, changes.pop("incarnation", incarnation(label)))
        facts = {"versions": [1, 1], "incarnation": self.incarnations[label], "role": role, "limits": {}}
        if role == "endpoint":
            facts["name"] = label
        body = msgpack.packb(facts | changes)
        return self.raw(label, [encode_header(Header(Kind.HELLO)), body], as_ or identity())

    def say(self, label: str, kind: Kind, body: Any = b"", **fields: Any) -> list[Sent]:
        packed = body if isinstance(body, bytes) else msgpack.packb(body)
        return self.raw(label, [encode_header(Header(kind, **fields)), packed])

    def call(self, label: str, call_id: int, endpoint: str, body: Any = b"", **fields: Any) -> list[Sent]:
        given = {"operation": "echo", "plugin": "test", "left_s": 30.0, **fields}
        return self.say(label, Kind.REQUEST, body, id=call_id, endpoint=endpoint, **given)

    def answer(
        self, endpoint: str, caller: str, call_id: int, kind: Kind = Kind.REPLY, body: Any = b"", **fields: Any
    ) -> list[Sent]:
        given = {"caller": self.incarnations[caller], "target": self.incarnations[endpoint], **fields}
        return self.say(endpoint, kind, body, id=call_id, **given)

    def raw(self, label: str, frames: list[bytes], as_: Identity | None = None) -> list[Sent]:
        routing_id = self.routes[label]
        peer = self.state.peers.get(routing_id)
        if peer is None:
            dispatch.on_first_words(self.state, self.out, routing_id, as_ or identity(), frames, self.now)
        else:
            dispatch.on_message(self.state, self.out, peer, frames, self.now)
        return self.settle()

    def cut(self, label: str, *, notice: bool = True) -> list[Sent]:
        """A connection breaks; the socket says so when the next message goes there."""
        self.gone.add(self.routes[label])
        if notice:
            presence.on_gone(self.state, self.out, self.state.peers[self.routes[label]], self.now)
        return self.settle()

    def pass_time(self, seconds: float) -> list[Sent]:
        """Time goes by in steps of the loop."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.05)
            dispatch.on_tick(self.state, self.out, self.now)
            self._flush()
        return self.settle()

    def unstick(self, label: str) -> list[Sent]:
        self.stuck.discard(label)
        for peer in self.state.participants.values():
            self.out.dirty[peer] = None
        return self.settle()

    # What came of it

    def settle(self) -> list[Sent]:
        self._flush()
        assert check(self.state) == []
        taken, self.sent = self.sent, []
        return taken

    def participant(self, label: str) -> Participant:
        return self.state.participants[self.incarnations[label]]

    def _flush(self) -> None:
        while self.out.dirty:
            peer, _ = self.out.dirty.popitem()
            self._flush_one(peer)
        for routing_id, header, body in self.out.strangers:
            self._deliver(routing_id, header, body)
        self.out.strangers.clear()

    def _flush_one(self, peer: Participant) -> None:
        while (message := next_message(peer, self.now)) is not None:
            if self.labels[peer.routing_id] in self.stuck:
                return
            if peer.routing_id in self.gone:
                presence.on_gone(self.state, self.out, peer, self.now)
                return
            was_sent(peer, self.now)
            self._deliver(peer.routing_id, message.frame, bytes(message.body))
        if peer.owes_resend and peer.routing_id:
            answers.on_drained(self.out, peer)

    def _deliver(self, routing_id: bytes, frame: bytes, body: bytes) -> None:
        header = decode_header(frame)
        if header.kind != Kind.HEARTBEAT or (header.flags and not header.id):  # neither beats nor probes
            self.sent.append(Sent(self.labels[routing_id], Kind(header.kind), header, body))


def brief(sent: list[Sent]) -> list[tuple[str, str]]:
    """Who got what, an error by its code."""
    return [(message.to, message.code or message.kind.name.lower()) for message in sent]

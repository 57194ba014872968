"""A caller and a server joined back to back, with a line between them that can be cut and that drops what was on it."""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec.structs import replace

from orbit_zmq.errors import OrbitError
from orbit_zmq.rules.caller import Caller, OpenCall
from orbit_zmq.rules.server import Entry, Server
from orbit_zmq.wire.header import IDEMPOTENT, STREAM, Header, Kind, decode_header, encode_header
from orbit_zmq.wire.limits import Limits

CALLER = b"c" * 16
TARGET = b"t" * 16
SMALL = Limits(inline_bytes=64, chunk_bytes=16, credit_chunks=2, open_calls=8, body_bytes=4096)


class Outcome:
    """What one call came to; every ending is counted."""

    def __init__(self) -> None:
        self.endings: list[bytes | OrbitError] = []
        self.stream: list[bytes] = []
        self.stream_ended = False
        self.room = 0

    def on_reply(self, body: bytes, flags: int) -> None:
        self.endings.append(bytes(body))

    def on_error(self, error: OrbitError) -> None:
        self.endings.append(error)

    def on_stream(self, data: bytes, last: bool) -> None:
        self.stream.append(bytes(data))
        self.stream_ended = last

    def on_room(self) -> None:
        self.room += 1


class Pair:
    """Both ends, the line, and a record of what was executed. Time moves only by `now`."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.now = 100.0
        self.connected = False
        self.line: deque[tuple[str, Header, bytes]] = deque()
        self.executed: list[tuple[int, bytes]] = []
        self.running: dict[int, Entry] = {}
        self.canceled: list[int] = []
        self.reasons: list[str] = []  # of these
        self.streamed_in: dict[int, list[bytes]] = {}
        self.caller = Caller(self._from_caller, limits)
        self.server = Server(self._from_server, self, limits)

    def _from_caller(self, priority: int, header: Header, body: Any) -> None:
        if self.connected:
            stamped = replace(decode_header(encode_header(header)), caller=CALLER, target=TARGET)
            self.line.append(("server", stamped, bytes(body)))

    def _from_server(self, priority: int, header: Header, body: Any) -> None:
        if self.connected:
            self.line.append(("caller", decode_header(encode_header(header)), bytes(body)))

    # the server's handler
    def execute(self, entry: Entry, body: bytes) -> None:
        self.executed.append((entry.header.id, bytes(body)))
        self.running[entry.header.id] = entry

    def cancel(self, entry: Entry, reason: str) -> None:
        self.canceled.append(entry.header.id)
        self.reasons.append(reason)

    def on_stream(self, entry: Entry, data: bytes, last: bool) -> None:
        self.streamed_in.setdefault(entry.header.id, []).append(bytes(data))
        self.server.consumed(entry)

    def on_room(self, entry: Entry) -> None:
        pass

    # what a test does
    def connect(self) -> None:
        self.connected = True
        self.caller.on_connected(self.now)

    def cut(self) -> None:
        """Everything that is on the line is lost."""
        self.line.clear()
        self.connected = False
        self.caller.on_disconnected()

    def call(self, body: bytes = b"", *, idempotent: bool = False, stream: bool = False, within_s: float = 30.0) -> OpenCall:
        header = Header(Kind.REQUEST, endpoint="hpc1", plugin="p", operation="o", target=TARGET)
        header.flags = IDEMPOTENT if idempotent else 0
        call = OpenCall(header, body, STREAM if stream else 0, Outcome(), within_s)
        self.caller.start(call, self.now)
        return call

    def step(self) -> bool:
        """Deliver one message; False when there is none."""
        if not self.line:
            return False
        to, header, body = self.line.popleft()
        if to == "caller":
            self.caller.on_answer(header, body, self.now)
        elif header.kind == Kind.REQUEST:
            self.server.on_request(header, body, self.now)
        elif header.kind == Kind.CHUNK:
            self.server.on_chunk(header, body, self.now)
        elif header.kind == Kind.CREDIT:
            self.server.on_credit(header, self.now)
        elif header.kind == Kind.CANCEL:
            self.server.on_cancel(header, body)
        return True

    def settle(self) -> None:
        """Deliver all messages."""
        while self.step():
            pass

    def reply(self, call: OpenCall, body: bytes = b"done") -> None:
        self.server.reply(self.running.pop(call.header.id), body, 0, self.now)


def outcome(call: OpenCall) -> Outcome:
    assert isinstance(call.waiter, Outcome)
    return call.waiter

"""The calling side: which calls are open, what is said again after a break, and how each of them ends.

A call ends exactly once: with its reply, an error, its deadline, or because somebody cancels it. This module decides
that; it sends through `send`, tells the one who waits through the call's `waiter`, and is told the time.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from orbit_zmq.errors import Busy, DeadlineExceeded, OrbitError, OutcomeUnknown, ProtocolError, error_from_body
from orbit_zmq.rules.chunks import Assembly, ChunkReceiver, ChunkSender
from orbit_zmq.rules.outbox import BULK, CALLS
from orbit_zmq.wire.body import pack_body, unpack_body
from orbit_zmq.wire.header import (
    IDEMPOTENT,
    LAST,
    RAW,
    RESENT,
    REWIND,
    STREAM,
    STREAMED,
    TAGGED,
    Channel,
    Header,
    Kind,
)
from orbit_zmq.wire.limits import SETTLED_IDS, Limits

Send = Callable[[int, Header, bytes | memoryview], bool | None]  # priority, header, body; False: there is no line
BROKER = "broker"
CANCELS = 4_096  # remembered at most; an older one leaves its operation to its deadline
REASON_CHARS = 1_000  # of a cancel
TOO_LATE = "its deadline has passed"
ROUNDING_S = 0.001  # a deadline that is nearer than this has passed; seconds left must be above zero on the wire


class Waiter(Protocol):
    """Who waits for a call. Called from the thread that owns the sockets; must not block or raise."""

    def on_reply(self, body: bytes, flags: int) -> None: ...
    def on_error(self, error: OrbitError) -> None: ...
    def on_stream(self, data: bytes, last: bool) -> None: ...
    def on_room(self) -> None: ...


@dataclass(slots=True, eq=False)
class OpenCall:
    """One call that has not ended. The caller's own record; removed by `Caller._remove` alone."""

    header: Header
    body: bytes
    flags: int
    waiter: Waiter
    duration_s: float
    deadline: float = 0.0
    was_sent: bool = False
    replied: bool = False
    arguments: ChunkSender | None = None
    stream_in: ChunkSender | None = None
    result: Assembly | None = None
    result_flags: int = 0
    stream_out: ChunkReceiver | None = None

    @property
    def moves(self) -> bool:
        """Whether chunks go either way, so that the deadline bounds silence."""
        return any(part is not None for part in (self.arguments, self.stream_in, self.result, self.stream_out))


@dataclass(slots=True)
class Window:
    """What is open towards one endpoint incarnation, and what it has not been told to be settled."""

    open: dict[int, OpenCall] = field(default_factory=dict)  # in ascending order of ids
    ended: list[int] = field(default_factory=list)  # to be told
    told: list[int] = field(default_factory=list)  # told on this connection, maybe in vain


class Caller:
    """All open calls of one participant."""

    def __init__(self, send: Send, limits: Limits) -> None:
        self._send = send
        self.limits = limits
        self.open: dict[int, OpenCall] = {}
        self._windows: dict[bytes, Window] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._cancels: deque[tuple[float, Header, bytes]] = deque(maxlen=CANCELS)  # with the deadline of the call
        self._next_id = 1
        self._connected = False

    def start(self, call: OpenCall, now: float) -> None:
        """Give the call its id and send it, or let it wait for a connection; Busy when the window is full."""
        header = call.header
        is_remembered = not header.flags & IDEMPOTENT
        window = self._windows.get(header.target)
        if is_remembered and window is not None and len(window.open) >= self.limits.open_calls:
            raise Busy(f"{len(window.open)} calls are open at {header.endpoint or header.session}")
        header.id, self._next_id = self._next_id, self._next_id + 1
        if is_remembered:
            if window is None:
                window = self._windows[header.target] = Window()
            window.open[header.id] = call
        self.open[header.id] = call
        call.deadline = now + call.duration_s
        self._remember_deadline(call)
        if len(call.body) > self.limits.inline_bytes:
            call.arguments = ChunkSender(self.limits.chunk_bytes, self.limits.credit_chunks)
            call.arguments.feed(call.body, last=True)
            call.body = b""
            call.flags |= STREAMED
        if call.flags & STREAM:
            call.stream_in = ChunkSender(self.limits.chunk_bytes, self.limits.credit_chunks)
        if self._connected:
            self._send_request(call, now)

    def feed(self, call: OpenCall, data: bytes, last: bool, now: float) -> None:
        """More of the stream that goes with a call."""
        if call.header.id in self.open and call.stream_in is not None:
            call.stream_in.feed(data, last)
            self._renew(call, now)
            self._pump(call, now)

    def consumed(self, call: OpenCall) -> None:
        """The one who waits has taken a chunk of the streamed result."""
        if call.stream_out is not None:
            call.stream_out.on_consumed()
            self._credit(call, Channel.STREAM_OUT, call.stream_out)

    def cancel(self, call: OpenCall, reason: str = "") -> None:
        """The one who waits has gone; nothing is told to it any more. `reason` is for those who run the operation."""
        if self._remove(call):
            self._send_cancel(call, reason)

    def on_connected(self, now: float) -> None:
        """After welcome: what was open is sent again."""
        self._connected = True
        for window in self._windows.values():
            window.ended[:0] = window.told
            window.told.clear()
        for call in tuple(self.open.values()):
            self._send_request(call, now)
        self._repeat_cancels(now)

    def on_disconnected(self) -> None:
        self._connected = False

    def on_resend(self, header: Header, now: float) -> None:
        """The broker asks for the requests open towards one endpoint, or for all."""
        for call in tuple(self.open.values()):
            if not header.target or call.header.target == header.target:
                self._send_request(call, now)

    def on_answer(self, header: Header, body: bytes, now: float) -> None:
        """A reply, error, chunk or credit of a call; what belongs to none is ignored, for its call has ended."""
        call = self.open.get(header.id)
        if call is None:
            return
        try:
            ANSWERS[header.kind](self, call, header, body, now)
        except OrbitError as error:
            self._fail(call, error)
            self._send_cancel(call)

    def fail_one(self, call_id: int, error: OrbitError) -> None:
        """End the call of that id, if there is one."""
        call = self.open.get(call_id)
        if call is not None:
            self._fail(call, error)
            self._send_cancel(call)

    def fail_all(self, error: OrbitError) -> None:
        """End every call, for example because the broker has refused this participant."""
        for call in tuple(self.open.values()):
            self._fail(call, error)

    def fail_moving(self, error: OrbitError) -> None:
        """End the calls with chunks on their way, where one may have been lost without a trace."""
        for call in [call for call in self.open.values() if call.moves]:
            self._fail(call, error)
            self._send_cancel(call)

    def fail_older_than(self, started: float, error: OrbitError) -> None:
        """End the calls that were started before that time."""
        for call in tuple(self.open.values()):
            if call.deadline - call.duration_s <= started:
                self._fail(call, error)

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest."""
        return self._deadlines[0][0] if self._deadlines else math.inf

    def tick(self, now: float) -> float:
        """End what is past its deadline; when to call again at the latest."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, call_id = heapq.heappop(self._deadlines)
            call = self.open.get(call_id)
            if call is None:
                continue
            if call.deadline > now:
                heapq.heappush(self._deadlines, (call.deadline, call_id))
                continue
            self._fail(call, _too_late(call))
            self._send_cancel(call, TOO_LATE)
        return self.next_deadline()

    def repeat_chunks(self, now: float) -> None:
        """Send chunks again that nobody has acknowledged for a while."""
        for call in self.open.values():
            for sender in (call.arguments, call.stream_in):
                if self._connected and sender is not None and sender.tick(now):
                    self._pump(call, now)

    def _remember_deadline(self, call: OpenCall) -> None:
        heapq.heappush(self._deadlines, (call.deadline, call.header.id))
        if len(self._deadlines) > 4 * len(self.open) + 1024:  # most of it belongs to calls that have ended
            self._deadlines = [(open_call.deadline, open_id) for open_id, open_call in self.open.items()]
            heapq.heapify(self._deadlines)

    def _send_request(self, call: OpenCall, now: float) -> None:
        header, left_s = call.header, call.deadline - now
        if left_s < ROUNDING_S:
            return  # the next tick ends it
        header.left_s = left_s
        header.flags = header.flags & IDEMPOTENT | call.flags | (RESENT if call.was_sent else 0)
        header.chunk = 0
        if call.was_sent:
            self._hold_streams(call)
        call.was_sent = True
        self._tell_settled(header)
        self._send(CALLS, header, call.body)
        self._pump(call, now)

    def _hold_streams(self, call: OpenCall) -> None:
        for sender in (call.arguments, call.stream_in):
            if sender is not None and not sender.finished:
                sender.hold()
        receiver = call.stream_out or (call.result.receiver if call.result else None)
        if receiver is not None:
            call.header.chunk = receiver.wanted

    def _tell_settled(self, header: Header) -> None:
        window = self._windows.get(header.target)
        if window is None:
            header.settled_below, header.settled = self._next_id, ()
            return
        header.settled_below = next(iter(window.open))
        header.settled = ()
        if window.ended:
            above = [ended for ended in window.ended if ended > header.settled_below]
            told, window.ended = above[:SETTLED_IDS], above[SETTLED_IDS:]
            window.told = (window.told + told)[-SETTLED_IDS:]
            header.settled = tuple(told)

    def _pump(self, call: OpenCall, now: float) -> None:
        for channel, sender in ((Channel.ARGUMENTS, call.arguments), (Channel.STREAM_IN, call.stream_in)):
            if sender is None or not self._connected:
                continue
            for number, data, last in sender.sendable():
                flags = RAW | (LAST if last else 0)
                chunk = Header(Kind.CHUNK, id=call.header.id, channel=channel, chunk=number, flags=flags)
                self._send(BULK, chunk, data)
        if call.stream_in is not None and call.stream_in.has_room:
            call.waiter.on_room()

    def _credit(self, call: OpenCall, channel: Channel, receiver: ChunkReceiver) -> None:
        credit = receiver.credit()
        if credit is not None:
            wanted, up_to, rewind = credit
            flags = (LAST if receiver.finished else 0) | (REWIND if rewind else 0)
            header = Header(Kind.CREDIT, id=call.header.id, channel=channel, chunk=wanted, up_to=up_to, flags=flags)
            self._send(CALLS, header, b"")

    def _on_reply(self, call: OpenCall, header: Header, body: bytes, now: float) -> None:
        if not header.flags & (STREAMED | STREAM):
            self._complete(call, body, header.flags)
            return
        self._renew(call, now)
        is_resumed = header.chunk == call.header.chunk  # it goes on from where it was asked to; else it begins anew
        if header.flags & STREAMED:
            if call.result is None or not is_resumed:
                call.result = Assembly(self.limits.credit_chunks, self.limits.body_bytes)
            call.result_flags = header.flags & (RAW | TAGGED)
        elif call.stream_out is None:
            call.stream_out = ChunkReceiver(self.limits.credit_chunks)
            call.waiter.on_reply(body, header.flags)
        elif not is_resumed:
            raise OutcomeUnknown(f"the streamed result of {_name(call)} cannot be resumed")
        call.replied = True

    def _on_error(self, call: OpenCall, header: Header, body: bytes, now: float) -> None:
        try:
            value = unpack_body(body, header.flags)
        except ProtocolError as error:
            self._fail(call, error)
            return
        self._fail(call, error_from_body(value))

    def _on_chunk(self, call: OpenCall, header: Header, body: bytes, now: float) -> None:
        self._renew(call, now)
        last = bool(header.flags & LAST)
        if header.channel == Channel.RESULT and call.result is not None:
            whole = call.result.on_chunk(header.chunk, body, last)
            self._credit(call, Channel.RESULT, call.result.receiver)
            if whole is not None:
                self._complete(call, whole, call.result_flags)
        elif header.channel == Channel.STREAM_OUT and call.stream_out is not None:
            if call.stream_out.on_chunk(header.chunk, last):
                call.waiter.on_stream(body, last)
            self._credit(call, Channel.STREAM_OUT, call.stream_out)
            if call.stream_out.finished:
                self._remove(call)

    def _on_credit(self, call: OpenCall, header: Header, body: bytes, now: float) -> None:
        self._renew(call, now)
        sender = call.arguments if header.channel == Channel.ARGUMENTS else call.stream_in
        if sender is not None:
            sender.on_credit(header.chunk, header.up_to, bool(header.flags & REWIND), now)
            self._pump(call, now)

    def _renew(self, call: OpenCall, now: float) -> None:
        """A call with chunks has its deadline from the last movement; the heap learns of it when the old one comes up."""
        if call.moves:
            call.deadline = now + call.duration_s

    def _complete(self, call: OpenCall, body: bytes, flags: int) -> None:
        """Told first and removed then: a thread that is interrupted in between leaves a call that ends twice, not never."""
        call.waiter.on_reply(body, flags)
        self._remove(call)

    def _fail(self, call: OpenCall, error: OrbitError) -> None:
        if call.header.id in self.open:
            call.waiter.on_error(error)
            self._remove(call)

    def _send_cancel(self, call: OpenCall, reason: str = "") -> None:
        """Remembered until the endpoint would give up by itself, for it may be lost with the connection."""
        if not call.was_sent or call.header.endpoint == BROKER:
            return
        header = Header(Kind.CANCEL, id=call.header.id, endpoint=call.header.endpoint, target=call.header.target)
        body = cancel_body(reason)
        self._cancels.append((call.deadline, header, body))
        if self._connected:
            self._send(CALLS, header, body)

    def _repeat_cancels(self, now: float) -> None:
        self._cancels = deque((cancel for cancel in self._cancels if cancel[0] > now), CANCELS)
        for _, header, body in self._cancels:
            self._send(CALLS, header, body)

    def _remove(self, call: OpenCall) -> bool:
        """The one place where a call stops being open; False if it had ended before."""
        if self.open.pop(call.header.id, None) is None:
            return False
        window = self._windows.get(call.header.target)
        if window is not None and window.open.pop(call.header.id, None) is not None:
            if window.open:
                window.ended.append(call.header.id)
            else:  # the next request says that all before it is settled
                del self._windows[call.header.target]
        return True


ANSWERS: dict[int, Callable[[Caller, OpenCall, Header, bytes, float], None]] = {
    Kind.REPLY: Caller._on_reply,
    Kind.ERROR: Caller._on_error,
    Kind.CHUNK: Caller._on_chunk,
    Kind.CREDIT: Caller._on_credit,
}


def cancel_body(reason: str) -> bytes:
    """What a cancel says."""
    return pack_body({"reason": reason[:REASON_CHARS].encode("utf-8", "replace").decode()})[0] if reason else b""


def _name(call: OpenCall) -> str:
    header = call.header
    return ".".join(part for part in (header.endpoint, header.plugin, header.operation) if part)


def _too_late(call: OpenCall) -> DeadlineExceeded:
    return DeadlineExceeded(f"{_name(call)} did not end within {call.duration_s:g} s", details={"call": _name(call)})

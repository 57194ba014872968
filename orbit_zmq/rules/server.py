"""The serving side: which requests run here, what is remembered of them, and how their answers are sent.

A request is executed at most once. One that was sent again is recognised by (caller incarnation, id): while it runs the
answer follows, afterwards the same answer is sent again. What may be forgotten is decided by the caller's word (settled) or
by the deadline, after which the caller cannot ask again; that it was here is known longer, for a copy of it may come late.
This module executes nothing itself: `handler` does.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from orbit_zmq.errors import InvalidArgument, OrbitError, OutcomeUnknown, ProtocolError
from orbit_zmq.rules.caller import REASON_CHARS, TOO_LATE, Send
from orbit_zmq.rules.chunks import Assembly, ChunkReceiver, ChunkSender
from orbit_zmq.rules.ended import EndedRequests
from orbit_zmq.rules.outbox import BULK, CALLS
from orbit_zmq.wire.body import pack_body, unpack_body
from orbit_zmq.wire.header import IDEMPOTENT, LAST, RAW, RESENT, REWIND, STREAM, STREAMED, Channel, Header, Kind
from orbit_zmq.wire.limits import MAX_LEFT_S, Limits

EXPIRIES = 1_024  # that may belong to requests that are over, beside as many as three for each that is not
REPLIES_BYTES = 256 << 20  # kept replies of one endpoint; past it the oldest is forgotten and answered outcome-unknown
SLACK_S = 2.0  # how long past its deadline a request may still be on its way here


class Handler(Protocol):
    """Who executes. Called from the thread that owns the sockets; must not block or raise."""

    def execute(self, entry: Entry, body: bytes) -> None: ...
    def cancel(self, entry: Entry, reason: str) -> None: ...
    def on_stream(self, entry: Entry, data: bytes, last: bool) -> None: ...
    def on_room(self, entry: Entry) -> None: ...


@dataclass(slots=True, eq=False)
class Entry:
    """One request that runs here or whose answer is remembered. Removed by `Server._remove` alone."""

    header: Header
    expires: float
    duration_s: float
    answer: tuple[int, int, bytes] | None = None  # kind, flags, body
    forgotten: bool = False
    arguments: Assembly | None = None
    stream_in: ChunkReceiver | None = None
    result: ChunkSender | None = None
    stream_out: ChunkSender | None = None
    work: object = None  # the handler's own record of the running operation

    @property
    def key(self) -> tuple[bytes, int]:
        return self.header.caller, self.header.id

    @property
    def remembered(self) -> bool:
        return not self.header.flags & IDEMPOTENT


class Server:
    """All requests that one participant serves."""

    def __init__(self, send: Send, handler: Handler, limits: Limits, *, replies_bytes: int = REPLIES_BYTES) -> None:
        self._send = send
        self._handler = handler
        self.limits = limits
        self._callers: dict[bytes, dict[int, Entry]] = {}  # what each caller may still ask for
        self._expiries: list[tuple[float, bytes, int]] = []
        self._tidy_at = EXPIRIES
        self._replies: OrderedDict[tuple[bytes, int], int] = OrderedDict()  # size of each kept reply, oldest first
        self._replies_bytes = 0
        self._replies_limit = replies_bytes
        self._ended = EndedRequests()  # forgotten but for that they were here
        self.duplicates = 0  # requests answered from memory

    def on_request(self, header: Header, body: bytes, now: float) -> None:
        """Execute a request, or answer it from memory when it has been here before."""
        self._settle(header)
        entry = self._find(header)
        if entry is not None:
            self.duplicates += 1
            self._answer_again(entry, header, now)
        elif not header.flags & IDEMPOTENT and self._ended.has(header.caller, header.id):
            self._refuse_late(header)
        else:
            self._begin(header, body, now)

    def on_chunk(self, header: Header, body: bytes, now: float) -> None:
        """A part of the arguments, or of the stream that goes with them."""
        entry = self._find(header)
        if entry is None:
            return
        self._renew(entry, now)
        try:
            self._take_chunk(entry, header, body)
        except OrbitError as error:
            if entry.arguments is None:
                self._handler.cancel(entry, error.message)
            self.fail(entry, error, now)

    def on_credit(self, header: Header, now: float) -> None:
        """The caller has taken chunks of an answer, and may take more."""
        entry = self._find(header)
        if entry is None:
            return
        self._renew(entry, now)
        sender = entry.result if header.channel == Channel.RESULT else entry.stream_out
        if sender is None:
            return
        try:
            sender.on_credit(header.chunk, header.up_to, bool(header.flags & REWIND), now)
        except OrbitError as error:
            self._handler.cancel(entry, error.message)
            self.fail(entry, error, now)
            return
        self._pump(entry)
        if sender.finished:
            self._remove(entry)

    def on_cancel(self, header: Header, body: bytes = b"") -> None:
        """The caller has ended the call; nobody waits for an answer."""
        entry = self._find(header)
        if entry is not None:
            self._cancel(entry, _reason_of(body, header.flags))

    def consumed(self, entry: Entry) -> None:
        """The operation has taken one chunk of its stream."""
        if entry.stream_in is not None:
            entry.stream_in.on_consumed()
            self._credit(entry, Channel.STREAM_IN, entry.stream_in)

    def reply(self, entry: Entry, body: bytes, flags: int, now: float) -> None:
        """The result of an operation, inline or as chunks."""
        if len(body) <= self.limits.inline_bytes:
            self._answer(entry, Kind.REPLY, flags, body, now)
        elif self._is_open(entry):
            entry.answer = (Kind.REPLY, flags | STREAMED, b"")
            entry.result = ChunkSender(self.limits.chunk_bytes, self.limits.credit_chunks)
            entry.result.feed(body, last=True)
            self._renew(entry, now)
            self._send_answer(entry)
            self._pump(entry)

    def begin_stream(self, entry: Entry, body: bytes, flags: int, now: float) -> None:
        """The result of an operation whose stream of bytes follows by `feed`."""
        if self._is_open(entry):
            entry.answer = (Kind.REPLY, flags | STREAM, body)
            entry.stream_out = ChunkSender(self.limits.chunk_bytes, self.limits.credit_chunks)
            self._renew(entry, now)
            self._send_answer(entry)
            self._pump(entry)

    def feed(self, entry: Entry, data: bytes, last: bool, now: float) -> None:
        """More of a streamed result."""
        if entry.stream_out is not None and self._is_open(entry):
            self._renew(entry, now)
            entry.stream_out.feed(data, last)
            self._pump(entry)

    def fail(self, entry: Entry, error: OrbitError, now: float) -> None:
        """The operation has failed, before its reply or in the middle of a streamed one."""
        entry.result = entry.stream_out = entry.arguments = None
        body, flags = _packed(error)
        self._answer(entry, Kind.ERROR, flags, body, now)

    def tick(self, now: float) -> float:
        """Forget what nobody can ask for any more; when to call again at the latest."""
        while self._expiries and self._expiries[0][0] <= now:
            _, caller, call_id = heapq.heappop(self._expiries)
            entry = self._callers.get(caller, {}).get(call_id)
            if entry is None:
                continue
            if entry.expires > now:
                heapq.heappush(self._expiries, (entry.expires, caller, call_id))
            else:
                self._cancel(entry, TOO_LATE)
        return self._expiries[0][0] if self._expiries else now + MAX_LEFT_S

    def repeat_chunks(self, now: float) -> None:
        """Send chunks again that nobody has acknowledged for a while."""
        for entries in self._callers.values():
            for entry in entries.values():
                for sender in (entry.result, entry.stream_out):
                    if sender is not None and sender.tick(now):
                        self._pump(entry)

    @property
    def remembered(self) -> int:
        """Requests that run or are remembered."""
        return sum(map(len, self._callers.values()))

    def _begin(self, header: Header, body: bytes, now: float) -> None:
        entry = Entry(header, now + header.left_s + SLACK_S, header.left_s)
        self._callers.setdefault(header.caller, {})[header.id] = entry
        self._remember_expiry(entry)
        resent = bool(header.flags & RESENT)
        if header.flags & STREAM:
            entry.stream_in = ChunkReceiver(self.limits.credit_chunks)
            self._ask(entry, Channel.STREAM_IN, entry.stream_in, resent)
        if header.flags & STREAMED:
            entry.arguments = Assembly(self.limits.credit_chunks, self.limits.body_bytes)
            self._ask(entry, Channel.ARGUMENTS, entry.arguments.receiver, resent)
        else:
            self._handler.execute(entry, body)

    def _refuse_late(self, header: Header) -> None:
        """A copy of a request that is over: its caller waits no more, and whoever routed it is told to forget it."""
        self.duplicates += 1
        body, flags = _packed(OutcomeUnknown(f"{header.operation} was executed, and its answer is forgotten"))
        self._send(CALLS, Header(Kind.ERROR, id=header.id, caller=header.caller, target=header.target, flags=flags), body)

    def _remember_expiry(self, entry: Entry) -> None:
        heapq.heappush(self._expiries, (entry.expires, *entry.key))
        if len(self._expiries) >= self._tidy_at:  # most of it belongs to requests that have been answered
            open_entries = [entry for entries in self._callers.values() for entry in entries.values()]
            self._expiries = [(entry.expires, *entry.key) for entry in open_entries]
            heapq.heapify(self._expiries)
            self._tidy_at = 4 * len(self._expiries) + EXPIRIES

    def _take_chunk(self, entry: Entry, header: Header, body: bytes) -> None:
        last = bool(header.flags & LAST)
        if header.channel == Channel.ARGUMENTS and entry.arguments is not None:
            whole = entry.arguments.on_chunk(header.chunk, body, last)
            self._credit(entry, Channel.ARGUMENTS, entry.arguments.receiver)
            if whole is not None:
                entry.arguments = None
                self._handler.execute(entry, whole)
        elif header.channel == Channel.STREAM_IN and entry.stream_in is not None:
            if entry.stream_in.on_chunk(header.chunk, last):
                self._handler.on_stream(entry, body, last)
            self._credit(entry, Channel.STREAM_IN, entry.stream_in)

    def _answer_again(self, entry: Entry, header: Header, now: float) -> None:
        self._renew(entry, now)
        if entry.forgotten:
            unknown = OutcomeUnknown(f"{header.operation} was executed, but its answer had to be forgotten")
            body, flags = _packed(unknown)
            self._send(CALLS, self._header(entry, Kind.ERROR, flags), body)
        elif entry.answer is None:
            if entry.arguments is not None:
                self._ask(entry, Channel.ARGUMENTS, entry.arguments.receiver, True)
        else:
            for sender in (entry.result, entry.stream_out):
                if sender is not None:
                    sender.rewind(header.chunk)
            was_sent = self._send_answer(entry, chunk=header.chunk)
            self._pump(entry)
            if was_sent and not entry.remembered and entry.result is None and entry.stream_out is None:
                self._remove(entry)
        if entry.stream_in is not None and not entry.stream_in.finished:
            self._ask(entry, Channel.STREAM_IN, entry.stream_in, True)

    def _answer(self, entry: Entry, kind: Kind, flags: int, body: bytes, now: float) -> None:
        """An answer that is complete in one message: kept until it is settled; of an idempotent call until it is sent."""
        if not self._is_open(entry):
            return
        entry.answer = (kind, flags, body)
        entry.arguments = entry.stream_in = None
        was_sent = self._send_answer(entry)
        if was_sent and not entry.remembered:
            self._remove(entry)
            return
        entry.work = None
        self._replies[entry.key] = len(body)
        self._replies_bytes += len(body)
        while self._replies_bytes > self._replies_limit:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        (caller, call_id), size = self._replies.popitem(last=False)
        self._replies_bytes -= size
        entry = self._callers[caller][call_id]
        entry.forgotten, entry.answer = True, None

    def _send_answer(self, entry: Entry, chunk: int = 0) -> bool:
        """False while there is no line: the caller asks again on the next one, and is not made to wait for all of it anew."""
        if entry.answer is None:
            return False
        kind, flags, body = entry.answer
        header = self._header(entry, Kind(kind), flags)
        header.chunk = chunk if flags & (STREAMED | STREAM) else 0
        return self._send(CALLS, header, body) is not False

    def _header(self, entry: Entry, kind: Kind, flags: int = 0) -> Header:
        return Header(kind, id=entry.header.id, caller=entry.header.caller, target=entry.header.target, flags=flags)

    def _pump(self, entry: Entry) -> None:
        for channel, sender in ((Channel.RESULT, entry.result), (Channel.STREAM_OUT, entry.stream_out)):
            if sender is None:
                continue
            for number, data, last in sender.sendable():
                header = self._header(entry, Kind.CHUNK, RAW | (LAST if last else 0))
                header.channel, header.chunk = channel, number
                self._send(BULK, header, data)
        if entry.stream_out is not None and entry.stream_out.has_room:
            self._handler.on_room(entry)

    def _ask(self, entry: Entry, channel: Channel, receiver: ChunkReceiver, resent: bool) -> None:
        """A request that was sent again holds its chunks until it is told from where to go on."""
        if resent:
            receiver.ask_again()
            self._credit(entry, channel, receiver)

    def _credit(self, entry: Entry, channel: Channel, receiver: ChunkReceiver) -> None:
        credit = receiver.credit()
        if credit is not None:
            wanted, up_to, rewind = credit
            header = self._header(entry, Kind.CREDIT, (LAST if receiver.finished else 0) | (REWIND if rewind else 0))
            header.channel, header.chunk, header.up_to = channel, wanted, up_to
            self._send(CALLS, header, b"")

    def _settle(self, header: Header) -> None:
        """Forget the answers that the caller says it has; what still runs is left alone."""
        self._ended.settle(header.caller, header.settled_below)
        entries = self._callers.get(header.caller)
        if entries is None:
            return
        settled = list(header.settled)
        for call_id in entries:  # in the order of arrival, which is nearly that of the ids
            if call_id >= header.settled_below:
                break
            settled.append(call_id)
        for call_id in settled:
            entry = entries.get(call_id)
            if entry is not None and entry.remembered and (entry.answer is not None or entry.forgotten):
                self._remove(entry)

    def _renew(self, entry: Entry, now: float) -> None:
        entry.expires = max(entry.expires, now + entry.duration_s + SLACK_S)

    def _find(self, header: Header) -> Entry | None:
        entries = self._callers.get(header.caller)
        return entries.get(header.id) if entries is not None else None

    def _is_open(self, entry: Entry) -> bool:
        return self._find(entry.header) is entry and not entry.forgotten

    def _cancel(self, entry: Entry, reason: str) -> None:
        self._remove(entry)
        if entry.arguments is None:
            self._handler.cancel(entry, reason)

    def _remove(self, entry: Entry) -> None:
        """The one place where a request is forgotten."""
        entries = self._callers.get(entry.header.caller)
        if entries is None or entries.pop(entry.header.id, None) is None:
            return
        if entry.remembered:
            self._ended.add(*entry.key)
        size = self._replies.pop(entry.key, None)
        if size is not None:
            self._replies_bytes -= size
        if not entries:
            del self._callers[entry.header.caller]


def _reason_of(body: bytes, flags: int) -> str:
    """Why a call was canceled, in the words of its caller; empty where that is not said."""
    if not body:
        return ""
    try:
        said = unpack_body(body, flags)
    except ProtocolError:
        return ""
    reason = said.get("reason") if isinstance(said, dict) else None
    return reason[:REASON_CHARS] if isinstance(reason, str) else ""


def _packed(error: OrbitError) -> tuple[bytes, int]:
    """The body of an error; details that cannot be sent stay here."""
    body = error.to_body()
    try:
        return pack_body(body)
    except InvalidArgument:
        return pack_body(body | {"details": {}})

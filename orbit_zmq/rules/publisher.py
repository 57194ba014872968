"""The publisher: numbers the events of one endpoint, keeps them for those who are behind, and says which are to be sent.

A stream is what one audience hears of one endpoint incarnation; its numbers are dense and begin at 1. Events wait in their
stream and leave at a bounded rate, at once while the line is idle and many in a message under load, so that a flood of them
delays itself and no call. No sockets and no clock here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from orbit_zmq.errors import InvalidArgument, TooLarge
from orbit_zmq.wire.header import Header, Kind, encode_header
from orbit_zmq.wire.limits import EVENT_BYTES, NAME_CHARS, REPLAY_BYTES

KEPT_S = 600.0  # how long an event can be replayed
STREAM_BYTES = 8 << 20
SKIPPED = 0.25  # of what is kept, at once, where a stream runs over before it has left: few gaps are better than many
ENDPOINT_BYTES = 256 << 20
OVERHEAD_BYTES = 200  # what an event takes beside its bytes
TIP_AFTER_S = (0.25, 1.0, 2.0, 4.0, 8.0, 16.0)  # after a stream fell quiet: a tip can be lost with the burst that it ends
TIP_EVERY_S = 30.0  # from then on
EVENTS_PER_S = 10_000.0  # a third of what a broker passes on
BURST = 40  # events that may leave at once: in one message, and half a millisecond of a subscriber's time
PAUSE_S = 0.002  # between two messages of a flood
BATCH_BYTES = EVENT_BYTES - 1_024  # of the events in one message, with what holds them together
SCANNED = 5_000  # events looked at for one replay, which takes some milliseconds
BYTES_PER_EVENT = 2_048  # a larger event counts for several

_pack = msgpack.Packer(autoreset=True).pack
Send = Callable[[bytes, bytes], bool]  # a header frame and a body; False when the line takes no more now


Source = tuple[str, str]  # plugin and session
Kept = tuple[float, bytes, bytes, Source]  # when, header frame, body


@dataclass(slots=True)
class Stream:
    """What one audience hears. `sent` is the last number that left, `first` the first that can still be replayed."""

    last: int = 0
    sent: int = 0
    first: int = 1
    oldest: int = 1  # that is kept; not above `first`
    held_bytes: int = 0
    events: deque[Kept] = field(default_factory=deque)  # from `oldest`
    tips: int = 0  # how many have been sent since it fell quiet
    tip_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscriber that is behind asks for: numbers after `after` up to `up_to`, and which of them it wants to see."""

    after: int
    up_to: int
    plugin: str = ""
    session: str = ""
    topics: tuple[str, ...] = ()

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Wanted:
        """InvalidArgument for anything that is no such request."""
        after, up_to = body.get("after"), body.get("up_to")
        plugin, session, topics = body.get("plugin") or "", body.get("session") or "", body.get("topics") or []
        if type(after) is not int or type(up_to) is not int or not 0 <= after < up_to:
            raise InvalidArgument("a replay is of the numbers after one and up to another")
        if not isinstance(topics, list) or not all(isinstance(text, str) for text in (plugin, session, *topics)):
            raise InvalidArgument("a replay is filtered by a plugin, a session, and a list of topics")
        return cls(after, up_to, plugin, session, tuple(topics))

    def takes(self, header: Header) -> bool:
        return (
            (not self.plugin or header.plugin == self.plugin)
            and (not self.session or header.session == self.session)
            and (not self.topics or header.operation in self.topics)
        )


class Publisher:
    """All streams of one endpoint."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.waiting = 0  # events that have not left
        self._bytes = 0
        self._tokens = float(BURST)
        self._filled_at = 0.0
        self._connected = False

    def add(self, header: Header, body: bytes, now: float) -> None:
        """Take an event in; its header has audience, plugin, session, topic and time."""
        stream = self.streams.get(header.audience)
        if stream is None:
            stream = self.streams[header.audience] = Stream()
        stream.last += 1
        header.id = stream.last
        frame = encode_header(header)
        size = len(frame) + len(body) + OVERHEAD_BYTES
        stream.events.append((now, frame, body, (header.plugin, header.session)))
        stream.held_bytes += size
        self.waiting += 1
        self._bytes += size
        stream.tips, stream.tip_at = 0, now + TIP_AFTER_S[0]
        while stream.held_bytes > STREAM_BYTES:
            self._forget_first(stream)
        while self._bytes > ENDPOINT_BYTES:
            self._forget_first(max(self.streams.values(), key=lambda other: other.held_bytes))

    def on_hello(self) -> dict[str, int]:
        """The tips that hello says. What has happened without a line is told by them, and replayed to those who want it."""
        for stream in self.streams.values():
            stream.sent = stream.last
        self.waiting = 0
        return {audience: stream.last for audience, stream in self.streams.items() if stream.last}

    def flush(self, send: Send, now: float) -> None:
        """Send what may leave now, of one stream after the other."""
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * EVENTS_PER_S)
        self._filled_at = now
        while self.waiting:
            for audience, stream in tuple(self.streams.items()):
                if stream.sent == stream.last:
                    continue
                if self._tokens < 1 or not self._send_some(audience, stream, send):
                    return
                self.streams[audience] = self.streams.pop(audience)  # the others come first next time

    def _send_some(self, audience: str, stream: Stream, send: Send) -> bool:
        """One event, or as many of those that wait as one message takes; False when the line takes none."""
        first = stream.sent + 1
        _, frame, body, source = stream.events[first - stream.oldest]
        batch, size, cost = [(frame, body)], 0, 1.0 + len(body) // BYTES_PER_EVENT
        for number in range(first + 1, stream.last + 1):
            size += len(frame) + len(body) + OVERHEAD_BYTES
            _, frame, body, other = stream.events[number - stream.oldest]
            if cost >= self._tokens or size + len(frame) + len(body) > BATCH_BYTES:
                break
            source = source if source == other else ("", "")
            batch.append((frame, body))
            cost += 1.0 + len(body) // BYTES_PER_EVENT
        last = first + len(batch) - 1
        frame, body = batch[0]
        if len(batch) > 1:
            header = Header(Kind.EVENT, id=first, up_to=last, plugin=source[0], session=source[1], audience=audience)
            frame, body = encode_header(header), _pack(batch)
        if not send(frame, body):
            return False
        stream.sent = last
        self.waiting -= len(batch)
        self._tokens -= cost
        return True

    def due_tips(self, now: float) -> dict[str, int]:
        """The streams that are quiet and whose last number has to be said again."""
        due = {}
        for audience, stream in self.streams.items():
            if now >= stream.tip_at:
                if stream.sent == stream.last:
                    due[audience] = stream.last
                    stream.tips += 1
                stream.tip_at = now + _pause_s(stream.tips)
        return due

    def next_due(self, now: float) -> float:
        """When `flush`, `due_tips` or `tick` has something to do."""
        if self.waiting:
            return now + max(PAUSE_S, (1 - self._tokens) / EVENTS_PER_S)
        return min((stream.tip_at for stream in self.streams.values()), default=math.inf)

    def tick(self, now: float) -> None:
        """Forget what is too old to be replayed."""
        for stream in self.streams.values():
            while stream.events and now - stream.events[0][0] >= KEPT_S:
                self._forget_first(stream)

    def replay(self, audience: str, wanted: Wanted, decode: Callable[[bytes], Header]) -> dict[str, Any]:
        """What can be given of the wanted numbers, at most REPLAY_BYTES: `{events, reached, missed}`.

        All numbers up to `reached` are answered for: they are in `events`, were not wanted, or are counted in `missed`.
        """
        stream = self.streams.get(audience) or Stream()
        first = max(wanted.after + 1, stream.first)
        events: list[tuple[bytes, bytes]] = []
        reached, size = max(wanted.after, min(stream.first - 1, wanted.up_to)), 0
        missed = reached - wanted.after
        for number in range(first, min(stream.last, wanted.up_to, first + SCANNED) + 1):
            _, frame, body, _ = stream.events[number - stream.oldest]
            if _is_plain(wanted) or wanted.takes(decode(frame)):
                size += len(frame) + len(body) + 16
                if size > REPLAY_BYTES and events:
                    break
                events.append((frame, body))
            reached = number
        return {"events": events, "reached": reached, "missed": missed}

    def _forget_first(self, stream: Stream) -> None:
        _, frame, body, _ = stream.events.popleft()
        size = len(frame) + len(body) + OVERHEAD_BYTES
        stream.oldest += 1
        stream.first = max(stream.first, stream.oldest)
        stream.held_bytes -= size
        self._bytes -= size
        if stream.sent < stream.first - 1:
            self._skip(stream)

    def _skip(self, stream: Stream) -> None:
        """Events were forgotten before they left. They are a gap, of which the next number that leaves tells."""
        stream.first += int(len(stream.events) * SKIPPED)
        self.waiting -= stream.first - 1 - stream.sent
        stream.sent = stream.first - 1


def event_header(audience: str, plugin: str, session: str, topic: str, wall_time: float, flags: int) -> Header:
    """The header of an event to be numbered; InvalidArgument for a topic that cannot be one."""
    if not isinstance(topic, str) or not topic or len(topic) > NAME_CHARS or not topic.isprintable():
        raise InvalidArgument(f"{topic!r} is no topic", hint=f"A topic is text of 1 to {NAME_CHARS} characters.")
    return Header(
        Kind.EVENT,
        plugin=plugin,
        session=session,
        operation=topic,
        audience=audience,
        happened_at=wall_time,
        flags=flags,
    )


def check_event_body(topic: str, body: bytes) -> None:
    """Raise TooLarge for what is data rather than news of it."""
    if len(body) > EVENT_BYTES:
        raise TooLarge(
            f"an event of topic {topic} has {len(body)} bytes; the limit is {EVENT_BYTES}",
            hint="Say what happened, and let subscribers fetch the data by an operation.",
        )


def _is_plain(wanted: Wanted) -> bool:
    return not (wanted.plugin or wanted.session or wanted.topics)


def _pause_s(tips: int) -> float:
    if tips < len(TIP_AFTER_S):
        return TIP_AFTER_S[tips] - (TIP_AFTER_S[tips - 1] if tips else 0.0)
    return TIP_EVERY_S

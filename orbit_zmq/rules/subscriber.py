"""The subscriber: opens publications, keeps a cursor for each stream, and finds out what it did not hear.

Publications may be lost on their way; numbers and tips show it, and a replay from the stream's source repairs it. What the
source cannot give any more is told as a number. Of the broker's own stream, topology, a gap is repaired by the whole view.
No sockets and no clock here: publications, answers and the time come in, what to ask for goes out.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgpack

from orbit_zmq.errors import OrbitError, ProtocolError
from orbit_zmq.rules.heard import Heard
from orbit_zmq.wire.header import Header, Kind, decode_header
from orbit_zmq.wire.seal import KEY_ID_BYTES, Opener

BROKER: Final = "broker"  # the endpoint name of the stream of topology
EVERYBODY: Final = "all"
HELD_EVENTS = 1_024  # of one stream, heard while an earlier one is missing; more are replayed instead
HELD_BYTES = 4 << 20
NOISE_EVENTS = 256  # under a key that is not known yet, because it has just been rotated
NOISE_BYTES = 4 << 20
ASK_KEYS_S = 1.0
NOISE_S = 5.0  # then it is a gap
OLD_KEY_S = 60.0
ASK_TIPS_S = 0.5  # after the last event of a burst, whose end may have been lost together with its tip
RESTART_JITTER_S = 0.5  # all subscribers find their gaps at once when a broker comes back
RETRY_S = 0.2
TRIES = 6
STREAMS = 100_000


@dataclass(slots=True, eq=False)
class Hearing:
    """One stream as this subscriber knows it. `cursor` is the last number dealt with; None: it is not known where to begin."""

    audience: str
    endpoint: str
    incarnation: bytes
    cursor: int | None = None
    tip: int = 0
    held: dict[int, Heard] = field(default_factory=dict)
    held_bytes: int = 0
    is_asking: bool = False
    ask_at: float = -math.inf
    tries: int = 0

    @property
    def is_behind(self) -> bool:
        return self.cursor is not None and self.cursor < self.tip

    @property
    def gap_end(self) -> int:
        """The last number that is missing before the next one that is held."""
        return min(self.held) - 1 if self.held else self.tip


class Ears(Protocol):
    """Who wants to hear. Must not block or raise."""

    def wants(self, audience: str, endpoint: str) -> bool:
        """Whether anybody asked for events of this endpoint."""

    def on_event(self, event: Heard) -> None: ...
    def on_missed(self, audience: str, endpoint: str, count: int) -> None: ...


class Subscriber:
    """All streams that one participant hears."""

    def __init__(self, ears: Ears, *, draw: Callable[[float, float], float] = random.uniform) -> None:
        self.hearings: dict[tuple[str, bytes], Hearing] = {}
        self.tags: dict[str, str] = {}
        self.version = 0  # of the broker's tips
        self.replayed = 0
        self.missed = 0
        self.cursors: dict[str, Mapping[bytes, int]] = {}  # audience -> where to begin in its streams, in place of their ends
        self._ears = ears
        self._draw = draw
        self._openers: dict[bytes, tuple[str, Opener]] = {}
        self._newest: dict[str, bytes] = {}  # audience -> id of its present key
        self._old: deque[tuple[float, bytes]] = deque()  # when to forget which key
        self._noise: deque[tuple[float, tuple[bytes, bytes, bytes]]] = deque()
        self._noise_bytes = 0
        self._ask_keys_at = math.inf
        self._ask_tips_at = math.inf
        self._heard_at = -math.inf
        self._behind: dict[Hearing, None] = {}

    # What comes in

    def on_keys(self, facts: Mapping[str, Any], now: float) -> None:
        """Keys and tags of audiences, from welcome, from a `keys` message, or as an answer."""
        for audience, said in facts.items():
            if not isinstance(said, dict):
                raise ProtocolError("an audience has a tag, a key, and its id")
            tag, key_id, key = said.get("tag"), said.get("key_id"), said.get("key")
            if not isinstance(tag, str) or not isinstance(key_id, bytes) or not isinstance(key, bytes):
                raise ProtocolError("an audience has a tag, a key, and its id")
            self.tags[audience] = tag
            before = self._newest.get(audience)
            if before is not None and before != key_id:
                self._old.append((now + OLD_KEY_S, before))
            self._newest[audience] = key_id
            self._openers[key_id] = (audience, Opener(key))
        noise, self._noise, self._noise_bytes = self._noise, deque(), 0
        self._ask_keys_at = math.inf
        for since, frames in noise:
            self._take(frames, since, now)

    def on_publication(self, frames: tuple[bytes, bytes, bytes], now: float) -> None:
        """Something was published under one of our tags. ProtocolError for what is no publication."""
        self._take(frames, now, now)

    def on_tips(self, answer: Mapping[str, Any], now: float, *, is_start: bool = False, after_a_break: bool = False) -> None:
        """The last numbers of streams, over the safe path: `{version, streams: [[audience, endpoint, incarnation, first,
        last], ...]}`. At the start of a subscription everything up to there is old."""
        version, streams = answer.get("version"), answer.get("streams")
        if type(version) is not int or not isinstance(streams, list):
            raise ProtocolError("tips are a version and streams")
        for entry in streams:
            if not isinstance(entry, list) or [type(part) for part in entry] != [str, str, bytes, int, int]:
                raise ProtocolError("a tip has audience, endpoint, incarnation, first and last number")
            audience, endpoint, incarnation, first, last = entry
            if not self._ears.wants(audience, endpoint):
                continue
            hearing = self._hearing(audience, endpoint, incarnation)
            if hearing.cursor is None:
                hearing.cursor = self._start_of(hearing, first, last, is_start)
            elif after_a_break:
                hearing.ask_at = now + self._draw(0.0, RESTART_JITTER_S)
            self._look_up_to(hearing, last)
            self._go_on(hearing)
        self.version = version

    def on_replayed(self, hearing: Hearing, after: int, answer: Mapping[str, Any], now: float) -> None:
        """The source's answer to a replay of the numbers after `after`."""
        hearing.is_asking = False
        events, reached, missed = answer.get("events"), answer.get("reached"), answer.get("missed")
        if not isinstance(events, list) or type(reached) is not int or type(missed) is not int or hearing.cursor is None:
            self.on_replay_failed(hearing, ProtocolError("a replay of another shape"), now)
            return
        if reached <= after:  # the source knows of nothing there
            self._miss(hearing, hearing.gap_end)
        else:
            hearing.tries = 0
            if missed > 0:
                self._miss(hearing, min(after + missed, reached))
            self._take_replayed(hearing, events)
            hearing.cursor = max(hearing.cursor, reached)
        self._go_on(hearing)

    def on_replay_failed(self, hearing: Hearing, error: OrbitError, now: float) -> None:
        """Try again where that may help; else what is missing is missed."""
        hearing.is_asking = False
        hearing.tries += 1
        may_help = error.transient or error.code in ("deadline-exceeded", "broker-unreachable", "session-not-ready")
        if may_help and error.code != "endpoint-lost" and hearing.tries < TRIES:
            hearing.ask_at = now + self._draw(0.5, 1.0) * RETRY_S * (1 << hearing.tries)
            return
        hearing.tries = 0
        self._miss(hearing, hearing.gap_end)
        self._go_on(hearing)

    def on_whole_view(self, incarnation: bytes, number: int) -> None:
        """The whole topology as of this number has been told to whom it concerns."""
        hearing = self._hearing(EVERYBODY, BROKER, incarnation)
        hearing.is_asking, hearing.tries = False, 0
        hearing.cursor = max(hearing.cursor or 0, number)
        self._look_up_to(hearing, number)
        self._go_on(hearing)

    def on_disconnected(self) -> None:
        """The line is gone, and with it all that was asked for."""
        for hearing in self.hearings.values():
            hearing.is_asking = False

    def forget_unwanted(self) -> None:
        """Subscriptions have ended: what nobody hears any more begins anew when it is wanted again."""
        for key in [key for key, known in self.hearings.items() if not self._ears.wants(known.audience, known.endpoint)]:
            self._behind.pop(self.hearings.pop(key), None)

    # What to ask for

    def due_replays(self, now: float) -> list[Hearing]:
        """The streams whose gap has to be repaired now; each is marked as being asked."""
        due = [hearing for hearing in self._behind if not hearing.is_asking and now >= hearing.ask_at]
        for hearing in due:
            hearing.is_asking = True
        return due

    def wants_keys(self, now: float) -> bool:
        """Whether publications under an unknown key have been waiting for a while; told once."""
        while self._noise and now - self._noise[0][0] >= NOISE_S:
            self._noise_bytes -= len(self._noise.popleft()[1][2])
        while self._old and now >= self._old[0][0]:
            key_id = self._old.popleft()[1]
            if key_id not in self._newest.values():
                self._openers.pop(key_id, None)
        if now < self._ask_keys_at:
            return False
        self._ask_keys_at = math.inf
        return bool(self._noise)

    def wants_tips(self, now: float) -> bool:
        """Whether a burst has ended, so that its last events may have been lost unnoticed; told once."""
        if now < self._ask_tips_at:
            return False
        if now - self._heard_at < ASK_TIPS_S:
            self._ask_tips_at = self._heard_at + ASK_TIPS_S
            return False
        self._ask_tips_at = math.inf
        return True

    def next_due(self) -> float:
        """When one of these has something to say."""
        asks = [hearing.ask_at for hearing in self._behind if not hearing.is_asking]
        noise = [self._noise[0][0] + NOISE_S] if self._noise else []
        return min(self._ask_keys_at, self._ask_tips_at, *asks, *noise, math.inf)

    def _take(self, frames: tuple[bytes, bytes, bytes], since: float, now: float) -> None:
        topic, mark, sealed = frames
        known = self._openers.get(mark[:KEY_ID_BYTES])
        if known is None:
            self._hold_noise(frames, since)
            return
        audience, opener = known
        frame, body = opener.open(topic, mark, sealed)
        header = decode_header(frame)
        if header.kind not in (Kind.EVENT, Kind.TIP) or not header.id:
            raise ProtocolError("a publication that is neither event nor tip")
        if not self._ears.wants(audience, header.source):
            return
        hearing = self._hearing(audience, header.source, header.target)
        if header.kind == Kind.TIP:
            self._look_up_to(hearing, header.id)
            return
        self._heard_at = now
        if self._ask_tips_at == math.inf:
            self._ask_tips_at = now + ASK_TIPS_S
        if header.up_to:
            for event in _events_in(header, body, audience):
                self._on_event(hearing, event)
        else:
            self._on_event(hearing, Heard(header.source, header.target, header, body, audience))

    def _hearing(self, audience: str, endpoint: str, incarnation: bytes) -> Hearing:
        key = (audience, incarnation)
        hearing = self.hearings.get(key)
        if hearing is None:
            while len(self.hearings) >= STREAMS:
                self._behind.pop(self.hearings.pop(next(iter(self.hearings))), None)
            hearing = self.hearings[key] = Hearing(audience, endpoint, incarnation)
        return hearing

    def _on_event(self, hearing: Hearing, event: Heard) -> None:
        number = event.header.id
        if hearing.cursor is None:
            if number > 1:  # it is not known yet whether the ones before it are old: the tips say so
                self._hold(hearing, event)
                self._ask_tips_at = -math.inf
                return
            hearing.cursor = 0
        if number == hearing.cursor + 1:
            hearing.cursor = number
            self._ears.on_event(event)
            if hearing in self._behind:
                self._go_on(hearing)
            else:
                hearing.tip = number
        elif number > hearing.cursor:
            self._hold(hearing, event)
            self._look_up_to(hearing, number)

    def _look_up_to(self, hearing: Hearing, number: int) -> None:
        """There are events up to this number; are they all known?"""
        hearing.tip = max(hearing.tip, number)
        if hearing.cursor is None:
            self._ask_tips_at = -math.inf
        elif hearing.is_behind:
            self._behind[hearing] = None

    def _hold(self, hearing: Hearing, event: Heard) -> None:
        if len(hearing.held) < HELD_EVENTS and hearing.held_bytes + len(event.body) <= HELD_BYTES:
            hearing.held[event.header.id] = event
            hearing.held_bytes += len(event.body)

    def _hold_noise(self, frames: tuple[bytes, bytes, bytes], since: float) -> None:
        if len(self._noise) < NOISE_EVENTS and self._noise_bytes + len(frames[2]) <= NOISE_BYTES:
            if not self._noise:
                self._ask_keys_at = since + ASK_KEYS_S
            self._noise.append((since, frames))
            self._noise_bytes += len(frames[2])

    def _take_replayed(self, hearing: Hearing, events: list[Any]) -> None:
        for entry in events:
            try:
                frame, body = entry
                header = decode_header(frame)
            except (TypeError, ValueError, ProtocolError):
                continue  # its number is passed over like one that was not wanted
            if hearing.cursor is not None and header.id > hearing.cursor:
                hearing.cursor = header.id
                self.replayed += 1
                self._ears.on_event(Heard(hearing.endpoint, hearing.incarnation, header, body, hearing.audience))

    def _start_of(self, hearing: Hearing, first: int, last: int, is_start: bool) -> int:
        """The number after which to hear a stream that the tips tell of: its end, or where a cursor says."""
        cursor = self.cursors.get(hearing.audience)
        if cursor is not None:
            return min(cursor.get(hearing.incarnation, 0), last)
        return last if is_start else min(first, last)

    def _miss(self, hearing: Hearing, up_to: int) -> None:
        if hearing.cursor is not None and up_to > hearing.cursor:
            count, hearing.cursor = up_to - hearing.cursor, up_to
            self.missed += count
            self._ears.on_missed(hearing.audience, hearing.endpoint, count)

    def _go_on(self, hearing: Hearing) -> None:
        """Deal with what is held and follows now; note whether something is still missing."""
        cursor, held = hearing.cursor, hearing.held
        if cursor is None:
            return
        for number in [number for number in held if number <= cursor]:
            hearing.held_bytes -= len(held.pop(number).body)
        while cursor + 1 in held:
            cursor += 1
            event = held.pop(cursor)
            hearing.held_bytes -= len(event.body)
            self._ears.on_event(event)
        hearing.cursor = cursor
        hearing.tip = max(hearing.tip, cursor)
        if hearing.is_behind:
            self._behind[hearing] = None
        else:
            self._behind.pop(hearing, None)


def _events_in(outer: Header, body: bytes, audience: str) -> list[Heard]:
    """The events of a message that has several; ProtocolError when it has not those that it says."""
    try:
        pairs = [(decode_header(frame), data) for frame, data in msgpack.unpackb(body, max_ext_len=0)]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"events that are not msgpack: {error}") from error
    is_whole = [header.id for header, _ in pairs] == list(range(outer.id, outer.up_to + 1))
    if not is_whole or not all(isinstance(data, bytes) for _, data in pairs):
        raise ProtocolError("a message of other events than it says")
    return [Heard(outer.source, outer.target, header, data, audience) for header, data in pairs]

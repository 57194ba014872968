"""A publisher and a subscriber joined by a line that loses what a test says; time moves by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orbit_zmq.errors import Busy, EndpointLost, InvalidArgument, ProtocolError, TooLarge
from orbit_zmq.rules.heard import Heard
from orbit_zmq.rules.publisher import KEPT_S, STREAM_BYTES, Publisher, Wanted, check_event_body, event_header
from orbit_zmq.rules.subscriber import NOISE_S, OLD_KEY_S, Subscriber
from orbit_zmq.rules.topology import SETTLE_S, Topology
from orbit_zmq.wire.header import Header, Kind, decode_header, encode_header
from orbit_zmq.wire.limits import EVENT_BYTES
from orbit_zmq.wire.seal import Sealer, topic_of

USER, ENDPOINT, SOURCE = "ada", "hpc1", b"s" * 16
FOREVER = 10**6


def key(number: int) -> dict[str, Any]:
    return {"tag": "t", "key_id": bytes([number]) * 8, "key": bytes([number]) * 32}


class Line:
    """One endpoint's events on their way to one subscriber."""

    def __init__(self) -> None:
        self.now = 100.0
        self.heard: list[int] = []
        self.missed = 0
        self.gaps = 0
        self.sent = 0
        self.publisher = Publisher()
        self.subscriber = Subscriber(self, draw=lambda low, high: high)
        self.sealer = Sealer(key(1)["key_id"], key(1)["key"])
        self.loses: Callable[[int], bool] = lambda number: False
        self.published: deque[tuple[bytes, bytes, bytes]] = deque()
        self.subscriber.on_keys({USER: key(1)}, self.now)

    def wants(self, audience: str, endpoint: str) -> bool:
        return audience == USER

    def on_event(self, event: Heard) -> None:
        self.heard.append(event.header.id)

    def on_missed(self, audience: str, endpoint: str, count: int) -> None:
        self.missed += count
        self.gaps += 1

    def start(self) -> None:
        self.tips(is_start=True)

    def tips(self, **how: bool) -> None:
        last = self.publisher.streams[USER].last if self.publisher.streams else 0
        streams = [[USER, ENDPOINT, SOURCE, 0, last]] if last else []
        self.subscriber.on_tips({"version": last, "streams": streams}, self.now, **how)

    def say(self, count: int = 1, body: bytes = b"") -> None:
        for _ in range(count):
            self.publisher.add(event_header(USER, "p", "s", "news", 1.0, 0), body, self.now)
            self.flush()

    def flush(self) -> None:
        self.publisher.flush(self._send, self.now)

    def pass_on(self) -> None:
        while self.published:
            self.subscriber.on_publication(self.published.popleft(), self.now)

    def repair(self) -> None:
        """Answer what the subscriber asks for until it asks no more."""
        while due := self.subscriber.due_replays(self.now):
            for hearing in due:
                after = hearing.cursor or 0
                answer = self.publisher.replay(USER, Wanted(after, hearing.gap_end), decode_header)
                self.subscriber.on_replayed(hearing, after, {**answer, "events": [list(e) for e in answer["events"]]}, self.now)

    def _send(self, frame: bytes, body: bytes) -> bool:
        header = decode_header(frame)
        self.sent += 1
        if not any(map(self.loses, range(header.id, max(header.id, header.up_to) + 1))):
            header.source, header.target = ENDPOINT, SOURCE
            self.published.append(self.sealer.seal(topic_of("t", ENDPOINT), encode_header(header), body))
        return True


def test_events_are_heard_once_and_in_order() -> None:
    line = Line()
    line.start()
    line.say(5)
    line.pass_on()

    assert line.heard == [1, 2, 3, 4, 5] and line.subscriber.due_replays(line.now) == []


def test_what_was_said_before_the_subscription_is_old() -> None:
    line = Line()
    line.say(5)
    line.published.clear()
    line.start()
    line.say()
    line.pass_on()

    assert line.heard == [6] and line.missed == 0


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 60)), st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_whatever_is_lost_is_repaired_in_order(lost: set[int], bursts: list[int]) -> None:
    line = Line()
    line.start()
    line.loses = lost.__contains__
    for burst in bursts:
        line.say(burst)
        line.pass_on()
        line.now += 1.0
    line.tips()
    line.repair()

    assert line.heard == list(range(1, sum(bursts) + 1)) and line.missed == 0


def test_what_the_outbox_has_forgotten_is_missed_and_counted() -> None:
    line = Line()
    line.start()
    line.loses = lambda number: number <= 3
    line.say(3)
    line.now += KEPT_S
    line.publisher.tick(line.now)
    line.say(2)
    line.pass_on()
    line.tips()
    line.repair()

    assert (line.heard, line.missed) == ([4, 5], 3)


def test_an_outbox_is_bounded_in_bytes() -> None:
    line = Line()
    line.say(400, bytes(30_000))
    stream = line.publisher.streams[USER]

    assert stream.held_bytes <= STREAM_BYTES and stream.last == 400 and stream.oldest > 100


def test_a_source_that_is_gone_leaves_missed_events_and_one_that_is_busy_is_asked_again() -> None:
    line = Line()
    line.start()
    line.loses = lambda number: number < 4
    line.say(4)
    line.pass_on()
    line.tips()
    (hearing,) = line.subscriber.due_replays(line.now)
    line.subscriber.on_replay_failed(hearing, Busy("later"), line.now)
    assert line.subscriber.due_replays(line.now) == [] and line.missed == 0
    line.now += 1.0
    (hearing,) = line.subscriber.due_replays(line.now)
    line.subscriber.on_replay_failed(hearing, EndpointLost("gone"), line.now)

    assert (line.heard, line.missed) == ([4], 3)


def test_a_flood_leaves_at_a_bounded_rate_whole_and_many_in_a_message() -> None:
    line = Line()
    line.start()
    line.say(5_000)
    line.pass_on()
    at_once = len(line.heard)
    while len(line.heard) < 5_000:
        assert line.publisher.next_due(line.now) <= line.now + 0.005
        line.now = line.publisher.next_due(line.now)
        line.flush()
        line.pass_on()

    assert at_once < 100 and 0.4 < line.now - 100.0 < 0.6
    assert line.heard == list(range(1, 5_001)) and line.sent < 500
    assert line.publisher.waiting == 0


def test_an_event_leaves_alone_while_the_line_is_idle() -> None:
    line = Line()
    line.start()
    for _ in range(20):
        line.say()
        line.now += 0.001
    line.pass_on()

    assert line.sent == len(line.heard) == 20


def test_events_in_a_message_fit_an_event_and_large_ones_go_alone() -> None:
    line = Line()
    line.start()
    line.publisher.add(event_header(USER, "p", "s", "news", 1.0, 0), b"", line.now)
    for size in (9_000, 9_000, 30_000, 32_768, 10, 10):
        line.publisher.add(event_header(USER, "p", "s", "news", 1.0, 0), bytes(size), line.now)
    bodies: list[int] = []

    def send(frame: bytes, body: bytes) -> bool:
        bodies.append(len(body))
        return line._send(frame, body)

    while line.publisher.waiting:
        line.publisher.flush(send, line.now)
        line.now += 0.01
    line.pass_on()

    assert line.heard == list(range(1, 8)) and max(bodies) <= EVENT_BYTES and len(bodies) < 7


def test_a_flood_of_one_audience_does_not_keep_the_events_of_another() -> None:
    line = Line()
    for _ in range(5_000):
        line.publisher.add(event_header(USER, "p", "s", "flood", 1.0, 0), b"", line.now)
    line.publisher.add(event_header("eve", "p", "s", "news", 1.0, 0), b"", line.now)
    audiences: list[str] = []

    def send(frame: bytes, body: bytes) -> bool:
        audiences.append(decode_header(frame).audience)
        return True

    for _ in range(3):
        line.publisher.flush(send, line.now)
        line.now += 0.01

    assert audiences.index("eve") <= 2


def test_a_stream_that_runs_over_before_it_has_left_has_few_large_gaps_and_stays_bounded() -> None:
    line = Line()
    line.start()
    body = bytes(1_000)
    for _ in range(40):
        for _ in range(1_000):
            line.publisher.add(event_header(USER, "p", "s", "news", 1.0, 0), body, line.now)
        line.now += 0.002
        line.flush()
        line.pass_on()
        line.repair()
    stream = line.publisher.streams[USER]
    assert stream.held_bytes <= STREAM_BYTES and line.publisher.waiting == stream.last - stream.sent
    while line.publisher.waiting:
        line.now += 0.01
        line.flush()
        line.pass_on()
        line.repair()

    assert len(line.heard) + line.missed == 40_000 and line.heard[-1] == 40_000
    assert line.heard == sorted(set(line.heard)) and 0 < line.gaps < 50


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x91\x92\xa1x\x01", b"\xc1", b"\x90"])
def test_a_message_of_other_events_than_it_says_is_a_gap(body: bytes) -> None:
    line = Line()
    line.start()
    header = Header(Kind.EVENT, id=1, up_to=3, source=ENDPOINT, target=SOURCE)
    with pytest.raises(ProtocolError):
        line.subscriber.on_publication(line.sealer.seal(b"t/hpc1/", encode_header(header), body), line.now)

    assert line.heard == []


def test_tips_follow_the_end_of_a_burst_at_growing_distances() -> None:
    line = Line()
    line.say()
    times = []
    began = line.now
    while line.now < began + 100:
        line.now = line.publisher.next_due(line.now)
        if line.publisher.due_tips(line.now):
            times.append(round(line.now - began, 2))

    assert times[:8] == [0.25, 1.0, 2.0, 4.0, 8.0, 16.0, 46.0, 76.0]


def test_hello_says_where_streams_stand_and_sends_nothing_of_them_again() -> None:
    line = Line()
    line.publisher.add(event_header(USER, "p", "", "news", 1.0, 0), b"", line.now)

    assert line.publisher.on_hello() == {USER: 1}
    line.flush()
    assert not line.published


def test_a_filter_is_applied_at_the_source() -> None:
    publisher = Publisher()
    for topic in ("a", "b", "a_batch"):
        publisher.add(event_header(USER, "p", "s", topic, 1.0, 0), b"", 0.0)
    answer = publisher.replay(USER, Wanted(0, 3, topics=("a", "a_batch")), decode_header)

    assert [decode_header(frame).id for frame, _ in answer["events"]] == [1, 3] and answer["reached"] == 3
    assert publisher.replay("eve", Wanted(0, 3), decode_header) == {"events": [], "reached": 0, "missed": 0}


@pytest.mark.parametrize(
    "body", [{}, {"after": 2, "up_to": 1}, {"after": -1, "up_to": 1}, {"after": 0, "up_to": 1, "topics": 3}]
)
def test_a_replay_of_another_shape_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Wanted.from_body(body)


def test_topics_and_sizes_are_checked_at_the_door() -> None:
    with pytest.raises(InvalidArgument):
        event_header(USER, "p", "s", "", 1.0, 0)
    with pytest.raises(TooLarge):
        check_event_body("news", bytes(33_000))


def test_events_under_a_new_key_wait_for_it_and_old_keys_go() -> None:
    line = Line()
    line.start()
    line.sealer = Sealer(key(2)["key_id"], key(2)["key"])
    line.say(2)
    line.pass_on()
    assert line.heard == [] and not line.subscriber.wants_keys(line.now)
    assert line.subscriber.wants_keys(line.now + 1.0)
    line.subscriber.on_keys({USER: key(2)}, line.now + 1.1)
    assert line.heard == [1, 2]
    line.sealer = Sealer(key(1)["key_id"], key(1)["key"])
    line.now += OLD_KEY_S + 2
    line.subscriber.wants_keys(line.now)
    line.say()
    line.pass_on()

    assert line.heard == [1, 2]


def test_noise_that_nobody_explains_is_a_gap() -> None:
    line = Line()
    line.start()
    line.sealer = Sealer(key(2)["key_id"], key(2)["key"])
    line.say(2)
    line.pass_on()
    line.now += NOISE_S
    line.subscriber.wants_keys(line.now)
    line.subscriber.on_keys({USER: key(2)}, line.now)
    assert line.heard == []
    line.tips()
    line.repair()

    assert line.heard == [1, 2]


@given(st.tuples(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=80)))
def test_any_publication_is_heard_or_a_protocol_error(frames: tuple[bytes, bytes, bytes]) -> None:
    line = Line()
    for mark in (frames[1], key(1)["key_id"] + bytes(12)):
        try:
            line.subscriber.on_publication((frames[0], mark, frames[2]), line.now)
        except ProtocolError:
            continue
    assert line.heard == []


def test_a_tip_under_the_key_shows_a_gap() -> None:
    line = Line()
    line.start()
    line.loses = lambda number: True
    line.say(2)
    tip = Header(Kind.TIP, id=2, source=ENDPOINT, target=SOURCE)
    line.subscriber.on_publication(line.sealer.seal(b"t/hpc1/", encode_header(tip), b""), line.now)
    line.tips()
    line.repair()

    assert line.heard == [1, 2]


def test_a_lost_endpoint_is_shown_once_and_a_new_broker_has_time_to_find_the_old_ones() -> None:
    present, lost = {"role": "", "state": "present", "plugins": []}, {"role": "", "state": "lost", "plugins": []}
    topology = Topology()
    assert topology.replace(b"1", {"a": present, "b": present}, 0.0) == [{"a": present, "b": present}]
    assert topology.change([("a", lost)]) == [{"a": lost, "b": present}]
    assert topology.change([("c", present)]) == [{"b": present, "c": present}]
    assert topology.change([("c", lost), ("c", present)]) == [{"b": present, "c": lost}, {"b": present, "c": present}]
    (view,) = topology.replace(b"2", {"c": present}, 10.0)
    assert view["b"]["state"] == "suspect" and topology.tick(10.0 + SETTLE_S - 1) == []
    assert topology.tick(10.0 + SETTLE_S) == [{"b": {**present, "state": "lost"}, "c": present}]
    assert topology.whole() == {"c": present}


def test_a_cursor_says_after_which_number_a_stream_is_heard() -> None:
    line = Line()
    line.say(10)
    line.published.clear()
    line.subscriber.cursors[USER] = {SOURCE: 7}
    line.tips(is_start=True)

    (hearing,) = line.subscriber.hearings.values()
    assert (hearing.cursor, hearing.tip, hearing.is_behind) == (7, 10, True)


def test_a_stream_that_is_not_in_the_cursor_is_heard_from_its_beginning() -> None:
    line = Line()
    line.say(10)
    line.published.clear()
    line.subscriber.cursors[USER] = {b"another incarnat": 7}
    line.tips(is_start=True)

    (hearing,) = line.subscriber.hearings.values()
    assert (hearing.cursor, hearing.tip) == (0, 10)

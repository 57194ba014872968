"""The small machines that the broker is made of: presence, queues, and what is counted."""

from __future__ import annotations

from orbit_broker.counters import Counters
from orbit_zmq.rules.liveness import RULES, Effect, Event, Liveness, Presence
from orbit_zmq.rules.outbox import BULK, CALLS, CONTROL, EVENTS, Outbox


def liveness() -> Liveness:
    return Liveness(suspect_s=10.0, lost_s=30.0, closed_lost_s=3.0, heard_at=100.0)


def test_every_state_answers_every_event():
    assert RULES.keys() == {(presence, event) for presence in Presence for event in Event}


def test_a_participant_that_falls_silent_is_suspected_and_then_lost():
    peer = liveness()

    assert peer.on_tick(109.9) == ()
    assert peer.on_tick(110.0) == (Effect.ANNOUNCE,)
    assert peer.on_tick(129.9) == ()
    assert peer.on_tick(130.0) == (Effect.FAIL_REQUESTS, Effect.ANNOUNCE)
    assert peer.on_tick(200.0) == ()


def test_one_that_closed_while_traffic_flowed_is_lost_soon():
    peer = liveness()

    assert peer.on_closed(105.0) == (Effect.ANNOUNCE,)
    assert peer.on_tick(107.9) == ()
    assert peer.on_tick(108.0) == (Effect.FAIL_REQUESTS, Effect.ANNOUNCE)


def test_one_that_closed_after_silence_has_the_full_time():
    peer = liveness()
    peer.on_tick(112.0)

    assert peer.on_closed(115.0) == ()
    assert peer.on_tick(129.9) == ()
    assert Effect.FAIL_REQUESTS in peer.on_tick(130.0)


def test_one_that_is_heard_again_gets_what_waited():
    peer = liveness()
    peer.on_closed(101.0)

    assert peer.on_heard(102.0) == (Effect.RESUME_REQUESTS, Effect.ANNOUNCE)
    assert peer.on_tick(105.0) == ()


def test_bye_is_for_good_or_for_now():
    gone, returning = liveness(), liveness()

    assert gone.on_bye(True, 101.0) == (Effect.FAIL_REQUESTS, Effect.ANNOUNCE)
    assert returning.on_bye(False, 101.0) == (Effect.ANNOUNCE,)
    assert returning.on_closed(101.1) == ()
    assert returning.on_tick(130.9) == ()
    assert Effect.FAIL_REQUESTS in returning.on_tick(131.0)


def test_a_clock_that_jumps_far_goes_through_both_steps():
    assert liveness().on_tick(10_000.0) == (Effect.ANNOUNCE, Effect.FAIL_REQUESTS, Effect.ANNOUNCE)


def test_a_queue_gives_out_control_first_and_bulk_last():
    queue: Outbox[str] = Outbox()
    for priority, item in ((BULK, "b"), (EVENTS, "e"), (CALLS, "c1"), (CONTROL, "k"), (CALLS, "c2")):
        assert queue.push(priority, 1, item)

    assert queue.peek() == "k"
    assert [queue.pop() for _ in range(6)] == ["k", "c1", "c2", "e", "b", None]
    assert (len(queue), queue.bytes) == (0, 0)


def test_a_full_queue_of_bulk_refuses_no_calls_and_no_control():
    queue: Outbox[int] = Outbox(max_messages=2, max_bytes=10)

    assert queue.push(BULK, 6, 1)
    assert not queue.push(BULK, 5, 2)
    assert queue.push(BULK, 4, 3)
    assert not queue.push(BULK, 0, 4)
    assert queue.push(CALLS, 10, 5) and queue.push(CONTROL, 1, 6)
    assert (len(queue), queue.bytes) == (4, 21)


def test_a_queue_can_be_asked_for_the_higher_priorities_alone():
    queue: Outbox[str] = Outbox()
    queue.push(CALLS, 1, "c")

    assert queue.peek(CONTROL) is None
    assert queue.peek(CALLS) == "c"


def test_a_queue_keeps_what_is_wanted_and_its_sums():
    queue: Outbox[int] = Outbox()
    for number in range(6):
        queue.push(number % 4, 10, number)

    assert queue.keep(lambda item: item > 3) == 4
    assert (len(queue), queue.bytes) == (2, 20)
    assert queue.clear() == 2
    assert (queue.pop(), queue.bytes) == (None, 0)


def test_rates_are_of_the_last_second_and_the_last_ten():
    counters = Counters()
    for second in range(20):
        counters.messages_in += 100 if second < 18 else 10
        counters.sample(float(second))

    assert counters.rates(1, 19.0)["messages_in"] == 10.0
    assert counters.rates(10, 19.0)["messages_in"] == 82.0
    assert Counters().rates(1, 0.0)["messages_in"] == 0.0


def test_drops_are_reported_once_for_each_burst():
    counters = Counters()
    counters.drop("late-answer")
    counters.drop("late-answer", 4)

    assert counters.sample(1.0) == {"late-answer": 5}
    assert counters.sample(2.0) == {}
    assert counters.drops == {"late-answer": 5}

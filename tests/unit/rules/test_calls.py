"""A call ends exactly once and runs at most once, whatever happens to the line."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_pair import SMALL, Pair, outcome

from orbit_zmq.errors import Busy, Canceled, DeadlineExceeded, OutcomeUnknown, TooLarge
from orbit_zmq.rules.caller import OpenCall
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import RESENT, Kind


@pytest.fixture
def pair() -> Pair:
    joined = Pair()
    joined.connect()
    return joined


def test_a_call_is_executed_and_its_reply_ends_it(pair):
    call = pair.call(b"arguments")
    pair.settle()
    pair.reply(call)
    pair.settle()

    assert pair.executed == [(1, b"arguments")]
    assert outcome(call).endings == [b"done"]
    assert not pair.caller.open


def test_a_reply_that_was_lost_is_sent_again_and_not_executed_again(pair):
    call = pair.call()
    pair.settle()
    pair.reply(call)
    pair.cut()
    pair.connect()
    pair.settle()

    assert len(pair.executed) == 1
    assert outcome(call).endings == [b"done"]


def test_a_request_that_was_lost_is_executed_when_it_is_sent_again(pair):
    call = pair.call()
    pair.cut()
    pair.connect()
    assert pair.line[0][1].flags & RESENT
    pair.settle()
    pair.reply(call)
    pair.settle()

    assert outcome(call).endings == [b"done"]


def test_a_settled_answer_is_forgotten_with_the_next_request(pair):
    first = pair.call()
    pair.settle()
    pair.reply(first)
    pair.settle()
    assert pair.server.remembered == 1
    pair.call()
    pair.settle()

    assert pair.server.remembered == 1  # the second one


def test_one_long_call_does_not_keep_the_answers_of_later_ones(pair):
    pair.call(within_s=1000)
    for _ in range(20):
        call = pair.call()
        pair.settle()
        pair.reply(call)
        pair.settle()

    assert pair.server.remembered <= 2 + 1


def test_an_idempotent_call_leaves_nothing_behind(pair):
    call = pair.call(idempotent=True)
    pair.settle()
    pair.reply(call)

    assert pair.server.remembered == 0


def test_a_full_window_is_busy_and_idempotent_calls_take_no_place_in_it(pair):
    for _ in range(SMALL.open_calls):
        pair.call()
    with pytest.raises(Busy):
        pair.call()
    pair.call(idempotent=True)


def test_a_deadline_ends_the_call_once_and_cancels_it_over_there(pair):
    call = pair.call(within_s=2.0)
    pair.settle()
    pair.now += 2.0
    pair.caller.tick(pair.now)
    pair.settle()
    pair.server.reply(pair.running[1], b"late", 0, pair.now)
    pair.settle()

    assert [type(ending) for ending in outcome(call).endings] == [DeadlineExceeded]
    assert pair.canceled == [1]
    assert pair.reasons == ["its deadline has passed"]


def test_a_canceled_call_says_nothing_to_the_one_who_left(pair):
    call = pair.call()
    pair.settle()
    pair.caller.cancel(call, "not needed \udcff")
    pair.settle()

    assert pair.canceled == [1]
    assert pair.reasons == ["not needed ?"]
    assert outcome(call).endings == []
    assert pair.server.remembered == 0


@pytest.mark.parametrize("body", [b"", b"\xc1", pack_body({"reason": 5})[0], pack_body(["reason"])[0], pack_body({})[0]])
def test_a_cancel_whose_reason_cannot_be_read_is_a_cancel(pair, body):
    pair.call()
    pair.settle()
    pair.server.on_cancel(pair.running[1].header, body)

    assert pair.canceled == [1]
    assert pair.reasons == [""]


def test_what_nobody_settles_is_forgotten_after_its_deadline(pair):
    call = pair.call(within_s=5.0)
    pair.settle()
    pair.reply(call)
    pair.now += 10.0
    pair.server.tick(pair.now)

    assert pair.server.remembered == 0


def test_past_the_bound_the_oldest_answer_is_forgotten_and_its_outcome_unknown(pair):
    pair.server._replies_limit = 100
    first, second = pair.call(), pair.call()
    pair.settle()
    pair.reply(first, b"x" * 60)
    pair.reply(second, b"y" * 60)
    pair.cut()
    pair.connect()
    pair.settle()

    assert [type(ending) for ending in outcome(first).endings] == [OutcomeUnknown]
    assert outcome(second).endings == [b"y" * 60]
    assert len(pair.executed) == 2


def test_large_arguments_and_results_travel_as_chunks(pair):
    arguments, result = os.urandom(1000), os.urandom(3000)
    call = pair.call(arguments)
    pair.settle()
    pair.reply(call, result)
    pair.settle()

    assert pair.executed == [(1, arguments)]
    assert outcome(call).endings == [result]
    assert pair.server.remembered == 0  # all of it was acknowledged


def test_a_result_above_the_limit_ends_the_call(pair):
    call = pair.call()
    pair.settle()
    pair.reply(call, bytes(SMALL.body_bytes + 1))
    pair.settle()

    assert [type(ending) for ending in outcome(call).endings] == [TooLarge]


def test_an_error_in_the_middle_of_a_streamed_result_ends_it(pair):
    call = pair.call()
    pair.settle()
    entry = pair.running[1]
    pair.server.begin_stream(entry, b"", 0, pair.now)
    pair.server.feed(entry, b"part", False, pair.now)
    pair.settle()
    pair.server.fail(entry, Canceled("enough"), pair.now)
    pair.settle()

    assert outcome(call).stream == [b"part"]
    assert isinstance(outcome(call).endings[-1], Canceled)


def test_a_call_with_chunks_has_its_deadline_from_the_last_movement(pair):
    call = pair.call(stream=True, within_s=5.0)
    for _ in range(4):
        pair.now += 4.0
        pair.caller.feed(call, b"part", False, pair.now)
        pair.settle()
        pair.caller.tick(pair.now)

    assert call.header.id in pair.caller.open
    pair.now += 60.0
    pair.caller.tick(pair.now)
    assert [type(ending) for ending in outcome(call).endings] == [DeadlineExceeded]


def test_chunks_that_nobody_acknowledges_are_sent_again(pair):
    call = pair.call(bytes(200))
    lost = [message for message in pair.line if message[1].kind == Kind.CHUNK]
    for message in lost:
        pair.line.remove(message)
    pair.settle()
    for _ in range(3):
        pair.now += 2.0
        pair.caller.repeat_chunks(pair.now)
        pair.settle()

    assert pair.executed == [(1, bytes(200))]
    assert call.header.id in pair.caller.open


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 300), st.booleans()),
        st.tuples(st.just("deliver"), st.integers(1, 12)),
        st.tuples(st.just("reply"), st.integers(0, 300)),
        st.tuples(st.just("cut")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_no_call_is_lost_ends_twice_or_runs_twice_over_any_cuts(actions):
    pair = Pair()
    pair.connect()
    calls: list[tuple[OpenCall, bytes]] = []
    for action, *facts in actions:
        if action == "call" and len(calls) < SMALL.open_calls:
            calls.append((pair.call(bytes([len(calls)]) * facts[0]), bytes([len(calls)]) * facts[0]))
        elif action == "deliver":
            any(not pair.step() for _ in range(facts[0]))
        elif action == "reply" and pair.running:
            entry = pair.running.pop(next(iter(pair.running)))
            pair.server.reply(entry, bytes([entry.header.id]) * facts[0], 0, pair.now)
        elif action == "cut":
            pair.cut()
            pair.connect()
    for _ in range(20):
        pair.settle()
        while pair.running:
            entry = pair.running.pop(next(iter(pair.running)))
            pair.server.reply(entry, bytes([entry.header.id]) * 200, 0, pair.now)
        pair.now += 2.0
        pair.caller.repeat_chunks(pair.now)
        pair.server.repeat_chunks(pair.now)

    assert sorted(pair.executed) == [(call.header.id, body) for call, body in calls]
    for call, _ in calls:
        [ending] = outcome(call).endings
        assert isinstance(ending, bytes)
        assert set(ending) <= {call.header.id}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=50), st.just("cut"), st.integers(1, 9)), max_size=40))
def test_a_stream_arrives_whole_and_in_order_over_any_cuts(actions):
    pair = Pair()
    pair.connect()
    up, down = pair.call(stream=True), pair.call()
    pair.settle()
    pair.server.begin_stream(pair.running[2], b"", 0, pair.now)
    sent = bytearray()
    for action in [*actions, 20]:
        if isinstance(action, bytes):
            sent += action
            pair.caller.feed(up, action, False, pair.now)
            pair.server.feed(pair.running[2], action, False, pair.now)
        elif action == "cut":
            pair.cut()
            pair.connect()
        else:
            any(not pair.step() for _ in range(action))
    pair.caller.feed(up, b"", True, pair.now)
    pair.server.feed(pair.running[2], b"", True, pair.now)
    for _ in range(40):
        pair.settle()
        while len(outcome(down).stream) > (down.stream_out._consumed if down.stream_out else 0):
            pair.caller.consumed(down)
        pair.now += 2.0
        pair.caller.repeat_chunks(pair.now)
        pair.server.repeat_chunks(pair.now)

    assert b"".join(pair.streamed_in.get(1, [])) == bytes(sent)
    assert b"".join(outcome(down).stream) == bytes(sent)
    assert outcome(down).stream_ended

"""When a participant connects, gives up a connection, and stops trying."""

from __future__ import annotations

from orbit_zmq.rules.connection import HURRY_S, OPENING_S, REACH_S, RULES, Connection, Effect, Event, State


def opened(now: float = 0.0) -> Connection:
    connection = Connection(now, draw=lambda low, high: high)
    assert connection.tick(now) == (Effect.OPEN, Effect.SAY_HELLO)
    return connection


def test_every_state_answers_every_event():
    assert RULES.keys() == {(state, event) for state in State for event in Event}


def test_after_welcome_calls_may_go():
    connection = opened()
    assert connection.handle(Event.WELCOMED, 0.1) == (Effect.RESUME,)


def test_the_first_attempt_after_a_break_is_made_at_once_and_later_ones_wait_longer_up_to_five_seconds():
    connection = opened()
    connection.handle(Event.WELCOMED, 0.1)
    connection.handle(Event.BROKEN, 1.0)
    assert connection.next_tick() == 1.0
    pauses, now = [], 1.0
    for _ in range(7):
        connection.tick(now)
        connection.handle(Event.BROKEN, now)
        pauses.append(connection.next_tick() - now)
        now = connection.next_tick()
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_connection_without_a_welcome_is_given_up():
    connection = opened()
    assert connection.tick(OPENING_S - 0.1) == ()
    assert connection.tick(OPENING_S) == (Effect.SUSPEND, Effect.DROP)


def test_a_silent_broker_is_left():
    connection = opened()
    connection.handle(Event.WELCOMED, 0.0)
    assert connection.tick(9.9) == ()
    assert connection.tick(10.0) == (Effect.SUSPEND, Effect.DROP)


def test_a_refusal_ends_the_attempts():
    connection = opened()
    assert Effect.END_CALLS in connection.handle(Event.REFUSED, 0.1)
    assert connection.tick(100.0) == ()


def test_a_broker_that_does_not_know_us_hears_hello_again_on_the_same_connection():
    connection = opened()
    connection.handle(Event.WELCOMED, 0.0)
    assert connection.handle(Event.ASKED_WHO, 1.0) == (Effect.SUSPEND, Effect.SAY_HELLO)
    assert connection.handle(Event.WELCOMED, 1.1) == (Effect.RESUME,)


def test_closing_says_bye_and_ends_calls():
    connection = opened()
    connection.handle(Event.WELCOMED, 0.0)
    assert connection.handle(Event.CLOSED, 1.0) == (Effect.SAY_BYE, Effect.SUSPEND, Effect.DROP, Effect.END_CALLS)


def test_who_is_not_admitted_ends_its_calls_and_goes_on_trying():
    connection = opened()
    assert connection.handle(Event.NOT_ADMITTED, 0.1) == (Effect.SUSPEND, Effect.DROP, Effect.END_CALLS)
    assert connection.tick(connection.next_tick()) == (Effect.OPEN, Effect.SAY_HELLO)


def test_a_call_hurries_the_next_attempt_but_not_more_than_once_a_second():
    connection, now = opened(), 0.0
    for _ in range(8):
        connection.handle(Event.NOT_ADMITTED, now)
        now = connection.next_tick()
        connection.tick(now)
    connection.handle(Event.NOT_ADMITTED, now)
    assert connection.next_tick() == now + 5.0

    connection.hurry(now + 0.2)

    assert connection.next_tick() == now + HURRY_S


def test_every_address_has_its_turn_before_the_next_pause():
    connection = Connection(0.0, addresses=3, draw=lambda low, high: high)
    now, pauses = 0.0, []
    for _ in range(7):
        connection.tick(now)
        connection.handle(Event.BROKEN, now)
        pauses.append(connection.next_tick() - now)
        now = connection.next_tick()

    assert pauses == [0.0, 0.0, 0.25, 0.0, 0.0, 0.5, 0.0]


def test_an_address_where_nobody_takes_the_connection_is_left_for_the_next_one():
    connection = Connection(0.0, addresses=2)
    connection.tick(0.0)
    assert connection.tick(REACH_S) == (Effect.SUSPEND, Effect.DROP)
    connection.tick(REACH_S)
    connection.is_reached = True
    assert connection.tick(REACH_S + OPENING_S - 0.1) == ()

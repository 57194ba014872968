"""How long somebody waits for one who is away: plain calls and a made-up clock."""

from __future__ import annotations

import pytest

from orbit_zmq.client.patience import Patience
from orbit_zmq.errors import (
    BrokerUnreachable,
    Busy,
    DeadlineExceeded,
    EndpointLost,
    InvalidArgument,
    NotFound,
    OrbitError,
    OutcomeUnknown,
    SessionClosed,
    SessionExpired,
    SessionNotReady,
    ShuttingDown,
)


def patience() -> Patience:
    return Patience("hpc1", endpoint_away_s=900.0, broker_away_s=3600.0)


@pytest.mark.parametrize(
    "error",
    [
        BrokerUnreachable(),
        Busy(),
        DeadlineExceeded(),
        EndpointLost(),
        NotFound(details={"endpoint": "hpc1"}),
        OutcomeUnknown(),
        SessionNotReady(),
        ShuttingDown(),
    ],
)
def test_whoever_is_away_is_asked_again_with_growing_pauses(error):
    waiting = patience()

    pauses = [waiting.on_failure(error, 100.0 + second, broker_is_there=True) for second in range(8)]

    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_an_endpoint_that_stays_away_is_lost_after_its_time():
    waiting = patience()
    waiting.on_failure(EndpointLost(), 100.0, broker_is_there=True)
    waiting.on_failure(EndpointLost(), 999.9, broker_is_there=True)

    with pytest.raises(EndpointLost, match="hpc1 has been away for 900 s"):
        waiting.on_failure(EndpointLost(), 1000.0, broker_is_there=True)


def test_an_answer_begins_the_time_anew():
    waiting = patience()
    waiting.on_failure(EndpointLost(), 100.0, broker_is_there=True)
    waiting.on_answer()

    assert waiting.on_failure(EndpointLost(), 5000.0, broker_is_there=True) == 0.2


def test_while_the_broker_is_away_no_endpoint_counts_as_lost():
    waiting = patience()
    waiting.on_failure(EndpointLost(), 100.0, broker_is_there=True)
    waiting.on_failure(DeadlineExceeded(), 200.0, broker_is_there=False)
    waiting.on_failure(DeadlineExceeded(), 3000.0, broker_is_there=False)

    assert waiting.on_failure(EndpointLost(), 3100.0, broker_is_there=True) > 0


def test_a_broker_that_stays_away_is_warned_of_each_minute_and_given_up_after_its_time():
    waiting = patience()
    waiting.on_failure(BrokerUnreachable(), 100.0, broker_is_there=False)

    assert waiting.warning_due(159.9) is None
    assert waiting.warning_due(160.0) == 60.0
    assert waiting.warning_due(160.1) is None
    assert waiting.warning_due(220.0) == 120.0
    with pytest.raises(BrokerUnreachable, match="3600 s"):
        waiting.on_failure(BrokerUnreachable(), 3700.0, broker_is_there=False)


@pytest.mark.parametrize("error", [SessionClosed("session closed: s"), SessionExpired("session expired: s")])
def test_a_session_that_has_ended_is_said_to_have_ended_and_where(error):
    with pytest.raises(type(error), match=f"endpoint hpc1 answers: {error.message}"):
        patience().on_failure(error, 100.0, broker_is_there=True)


def test_a_session_that_the_endpoint_does_not_know_is_lost_at_once():
    with pytest.raises(EndpointLost, match="come back without the session") as caught:
        patience().on_failure(NotFound("unknown session id: s"), 100.0, broker_is_there=True)

    assert not caught.value.transient


@pytest.mark.parametrize("error", [InvalidArgument("wrong"), OrbitError("a fault over there")])
def test_what_asking_again_cannot_help_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as caught:
        patience().on_failure(error, 100.0, broker_is_there=True)

    assert caught.value is error

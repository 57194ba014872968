"""What is said of a connection that is not made: what was seen where we came nearest."""

from __future__ import annotations

import pytest

from orbit_zmq.errors import AuthRequired, BrokerUnreachable
from orbit_zmq.rules.obstacles import SENTENCES, Obstacle, Way, error_of


def test_every_obstacle_has_a_sentence_that_names_the_place_and_a_fix():
    assert SENTENCES.keys() == set(Obstacle)
    for obstacle in Obstacle:
        error = error_of(obstacle, "tcp://bridge:5670")
        assert "tcp://bridge:5670" in error.message
        assert error.hint


def test_only_who_is_not_admitted_is_refused():
    refused = [obstacle for obstacle in Obstacle if isinstance(error_of(obstacle, ""), AuthRequired)]

    assert refused == [Obstacle.NOT_ADMITTED]


@pytest.mark.parametrize("word", ["not listed", "revoked", "expired"])
def test_the_sentence_for_a_key_that_is_not_admitted_names_all_reasons(word):
    assert word in error_of(Obstacle.NOT_ADMITTED, "tcp://bridge:5670").message


def test_before_any_attempt_has_failed_it_is_said_how_far_this_one_has_come():
    way = Way()
    way.on_opening()
    assert "cannot be reached" in way.error("tcp://a:1", "x").message
    way.is_reached = True
    assert "is not the expected one, or the broker does not answer" in way.error("tcp://a:1", "x").message
    way.is_greeted = True
    assert "the broker at tcp://a:1 (from x) does not answer" in way.error("tcp://a:1", "x").message


def test_of_several_addresses_the_one_where_we_came_nearest_counts():
    way = Way()
    way.meet("tcp://a:1", Obstacle.NOT_ADMITTED)
    way.meet("tcp://b:1", Obstacle.NOTHING_LISTENS)
    way.on_opening()

    assert isinstance(way.error("tcp://b:1", "x"), AuthRequired)
    assert way.is_barred


def test_what_was_met_is_forgotten_with_a_welcome_and_news_are_news_once():
    way = Way()
    assert way.meet("tcp://a:1", Obstacle.NOTHING_LISTENS)
    assert not way.meet("tcp://a:1", Obstacle.NOTHING_LISTENS)
    way.on_welcome()
    assert way.meet("tcp://a:1", Obstacle.NOTHING_LISTENS)
    assert not way.is_barred


def test_a_broker_that_has_said_why_it_goes_is_quoted_while_nothing_listens():
    way = Way()
    way.reason = "it is restarting"
    way.meet("tcp://a:1", Obstacle.NOTHING_LISTENS)

    error = way.error("tcp://a:1", "x")

    assert isinstance(error, BrokerUnreachable)
    assert "it is restarting" in error.message

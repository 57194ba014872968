"""After a restart of the broker, callers that knew the one before do not notice that endpoints are still on their way."""

from __future__ import annotations

import pytest

from orbit_zmq.wire.header import IDEMPOTENT, Kind
from tests.unit.broker.world import World, brief, identity

PLUGINS = {"echo": {"plugin": "echo", "version": "1"}}
FORMER = b"f" * 16
SESSION = {"id": "s.1", "plugin": "echo", "user": "ada", "lifetime": "ttl"}


@pytest.fixture
def world() -> World:
    made = World(settle_s=10.0)
    made.connect("c", epoch=FORMER)
    return made


@pytest.mark.parametrize("wanted", [{"endpoint": "hpc"}, {"session": "s.1"}, {"plugin": "echo"}, {"labels": {"site": "x"}}])
def test_what_a_returning_caller_asks_for_is_waited_for(world, wanted):
    assert world.call("c", 7, "broker", wanted, operation="resolve", flags=IDEMPOTENT) == []

    sent = world.connect("hpc", "endpoint", plugins=PLUGINS, sessions=[SESSION], labels={"site": "x"})
    (answer,) = [message for message in sent if message.to == "c"]
    assert answer.kind == Kind.REPLY and answer.value["endpoint"] == "hpc"


def test_an_endpoint_that_does_not_fit_changes_nothing(world):
    world.call("c", 7, "broker", {"plugin": "other"}, operation="resolve")
    assert [message for message in world.connect("hpc", "endpoint", plugins=PLUGINS) if message.to == "c"] == []


def test_it_is_told_once_the_broker_has_settled(world):
    world.call("c", 7, "broker", {"plugin": "other"}, operation="resolve")
    assert ("c", "not-found") in brief(world.pass_time(11.0))


def test_a_caller_that_is_new_is_told_at_once(world):
    world.connect("d")
    assert brief(world.call("d", 7, "broker", {"endpoint": "hpc"}, operation="resolve")) == [("d", "not-found")]


def test_an_endpoint_that_may_come_back_is_found_where_nothing_better_is():
    world = World()
    world.connect("hpc", "endpoint", plugins=PLUGINS)
    world.connect("c")
    world.cut("hpc")
    (answer,) = world.call("c", 7, "broker", {"plugin": "echo"}, operation="resolve")
    assert answer.value["endpoint"] == "hpc"


def test_no_key_takes_all_the_room_of_those_who_wait(monkeypatch):
    monkeypatch.setattr("orbit_broker.state.FLIGHTS_OF_A_KEY", 2)
    world = World(settle_s=10.0)
    world.connect("c", as_=identity("ada"), epoch=FORMER)
    world.connect("d", as_=identity("bob"), epoch=FORMER)
    for number in (1, 2):
        assert world.call("c", number, "hpc", {}, operation="echo") == []

    assert brief(world.call("c", 3, "hpc", {}, operation="echo")) == [("c", "busy")]
    assert world.call("d", 1, "hpc", {}, operation="echo") == []

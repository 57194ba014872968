"""Endpoints are told which processes that hold their sessions are lost, and which are back."""

from __future__ import annotations

from typing import Any

from orbit_zmq.wire.header import FINAL, Kind
from tests.unit.broker.world import Sent, World, incarnation


def session(name: str, holder: str = "") -> dict[str, Any]:
    fact = {"id": name, "plugin": "test", "user": "ada", "lifetime": "ephemeral"}
    return {**fact, "holder": incarnation(holder)} if holder else fact


def told(sent: list[Sent]) -> list[tuple[str, dict[str, list[bytes]]]]:
    return [(one.to, one.value) for one in sent if one.kind == Kind.HOLDERS]


def test_the_endpoint_of_a_lost_holder_is_told_and_no_other():
    world = World()
    world.connect("hpc1", "endpoint", sessions=[session("s1", "c"), session("s2", "c"), session("s3")])
    world.connect("hpc2", "endpoint")
    world.connect("c")

    assert told(world.say("c", Kind.BYE, flags=FINAL)) == [("hpc1", {"lost": [incarnation("c")]})]


def test_a_holder_of_nothing_is_nobodys_business():
    world = World()
    world.connect("hpc1", "endpoint")
    world.connect("c")
    world.say("hpc1", Kind.UPDATE, {"opened": [session("s1", "c")]})
    world.say("hpc1", Kind.UPDATE, {"closed": ["s1"]})

    assert told(world.say("c", Kind.BYE, flags=FINAL)) == []


def test_a_session_that_is_attached_to_changes_its_holder():
    world = World()
    world.connect("hpc1", "endpoint")
    world.connect("c")
    world.connect("d")
    world.say("hpc1", Kind.UPDATE, {"opened": [session("s1", "c")]})
    world.say("hpc1", Kind.UPDATE, {"opened": [session("s1", "d")]})

    assert told(world.say("c", Kind.BYE, flags=FINAL)) == []
    assert told(world.say("d", Kind.BYE, flags=FINAL)) == [("hpc1", {"lost": [incarnation("d")]})]


def test_a_process_that_is_back_is_told_too():
    world = World()
    world.connect("hpc1", "endpoint", sessions=[session("s1", "c")])

    assert told(world.connect("c")) == [("hpc1", {"back": [incarnation("c")]})]


def test_an_endpoint_that_was_away_hears_how_things_stand():
    world = World()
    world.connect("c")

    sent = world.connect("hpc1", "endpoint", sessions=[session("s1", "c"), session("s2", "gone")])

    assert told(sent) == [("hpc1", {"back": [incarnation("c")]}), ("hpc1", {"lost": [incarnation("gone")]})]


def test_a_session_whose_holder_has_gone_meanwhile_is_told_at_once():
    world = World()
    world.connect("hpc1", "endpoint")

    assert told(world.say("hpc1", Kind.UPDATE, {"opened": [session("s1", "gone")]})) == [
        ("hpc1", {"lost": [incarnation("gone")]})
    ]


def test_after_a_start_nobody_is_lost_before_all_have_had_time_to_come_back():
    world = World(settle_s=10.0)
    sent = world.connect("hpc1", "endpoint", sessions=[session("s1", "c"), session("s2", "gone")])
    assert told(sent) == []
    assert told(world.connect("c")) == [("hpc1", {"back": [incarnation("c")]})]
    world.say("hpc1", Kind.HEARTBEAT)
    world.say("c", Kind.HEARTBEAT)

    settled = []
    for _ in range(11):
        settled += world.pass_time(1.0)
        for label in ("hpc1", "c"):
            settled += world.say(label, Kind.HEARTBEAT)

    assert told(settled) == [("hpc1", {"lost": [incarnation("gone")]})]


def test_a_holder_that_is_no_incarnation_is_refused():
    world = World()
    world.connect("hpc1", "endpoint")

    (error,) = world.say("hpc1", Kind.UPDATE, {"opened": [{**session("s1"), "holder": b"short"}]})

    assert error.code == "protocol-error"

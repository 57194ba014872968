"""What monitors are told: who is there and who is gone, how fast each answers, and which sessions are busy."""

from __future__ import annotations

from typing import Any

from orbit_broker.counters import SESSIONS_A_SECOND, Counters, count_session
from orbit_broker.status import status_of
from orbit_zmq.models import BrokerStatus, ParticipantStatus
from orbit_zmq.wire.header import FINAL, PROBE, Kind
from tests.unit.broker.world import World, identity


def status(world: World, user: str | None = None) -> BrokerStatus:
    return status_of(world.state, world.now, user)


def participant(world: World, name: str) -> ParticipantStatus:
    return next(peer for peer in status(world).participants if peer.name == name)


def probe_of(world: World, label: str) -> int:
    """The number of the probe that waits for an answer."""
    return world.participant(label).probe


def test_latency_is_the_time_from_a_probe_to_its_own_answer():
    world = World()
    world.connect("hpc", "endpoint")
    world.pass_time(2.5)
    assert probe_of(world, "hpc") == 1 and participant(world, "hpc").latency_s is None

    world.say("hpc", Kind.HEARTBEAT, id=7)
    assert participant(world, "hpc").latency_s is None
    probed_at = world.participant("hpc").probed_at
    world.say("hpc", Kind.HEARTBEAT, id=1)

    latency_s = participant(world, "hpc").latency_s
    assert latency_s is not None and abs(latency_s - (world.now - probed_at)) < 1e-6


def test_an_endpoint_that_is_spoken_to_all_the_time_is_probed_every_five_seconds_and_a_client_never():
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("c")
    for call in range(1, 31):
        world.call("c", call, "hpc")
        world.answer("hpc", "c", call)
        world.pass_time(0.35)

    assert probe_of(world, "hpc") == 2 and probe_of(world, "c") == 0


def test_calls_are_counted_as_open_and_in_all():
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("c")
    for call in (1, 2, 3):
        world.call("c", call, "hpc")
    world.answer("hpc", "c", 1)

    served = participant(world, "hpc")
    made = next(peer for peer in status(world).participants if peer.role == "client")
    assert (served.open_calls_served, served.calls_served) == (2, 3)
    assert (made.open_calls_made, made.calls_made) == (2, 3)


def test_a_lost_endpoint_is_shown_with_the_cause_until_it_is_back():
    world = World()
    world.connect("hpc", "endpoint", host={"role": "login", "scheduler": "slurm"})
    world.connect("c")
    world.say("hpc", Kind.BYE, flags=FINAL)
    world.say("c", Kind.BYE, flags=FINAL)
    world.pass_time(2.0)

    (lost,) = status(world).lost_endpoints
    assert (lost.name, lost.host_role, lost.cause) == ("hpc", "login", "bye") and 1.9 < lost.lost_for_s < 2.1
    world.connect("hpc", "endpoint", incarnation=b"2" * 16)
    assert status(world).lost_endpoints == []


def test_an_endpoint_lost_long_ago_is_shown_no_more():
    world = World()
    world.connect("hpc", "endpoint")
    world.say("hpc", Kind.BYE, flags=FINAL)
    world.now += 901.0

    assert status(world).lost_endpoints == []


def test_the_busiest_sessions_come_first_and_only_the_askers_own():
    world = World()
    everything = {"plugins": ["*"], "rights": ["read", "write", "run"]}
    world.connect("hpc", "endpoint", as_=identity(may_act_for=True), share={"bob": everything})
    world.connect("ada")
    world.connect("bob", as_=identity("bob", "client"))
    world.pass_time(1.1)
    for call in range(1, 21):
        world.call("ada", call, "hpc", session="s.ada")
        world.answer("hpc", "ada", call)
    for call in range(1, 6):
        world.call("bob", call, "hpc", session="s.bob")
    world.say("hpc", Kind.EVENT, id=1, audience="ada", plugin="test", session="s.ada", operation="news")
    world.pass_time(4.0)

    busiest = status(world).busiest_sessions
    assert [(one.session, one.user) for one in busiest] == [("s.ada", "ada"), ("s.bob", "bob")]
    assert [one.session for one in status(world, "bob").busiest_sessions] == ["s.bob"]
    assert 3.5 < busiest[0].calls_per_s < 5.5 and busiest[0].events_per_s > 0
    assert 4.5 < participant(world, "hpc").calls_served_per_s < 7.0
    world.pass_time(12.0)
    assert status(world).busiest_sessions == []


def test_names_that_a_caller_makes_up_are_counted_for_the_endpoint_alone():
    bucket: dict[Any, int] = {}
    for number in range(SESSIONS_A_SECOND + 10):
        count_session(bucket, ("hpc", "p", f"s.{number}", "ada"))

    assert len(bucket) == SESSIONS_A_SECOND + 1 and bucket["hpc", "", "", ""] == 10


def test_a_second_with_nothing_in_it_counts_in_the_rates():
    counters = Counters()
    counters.sample(100.0)
    count_session(counters.calls_of, ("hpc", "p", "s", "ada"))
    for second in range(101, 105):
        counters.sample(float(second))

    assert counters.activity(104.0) == {("hpc", "p", "s", "ada"): (0.25, 0.0)}


def test_a_load_that_is_no_load_counts_as_none():
    world = World()
    world.connect(
        "hpc",
        "endpoint",
        load={"running": -1, "tasks": "many", "sessions": True, "host_load": float("nan"), "tasks_by_state": [1]},
    )
    states = {"DONE": 5, "no state": 1, "LOST": -1, "MANY": True, "x" * 33: 1}
    world.connect(
        "other",
        "endpoint",
        load={"running": 2, "tasks": 3, "host_load": 1.5, "waiting": 1, "sessions": 4, "tasks_by_state": states},
    )

    found, other = participant(world, "hpc").load, participant(world, "other").load
    assert found is not None and not any(found.model_dump().values())
    assert other is not None and other.model_dump() == {
        "running": 2, "waiting": 1, "sessions": 4, "tasks": 3, "tasks_by_state": {"DONE": 5}, "host_load": 1.5,
    }  # fmt: skip


def test_a_probe_of_a_name_is_answered_by_any_heartbeat_and_measures_nothing():
    world = World()
    world.connect("hpc", "endpoint")
    probes = world.connect("second", "endpoint", name="hpc")

    assert [(message.kind, message.header.flags, message.header.id) for message in probes] == [(Kind.HEARTBEAT, PROBE, 0)]
    world.say("hpc", Kind.HEARTBEAT)
    assert participant(world, "hpc").latency_s is None

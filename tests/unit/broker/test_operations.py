"""The broker's own operations: ping, resolve, endpoints, describe, status, drain, disconnect."""

from __future__ import annotations

import hashlib

import pytest

from orbit_zmq.models import BrokerStatus
from orbit_zmq.wire.header import RAW, RESENT, Kind
from tests.unit.broker.world import EPOCH, World, brief, identity, incarnation

PLUGINS = {"rhapsody": {"plugin": "rhapsody", "version": "1"}, "second": {"plugin": "echo", "version": "2"}}


def ask(world: World, operation: str, arguments: object = b"", caller: str = "c", **fields):
    (answer,) = world.call(caller, 7, "broker", arguments, operation=operation, **fields)
    assert answer.header.id == 7 and answer.header.source == "broker"
    return answer


@pytest.fixture
def world() -> World:
    made = World()
    made.connect(
        "hpc",
        "endpoint",
        plugins=PLUGINS,
        absent=[{"plugin": "psij", "reason": "no"}],
        environment={"hostname": "h"},
        host={"role": "login", "scheduler": "slurm"},
        labels={"site": "x"},
        load={"running": 5, "sessions": 1},
        sessions=[{"id": "s.1", "plugin": "rhapsody", "user": "ada", "lifetime": "ttl"}],
    )
    made.connect("c")
    return made


def test_ping_answers_nothing_at_once(world):
    answer = ask(world, "ping")
    assert (answer.kind, answer.value, answer.header.target) == (Kind.REPLY, {}, EPOCH)


def test_resolve_by_name_tells_the_incarnation_and_all_that_hello_said(world):
    assert ask(world, "resolve", {"endpoint": "hpc"}).value == {
        "endpoint": "hpc",
        "incarnation": incarnation("hpc"),
        "state": "present",
        "catalogue": b"",
        "plugins": PLUGINS,
        "absent": [{"plugin": "psij", "reason": "no"}],
        "environment": {"hostname": "h"},
        "host": {"role": "login", "scheduler": "slurm"},
        "labels": {"site": "x"},
        "settings": {},
        "user": "ada",
        "share": {},
    }


def test_resolve_by_session(world):
    assert ask(world, "resolve", {"session": "s.1"}).value["endpoint"] == "hpc"
    assert ask(world, "resolve", {"session": "s.2"}).code == "not-found"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, True),
        ({"plugin": "rhapsody"}, True),
        ({"plugin": "echo"}, True),
        ({"plugin": "psij"}, False),
        ({"role": "login", "scheduler": "slurm"}, True),
        ({"role": "compute"}, False),
        ({"scheduler": "pbs"}, False),
        ({"labels": {"site": "x"}}, True),
        ({"labels": {"site": "x", "gpu": "a100"}}, False),
    ],
)
def test_resolve_by_capability(world, wanted, found):
    answer = ask(world, "resolve", wanted)
    assert answer.value["endpoint"] == "hpc" if found else answer.code == "not-found"


def test_resolve_takes_the_less_loaded_of_two_and_none_that_is_away_or_hangs(world):
    world.connect("idle", "endpoint", plugins=PLUGINS, load={"running": 1})
    assert ask(world, "resolve", {"plugin": "echo"}).value["endpoint"] == "idle"

    world.say("idle", Kind.HEARTBEAT, {"loop_age_s": 9.0})
    assert ask(world, "resolve", {"plugin": "echo"}).value["endpoint"] == "hpc"
    world.say("idle", Kind.HEARTBEAT, {"loop_age_s": 0.0})
    world.cut("idle")
    assert ask(world, "resolve", {"plugin": "echo"}).value["endpoint"] == "hpc"


def test_resolve_finds_only_what_the_caller_may_use(world):
    world.connect("d", as_=identity("eve", "client"))
    world.connect("e", as_=identity("ada", "client", may_reach=lambda endpoint, plugin: False))

    assert ask(world, "resolve", {"plugin": "echo"}, "d").code == "not-found"
    assert ask(world, "resolve", {"plugin": "echo"}, "e").code == "not-found"


@pytest.mark.parametrize(
    ("operation", "arguments", "field"),
    [
        ("resolve", {"name": "hpc"}, "name"),
        ("resolve", {"endpoint": 7}, "endpoint"),
        ("resolve", {"labels": "x"}, "labels"),
        ("ping", {"x": 1}, "x"),
        ("describe", {"catalogue": "abc"}, "catalogue"),
        ("describe", {}, "catalogue"),
    ],
)
def test_a_wrong_argument_is_named(world, operation, arguments, field):
    answer = ask(world, operation, arguments)
    assert (answer.code, answer.value["details"]) == ("invalid-argument", {"field": field})


def test_what_cannot_be_an_argument_is_refused(world):
    assert ask(world, "resolve", {"endpoint": "hpc", "session": "s.1"}).code == "invalid-argument"
    assert ask(world, "resolve", b"\xc1").code == "protocol-error"
    assert ask(world, "resolve", [1]).code == "protocol-error"
    assert ask(world, "ping", b"raw", flags=RAW).code == "invalid-argument"
    assert ask(world, "explode").code == "not-found"


def test_an_id_that_is_in_flight_elsewhere_is_refused(world):
    world.call("c", 7, "hpc")
    assert ask(world, "ping").code == "protocol-error"
    assert len(world.state.flights) == 1


def test_a_resolve_said_again_after_a_restart_waits_for_the_endpoint():
    world = World(settle_s=10.0)
    world.connect("c")

    assert world.call("c", 1, "broker", {"endpoint": "hpc"}, operation="resolve", flags=RESENT) == []
    assert sorted(brief(world.connect("hpc", "endpoint"))) == [("c", "reply"), ("hpc", "welcome")]
    assert ask(world, "resolve", {"endpoint": "other"}).code == "not-found"


def test_endpoints_lists_them_with_load_and_sessions(world):
    (facts,) = ask(world, "endpoints").value
    assert (facts["endpoint"], facts["sessions"], facts["load"]) == ("hpc", 1, {"running": 5, "sessions": 1})
    assert facts["silent_for_s"] >= 0


def test_describe_gives_a_catalogue_by_its_hash_and_waits_for_one_that_is_on_its_way(world):
    body = b"catalogue"
    digest = hashlib.sha256(body).digest()
    assert ask(world, "describe", {"catalogue": digest}).code == "not-found"
    world.connect("two", "endpoint", catalogue=digest)

    assert world.call("c", 1, "broker", {"catalogue": digest}, operation="describe") == []
    (reply,) = world.say("two", Kind.UPDATE, {"catalogue_body": body})
    assert (reply.to, reply.header.id, reply.body, reply.header.flags) == ("c", 1, body, RAW)
    (welcome,) = world.connect("three", "endpoint", catalogue=digest)
    assert welcome.value["want_catalogue"] is False


def test_a_catalogue_that_does_not_come_is_not_found_and_may_be_asked_for_again(world):
    world.connect("two", "endpoint", catalogue=b"h" * 32)
    world.call("c", 1, "broker", {"catalogue": b"h" * 32}, operation="describe")

    (error,) = world.pass_time(5.2)
    assert (error.code, error.value["transient"]) == ("not-found", True)


def test_a_catalogue_goes_with_the_last_endpoint_that_has_it(world):
    body = b"catalogue"
    digest = hashlib.sha256(body).digest()
    for label in ("two", "three"):
        world.connect(label, "endpoint", catalogue=digest)
    world.say("two", Kind.UPDATE, {"catalogue_body": body})

    world.say("two", Kind.BYE, flags=64)
    assert digest in world.state.catalogues
    world.say("three", Kind.UPDATE, {"catalogue": hashlib.sha256(b"new").digest(), "catalogue_body": b"new"})
    assert list(world.state.catalogues.values()) == [b"new"]


def test_status_is_the_model_and_counts_what_happens(world):
    world.call("c", 1, "hpc")
    world.raw("c", [b"junk"])
    world.pass_time(3.0)

    status = BrokerStatus.model_validate(ask(world, "status").value)

    assert status.schema_version == 2 and status.epoch == EPOCH.hex()
    assert {(peer.role, peer.open_calls_made, peer.open_calls_served, peer.state) for peer in status.participants} == {
        ("endpoint", 0, 1, "present"),
        ("client", 1, 0, "present"),
    }
    assert status.calls.in_flight == 1 and status.sessions == 1
    assert status.drops == {"wrong-frames": 1}
    assert status.totals.messages_in == 5 and status.totals.requests == 2
    assert status.rates_10s.messages_in > status.rates_1s.messages_in > 0


def test_only_an_admin_drains_and_only_for_itself():
    world = World()
    world.connect("d", as_=identity("eve", "client"))
    world.connect("g", "gateway")
    world.connect("c")

    assert ask(world, "drain", caller="d").code == "not-permitted"
    assert ask(world, "drain", caller="g", on_behalf_of="eve").code == "not-permitted"
    assert not world.state.is_draining
    assert ask(world, "drain").value == {}
    assert world.state.is_draining


def test_disconnect_tells_the_endpoint_to_end_and_cuts_it(world):
    assert ask(world, "disconnect", {"endpoint": "hpc"}).value == {"name": "hpc"}
    told = [sent for sent in world.pass_time(0.2) if sent.to == "hpc"]

    assert [(sent.kind, sent.header.id, sent.code) for sent in told] == [(Kind.ERROR, 0, "canceled")]
    assert "hpc" not in world.state.endpoints
    assert ask(world, "disconnect", {"endpoint": "hpc"}).code == "not-found"


def test_an_endpoint_that_did_not_hear_that_it_is_to_end_hears_it_when_it_comes_back(world):
    ask(world, "disconnect", {"endpoint": "hpc"})
    world.pass_time(0.2)
    again = [sent for sent in world.hello("hpc", "endpoint") if sent.to == "hpc"]

    assert [(sent.kind, sent.header.id, sent.code) for sent in again] == [(Kind.ERROR, 0, "canceled")]
    assert "hpc" not in world.state.endpoints
    world.incarnations["hpc"] = b"another process!"
    world.hello("hpc", "endpoint")
    assert "hpc" in world.state.endpoints


def test_only_its_user_and_an_admin_may_disconnect_an_endpoint(world):
    world.connect("stranger", as_=identity("eve", "client"))

    assert ask(world, "disconnect", {"endpoint": "hpc"}, caller="stranger").code == "not-permitted"
    assert "hpc" in world.state.endpoints

"""Hello and welcome: names, incarnations, probing, and who is let in."""

from __future__ import annotations

import msgpack
import pytest

from orbit_broker import admission
from orbit_zmq.wire.header import PROBE, Header, Kind, encode_header
from tests.unit.broker.world import EPOCH, World, brief, identity, incarnation


def test_a_client_is_welcomed_under_a_name_of_its_user():
    world = World()

    (welcome,) = world.connect("c")

    assert welcome.kind == Kind.WELCOME
    assert welcome.value["name"].startswith("ada.")
    assert welcome.value["user"] == "ada"
    assert welcome.value["epoch"] == EPOCH
    assert welcome.value["version"] == 1
    assert welcome.value["want_catalogue"] is False
    assert welcome.value["events"] == {"ipc": None, "tcp": None} and welcome.value["audiences"].keys() == {"ada", "all"}
    assert welcome.value["limits"]["open_calls"] == 1024
    assert welcome.value["intervals"]["suspect_s"] == 10.0


def test_limits_are_the_smaller_of_both_sides():
    (welcome,) = World().connect("c", limits={"open_calls": 3, "body_bytes": 1 << 40})

    assert welcome.value["limits"]["open_calls"] == 3
    assert welcome.value["limits"]["body_bytes"] == 64 << 20


def test_a_catalogue_is_wanted_once():
    world = World()

    (first,) = world.connect("a", "endpoint", catalogue=b"h" * 32)

    assert first.value["want_catalogue"] is True


@pytest.mark.parametrize("name", ["broker", "events", "*", "Hpc", "a b", "", "ä", "x" * 256])
def test_what_cannot_be_the_name_of_an_endpoint_is_refused(name):
    world = World()

    assert brief(world.connect("e", "endpoint", name=name)) == [("e", "invalid-argument")]
    assert world.state.participants == {}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"versions": [2, 9]}, "version-mismatch"),
        ({"versions": "1"}, "protocol-error"),
        ({"incarnation": b"short"}, "protocol-error"),
        ({"role": "king"}, "invalid-argument"),
        ({"limits": {"chunk_bytes": -1}}, "protocol-error"),
        ({"sessions": [{"id": 7}]}, "protocol-error"),
        ({"sessions": [{"id": str(number)} for number in range(5001)]}, "too-large"),
        ({"plugins": ["p"]}, "protocol-error"),
        ({"labels": {"a": 1}}, "protocol-error"),
        ({"catalogue": b"short"}, "protocol-error"),
        ({"environment": []}, None),
        ({"environment": [1]}, "protocol-error"),
    ],
)
def test_a_hello_that_is_wrong_is_answered_with_an_error_and_nothing_else(changes, code):
    world = World()
    world.incarnations["e"] = changes.pop("incarnation", incarnation("e"))
    said = {"versions": [1, 1], "incarnation": world.incarnations["e"], "role": "endpoint"} | changes

    sent = world.connect("e", **{"role": "endpoint", "name": "e", **said})

    assert brief(sent) == [("e", code or "protocol-error")]
    assert world.state.participants == {}


def test_a_hello_that_is_not_msgpack_is_answered():
    world = World()
    world.connect("c")
    world.labels[b"\x01new"] = "new"
    world.routes["new"] = b"\x01new"

    assert brief(world.raw("new", [encode_header(Header(Kind.HELLO)), b"\xc1"])) == [("new", "protocol-error")]


def test_a_key_may_claim_only_its_role_and_its_names():
    world = World()
    key = identity("bob", "endpoint", may_take=lambda name: name.startswith("bob"))

    assert brief(world.connect("hpc", "endpoint", as_=key)) == [("hpc", "not-permitted")]
    assert brief(world.connect("g", "gateway", as_=key)) == [("g", "not-permitted")]
    assert brief(world.connect("bob1", "endpoint", as_=key)) == [("bob1", "welcome")]
    assert brief(world.connect("c", "client", as_=key)) == [("c", "welcome")]


def test_a_connection_without_a_user_is_refused():
    world = World()
    world.routes["c"], world.labels[b"\x01c"] = b"\x01c", "c"
    body = msgpack.packb({"versions": [1, 1], "incarnation": incarnation("c"), "role": "client"})

    admission.on_hello(world.state, world.out, b"\x01c", None, body, 0, world.now)

    assert brief(world.settle()) == [("c", "auth-required")]


def test_a_connected_holder_of_a_name_is_probed_and_keeps_it_when_it_answers():
    world = World()
    world.connect("hpc", "endpoint", environment={"hostname": "login1", "pid": 77})
    world.pass_time(0.5)

    (probe,) = world.connect("other", "endpoint", name="hpc")
    assert (probe.to, probe.kind, probe.header.flags) == ("hpc", Kind.HEARTBEAT, PROBE)
    world.pass_time(0.2)
    (refusal,) = world.say("hpc", Kind.HEARTBEAT)

    assert (refusal.to, refusal.code) == ("other", "name-taken")
    assert refusal.value["details"] == {"host": "login1", "pid": 77}
    assert world.state.endpoints["hpc"] is world.participant("hpc")


def test_any_message_of_the_holder_answers_the_probe():
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("other", "endpoint", name="hpc")
    world.pass_time(0.1)
    world.say("hpc", Kind.UPDATE, {"load": {"running": 1}})

    assert brief(world.pass_time(0.2)) == [("other", "name-taken")]


def test_a_holder_that_does_not_answer_loses_its_name_and_its_calls():
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("c")
    world.call("c", 1, "hpc")
    world.connect("other", "endpoint", name="hpc")

    sent = world.pass_time(1.1)

    assert brief(sent) == [("c", "outcome-unknown"), ("other", "welcome")] or brief(sent) == [
        ("other", "welcome"),
        ("c", "outcome-unknown"),
    ]
    assert world.state.endpoints["hpc"].incarnation == incarnation("other")


def test_a_name_whose_holder_has_gone_is_taken_at_once():
    world = World()
    world.connect("hpc", "endpoint")
    world.cut("hpc")

    assert brief(world.connect("other", "endpoint", name="hpc")) == [("other", "welcome")]


def test_a_holder_found_gone_by_the_probe_gives_the_name_to_the_newcomer():
    world = World()
    world.connect("hpc", "endpoint")
    world.cut("hpc", notice=False)

    assert world.connect("other", "endpoint", name="hpc") == []
    assert brief(world.pass_time(0.2)) == [("other", "welcome")]


def test_of_two_newcomers_one_gets_the_name():
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("b", "endpoint", name="hpc")
    world.connect("c", "endpoint", name="hpc")

    world.pass_time(1.2)
    world.say("b", Kind.HEARTBEAT)
    world.pass_time(1.2)

    assert world.state.endpoints["hpc"].incarnation == incarnation("b")
    assert len(world.state.participants) == 1


def test_the_same_incarnation_replaces_its_own_connection():
    world = World()
    world.connect("hpc", "endpoint")
    before = world.participant("hpc")

    assert brief(world.connect("hpc", "endpoint")) == [("hpc", "welcome")]
    assert world.participant("hpc") is before
    assert len(world.state.peers) == 1


def test_an_incarnation_of_somebody_else_cannot_be_taken():
    world = World()
    world.connect("hpc", "endpoint")
    mallory = identity("mallory")

    sent = world.connect("m", "endpoint", as_=mallory, name="hpc", incarnation=incarnation("hpc"))

    assert brief(sent) == [("m", "not-permitted")]


def test_one_connection_belongs_to_one_incarnation():
    world = World()
    world.connect("c")
    world.incarnations["c"] = incarnation("another")

    assert brief(world.hello("c")) == [("c", "protocol-error")]


def test_who_has_said_no_hello_is_asked_who_it_is_and_not_too_often():
    world = World()
    world.routes["s"], world.labels[b"\x01s"] = b"\x01s", "s"

    assert brief(world.say("s", Kind.HEARTBEAT)) == [("s", "who_are_you")]
    assert world.say("s", Kind.HEARTBEAT) == []
    world.pass_time(1.0)
    assert brief(world.raw("s", [b"junk"])) == [("s", "who_are_you")]
    assert world.state.counters.drops["no-hello"] == 3
    assert brief(world.hello("s")) == [("s", "welcome")]


def test_a_revoked_key_ends_its_participants_and_changed_rights_count_at_once():
    world = World()
    world.connect("c", as_=identity("bob", "client"))
    world.connect("d", as_=identity("eve", "client"))
    changed = identity("bob", "client", may_act_for=True)

    admission.on_keys_changed(
        world.state, world.out, lambda user_id: changed if user_id == changed.user_id else None, world.now
    )

    assert brief(world.settle()) == [("d", "auth-required")]
    assert [peer.identity for peer in world.state.participants.values()] == [changed]


def test_a_broker_that_is_leaving_admits_nobody():
    world = World()
    world.state.is_leaving = True

    assert brief(world.connect("c")) == [("c", "shutting-down")]

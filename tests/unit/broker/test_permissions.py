"""Who may call what: keys, sharing, effects by the catalogue, sessions of others, and what is remembered of the answers."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest

from orbit_broker import admission, permissions
from orbit_broker.state import FLIGHTS_OF_A_KEY
from orbit_zmq.wire.header import ALL_RIGHTS, READ, RUN, WRITE, Kind
from tests.unit.broker.world import World, brief, identity

OPERATIONS = [("look", "read"), ("change", "write"), ("submit", "run"), ("odd", "destroy")]
CATALOGUE = msgpack.packb(
    {
        name: {"plugin": kind, "version": "1", "operations": [{"name": one, "effect": effect} for one, effect in OPERATIONS]}
        for name, kind in (("left", "jobs"), ("sysinfo", "sysinfo"))
    }
)
PLUGINS = {"left": {"plugin": "jobs", "version": "1"}, "sysinfo": {"plugin": "sysinfo", "version": "1"}}


def world_of(share: dict[str, Any] | None = None, *, with_catalogue: bool = True) -> World:
    world = World()
    facts: dict[str, Any] = {"plugins": PLUGINS, "catalogue": hashlib.sha256(CATALOGUE).digest(), "share": share or {}}
    world.connect("hpc", "endpoint", **facts)
    if with_catalogue:
        world.say("hpc", Kind.UPDATE, {"catalogue_body": CATALOGUE})
    return world


def outcome(world: World, label: str, call_id: int, plugin: str, operation: str, **fields: Any) -> str:
    ((to, what),) = brief(world.call(label, call_id, "hpc", plugin=plugin, operation=operation, **fields))
    assert to == ("hpc" if what == "request" else label)
    return what


def test_an_endpoint_serves_its_own_user_only():
    world = world_of()
    world.connect("ada", as_=identity("ada", "client"))
    world.connect("eve", as_=identity("eve", "client"))
    world.connect("boss", as_=identity("boss", "admin"))

    assert outcome(world, "ada", 1, "left", "submit") == "request"
    assert outcome(world, "eve", 1, "left", "look") == "not-permitted"
    assert outcome(world, "eve", 2, "", "replay") == "not-permitted"
    assert outcome(world, "boss", 1, "left", "look") == "not-permitted"


@pytest.mark.parametrize(
    ("share", "allowed"),
    [
        ({"eve": {"plugins": ["sysinfo"]}}, {("sysinfo", "look"), ("sysinfo", "change")}),
        ({"eve": {"plugins": ["jobs"], "rights": ["read"]}}, {("left", "look")}),
        ({"eve": {"plugins": ["le*"], "rights": ["run"]}}, {("left", "submit"), ("left", "odd"), ("left", "new")}),
        ({"*": {"plugins": ["*"], "rights": ["read"]}}, {("sysinfo", "look"), ("left", "look")}),
        (
            {"*": {"plugins": ["sysinfo"], "rights": ["read"]}, "eve": {"plugins": ["*"], "rights": ["write"]}},
            {("sysinfo", "look"), ("sysinfo", "change"), ("left", "change")},
        ),
        ({"bob": {"plugins": ["*"]}}, set()),
    ],
)
def test_what_is_shared_is_allowed_and_nothing_else(share, allowed):
    world = world_of(share)
    world.connect("eve", as_=identity("eve", "client"))
    calls = [(plugin, name) for plugin in PLUGINS for name in ("look", "change", "submit", "odd", "new")]

    found = {call for number, call in enumerate(calls, 1) if outcome(world, "eve", number, *call) == "request"}

    assert found == allowed


def test_the_rights_of_a_key_hold_at_ones_own_endpoint_too():
    world = world_of()
    world.connect("c", as_=identity("ada", "client", rights=READ))

    assert outcome(world, "c", 1, "left", "look") == "request"
    assert outcome(world, "c", 2, "left", "change") == "not-permitted"
    assert outcome(world, "c", 3, "left", "unheard-of") == "not-permitted"


def test_the_rights_at_the_endpoint_are_stamped_whatever_was_claimed():
    world = world_of({"eve": {"plugins": ["*"], "rights": ["read", "run"]}})
    world.connect("eve", as_=identity("eve", "client", rights=READ | WRITE))
    world.connect("ada", as_=identity("ada", "client"))

    (request,) = world.call("eve", 1, "hpc", plugin="left", operation="look", rights=ALL_RIGHTS)
    assert request.header.rights == READ
    (request,) = world.call("ada", 1, "hpc", plugin="left", operation="look", rights=0)
    assert request.header.rights == READ | WRITE | RUN


def test_a_call_that_depends_on_a_catalogue_waits_for_it():
    world = world_of(with_catalogue=False)
    world.connect("c", as_=identity("ada", "client", rights=READ))
    world.connect("d", as_=identity("ada", "client"))

    assert brief(world.call("d", 1, "hpc", plugin="left", operation="look")) == [("hpc", "request")]
    assert world.call("c", 1, "hpc", plugin="left", operation="look") == []
    assert world.call("c", 2, "hpc", plugin="left", operation="submit") == []
    assert sorted(brief(world.say("hpc", Kind.UPDATE, {"catalogue_body": CATALOGUE}))) == [
        ("c", "not-permitted"),
        ("hpc", "request"),
    ]


def test_what_is_no_catalogue_makes_every_operation_run_code():
    for junk in (b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"p": 1}), msgpack.packb({"p": {"operations": [{}]}})):
        assert permissions.read_effects(junk) == {}
    assert permissions.read_effects(CATALOGUE)["left", "odd"] == RUN


def test_a_session_of_another_user_is_not_found_before_the_endpoint_hears_of_it():
    world = world_of({"eve": {"plugins": ["*"], "rights": ["read", "write", "run"]}})
    world.connect("eve", as_=identity("eve", "client"))
    world.say("hpc", Kind.UPDATE, {"opened": [{"id": "s.1", "plugin": "left", "user": "ada", "lifetime": "ttl"}]})

    assert outcome(world, "eve", 1, "left", "look", session="s.1") == "not-found"
    assert outcome(world, "eve", 2, "left", "look", session="s.2") == "request"


def test_what_changes_counts_for_the_next_call():
    world = world_of({"eve": {"plugins": ["*"], "rights": ["read"]}})
    world.connect("eve", as_=identity("eve", "client"))
    assert outcome(world, "eve", 1, "left", "look") == "request"

    world.say("hpc", Kind.UPDATE, {"share": {}})
    assert outcome(world, "eve", 2, "left", "look") == "not-permitted"
    world.say("hpc", Kind.UPDATE, {"share": {"eve": {"plugins": ["left"], "rights": ["read"]}}})
    assert outcome(world, "eve", 3, "left", "look") == "request"

    known = {peer.identity.user_id: peer.identity for peer in world.state.participants.values()}
    known["key of eve"] = identity("eve", "client", rights=WRITE)
    admission.on_keys_changed(world.state, world.out, known.get, world.now)
    assert outcome(world, "eve", 4, "left", "look") == "not-permitted"


def test_answers_are_remembered_for_each_user_that_a_gateway_acts_for():
    world = world_of({"eve": {"plugins": ["sysinfo"]}})
    world.connect("g", "gateway", as_=identity("web", "gateway", may_act_for=True))

    assert outcome(world, "g", 1, "left", "look", on_behalf_of="ada") == "request"
    assert outcome(world, "g", 2, "left", "look", on_behalf_of="eve") == "not-permitted"
    assert outcome(world, "g", 3, "sysinfo", "look", on_behalf_of="eve") == "request"
    assert outcome(world, "g", 4, "sysinfo", "look") == "not-permitted"


def test_a_refusal_is_audited_with_both_users():
    world = world_of()
    world.connect("g", "gateway", as_=identity("web", "gateway", may_act_for=True, key_name="web"))
    world.call("g", 1, "hpc", plugin="left", operation="look", on_behalf_of="eve")

    (record,) = world.out.audits
    assert {name: record[name] for name in ("key", "user", "on_behalf_of", "what", "endpoint", "plugin", "result")} == {
        "key": "web",
        "user": "web",
        "on_behalf_of": "eve",
        "what": "look",
        "endpoint": "hpc",
        "plugin": "left",
        "result": "not-permitted",
    }


@pytest.mark.parametrize(
    "share",
    [["eve"], {"eve": ["*"]}, {"eve": {"plugins": "*"}}, {"eve": {"plugins": ["*"], "rights": ["fly"]}}, {"": {"plugins": []}}],
)
def test_a_share_that_is_none_is_refused_and_named(share):
    world = World()
    (error,) = world.connect("hpc", "endpoint", share=share)

    assert (error.code, error.value["details"]) == ("invalid-argument", {"field": "share"})


def test_a_share_is_shown_to_the_user_of_the_endpoint_alone():
    world = world_of({"eve": {"plugins": ["sysinfo"], "rights": ["read"]}})
    for label in ("ada", "eve"):
        world.connect(label, as_=identity(label, "client"))
    (own,) = world.call("ada", 1, "broker", {"endpoint": "hpc"}, operation="resolve", plugin="")
    (other,) = world.call("eve", 1, "broker", {"endpoint": "hpc"}, operation="resolve", plugin="")

    assert own.value["share"] == {"eve": {"plugins": ["sysinfo"], "rights": ["read"]}}
    assert (other.value["user"], "share" in other.value) == ("ada", False)


def test_one_key_does_not_take_all_calls_of_the_broker(monkeypatch):
    monkeypatch.setattr("orbit_broker.routing.FLIGHTS_OF_A_KEY", 2)
    world = world_of()
    world.connect("c", as_=identity("ada", "client"))
    world.connect("d", as_=identity("ada", "client"))

    assert outcome(world, "c", 1, "left", "look") == "request"
    assert outcome(world, "d", 1, "left", "look") == "request"
    assert outcome(world, "c", 2, "left", "look") == "busy"
    assert FLIGHTS_OF_A_KEY < 65_536


def test_one_key_does_not_take_all_places(monkeypatch):
    monkeypatch.setattr("orbit_broker.admission.PARTICIPANTS_OF_A_KEY", 2)
    world = World()

    found = [brief(world.connect(label, as_=identity("ada", "client")))[0][1] for label in "abc"]

    assert found == ["welcome", "welcome", "busy"]
    assert brief(world.connect("d", as_=identity("eve", "client"))) == [("d", "welcome")]

"""The broker's rules for events: who may say and who may hear what, numbers, tips, keys, and the topology."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from orbit_broker import admission
from orbit_zmq.wire.header import FINAL, Header, Kind, decode_header
from orbit_zmq.wire.seal import Opener
from tests.unit.broker.world import EPOCH, World, brief, identity


@pytest.fixture
def world() -> World:
    made = World()
    made.connect("hpc", "endpoint", host={"role": "login"}, plugins={"p": {"plugin": "p", "version": "1"}})
    made.connect("c")
    made.pass_time(1.0)
    made.out.publications.clear()
    return made


def opened(world: World, audience: str) -> list[tuple[Header, Any]]:
    """What has been published to an audience since the last look."""
    known = world.state.audiences.by_name[audience]
    found = []
    for topic, mark, sealed in world.out.publications:
        if topic.startswith(known.tag.encode()):
            header, body = Opener(known.key).open(topic, mark, sealed)
            found.append((decode_header(header), msgpack.unpackb(body) if body else None))
    world.out.publications.clear()
    return found


def say(world: World, number: int, label: str = "hpc", **fields: Any) -> None:
    given = {"id": number, "audience": "ada", "operation": "news", "plugin": "p", **fields}
    world.say(label, Kind.EVENT, {"n": number}, **given)


def test_an_event_is_stamped_sealed_and_published(world: World) -> None:
    say(world, 1, source="liar", user="eve")
    ((header, body),) = opened(world, "ada")

    assert (header.source, header.target, header.user, header.id, header.operation) == (
        "hpc",
        world.incarnations["hpc"],
        "",
        1,
        "news",
    )
    assert body == {"n": 1}


@pytest.mark.parametrize("fields", [{"audience": "eve"}, {"audience": "all"}, {"audience": ""}, {"operation": ""}])
def test_what_an_endpoint_may_not_say_is_refused_and_counted(world: World, fields: dict[str, Any]) -> None:
    say(world, 1, **fields)

    assert world.out.publications == [] and world.state.counters.drops["refused-event"] == 1


def test_several_events_in_a_message_are_passed_on_as_they_are(world: World) -> None:
    say(world, 1, up_to=5, operation="")
    say(world, 5)
    say(world, 9, up_to=8)
    say(world, 6)
    first, second = opened(world, "ada")

    assert (first[0].id, first[0].up_to, second[0].id) == (1, 5, 6)
    assert world.state.counters.drops == {"old-event": 1, "refused-event": 1} and world.state.counters.events == 6


def test_clients_say_no_events_and_old_numbers_are_refused(world: World) -> None:
    say(world, 1, label="c")
    say(world, 2)
    say(world, 2)
    say(world, 1)

    assert [header.id for header, _ in opened(world, "ada")] == [2]
    assert world.state.counters.drops == {"refused-event": 1, "old-event": 2}


def test_an_endpoint_tells_events_to_users_whom_it_serves_once_they_have_called_it(world: World) -> None:
    world.connect("bob", as_=identity("bob", "client"))
    world.say("hpc", Kind.UPDATE, {"share": {"bob": {"plugins": ["*"], "rights": ["run"]}}})
    say(world, 1, audience="bob")
    assert world.out.publications == []
    world.call("bob", 1, "hpc")
    say(world, 1, audience="bob")
    assert len(opened(world, "bob")) == 1

    world.say("hpc", Kind.UPDATE, {"share": {}})
    say(world, 2, audience="bob")
    assert world.out.publications == []
    assert world.state.counters.drops["refused-event"] == 2


def test_a_call_that_is_refused_makes_nobody_an_audience(world: World) -> None:
    world.connect("bob", as_=identity("bob", "client"))
    assert brief(world.call("bob", 1, "hpc")) == [("bob", "not-permitted")]
    assert brief(world.call("bob", 2, "hpc", operation="replay", plugin="")) == [("bob", "not-permitted")]
    say(world, 1, audience="bob")
    assert world.out.publications == []


def test_tips_are_told_to_those_who_hear_and_to_nobody_else(world: World) -> None:
    say(world, 3)
    (answer,) = world.say("c", Kind.HEARTBEAT, {"tips": 0, "replayed": 2, "missed": 1})
    ada = [entry for entry in answer.value["streams"] if entry[0] == "ada"]
    assert ada == [["ada", "hpc", world.incarnations["hpc"], 0, 3]]
    (again,) = world.say("c", Kind.HEARTBEAT, {"tips": answer.value["version"]})
    assert again.value["streams"] == []
    world.connect("bob", as_=identity("bob", "client"))
    (other,) = world.say("bob", Kind.HEARTBEAT, {"tips": 0})
    assert {entry[0] for entry in other.value["streams"]} == {"all"}
    opened(world, "ada")
    world.say("hpc", Kind.TIP, {"ada": 5, "eve": 1})
    ((tip, _),) = opened(world, "ada")
    assert (tip.kind, tip.id) == (Kind.TIP, 5)


def test_keys_of_others_are_not_given(world: World) -> None:
    world.connect("bob", as_=identity("bob", "client"))
    (refused,) = world.call("bob", 1, "broker", {"audiences": ["ada"]}, operation="keys", plugin="")
    (also,) = world.call("bob", 2, "broker", {"audiences": ["ada"]}, operation="tips", plugin="")
    (own,) = world.call("bob", 3, "broker", {"audiences": ["bob", "all"]}, operation="keys", plugin="")

    assert (refused.code, also.code) == ("not-permitted", "not-permitted") and own.value.keys() == {"bob", "all"}


def test_a_key_is_replaced_when_one_of_its_holders_goes_and_those_who_stay_are_told(world: World) -> None:
    guest = identity("ada", "client", user_id="guest")
    world.connect("guest", as_=guest)
    world.say("guest", Kind.BYE, flags=FINAL)  # it is gone, and may still listen
    before = world.state.audiences.by_name["ada"].key
    known = {peer.identity.user_id: peer.identity for peer in world.state.participants.values()}
    admission.on_keys_changed(world.state, world.out, known.get, world.now)
    told = world.pass_time(0.3)

    assert world.state.audiences.by_name["ada"].key != before
    assert ("c", "keys") in brief(told) and all(message.to != "guest" for message in told)


def test_changes_among_endpoints_are_gathered_and_a_lost_one_is_told_once(world: World) -> None:
    for number in range(20):
        world.connect(f"n{number}", "endpoint")
    world.say("hpc", Kind.BYE, flags=64)
    world.pass_time(0.15)
    ((header, body),) = [entry for entry in opened(world, "all") if entry[0].kind == Kind.EVENT]
    names = [name for name, _ in body["changes"]]
    (view,) = world.call("c", 9, "broker", operation="topology", plugin="")

    assert (
        header.source == "broker" and header.target == EPOCH and sorted(names) == sorted(["hpc", *(f"n{n}" for n in range(20))])
    )
    assert dict(body["changes"])["hpc"] == {"role": "login", "state": "lost", "plugins": ["p"]}
    assert view.value["number"] == header.id and "hpc" not in view.value["endpoints"]


def test_the_broker_alone_sends_keys(world: World) -> None:
    assert brief(world.say("c", Kind.KEYS, id=1)) == [("c", "protocol-error")]

"""Who is there: broken connections, silence, bye, busy, and what that does to calls."""

from __future__ import annotations

from orbit_zmq.wire.header import FINAL, PROBE, RESENT, Kind
from tests.unit.broker.world import World, brief


def made() -> World:
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("c")
    return world


def stay(world: World, seconds: float, *labels: str) -> list[tuple[str, str]]:
    """Time goes by while these peers send heartbeats."""
    sent = []
    for _ in range(round(seconds)):
        for label in labels:
            sent += world.say(label, Kind.HEARTBEAT)
        sent += world.pass_time(1.0)
    return brief(sent)


def test_calls_of_an_endpoint_whose_connection_broke_end_three_seconds_later():
    world = made()
    world.call("c", 1, "hpc")
    world.pass_time(1.0)

    assert world.cut("hpc") == []
    assert world.pass_time(2.9) == []
    (error,) = world.pass_time(0.2)

    assert (error.to, error.code, error.header.id) == ("c", "outcome-unknown", 1)
    assert "hpc" not in world.state.endpoints


def test_a_broken_connection_is_found_by_probing_when_calls_are_open():
    world = made()
    world.call("c", 1, "hpc")
    world.cut("hpc", notice=False)

    world.pass_time(0.6)

    assert not world.participant("hpc").routing_id


def test_a_broken_connection_is_found_by_the_heartbeat_when_no_calls_are_open():
    world = made()
    world.cut("hpc", notice=False)

    world.pass_time(0.6)
    assert world.participant("hpc").routing_id
    world.pass_time(2.0)
    assert not world.participant("hpc").routing_id


def test_requests_to_an_endpoint_that_is_away_wait_for_it_and_go_after_welcome():
    world = made()
    world.call("c", 1, "hpc")
    world.cut("hpc")

    assert world.call("c", 2, "hpc") == []
    sent = world.connect("hpc", "endpoint")

    assert brief(sent) in (
        [("hpc", "welcome"), ("hpc", "request"), ("c", "resend")],
        [("c", "resend"), ("hpc", "welcome"), ("hpc", "request")],
    )
    resend = next(message for message in sent if message.kind == Kind.RESEND)
    assert (resend.header.endpoint, resend.header.target) == ("hpc", world.incarnations["hpc"])
    request = next(message for message in sent if message.kind == Kind.REQUEST)
    assert request.header.id == 2
    assert brief(world.call("c", 1, "hpc", flags=RESENT)) == [("hpc", "request")]


def test_what_was_never_handed_over_ends_as_endpoint_lost():
    world = made()
    world.call("c", 1, "hpc")
    world.cut("hpc")
    world.call("c", 2, "hpc")
    world.call("c", 3, "hpc", flags=RESENT)

    ended = {message.header.id: message.code for message in world.pass_time(3.2)}

    assert ended == {1: "outcome-unknown", 2: "endpoint-lost", 3: "outcome-unknown"}


def test_a_silent_endpoint_is_suspect_after_ten_seconds_and_lost_after_thirty():
    world = made()
    world.call("c", 1, "hpc", left_s=100.0)

    assert stay(world, 11, "c") == []
    assert world.call("c", 2, "hpc", left_s=100.0) == []
    assert stay(world, 18, "c") == []
    assert sorted(stay(world, 2, "c")) == [("c", "endpoint-lost"), ("c", "outcome-unknown")]
    assert "hpc" not in world.state.endpoints and world.state.flights == {}


def test_a_suspect_that_is_heard_again_gets_what_waited():
    world = made()
    stay(world, 12, "c")
    assert world.call("c", 1, "hpc") == []

    assert brief(world.say("hpc", Kind.HEARTBEAT)) == [("hpc", "request")]


def test_a_connection_that_breaks_after_silence_leaves_the_full_time():
    world = made()
    stay(world, 12, "c")
    world.cut("hpc")

    stay(world, 16, "c")
    assert "hpc" in world.state.endpoints
    stay(world, 3, "c")
    assert "hpc" not in world.state.endpoints


def test_a_lost_endpoint_that_speaks_again_is_asked_who_it_is_and_comes_back():
    world = made()
    stay(world, 31, "c")

    assert brief(world.say("hpc", Kind.HEARTBEAT)) == [("hpc", "who_are_you")]
    assert brief(world.hello("hpc", "endpoint")) == [("hpc", "welcome")]
    assert brief(world.call("c", 1, "hpc")) == [("hpc", "request")]


def test_bye_for_good_loses_at_once_and_bye_for_now_gives_time():
    world = made()
    world.connect("two", "endpoint")
    world.call("c", 1, "hpc")
    world.call("c", 2, "two")

    assert brief(world.say("hpc", Kind.BYE, flags=FINAL)) == [("c", "outcome-unknown")]
    assert world.say("two", Kind.BYE) == []
    assert stay(world, 20, "c") == []
    assert brief(world.connect("two", "endpoint")) in (
        [("two", "welcome"), ("c", "resend")],
        [("c", "resend"), ("two", "welcome")],
    )


def test_a_client_that_leaves_for_good_cancels_its_calls_and_one_that_breaks_does_not():
    world = made()
    world.connect("d")
    world.call("c", 1, "hpc")
    world.call("d", 1, "hpc", left_s=300.0)

    (cancel,) = world.say("c", Kind.BYE, flags=FINAL)
    assert (cancel.to, cancel.kind, cancel.header.caller) == ("hpc", Kind.CANCEL, world.incarnations["c"])

    world.cut("d")
    assert stay(world, 32, "hpc") == []
    assert [peer.name for peer in world.state.participants.values()] == ["hpc"]
    assert world.state.flights == {}


def test_an_endpoint_whose_work_loop_hangs_is_busy_and_not_lost():
    world = made()
    world.say("hpc", Kind.HEARTBEAT, {"loop_age_s": 6.0, "load": {"running": 3}})
    (reply,) = world.call("c", 1, "broker", {"endpoint": "hpc"}, operation="resolve")
    assert reply.value["state"] == "busy"

    assert brief(world.call("c", 2, "hpc")) == [("hpc", "request")]
    world.say("hpc", Kind.HEARTBEAT, {"loop_age_s": 0.1})
    (reply,) = world.call("c", 3, "broker", {"endpoint": "hpc"}, operation="resolve")
    assert reply.value["state"] == "present"


def test_a_probe_is_answered_with_a_heartbeat_and_strange_heartbeats_do_no_harm():
    world = made()
    before = world.state.counters.messages_in
    peer = world.participant("c")
    peer.outbox.clear()
    world.stuck.add("c")

    world.say("c", Kind.HEARTBEAT, flags=PROBE)
    assert len(peer.outbox) == 1
    for body in (b"\xc1", [1], {"loop_age_s": "old", "load": 7}, {"loop_age_s": -1}):
        world.say("c", Kind.HEARTBEAT, body)

    assert world.state.counters.messages_in == before + 5
    assert (peer.loop_age_s, peer.load) == (0.0, {})


def test_a_peer_that_takes_nothing_does_not_fill_its_queue_with_heartbeats():
    world = made()
    world.stuck.add("c")

    stay(world, 20, "c")

    assert len(world.participant("c").outbox) == 1


def test_only_endpoints_send_updates_and_a_wrong_one_changes_nothing():
    world = made()

    assert brief(world.say("c", Kind.UPDATE, {"load": {}})) == [("c", "not-permitted")]
    wrong = {"opened": [{"id": "s"}], "catalogue_body": b"x", "catalogue": b"h" * 32}
    assert brief(world.say("hpc", Kind.UPDATE, wrong)) == [("hpc", "protocol-error")]
    assert world.state.sessions == {} and world.state.catalogues == {}

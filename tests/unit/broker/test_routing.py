"""Requests and answers: stamping, targets, windows, cancel, deadlines, resending, and full queues."""

from __future__ import annotations

import pytest

from orbit_zmq.rules.outbox import Outbox
from orbit_zmq.wire.header import ADMIN, ALL_RIGHTS, IDEMPOTENT, RESENT, Header, Kind, encode_header
from tests.unit.broker.world import World, brief, identity, incarnation


@pytest.fixture
def world() -> World:
    made = World()
    made.connect("hpc", "endpoint", plugins={"test": {"plugin": "echo", "version": "1"}})
    made.connect("c")
    return made


def test_a_request_goes_to_its_endpoint_with_source_user_and_caller_stamped(world):
    (request,) = world.call(
        "c", 1, "hpc", b"body", source="root", user="root", caller=b"x" * 16, plugin="test", session="s.1", trace="00-1"
    )

    assert (request.to, request.kind, request.body) == ("hpc", Kind.REQUEST, b"body")
    header = request.header
    assert header.source == world.participant("c").name
    assert (header.user, header.caller) == ("ada", world.incarnations["c"])
    assert (header.endpoint, header.target) == ("hpc", world.incarnations["hpc"])
    assert (header.plugin, header.session, header.operation, header.trace) == ("test", "s.1", "echo", "00-1")
    assert header.left_s == pytest.approx(30.0)


def test_unknown_fields_are_passed_on(world):
    header = Header(Kind.REQUEST, id=1, endpoint="hpc", operation="o", left_s=1.0, extra={"zz": [1]})

    (request,) = world.raw("c", [encode_header(header), b""])

    assert request.header.extra == {"zz": [1]}


def test_the_reply_goes_to_the_caller_and_the_call_is_forgotten(world):
    world.call("c", 1, "hpc")

    (reply,) = world.answer("hpc", "c", 1, body=b"result")

    assert (reply.to, reply.kind, reply.body) == ("c", Kind.REPLY, b"result")
    assert (reply.header.id, reply.header.source, reply.header.caller) == (1, "hpc", b"")
    assert world.state.flights == {}
    assert world.answer("hpc", "c", 1) == []
    assert world.state.counters.drops == {"late-answer": 1}


def test_an_error_ends_the_call_as_well(world):
    world.call("c", 1, "hpc")

    assert brief(world.answer("hpc", "c", 1, Kind.ERROR, {"code": "conflict"})) == [("c", "conflict")]
    assert world.state.flights == {}


def test_answers_count_only_from_the_endpoint_that_has_the_call(world):
    world.connect("evil", "endpoint")
    world.call("c", 1, "hpc")

    assert world.answer("evil", "c", 1) == []
    assert world.answer("hpc", "c", 1, target=b"o" * 16) == []
    assert world.answer("hpc", "c", 2) == []
    assert world.state.counters.drops == {"late-answer": 3}
    assert len(world.state.flights) == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"endpoint": "nobody"}, "not-found"),
        ({"endpoint": "nobody", "target": b"t" * 16}, "endpoint-lost"),
        ({"endpoint": "nobody", "target": b"t" * 16, "flags": RESENT}, "outcome-unknown"),
        ({"endpoint": "nobody", "target": b"t" * 16, "flags": RESENT | IDEMPOTENT}, "endpoint-lost"),
        ({"endpoint": "*"}, "invalid-argument"),
        ({"endpoint": ""}, "invalid-argument"),
        ({"endpoint": "", "session": "s.unknown"}, "not-found"),
        ({"endpoint": "hpc", "target": b"t" * 16}, "endpoint-lost"),
        ({"endpoint": "hpc", "target": b"t" * 16, "flags": RESENT}, "outcome-unknown"),
        ({"endpoint": "hpc", "target": b"t" * 16, "flags": RESENT | IDEMPOTENT}, "endpoint-lost"),
        ({"endpoint": "hpc", "left_s": 0.0}, "protocol-error"),
        ({"endpoint": "hpc", "call_id": 0}, "protocol-error"),
        ({"endpoint": "hpc", "on_behalf_of": "eve"}, "not-permitted"),
        ({"endpoint": "hpc", "body": b"x" * 65_537}, "too-large"),
    ],
)
def test_a_request_that_cannot_be_passed_on_is_answered(world, fields, code):
    given = {"call_id": 9, **fields}

    (error,) = world.call("c", **given)

    assert (error.to, error.code, error.header.id) == ("c", code, given["call_id"])
    assert world.state.flights == {}
    if fields.get("endpoint") == "hpc" and "target" in fields:
        assert error.value["details"]["incarnation"] == world.incarnations["hpc"]


def test_a_gateway_and_a_key_with_the_right_may_act_for_others():
    world = World()
    world.connect("hpc", "endpoint")
    world.say("hpc", Kind.UPDATE, {"share": {"eve": {"plugins": ["*"], "rights": ["run"]}}})
    world.connect("g", "gateway", as_=identity("web", "gateway", may_act_for=True))
    world.connect("k", as_=identity("bob", "client", may_act_for=True))

    for label in ("g", "k"):
        (request,) = world.call(label, 1, "hpc", on_behalf_of="eve")
        assert (request.header.user, request.header.on_behalf_of) == ("eve", "eve")


def test_only_the_broker_says_who_is_an_admin():
    world = World()
    world.connect("hpc", "endpoint", as_=identity(may_act_for=True))
    world.connect("g", "gateway")
    world.connect("a", "admin")
    world.connect("c", "client")
    world.connect("b", as_=identity("bob", "client"))

    for label, is_admin in (("a", True), ("c", True), ("b", False), ("g", False), ("hpc", False)):
        for call_id, claimed in ((1, 0), (2, ADMIN | ALL_RIGHTS)):
            (request,) = world.call(label, call_id, "hpc", flags=claimed)
            assert bool(request.header.rights & ADMIN) is is_admin, label
    (request,) = world.call("g", 3, "hpc", on_behalf_of="bob", rights=ADMIN)
    assert not request.header.rights & ADMIN


def test_a_key_reaches_only_what_it_may():
    world = World()
    world.connect("hpc", "endpoint")
    limited = identity("ada", "client", may_reach=lambda endpoint, plugin: plugin == "sysinfo")
    world.connect("c", as_=limited)

    assert brief(world.call("c", 1, "hpc", plugin="rhapsody")) == [("c", "not-permitted")]
    assert brief(world.call("c", 2, "hpc", plugin="sysinfo")) == [("hpc", "request")]


def test_a_bare_session_id_finds_its_endpoint(world):
    world.say("hpc", Kind.UPDATE, {"opened": [{"id": "session.1", "plugin": "test", "user": "ada", "lifetime": "ttl"}]})

    (request,) = world.call("c", 1, "", session="session.1")
    assert (request.to, request.header.endpoint) == ("hpc", "hpc")

    world.say("hpc", Kind.UPDATE, {"closed": ["session.1"]})
    assert brief(world.call("c", 2, "", session="session.1")) == [("c", "not-found")]


def test_a_session_of_another_user_is_not_found_and_one_known_twice_is_a_conflict(world):
    def session(user):
        return {"id": "s", "plugin": "test", "user": user, "lifetime": "ttl"}

    world.connect("two", "endpoint", sessions=[session("eve")])
    assert brief(world.call("c", 1, "", session="s")) == [("c", "not-found")]

    world.say("two", Kind.UPDATE, {"opened": [session("ada")]})
    world.say("hpc", Kind.UPDATE, {"opened": [session("ada")]})
    (error,) = world.call("c", 2, "", session="s")
    assert error.code == "conflict"
    assert error.value["details"] == {"endpoints": ["hpc", "two"]}


def test_cancel_reaches_the_endpoint_and_ends_the_call(world):
    world.call("c", 1, "hpc")

    (cancel,) = world.say("c", Kind.CANCEL, b"why", id=1)

    assert cancel.body == b"why"
    assert (cancel.to, cancel.kind, cancel.header.id, cancel.header.caller) == ("hpc", Kind.CANCEL, 1, world.incarnations["c"])
    assert world.state.flights == {}
    assert world.say("c", Kind.CANCEL, id=1) == []


def test_a_cancel_with_more_than_a_reason_is_a_cancel_without_one(world):
    world.call("c", 1, "hpc")
    (cancel,) = world.say("c", Kind.CANCEL, bytes(8_193), id=1)
    assert (cancel.kind, cancel.body) == (Kind.CANCEL, b"")


def test_nobody_cancels_calls_of_others(world):
    world.connect("d")
    world.call("c", 1, "hpc")

    assert world.say("d", Kind.CANCEL, id=1, caller=world.incarnations["c"]) == []
    assert len(world.state.flights) == 1


def test_a_call_past_its_deadline_ends_at_both_sides(world):
    world.call("c", 1, "hpc", left_s=2.0)
    world.pass_time(1.9)

    assert sorted(brief(world.pass_time(0.2))) == [("c", "deadline-exceeded"), ("hpc", "cancel")]
    assert world.state.flights == {}


def test_open_calls_are_bounded_for_each_caller_and_endpoint_and_idempotent_ones_apart():
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("two", "endpoint")
    world.connect("c", limits={"open_calls": 2})

    for call_id in (1, 2):
        assert brief(world.call("c", call_id, "hpc")) == [("hpc", "request")]
    assert brief(world.call("c", 3, "hpc")) == [("c", "busy")]
    assert brief(world.call("c", 4, "hpc", flags=IDEMPOTENT)) == [("hpc", "request")]
    assert brief(world.call("c", 5, "two")) == [("two", "request")]
    world.answer("hpc", "c", 1)
    assert brief(world.call("c", 6, "hpc")) == [("hpc", "request")]


def test_open_calls_are_bounded_in_all(world, monkeypatch):
    monkeypatch.setattr("orbit_broker.routing.FLIGHTS", 1)
    world.call("c", 1, "hpc")

    assert brief(world.call("c", 2, "hpc")) == [("c", "busy")]


def test_a_request_said_again_is_passed_on_as_resent_and_keeps_one_flight(world):
    world.call("c", 1, "hpc")

    (again,) = world.call("c", 1, "hpc")

    assert again.header.flags & RESENT
    assert len(world.state.flights) == 1
    assert brief(world.answer("hpc", "c", 1)) == [("c", "reply")]
    assert world.answer("hpc", "c", 1) == []


def test_a_resent_request_makes_the_flight_anew_after_its_reply_was_lost(world):
    world.call("c", 1, "hpc")
    world.answer("hpc", "c", 1)

    assert brief(world.call("c", 1, "hpc", flags=RESENT, target=world.incarnations["hpc"])) == [("hpc", "request")]
    assert brief(world.answer("hpc", "c", 1)) == [("c", "reply")]


def test_a_reply_for_a_full_queue_is_dropped_and_asked_for_again_when_it_has_drained(world):
    world.participant("c").outbox = Outbox(max_messages=1, budget=world.state.queued)
    world.stuck.add("c")
    for call_id in (1, 2):
        world.call("c", call_id, "hpc")
        world.answer("hpc", "c", call_id)

    assert world.state.counters.drops == {"queue-full": 1}
    assert brief(world.unstick("c")) == [("c", "reply"), ("c", "resend")]
    assert brief(world.call("c", 2, "hpc", flags=RESENT)) == [("hpc", "request")]
    assert brief(world.answer("hpc", "c", 2)) == [("c", "reply")]
    assert world.state.flights == {}


def test_a_full_queue_to_the_endpoint_is_busy_for_the_caller(world):
    world.participant("hpc").outbox = Outbox(max_messages=1, budget=world.state.queued)
    world.stuck.add("hpc")

    assert world.call("c", 1, "hpc") == []
    assert brief(world.call("c", 2, "hpc")) == [("c", "busy")]
    assert brief(world.unstick("hpc")) == [("hpc", "request")]


def test_what_waited_in_a_queue_has_less_time_left_and_is_not_sent_after_its_end(world):
    world.stuck.add("hpc")
    world.call("c", 1, "hpc", left_s=5.0)
    world.call("c", 2, "hpc", left_s=5.0)
    world.pass_time(1.0)
    world.say("c", Kind.CANCEL, id=2)

    (request,) = world.unstick("hpc")

    assert request.header.id == 1
    assert request.header.left_s == pytest.approx(4.0, abs=0.11)


def test_a_reply_for_a_caller_that_is_away_is_dropped_and_sent_again_when_asked(world):
    world.call("c", 1, "hpc")
    world.cut("c")

    assert world.answer("hpc", "c", 1) == []
    assert world.state.counters.drops == {"caller-away": 1}
    world.connect("c")
    assert brief(world.call("c", 1, "hpc", flags=RESENT)) == [("hpc", "request")]
    assert brief(world.answer("hpc", "c", 1)) == [("c", "reply")]


def test_a_header_that_grows_past_its_limit_is_refused(world):
    header = Header(Kind.REQUEST, id=1, endpoint="hpc", operation="o", left_s=1.0, extra={"zz": "x" * 4040})

    assert brief(world.raw("c", [encode_header(header), b""])) == [("c", "invalid-argument")]
    assert world.state.flights == {}


def test_an_endpoint_may_call_itself(world):
    world.call("hpc", 1, "hpc")

    (reply,) = world.answer("hpc", "hpc", 1)

    assert (reply.to, reply.kind) == ("hpc", Kind.REPLY)
    assert world.state.flights == {}


def test_requests_of_callers_that_are_back_before_their_endpoint_wait_for_it():
    world = World(settle_s=10.0)
    world.connect("c")
    known = incarnation("hpc")

    assert world.call("c", 1, "hpc", target=known, flags=RESENT) == []
    assert world.call("c", 2, "hpc", target=known) == []
    assert brief(world.call("c", 3, "hpc")) == [("c", "not-found")]
    world.pass_time(2.0)

    sent = world.connect("hpc", "endpoint")

    assert brief(sent) == [("hpc", "welcome"), ("hpc", "request"), ("hpc", "request")]
    assert sent[1].header.left_s == pytest.approx(28.0, abs=0.1)
    assert world.state.held == {} and world.state.held_bytes == 0


def test_requests_for_an_endpoint_that_does_not_come_back_end_when_the_broker_has_settled():
    world = World(settle_s=10.0)
    world.connect("c")
    for call_id, flags in ((1, RESENT), (2, RESENT | IDEMPOTENT), (3, 0)):
        world.call("c", call_id, "hpc", b"body", target=incarnation("hpc"), flags=flags)
    world.call("c", 4, "hpc", target=incarnation("hpc"), left_s=1.0)
    world.call("c", 5, "hpc", target=incarnation("hpc"))
    world.say("c", Kind.CANCEL, id=5)

    assert brief(world.pass_time(1.2)) == [("c", "deadline-exceeded")]
    assert brief(world.pass_time(9.0)) == [("c", "outcome-unknown"), ("c", "endpoint-lost"), ("c", "endpoint-lost")]
    assert world.state.held_bytes == 0


def test_a_held_request_that_is_said_again_is_held_once():
    world = World(settle_s=10.0)
    world.connect("c")
    world.call("c", 1, "hpc", b"12345", target=incarnation("hpc"))
    world.cut("c")
    world.connect("c")
    world.call("c", 1, "hpc", b"12345", target=incarnation("hpc"), flags=RESENT)

    assert (len(world.state.held), world.state.held_bytes) == (1, 5)
    world.say("c", Kind.BYE, flags=64)
    assert world.state.held_bytes == 0


@pytest.mark.parametrize("kind", [Kind.WELCOME, Kind.WHO_ARE_YOU, Kind.RESEND])
def test_what_only_the_broker_says_is_refused(world, kind):
    assert brief(world.say("c", kind)) == [("c", "protocol-error")]


@pytest.mark.parametrize("kind", [99, 999])
def test_an_unknown_kind_is_unsupported_and_the_connection_stays(world, kind):
    (error,) = world.say("c", kind, id=4)

    assert (error.code, error.header.id) == ("unsupported", 4)
    assert brief(world.call("c", 1, "hpc")) == [("hpc", "request")]


@pytest.mark.parametrize("frames", [[], [b""], [b"\x80"], [b"\xc1", b""], [b"", b""], [b"\x80", b"", b""], [b"x" * 5000, b""]])
def test_what_is_no_message_is_dropped_and_counted(world, frames):
    assert world.raw("c", frames) == []
    assert sum(world.state.counters.drops.values()) == 1
    assert brief(world.call("c", 1, "hpc")) == [("hpc", "request")]

"""Chunks and credits between caller and endpoint, and large answers of the broker itself."""

from __future__ import annotations

import hashlib

from orbit_zmq.wire.header import IDEMPOTENT, LAST, RAW, RESENT, REWIND, STREAM, STREAMED, Channel, Header, Kind
from tests.unit.broker.world import Sent, World, brief


def made() -> World:
    world = World()
    world.connect("hpc", "endpoint")
    world.connect("c")
    return world


def test_chunks_of_the_arguments_flow_one_way_and_credits_the_other():
    world = made()
    world.call("c", 1, "hpc", flags=STREAMED)

    (chunk,) = world.say("c", Kind.CHUNK, b"data", id=1, channel=Channel.ARGUMENTS, chunk=0, flags=RAW | LAST)
    assert (chunk.to, chunk.kind, chunk.body) == ("hpc", Kind.CHUNK, b"data")
    assert (chunk.header.caller, chunk.header.chunk, chunk.header.flags) == (world.incarnations["c"], 0, RAW | LAST)

    (credit,) = world.answer("hpc", "c", 1, Kind.CREDIT, channel=Channel.ARGUMENTS, chunk=1, up_to=9, flags=LAST)
    assert (credit.to, credit.kind, credit.header.caller) == ("c", Kind.CREDIT, b"")
    assert (credit.header.chunk, credit.header.up_to, credit.header.flags) == (1, 9, LAST)

    assert brief(world.answer("hpc", "c", 1)) == [("c", "reply")]
    assert world.say("c", Kind.CHUNK, b"late", id=1, channel=Channel.ARGUMENTS, chunk=1) == []
    assert world.answer("hpc", "c", 1, Kind.CREDIT, channel=Channel.ARGUMENTS) == []
    assert world.state.counters.drops == {"late-chunk": 1, "late-credit": 1}


def test_a_streamed_reply_lives_until_the_caller_has_all_of_it():
    world = made()
    world.call("c", 1, "hpc")

    assert brief(world.answer("hpc", "c", 1, flags=STREAM)) == [("c", "reply")]
    (chunk,) = world.answer("hpc", "c", 1, Kind.CHUNK, b"part", channel=Channel.STREAM_OUT, chunk=0, flags=RAW | LAST)
    assert (chunk.to, chunk.body, chunk.header.caller) == ("c", b"part", b"")
    assert len(world.state.flights) == 1
    sent = world.say("c", Kind.CREDIT, id=1, channel=Channel.STREAM_OUT, chunk=1, up_to=8, flags=LAST)

    assert brief(sent) == [("hpc", "credit")]
    assert world.state.flights == {}


def test_a_reply_with_a_body_in_chunks_and_a_stream_waits_for_both():
    world = made()
    world.call("c", 1, "hpc")
    world.answer("hpc", "c", 1, flags=STREAM | STREAMED)

    world.say("c", Kind.CREDIT, id=1, channel=Channel.RESULT, chunk=1, flags=LAST)
    assert len(world.state.flights) == 1
    world.say("c", Kind.CREDIT, id=1, channel=Channel.STREAM_OUT, chunk=1, flags=LAST)
    assert world.state.flights == {}


def test_an_error_after_the_reply_ends_the_stream():
    world = made()
    world.call("c", 1, "hpc")
    world.answer("hpc", "c", 1, flags=STREAM)

    assert brief(world.answer("hpc", "c", 1, Kind.ERROR, {"code": "internal"})) == [("c", "internal")]
    assert world.state.flights == {}


def test_the_deadline_of_a_call_with_chunks_bounds_silence():
    world = made()
    world.call("c", 1, "hpc", left_s=2.0, flags=STREAMED)
    for number in range(4):
        assert world.pass_time(1.5) == []
        world.say("c", Kind.CHUNK, b"x", id=1, channel=Channel.ARGUMENTS, chunk=number)
    world.pass_time(1.5)
    world.answer("hpc", "c", 1, Kind.CREDIT, channel=Channel.ARGUMENTS, chunk=4, up_to=9)
    assert world.pass_time(1.9) == []

    assert sorted(brief(world.pass_time(0.3))) == [("c", "deadline-exceeded"), ("hpc", "cancel")]


def test_chunks_and_credits_count_only_from_the_two_ends_of_a_call():
    world = made()
    world.connect("evil", "endpoint")
    world.call("c", 1, "hpc", flags=STREAMED)
    caller = world.incarnations["c"]

    assert world.say("evil", Kind.CHUNK, b"x", id=1, caller=caller, channel=Channel.ARGUMENTS) == []
    assert world.say("evil", Kind.CHUNK, b"x", id=1, caller=caller, channel=Channel.RESULT) == []
    assert world.say("evil", Kind.CREDIT, id=1, caller=caller, channel=Channel.ARGUMENTS) == []
    assert world.say("evil", Kind.CREDIT, id=1, caller=caller, channel=Channel.RESULT) == []


def test_chunks_for_an_endpoint_that_is_away_are_dropped_and_counted():
    world = made()
    world.call("c", 1, "hpc", flags=STREAMED)
    world.cut("hpc")

    assert world.say("c", Kind.CHUNK, b"x", id=1, channel=Channel.ARGUMENTS) == []
    assert world.state.counters.drops == {"receiver-away": 1}


def test_an_endpoint_may_stream_to_itself():
    world = made()
    world.call("hpc", 1, "hpc", flags=STREAMED)

    (chunk,) = world.say("hpc", Kind.CHUNK, b"x", id=1, channel=Channel.ARGUMENTS, flags=LAST)
    assert chunk.header.caller == world.incarnations["hpc"]
    (credit,) = world.answer("hpc", "hpc", 1, Kind.CREDIT, channel=Channel.ARGUMENTS, chunk=1, flags=LAST)
    assert credit.header.caller == b""


CATALOGUE = bytes(range(256)) * 2048  # 512 KiB
DIGEST = hashlib.sha256(CATALOGUE).digest()


def with_catalogue() -> World:
    world = World()
    world.connect("hpc", "endpoint", catalogue=DIGEST)
    world.say("hpc", Kind.UPDATE, {"catalogue_body": CATALOGUE})
    world.connect("c", limits={"chunk_bytes": 65_536, "credit_chunks": 2})
    return world


def describe(world: World, call_id: int = 1, **fields) -> list[Sent]:
    return world.call("c", call_id, "broker", {"catalogue": DIGEST}, operation="describe", **fields)


def credit(world: World, wanted: int, up_to: int, flags: int = 0) -> list[Sent]:
    return world.say("c", Kind.CREDIT, id=1, channel=Channel.RESULT, chunk=wanted, up_to=up_to, flags=flags)


def numbers(sent: list[Sent]) -> list[int]:
    return [message.header.chunk for message in sent if message.kind == Kind.CHUNK]


def test_a_large_answer_of_the_broker_goes_as_chunks_under_credit():
    world = with_catalogue()

    reply, *chunks = describe(world)
    assert (reply.kind, reply.header.flags, reply.body) == (Kind.REPLY, RAW | STREAMED, b"")
    assert numbers(chunks) == [0, 1]
    chunks += credit(world, 1, 5)
    chunks += credit(world, 5, 20)
    assert numbers(chunks) == list(range(8))
    assert [bool(chunk.header.flags & LAST) for chunk in chunks] == [False] * 7 + [True]
    assert b"".join(chunk.body for chunk in chunks) == CATALOGUE

    assert len(world.state.own_streams) == 1
    assert credit(world, 8, 20, LAST) == []
    assert world.state.own_streams == set() and world.state.flights == {}


def test_a_large_answer_goes_on_where_it_was_after_a_break():
    world = with_catalogue()
    describe(world)
    credit(world, 2, 4)
    world.cut("c")
    world.connect("c", limits={"chunk_bytes": 65_536, "credit_chunks": 2})

    reply, *chunks = describe(world, flags=RESENT | IDEMPOTENT, chunk=3)
    assert (reply.header.chunk, reply.header.flags) == (3, RAW | STREAMED)
    assert numbers(chunks) == [3]
    assert numbers(credit(world, 4, 8)) == [4, 5, 6, 7]


def test_a_large_answer_of_which_nothing_arrived_begins_anew():
    world = with_catalogue()
    describe(world)
    world.cut("c")
    world.connect("c", limits={"chunk_bytes": 65_536, "credit_chunks": 2})

    reply, *chunks = describe(world, flags=RESENT)
    assert reply.header.chunk == 0
    assert numbers(chunks) == [0, 1]
    assert len(world.state.flights) == 1


def test_chunks_that_nobody_acknowledges_are_sent_again_until_the_deadline():
    world = with_catalogue()
    describe(world, left_s=5.0)

    sent = world.pass_time(2.5)
    assert numbers(sent) == [0, 1]
    assert numbers(credit(world, 0, 2, REWIND)) == [0, 1]
    sent = world.pass_time(5.5)
    assert brief([message for message in sent if message.kind == Kind.ERROR]) == [("c", "deadline-exceeded")]
    assert world.state.own_streams == set()


def test_a_credit_for_what_never_was_ends_the_call():
    world = with_catalogue()
    describe(world)

    assert brief(credit(world, 99, 120)) == [("c", "protocol-error")]
    assert world.state.flights == {}


def test_large_answers_to_one_caller_are_bounded():
    world = with_catalogue()
    for call_id in range(1, 17):
        describe(world, call_id)

    assert brief(describe(world, 17)) == [("c", "busy")]
    assert brief(world.say("c", Kind.CANCEL, id=1)) == []
    assert brief(describe(world, 18))[0] == ("c", "reply")


def test_a_frame_larger_than_its_header_says_is_only_bytes():
    world = made()

    assert world.raw("c", [b"\x81\xa1k\x09", b"x" * 100_000]) == []
    assert Header(Kind.CHUNK).channel == 0

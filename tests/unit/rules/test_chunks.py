"""Chunk streams: order, credit, gaps, and what a hostile peer may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.errors import ProtocolError, TooLarge
from orbit_zmq.rules.chunks import MAX_WINDOW_CHUNKS, SILENCE_S, Assembly, ChunkReceiver, ChunkSender


def sent(sender: ChunkSender) -> list[tuple[int, bytes, bool]]:
    return [(number, bytes(data), last) for number, data, last in sender.sendable()]


def test_only_what_the_credit_allows_is_sent():
    sender = ChunkSender(chunk_bytes=2, credit=2)
    sender.feed(b"aabbccd", last=True)

    assert sent(sender) == [(0, b"aa", False), (1, b"bb", False)]
    assert sent(sender) == []
    sender.on_credit(wanted=1, up_to=3, rewind=False, now=1.0)
    assert sent(sender) == [(2, b"cc", False)]
    sender.on_credit(wanted=3, up_to=9, rewind=False, now=1.0)
    assert sent(sender) == [(3, b"d", True)]
    assert not sender.finished
    sender.on_credit(wanted=4, up_to=9, rewind=False, now=1.0)
    assert sender.finished


def test_an_empty_stream_is_one_empty_last_chunk():
    sender = ChunkSender(chunk_bytes=2, credit=2)
    sender.feed(b"", last=True)

    assert sent(sender) == [(0, b"", True)]


def test_a_producer_is_told_when_to_wait():
    sender = ChunkSender(chunk_bytes=1, credit=2)
    sender.feed(b"abc", last=False)
    assert sender.has_room
    sender.feed(b"d", last=False)
    assert not sender.has_room
    sender.on_credit(wanted=2, up_to=4, rewind=False, now=1.0)
    assert sender.has_room


def test_a_held_sender_waits_for_a_credit_with_rewind():
    sender = ChunkSender(chunk_bytes=1, credit=4)
    sender.feed(b"abc", last=True)
    sent(sender)
    sender.hold()
    assert sent(sender) == []
    sender.on_credit(wanted=1, up_to=4, rewind=True, now=1.0)
    assert [number for number, *_ in sent(sender)] == [1, 2]


def test_after_a_silence_unacknowledged_chunks_are_sent_again():
    sender = ChunkSender(chunk_bytes=1, credit=4)
    sender.feed(b"ab", last=True)
    sent(sender)

    assert not sender.tick(10.0)
    assert not sender.tick(10.0 + SILENCE_S / 2)
    assert sender.tick(10.0 + SILENCE_S)
    assert [number for number, *_ in sent(sender)] == [0, 1]


def test_a_receiver_cannot_want_what_was_never_made_or_allow_without_bound():
    sender = ChunkSender(chunk_bytes=1, credit=1)
    sender.feed(bytes(1000), last=True)
    with pytest.raises(ProtocolError):
        sender.on_credit(wanted=1001, up_to=0, rewind=False, now=1.0)
    sender.on_credit(wanted=0, up_to=1 << 60, rewind=False, now=1.0)
    assert len(sent(sender)) == MAX_WINDOW_CHUNKS


def test_a_gap_is_asked_for_once_and_a_duplicate_is_answered():
    receiver = ChunkReceiver(credit=4)
    assert receiver.on_chunk(0, False)
    assert not receiver.on_chunk(2, False)
    assert receiver.credit() == (1, 8, True)
    assert not receiver.on_chunk(3, False)
    assert receiver.credit() is None
    assert not receiver.on_chunk(0, False)
    assert receiver.credit() == (1, 8, False)


def test_a_chunk_that_was_not_allowed_yet_is_a_protocol_error():
    receiver = ChunkReceiver(credit=4)
    with pytest.raises(ProtocolError, match="allowed 4"):
        receiver.on_chunk(4, False)


def test_a_body_above_the_limit_is_too_large():
    assembly = Assembly(credit=4, limit_bytes=5)
    assert assembly.on_chunk(0, b"abc", False) is None
    with pytest.raises(TooLarge):
        assembly.on_chunk(1, b"def", True)


@given(st.binary(max_size=500), st.integers(1, 40), st.integers(1, 4), st.data())
def test_bytes_arrive_whole_over_a_line_that_loses_any_chunk_and_any_credit(data, chunk_bytes, credit, draws):
    sender, assembly = ChunkSender(chunk_bytes, credit), Assembly(credit, 10_000)
    sender.feed(data, last=True)
    whole, now = None, 0.0
    for turn in range(200):
        loses = turn < 50
        for number, piece, last in tuple(sender.sendable()):
            if not (loses and draws.draw(st.booleans())):
                done = assembly.on_chunk(number, bytes(piece), last)
                whole = done if done is not None else whole
        found = assembly.receiver.credit()
        if found is not None and not (loses and draws.draw(st.booleans())):
            sender.on_credit(*found, now)
        now += SILENCE_S
        sender.tick(now)
        if sender.finished:
            break

    assert whole == data
    assert sender.finished

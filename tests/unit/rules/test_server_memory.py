"""What is served leaves nothing behind, however much it is and however far its deadline."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.rules.ended import ABOVE, CALLERS, EndedRequests
from orbit_zmq.rules.server import EXPIRIES, Entry, Server
from orbit_zmq.wire.header import IDEMPOTENT, RESENT, Header, Kind
from orbit_zmq.wire.limits import Limits

CALLER = b"c" * 16


class Echo:
    """Executes nothing; the test answers."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def execute(self, entry, body):
        self.entries.append(entry)

    def cancel(self, entry, reason):
        self.entries.remove(entry)

    def on_stream(self, entry, data, last):
        raise AssertionError("nothing is streamed")

    def on_room(self, entry):
        raise AssertionError("nothing is streamed")


def request(number: int, **changes) -> Header:
    return Header(Kind.REQUEST, id=number, caller=CALLER, left_s=3600.0, settled_below=number, **changes)


def test_times_of_requests_that_have_been_answered_are_not_kept_until_their_deadline():
    handler = Echo()
    server = Server(lambda *_: None, handler, Limits())
    for number in range(1, 20 * EXPIRIES):
        server.on_request(request(number, flags=IDEMPOTENT), b"", now=100.0)
        server.reply(handler.entries.pop(), b"", 0, now=100.0)
        assert len(server._expiries) < 2 * EXPIRIES

    assert server.remembered == 0


def test_those_that_have_not_are_ended_at_theirs():
    handler = Echo()
    server = Server(lambda *_: None, handler, Limits())
    for number in range(1, 3 * EXPIRIES):
        server.on_request(request(number), b"", now=100.0)
    assert server.tick(now=100.0 + 2 * 3600.0) > 0

    assert server.remembered == 0 and handler.entries == []


def test_a_copy_of_a_request_that_is_over_is_not_executed_however_late_it_comes():
    handler, sent = Echo(), []
    server = Server(lambda priority, header, body: sent.append(header), handler, Limits())
    for number in (1, 2):
        server.on_request(request(number, settled=(1,) if number == 2 else ()), b"", now=100.0)
        server.reply(handler.entries[-1], b"", 0, now=100.0)
    server.tick(now=100.0 + 2 * 3600.0)  # the first was settled by the second, whose time is over now
    assert server.remembered == 0
    sent.clear()
    handler.entries.clear()

    for number in (1, 2):
        server.on_request(request(number, flags=RESENT), b"", now=9_000.0)

    assert handler.entries == []
    assert [(header.kind, header.id) for header in sent] == [(Kind.ERROR, 1), (Kind.ERROR, 2)]
    server.on_request(request(3), b"", now=9_000.0)
    assert len(handler.entries) == 1


def test_what_is_over_is_known_by_a_number_for_each_caller_and_by_no_memory_for_each_request():
    ended = EndedRequests()
    for number in range(1, 100_000):
        ended.settle(CALLER, number)
        ended.add(CALLER, number)
    assert len(ended._callers[CALLER]) <= 2 * ABOVE
    assert all(ended.has(CALLER, number) for number in range(1, 100_000))
    assert not ended.has(CALLER, 100_000)
    assert not ended.has(b"d" * 16, 1)

    for number in range(CALLERS):
        ended.add(number.to_bytes(16, "big"), 1)
    assert not ended.has(CALLER, 1)
    assert len(ended._callers) == CALLERS


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300))))
def test_no_request_that_is_over_is_taken_for_a_new_one(steps):
    ended, over, below = EndedRequests(), set(), 0
    for call_id, settled in steps:
        ended.add(CALLER, call_id)
        ended.settle(CALLER, settled)
        over.add(call_id)
        below = max(below, settled)
        over.update(range(below))

    assert {number for number in range(301) if ended.has(CALLER, number)} == (over if steps else set())


def test_the_answer_of_an_idempotent_call_that_finds_no_line_waits_for_the_next_one():
    handler = Echo()
    sent: list[bytes] = []
    lines = ["down"]

    def send(priority, header, body):
        if lines[-1] == "up":
            sent.append(body)
        return lines[-1] == "up"

    server = Server(send, handler, Limits())
    server.on_request(request(1, flags=IDEMPOTENT), b"", now=100.0)
    server.reply(handler.entries.pop(), b"it", 0, now=100.0)
    assert server.remembered == 1

    lines.append("up")
    server.on_request(request(1, flags=IDEMPOTENT | RESENT), b"", now=101.0)

    assert (sent, handler.entries, server.remembered) == ([b"it"], [], 0)

"""Rules: replies and errors on their way back to the caller, and the calls that they end.

An answer is taken only from the incarnation that the call is in flight to. One that cannot be queued is dropped and
counted; the caller is asked to say its requests again, and the endpoint answers them from its memory.
"""

from __future__ import annotations

from orbit_broker.out import Out
from orbit_broker.routing import send_cancel
from orbit_broker.state import Participant, State
from orbit_zmq.errors import DeadlineExceeded
from orbit_zmq.rules.caller import TOO_LATE, cancel_body
from orbit_zmq.rules.outbox import CALLS
from orbit_zmq.wire.header import STREAM, STREAMED, Channel, Header, Kind


def on_answer(state: State, out: Out, server: Participant, header: Header, body: bytes, now: float) -> None:
    """An endpoint answers a call, with a reply or with an error."""
    flight = state.flights.get((header.caller, header.id))
    if flight is None or flight.server is not server or header.target not in (server.incarnation, b""):
        state.counters.drop("late-answer")
        return
    header.caller = b""
    header.source = server.name
    header.user = server.identity.user
    try:
        passed_on = out.send(flight.caller, CALLS, header, body, now)
    except ValueError:
        state.counters.drop("large-header")
        return
    if not passed_on:
        state.counters.drop("queue-full" if flight.caller.routing_id else "caller-away")
        flight.caller.owes_resend = True
        return
    if header.kind == Kind.REPLY:
        state.counters.replies += 1
        if header.flags & (STREAMED | STREAM):
            flight.has_chunks = True
            flight.unread = _bit(header, STREAMED, Channel.RESULT) | _bit(header, STREAM, Channel.STREAM_OUT)
            flight.deadline = now + flight.left_s
            return
    else:
        state.counters.errors += 1
    state.close_flight(flight)


def on_deadlines(state: State, out: Out, now: float) -> None:
    """Calls whose time is over end at both sides."""
    for flight in state.expired_flights(now):
        state.close_flight(flight)
        message = f"the call did not end within {flight.left_s:g} s"
        if flight.has_chunks:
            message = f"nothing of the call moved for {flight.left_s:g} s"
        out.error(flight.caller, flight.id, DeadlineExceeded(message))
        if flight.may_have_run:
            send_cancel(out, flight, now, cancel_body(TOO_LATE))


def on_drained(out: Out, caller: Participant) -> None:
    """Its queue was full, an answer was dropped, and now there is room."""
    caller.owes_resend = False
    out.control(caller, Kind.RESEND)


def _bit(header: Header, flag: int, channel: Channel) -> int:
    return 1 << channel if header.flags & flag else 0

"""Rules: chunks and credits, passed between a caller and its endpoint while their call is in flight.

Channels 0 and 2 flow from the caller to the endpoint, 1 and 3 back; a credit goes against its channel. The broker reads
none of it. It is one end itself where a reply of its own is too large for one message.
"""

from __future__ import annotations

from orbit_broker.out import BROKER, Out
from orbit_broker.state import Flight, Participant, State
from orbit_zmq.errors import ProtocolError
from orbit_zmq.rules.outbox import BULK, CALLS
from orbit_zmq.wire.header import LAST, RAW, REWIND, Channel, Header, Kind

TO_ENDPOINT = (Channel.ARGUMENTS, Channel.STREAM_IN)


def on_chunk(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    """One piece of a body or of a stream."""
    from_caller = header.channel in TO_ENDPOINT
    flight = _flight(state, peer, header, from_caller)
    if flight is None or flight.server is None:
        state.counters.drop("late-chunk")
        return
    _pass_on(state, out, flight, header, body, from_caller, BULK, now)


def on_credit(state: State, out: Out, peer: Participant, header: Header, now: float) -> None:
    """The receiver of a channel says what has arrived, and what may be sent."""
    from_caller = header.channel not in TO_ENDPOINT
    flight = _flight(state, peer, header, from_caller)
    if flight is None:
        state.counters.drop("late-credit")
    elif flight.server is None:
        _on_own_credit(state, out, flight, header, now)
    else:
        _pass_on(state, out, flight, header, b"", from_caller, CALLS, now)
        if from_caller and header.flags & LAST and flight.unread:
            flight.unread &= ~(1 << header.channel)
            if not flight.unread:
                state.close_flight(flight)


def begin_own_stream(state: State, out: Out, flight: Flight, now: float) -> None:
    """Send what may be sent of a reply of the broker itself."""
    sender = flight.sender
    if sender is None:
        return
    flight.deadline = now + flight.left_s
    for number, data, last in sender.sendable():
        header = Header(
            Kind.CHUNK, id=flight.id, source=BROKER, channel=Channel.RESULT, chunk=number, flags=RAW | (LAST if last else 0)
        )
        if not out.send(flight.caller, BULK, header, data, now):
            state.counters.drop("queue-full")  # the caller sees the gap, or the silence makes us send again
            return


def on_streams_tick(state: State, out: Out, now: float) -> None:
    """Own chunks that nobody acknowledges are sent again."""
    for flight in tuple(state.own_streams):
        if flight.sender is not None and flight.caller.routing_id and flight.sender.tick(now):
            deadline = flight.deadline
            begin_own_stream(state, out, flight, now)
            flight.deadline = deadline  # sending into silence is no sign of life


def _flight(state: State, peer: Participant, header: Header, from_caller: bool) -> Flight | None:
    """The call that this belongs to, if this peer has a part in it."""
    flight = state.flights.get((peer.incarnation if from_caller else header.caller, header.id))
    return flight if flight is not None and (from_caller or flight.server is peer) else None


def _pass_on(
    state: State, out: Out, flight: Flight, header: Header, body: bytes, from_caller: bool, priority: int, now: float
) -> None:
    caller, server = flight.caller, flight.server
    receiver = server if from_caller else caller
    if receiver is None:
        return
    sender = caller if from_caller else server
    header.source = sender.name if sender is not None else ""
    header.caller = caller.incarnation if from_caller else b""
    flight.deadline = now + flight.left_s
    try:
        passed_on = out.send(receiver, priority, header, body, now)
    except ValueError:
        state.counters.drop("large-header")
        return
    if not passed_on:
        state.counters.drop("queue-full" if receiver.routing_id else "receiver-away")


def _on_own_credit(state: State, out: Out, flight: Flight, header: Header, now: float) -> None:
    if flight.sender is None:
        return
    try:
        flight.sender.on_credit(header.chunk, header.up_to, bool(header.flags & REWIND), now)
    except ProtocolError as error:
        state.close_flight(flight)
        out.error(flight.caller, flight.id, error)
        return
    if flight.sender.finished:
        state.close_flight(flight)
    else:
        begin_own_stream(state, out, flight, now)

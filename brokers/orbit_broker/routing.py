"""Rules: what happens to a request, from the caller's word to the endpoint's queue.

The source, the user and the caller's incarnation are stamped here, whatever a peer claimed. A request is passed on to the
incarnation that it was first meant for, or answered with an error that says whether it may have been executed.
"""

from __future__ import annotations

from orbit_broker import lookup, operations, permissions
from orbit_broker.out import BROKER, LEAST_LEFT_S, Out
from orbit_broker.state import ANY, CATALOGUE_WAIT_S, FLIGHTS, FLIGHTS_OF_A_KEY, Flight, Held, Participant, State
from orbit_zmq.errors import (
    Busy,
    DeadlineExceeded,
    EndpointLost,
    InvalidArgument,
    NotFound,
    NotPermitted,
    OrbitError,
    OutcomeUnknown,
    ProtocolError,
    TooLarge,
)
from orbit_zmq.rules.outbox import CALLS
from orbit_zmq.wire.header import IDEMPOTENT, RESENT, STREAM, STREAMED, Header, Kind

CANCEL_BYTES = 8_192  # of the reason that goes with a cancel


def on_request(state: State, out: Out, caller: Participant, header: Header, body: bytes, now: float) -> None:
    """A participant calls an operation of an endpoint, or of the broker."""
    state.counters.requests += 1
    try:
        _route(state, out, caller, header, body, now)
    except OrbitError as error:
        state.counters.errors += 1
        if isinstance(error, PermissionError):
            out.audit(caller, header, header.operation, error.code, reason=error.message)
        out.error(caller, header.id, error)


def on_cancel(state: State, out: Out, caller: Participant, header: Header, body: bytes, now: float) -> None:
    """The caller has ended a call and expects no answer; the body says why."""
    body = body if len(body) <= CANCEL_BYTES else b""
    held = state.held.get((caller.incarnation, header.id))
    if held is not None:
        state.release(held)
    flight = state.flights.get((caller.incarnation, header.id))
    if flight is not None:
        state.close_flight(flight)
        if flight.may_have_run:
            send_cancel(out, flight, now, body)
        return
    server = state.endpoints.get(header.endpoint)
    if server is None or header.target != server.incarnation:
        return
    if caller.identity.may_act_for or permissions.serves(server, caller.identity.user):
        # this broker may have been started after the call
        out.send(server, CALLS, _cancel(caller, header.id), body, now)


def send_cancel(out: Out, flight: Flight, now: float, body: bytes = b"") -> None:
    """Tell the endpoint that nobody waits any more. One that is away finds out by the deadline."""
    if flight.server is not None:
        out.send(flight.server, CALLS, _cancel(flight.caller, flight.id), body, now)


def _cancel(caller: Participant, call_id: int) -> Header:
    return Header(Kind.CANCEL, id=call_id, caller=caller.incarnation, source=caller.name)


def release_held(state: State, out: Out, waited_for: str | bytes, now: float) -> None:
    """What the requests waited for is here."""
    for held in tuple(state.held_for.get(waited_for, {}).values()):
        state.release(held)
        held.header.left_s = max(held.deadline - now, LEAST_LEFT_S)
        on_request(state, out, held.caller, held.header, held.body, now)


def on_held_tick(state: State, out: Out, now: float) -> None:
    """What the requests waited for has not come in time."""
    for held in [held for held in state.held.values() if now >= held.until]:
        state.release(held)
        if now >= held.deadline:
            out.error(held.caller, held.header.id, DeadlineExceeded("the endpoint did not come back in time"))
        elif held.waits_for == ANY:
            held.header.left_s = held.deadline - now
            on_request(state, out, held.caller, held.header, held.body, now)  # it is answered by what there is
        else:
            out.error(held.caller, held.header.id, _gone(held.header, held.waits_for))


def _route(state: State, out: Out, caller: Participant, header: Header, body: bytes, now: float) -> None:
    if not header.id or not header.left_s:
        raise ProtocolError("a request has an id and seconds left")
    if len(body) > caller.limits.inline_bytes:
        raise TooLarge(f"a body of more than {caller.limits.inline_bytes} bytes goes as chunks")
    header.user = _user_of(caller, header)
    header.source = caller.name
    header.caller = caller.incarnation
    if state.held and (caller.incarnation, header.id) in state.held:
        state.release(state.held[caller.incarnation, header.id])  # said again, and looked at afresh
    if header.endpoint == BROKER:
        operations.on_call(state, out, caller, header, body, now)
        return
    server = _server_of(state, caller, header)
    if server is None:
        if not _hold(state, caller, header, body, now):
            raise _gone(header, header.endpoint)
        return
    if not permissions.check_call(state, caller, server, header):
        _keep(state, caller, header, body, server.catalogue, now + CATALOGUE_WAIT_S, now)
        return
    flight = state.flights.get((caller.incarnation, header.id))
    if flight is None:
        _begin(state, out, caller, server, header, body, now)
    else:
        _repeat(out, flight, server, header, body, now)


def _user_of(caller: Participant, header: Header) -> str:
    """The user that the caller acts for."""
    user, asked = caller.identity.user, header.on_behalf_of
    if not asked or asked == user:
        return user
    if caller.identity.may_act_for:
        return asked
    raise NotPermitted(f"this participant may not act for {asked}")


def _server_of(state: State, caller: Participant, header: Header) -> Participant | None:
    """The endpoint that a request is meant for, its incarnation checked; None where that name is not known."""
    if header.endpoint == "*":
        raise InvalidArgument("a request names its endpoint", hint="Ask the broker's operation resolve for one first.")
    if header.endpoint:
        server = state.endpoints.get(header.endpoint)
        if server is None:
            return None
    elif header.session:
        server = lookup.by_session(state, header.session, caller, header.user)
        header.endpoint = server.name
    else:
        raise InvalidArgument("a request names an endpoint or a session")
    if not header.target:
        header.target = server.incarnation
    elif header.target != server.incarnation:
        raise _other_incarnation(header, server)
    return server


def _other_incarnation(header: Header, server: Participant) -> OrbitError:
    details = {"endpoint": server.name, "incarnation": server.incarnation}
    if header.flags & RESENT and not header.flags & IDEMPOTENT:
        return OutcomeUnknown(f"{server.name} has been started anew since the call; it may have been executed", details=details)
    return EndpointLost(f"{server.name} has been started anew since it was looked up", details=details)


def _gone(header: Header, waited_for: str | bytes) -> OrbitError:
    """What to say of a name that nobody has."""
    if isinstance(waited_for, bytes):
        return NotFound("the endpoint has not sent that catalogue", transient=True)
    details = {"endpoint": header.endpoint}
    if header.flags & RESENT and not header.flags & IDEMPOTENT:
        return OutcomeUnknown(f"{waited_for} is not connected; the call may have been executed", details=details)
    if header.target:
        return EndpointLost(f"{waited_for} is not connected", details=details)
    return NotFound(f"there is no endpoint {waited_for}", details=details)


def _hold(state: State, caller: Participant, header: Header, body: bytes, now: float) -> bool:
    """Shortly after a start, callers that know an endpoint are back before it is."""
    settled_at = state.started_at + state.settle_s
    if now >= settled_at or not (header.target or header.flags & RESENT or caller.is_returning):
        return False
    _keep(state, caller, header, body, header.endpoint, settled_at, now)
    return True


def _keep(
    state: State, caller: Participant, header: Header, body: bytes, waits_for: str | bytes, until: float, now: float
) -> None:
    if (caller.incarnation, header.id) in state.flights:
        raise ProtocolError(f"the id {header.id} belongs to another call")
    deadline = now + header.left_s
    if not state.hold(Held(caller, header, body, waits_for, min(until, deadline), deadline)):
        raise Busy("too many requests wait for endpoints to come back")


def _begin(state: State, out: Out, caller: Participant, server: Participant, header: Header, body: bytes, now: float) -> None:
    is_idempotent = header.flags & IDEMPOTENT != 0
    if caller.windows.get((server.incarnation, is_idempotent), 0) >= caller.limits.open_calls:
        raise Busy(f"{caller.limits.open_calls} calls are open at {server.name}")
    if len(state.flights) >= FLIGHTS:
        raise Busy(f"{FLIGHTS} calls are open in all")
    if caller.party.calls >= FLIGHTS_OF_A_KEY:
        raise Busy(f"{FLIGHTS_OF_A_KEY} calls of this key are open")
    server.users.add(header.user)
    flight = state.open_flight(caller, server, header, now)
    flight.has_chunks = header.flags & (STREAMED | STREAM) != 0
    try:
        has_room = out.send(server, CALLS, header, body, now, flight)
    except ValueError as error:
        state.close_flight(flight)
        raise InvalidArgument(f"the request has {error}") from None
    if not has_room:
        state.close_flight(flight)
        raise Busy(f"the queue to {server.name} is full")


def _repeat(out: Out, flight: Flight, server: Participant, header: Header, body: bytes, now: float) -> None:
    """The caller says it again. The endpoint knows whether it has had it."""
    if flight.server is not server:
        raise ProtocolError(f"the id {header.id} belongs to another call")
    if flight.is_queued or not server.routing_id:
        return  # it waits already, or the endpoint's return makes the caller say it once more
    header.flags |= RESENT
    flight.flags |= RESENT
    flight.deadline = now + header.left_s
    if not out.send(server, CALLS, header, body, now, flight):
        flight.caller.owes_resend = True

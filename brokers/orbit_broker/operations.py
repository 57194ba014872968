"""Rules: the broker's own operations, which are called like an endpoint's under the name `broker`.

All are idempotent. A result that does not fit one message goes as chunks under the caller's credit, like anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orbit_broker import events, key_operations, lookup, topology
from orbit_broker.out import BROKER, Out
from orbit_broker.state import ANY, CATALOGUE_WAIT_S, DueAnswer, Flight, Held, Participant, State
from orbit_broker.status import status_of
from orbit_broker.streams import begin_own_stream
from orbit_zmq.errors import Busy, InvalidArgument, NotFound, NotPermitted, ProtocolError
from orbit_zmq.rules.chunks import ChunkSender
from orbit_zmq.rules.outbox import CALLS
from orbit_zmq.wire.body import pack_body, unpack_map
from orbit_zmq.wire.header import RAW, RESENT, RIGHT_OF, STREAM, STREAMED, Header, Kind

ADMINISTRATIVE = ("invite", "renew", "revoke", "drain", "disconnect")
INVITATION = ("key", "name", "role", "user", "names", "endpoints", "plugins", "rights", "expires_s")
OWN_STREAMS = 16  # large results on their way to one caller


@dataclass(frozen=True, slots=True)
class Awaited:
    """In place of a result: it will be there when this endpoint or catalogue is."""

    key: str | bytes
    until: float


@dataclass(frozen=True, slots=True)
class Call:
    """What an operation is given."""

    state: State
    caller: Participant
    header: Header
    arguments: dict[str, Any]
    now: float


def on_call(state: State, out: Out, caller: Participant, header: Header, body: bytes, now: float) -> None:
    """Run one operation and answer it."""
    flight = state.flights.get((caller.incarnation, header.id))
    if flight is not None:
        if flight.sender is None:
            raise ProtocolError(f"the id {header.id} belongs to another call")
        if header.flags & RESENT and header.chunk:
            _resume(state, out, flight, header, now)
            return
        state.close_flight(flight)
    result = _run(Call(state, caller, header, _arguments(header, body), now))
    if header.operation in ADMINISTRATIVE:
        out.audit(caller, header, header.operation, "done", **_what_was_done(result))
    if header.operation == "revoke" and isinstance(result, dict):
        state.due_answers.append(DueAnswer(caller, header, result))
    elif isinstance(result, Awaited):
        deadline = now + header.left_s
        if not state.hold(Held(caller, header, body, result.key, min(result.until, deadline), deadline)):
            raise Busy("too many requests wait for endpoints to come back")
    elif isinstance(result, bytes):
        _answer(state, out, caller, header, result, RAW, now)
    else:
        _answer(state, out, caller, header, *pack_body(result), now)


def on_due_answers(state: State, out: Out, now: float) -> None:
    """Answer what waited for the keys of audiences, now that nobody has one who may not."""
    if state.audiences.are_settled(now):
        due, state.due_answers = state.due_answers, []
        for answer in due:
            if state.participants.get(answer.caller.incarnation) is answer.caller:
                _answer(state, out, answer.caller, answer.header, *pack_body(answer.result), now)


def _what_was_done(result: object) -> dict[str, Any]:
    """What the audit log says of an administrative action beside its name."""
    if not isinstance(result, dict):
        return {}
    entry = result.get("entry") or {}
    told = {field: entry[field] for field in ("name", "role", "user", "rights", "expires", "parent") if field in entry}
    return {"subject": told or result.get("revoked") or result.get("name") or ""}


def _run(call: Call) -> object:
    known = OPERATIONS.get(call.header.operation)
    if known is None:
        raise NotFound(f"the broker has no operation {call.header.operation}; it has {', '.join(OPERATIONS)}")
    operation, parameters = known
    unknown = set(call.arguments) - set(parameters)
    if unknown:
        field = sorted(unknown)[0]
        message = f"{call.header.operation} takes no argument {field}; it takes {', '.join(parameters) or 'none'}"
        raise InvalidArgument(message, details={"field": field})
    return operation(call)


def _arguments(header: Header, body: bytes) -> dict[str, Any]:
    if header.flags & (RAW | STREAMED | STREAM):
        raise InvalidArgument("arguments of the broker's operations are a map in one message")
    return unpack_map(body, header.flags)


def _answer(state: State, out: Out, caller: Participant, header: Header, body: bytes, flags: int, now: float) -> None:
    reply = Header(Kind.REPLY, id=header.id, source=BROKER, target=state.epoch, flags=flags)
    state.counters.replies += 1
    if len(body) <= caller.limits.inline_bytes:
        _send_reply(state, out, caller, reply, body, now)
        return
    if sum(flight.caller is caller for flight in state.own_streams) >= OWN_STREAMS:
        raise Busy(f"{OWN_STREAMS} large results of the broker are on their way to this caller")
    flight = state.open_flight(caller, None, header, now)
    flight.has_chunks = True
    flight.sender = ChunkSender(caller.limits.chunk_bytes, caller.limits.credit_chunks)
    flight.sender.feed(body, last=True)
    flight.reply_flags = reply.flags = flags | STREAMED
    _send_reply(state, out, caller, reply, b"", now)
    begin_own_stream(state, out, flight, now)


def _resume(state: State, out: Out, flight: Flight, header: Header, now: float) -> None:
    """The caller has a part of a large result and asks for the rest on its new connection."""
    if flight.sender is not None:
        flight.sender.rewind(header.chunk)
    reply = Header(Kind.REPLY, id=flight.id, source=BROKER, target=state.epoch, flags=flight.reply_flags, chunk=header.chunk)
    _send_reply(state, out, flight.caller, reply, b"", now)
    begin_own_stream(state, out, flight, now)


def _send_reply(state: State, out: Out, caller: Participant, reply: Header, body: bytes, now: float) -> None:
    if not out.send(caller, CALLS, reply, body, now):
        state.counters.drop("queue-full")
        caller.owes_resend = True


def _ping(call: Call) -> object:
    return {}


def _resolve(call: Call) -> object:
    state, caller, user = call.state, call.caller, call.header.user
    name, session = _text(call, "endpoint"), _text(call, "session")
    wanted = {key: _text(call, key) for key in ("plugin", "role", "scheduler")}
    labels = call.arguments.get("labels") or {}
    if not isinstance(labels, dict):
        raise InvalidArgument("labels are a map of texts", details={"field": "labels"})
    if bool(name) + bool(session) + bool(labels or any(wanted.values())) > 1:
        raise InvalidArgument("resolve takes an endpoint, or a session, or what the endpoint has to offer")
    settled_at = state.started_at + state.settle_s
    try:
        if name:
            endpoint = lookup.by_name(state, name)
        elif session:
            endpoint = lookup.by_session(state, session, caller, user)
        else:
            endpoint = lookup.by_capability(state, caller, user, labels=labels, **wanted)
    except NotFound:  # a caller that knew the broker before this one is not to notice that endpoints are on their way
        if call.now >= settled_at or not (caller.is_returning or call.header.flags & RESENT):
            raise
        return Awaited(name or ANY, settled_at)
    return _facts_of(call, endpoint)


def _endpoints(call: Call) -> object:
    return [
        _facts_of(call, endpoint)
        | {
            "load": endpoint.load,
            "silent_for_s": round(call.now - endpoint.liveness.heard_at, 3),
            "sessions": len(endpoint.sessions),
        }
        for endpoint in call.state.endpoints.values()
    ]


def _describe(call: Call) -> object:
    digest = call.arguments.get("catalogue")
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise InvalidArgument("catalogue is a hash of 32 bytes", details={"field": "catalogue"})
    catalogue = call.state.catalogues.get(digest)
    if catalogue is not None:
        return catalogue
    if not any(endpoint.catalogue == digest for endpoint in call.state.endpoints.values()):
        raise NotFound("no endpoint has that catalogue", hint="Resolve the endpoint again and use the hash it has now.")
    return Awaited(digest, call.now + CATALOGUE_WAIT_S)


def _tips(call: Call) -> object:
    names = _audiences_of(call)
    for name in names - call.caller.hears:
        raise NotPermitted(f"the keys of {name} were not given to this participant", hint="Ask for them by keys first.")
    return events.tips_since(call.state, names, 0)


def _keys(call: Call) -> object:
    names = sorted(_audiences_of(call))
    return {name: call.state.audiences.give(name, call.caller, call.now) for name in names}


def _topology(call: Call) -> object:
    return topology.whole_view(call.state)


def _audiences_of(call: Call) -> set[str]:
    names = call.arguments.get("audiences")
    if names is None:
        return set(call.caller.hears)
    if not isinstance(names, list) or len(names) > events.AUDIENCES or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"audiences are a list of at most {events.AUDIENCES} names", details={"field": "audiences"})
    return set(names)


def _status(call: Call) -> object:
    identity = call.caller.identity
    sees_all = identity.role == "admin" and call.header.user == identity.user
    return status_of(call.state, call.now, None if sees_all else call.header.user).model_dump()


def _drain(call: Call) -> object:
    if not key_operations.is_admin(call):
        raise NotPermitted("only an admin may end the broker", hint="Use a key with the role admin.")
    call.state.is_draining = True
    return {}


def _disconnect(call: Call) -> object:
    endpoint = lookup.by_name(call.state, _text(call, "endpoint"))
    if call.header.user != endpoint.identity.user and not key_operations.is_admin(call):
        raise NotPermitted(f"only {endpoint.identity.user} or an admin may end {endpoint.name}")
    call.state.to_disconnect.append(endpoint)
    return {"name": endpoint.name}


def _facts_of(call: Call, endpoint: Participant) -> dict[str, Any]:
    state, owner = call.state, endpoint.identity.user
    names = {right: name for name, right in RIGHT_OF.items()}
    share = {
        user: {"plugins": list(share.plugins), "rights": [name for right, name in names.items() if share.rights & right]}
        for user, share in endpoint.share.items()
    }
    return {
        "endpoint": endpoint.name,
        "incarnation": endpoint.incarnation,
        "state": lookup.presence_of(state, endpoint),
        "catalogue": endpoint.catalogue,
        "plugins": endpoint.plugins,
        "absent": endpoint.absent,
        "environment": endpoint.environment,
        "host": endpoint.host,
        "labels": endpoint.labels,
        "settings": endpoint.settings,
        "user": owner,
        **({"share": share} if call.header.user == owner or key_operations.is_admin(call) else {}),
    }


def _text(call: Call, key: str) -> str:
    value = call.arguments.get(key) or ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{key} is text", details={"field": key})
    return value


OPERATIONS: dict[str, tuple[Callable[[Call], object], tuple[str, ...]]] = {
    "ping": (_ping, ()),
    "resolve": (_resolve, ("endpoint", "session", "plugin", "role", "scheduler", "labels")),
    "endpoints": (_endpoints, ()),
    "describe": (_describe, ("catalogue",)),
    "tips": (_tips, ("audiences",)),
    "keys": (_keys, ("audiences",)),
    "topology": (_topology, ()),
    "status": (_status, ()),
    "drain": (_drain, ()),
    "disconnect": (_disconnect, ("endpoint",)),
    "invite": (key_operations.invite, INVITATION),
    "list_keys": (key_operations.list_keys, ("name",)),
    "renew": (key_operations.renew, ("name", "expires_s")),
    "revoke": (key_operations.revoke, ("name",)),
}

"""Rules: who becomes a participant, under which name, and on which connection.

A hello is answered by welcome, or by an error and nothing else. A name that another incarnation holds is given away only
when its holder does not answer. The user comes from the connection, never from what a peer says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orbit_broker import events, holdings, topology
from orbit_broker.audiences import welcome_audiences
from orbit_broker.hello import Hello, read_hello
from orbit_broker.out import Out
from orbit_broker.presence import lose
from orbit_broker.routing import release_held
from orbit_broker.state import ANY, Identity, Newcomer, Participant, Party, State
from orbit_broker.updates import take_facts
from orbit_zmq.errors import AuthRequired, Busy, Canceled, NameTaken, NotPermitted, OrbitError, ProtocolError, ShuttingDown
from orbit_zmq.rules.liveness import Liveness
from orbit_zmq.rules.outbox import CONTROL, Outbox
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import PROBE, Header, Kind

NEWCOMERS = 1_024  # hellos that wait for a holder of their name
PARTICIPANTS = 16_384  # in all
PARTICIPANTS_OF_A_KEY = 4_096  # a thousand endpoints and their clients, from one machine
STRANGERS = 4_096  # routing ids remembered of those who were asked who they are
ENDED = 1_024  # incarnations that were told to end, and are told again when they come back
ASK_AGAIN_S = 1.0  # a stranger that keeps talking is asked once a second


def on_hello(state: State, out: Out, routing_id: bytes, identity: Identity | None, body: bytes, flags: int, now: float) -> None:
    """A participant introduces itself, on a new connection or again on one that it has."""
    try:
        if identity is None:
            raise AuthRequired
        if state.is_leaving:
            raise ShuttingDown("this broker is ending")
        hello = read_hello(body, flags)
        _check_allowed(state, routing_id, identity, hello)
        known = state.participants.get(hello.incarnation)
        holder = state.endpoints.get(hello.name) if hello.role == "endpoint" else None
        if known is not None:
            _reconnect(state, out, known, routing_id, identity, hello, now)
        elif holder is None:
            _admit(state, out, routing_id, identity, hello, now)
        elif not holder.routing_id:
            lose(state, out, holder, "replaced", now)
            _admit(state, out, routing_id, identity, hello, now)
        else:
            _probe(state, out, Newcomer(routing_id, identity, body, flags, holder, now))
    except OrbitError as error:
        if identity is not None and isinstance(error, PermissionError):
            who = {"key": identity.key_name or identity.user_id, "user": identity.user}
            out.audits.append({**who, "what": "hello", "result": error.code, "reason": error.message})
        refuse(out, routing_id, error)


def on_holder_heard(state: State, out: Out, holder: Participant) -> None:
    """The holder of a name has answered: whoever wants the name does not get it."""
    for newcomer in [newcomer for newcomer in state.newcomers.values() if newcomer.holder is holder]:
        del state.newcomers[newcomer.routing_id]
        where = {"host": holder.environment.get("hostname"), "pid": holder.environment.get("pid")}
        message = f"an endpoint {holder.name} is connected: process {where['pid']} on {where['host']}"
        refuse(out, newcomer.routing_id, NameTaken(message, details=where))


def on_newcomers_tick(state: State, out: Out, now: float) -> None:
    """A newcomer gets the name when its holder has said nothing for long enough, or has gone."""
    for newcomer in tuple(state.newcomers.values()):
        holder = newcomer.holder
        has_gone = state.participants.get(holder.incarnation) is not holder or not holder.routing_id
        if not has_gone and holder.liveness.heard_at > newcomer.since:
            on_holder_heard(state, out, holder)
        elif has_gone or now - newcomer.since >= state.intervals.name_probe_s:
            if state.newcomers.pop(newcomer.routing_id, None) is None:
                continue
            if state.participants.get(holder.incarnation) is holder:
                lose(state, out, holder, "replaced", now)
            on_hello(state, out, newcomer.routing_id, newcomer.identity, newcomer.body, newcomer.flags, now)


def on_stranger(state: State, out: Out, routing_id: bytes, now: float) -> None:
    """A message on a connection that has said no hello."""
    state.counters.drop("no-hello")
    asked_at = state.asked.get(routing_id)
    if routing_id in state.newcomers or (asked_at is not None and now - asked_at < ASK_AGAIN_S):
        return
    if len(state.asked) >= STRANGERS:
        state.asked.clear()
    state.asked[routing_id] = now
    out.answer_stranger(routing_id, Kind.WHO_ARE_YOU)


def on_keys_changed(state: State, out: Out, identify: Callable[[str], Identity | None], now: float) -> None:
    """The list of keys is another one: rights change at once, and who is not listed any more is gone."""
    for participant in tuple(state.participants.values()):
        fresh = identify(participant.identity.user_id)
        if fresh is None or not _may_stay(fresh, participant):
            if participant.routing_id:
                refuse(out, participant.routing_id, AuthRequired("the key of this participant was revoked, or has expired"))
                out.cuts.append(participant.routing_id)
            lose(state, out, participant, "revoked", now)
        else:
            participant.identity = fresh
    for newcomer in tuple(state.newcomers.values()):
        renewed = identify(newcomer.identity.user_id)
        if renewed is None:
            del state.newcomers[newcomer.routing_id]
            refuse(out, newcomer.routing_id, AuthRequired("the key of this participant was revoked, or has expired"))
        else:
            state.newcomers[newcomer.routing_id] = replace(newcomer, identity=renewed)
    out.rights_changed = True
    state.permissions_version += 1
    state.audiences.on_rights_changed(identify, now)
    state.sweep_at = now


def on_disconnects(state: State, out: Out, now: float) -> None:
    """End the endpoints that somebody who may wants gone: they are told, and do not come back by themselves."""
    ended, state.to_disconnect = state.to_disconnect, []
    for endpoint in ended:
        if state.participants.get(endpoint.incarnation) is endpoint:
            state.told_to_end[endpoint.incarnation] = None
            while len(state.told_to_end) > ENDED:
                del state.told_to_end[next(iter(state.told_to_end))]
            if endpoint.routing_id:
                refuse(out, endpoint.routing_id, _told_to_end(endpoint.name))
                out.cuts.append(endpoint.routing_id)
            lose(state, out, endpoint, "disconnected", now)


def _told_to_end(name: str) -> Canceled:
    return Canceled(f"the endpoint {name} was told to end")


def refuse(out: Out, routing_id: bytes, error: OrbitError) -> None:
    body, flags = pack_body(error.to_body())
    out.answer_stranger(routing_id, Kind.ERROR, body, flags)
    out.warn("hello-refused", code=error.code, reason=error.message)


def _check_allowed(state: State, routing_id: bytes, identity: Identity, hello: Hello) -> None:
    on_it = state.peers.get(routing_id)
    if on_it is not None and on_it.incarnation != hello.incarnation:
        raise ProtocolError("one connection belongs to one incarnation")
    if not _may_claim(identity, hello.role):
        raise NotPermitted(f"this key has the role {identity.role}, not {hello.role}")
    if hello.role == "endpoint" and not identity.may_take(hello.name):
        raise NotPermitted(f"this key may not take the name {hello.name}", details={"field": "name"})
    if hello.incarnation in state.told_to_end:  # the word was lost with the connection
        raise _told_to_end(hello.name)
    known = state.participants.get(hello.incarnation)
    if known is None:
        return
    same = (known.identity.user_id, known.role) == (identity.user_id, hello.role)
    if not same or (known.is_endpoint and known.name != hello.name):
        raise NotPermitted("this incarnation belongs to another participant")


def _may_stay(fresh: Identity, participant: Participant) -> bool:
    if fresh.user != participant.identity.user or not _may_claim(fresh, participant.role):
        return False
    return not participant.is_endpoint or fresh.may_take(participant.name)


def _may_claim(identity: Identity, role: str) -> bool:
    return identity.role in ("admin", role) or role == "client"


def _probe(state: State, out: Out, newcomer: Newcomer) -> None:
    if len(state.newcomers) >= NEWCOMERS:
        raise Busy("too many participants wait for a name")
    state.newcomers[newcomer.routing_id] = newcomer
    out.control(newcomer.holder, Kind.HEARTBEAT, PROBE)


def _admit(state: State, out: Out, routing_id: bytes, identity: Identity, hello: Hello, now: float) -> None:
    intervals = state.intervals
    is_endpoint = hello.role == "endpoint"
    # The calls of a caller that is away wait for it; nobody waits for it in turn, so there is no hurry to call it lost.
    closed_lost_s = intervals.closed_lost_s if is_endpoint else intervals.lost_s
    participant = Participant(
        incarnation=hello.incarnation,
        name=hello.name if is_endpoint else f"{identity.key_name or identity.user}.{hello.incarnation[-4:].hex()}",
        role=hello.role,
        identity=identity,
        party=_party_with_room(state, identity),
        outbox=Outbox(budget=state.queued),
        limits=hello.limits,
        liveness=Liveness(intervals.suspect_s, intervals.lost_s, closed_lost_s, now),
        probed_at=now,
    )
    state.add(participant)
    _welcome(state, out, participant, routing_id, hello, now)
    holdings.on_back(state, out, participant)
    topology.on_change(state, participant)
    out.log("admitted", participant=participant.name, role=hello.role, user=identity.user)


def _party_with_room(state: State, identity: Identity) -> Party:
    party = state.parties.get(identity.user_id)
    if len(state.participants) >= PARTICIPANTS:
        raise Busy(f"{PARTICIPANTS} participants are connected")
    if party is None:
        return state.party_of(identity.user_id)
    if len(party.participants) >= PARTICIPANTS_OF_A_KEY:
        raise Busy(f"{PARTICIPANTS_OF_A_KEY} participants are connected with this key")
    return party


def _reconnect(
    state: State, out: Out, known: Participant, routing_id: bytes, identity: Identity, hello: Hello, now: float
) -> None:
    """The same process on another connection. Its callers ask again, for what was on the old one may be lost."""
    known.identity = identity
    known.liveness.on_heard(now)
    _welcome(state, out, known, routing_id, hello, now)
    topology.on_change(state, known)
    header = Header(Kind.RESEND, endpoint=known.name, target=known.incarnation)
    for caller in {flight.caller: None for flight in known.serving}:
        out.send(caller, CONTROL, header)
    out.log("reconnected", participant=known.name)


def _welcome(state: State, out: Out, participant: Participant, routing_id: bytes, hello: Hello, now: float) -> None:
    state.newcomers.pop(routing_id, None)
    state.asked.pop(routing_id, None)
    state.attach(participant, routing_id)
    participant.owes_resend = False  # it sends everything again anyway
    participant.is_returning |= bool(hello.epoch) and hello.epoch != state.epoch
    participant.limits = state.limits.agreed_with(hello.limits)
    if participant.is_endpoint:
        participant.environment, participant.host, participant.labels = hello.environment, hello.host, hello.labels
        participant.settings = hello.settings
        for session_id in set(participant.sessions) - {session.id for session in hello.sessions}:
            state.close_session(participant, session_id)
        for session in hello.sessions:
            state.open_session(participant, session)
        take_facts(state, out, participant, hello.facts)
        events.on_hello_tips(state, participant, hello.tips, now)
    body, flags = pack_body(
        {
            "version": hello.version,
            "name": participant.name,
            "user": participant.identity.user,
            "epoch": state.epoch,
            "broker_version": state.version,
            "limits": participant.limits.to_body(),
            "intervals": state.intervals.to_body(),
            "want_catalogue": bool(participant.catalogue) and participant.catalogue not in state.catalogues,
            "events": state.events_at,
            "audiences": welcome_audiences(state, participant, now),
        }
    )
    out.control(participant, Kind.WELCOME, flags, body)
    if participant.is_endpoint:
        holdings.on_return(state, out, participant)
        release_held(state, out, participant.name, now)
        release_held(state, out, ANY, now)

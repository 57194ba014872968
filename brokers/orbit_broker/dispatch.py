"""From frames to rules: decodes the header, finds the participant, and calls the rule for that kind of message.

What is not a message is dropped and counted; a kind that is unknown or goes the wrong way is answered; no bytes of a peer
raise anything here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orbit_broker import admission, answers, events, holdings, operations, presence, routing, streams, topology, updates
from orbit_broker.out import Out
from orbit_broker.state import Identity, Participant, State
from orbit_zmq.errors import OrbitError, ProtocolError, Unsupported
from orbit_zmq.rules.liveness import Presence
from orbit_zmq.wire.header import Header, Kind, decode_header

SWEEP_S = 0.1  # how often silence, probes, newcomers and held requests are looked at
SAMPLE_S = 1.0
Rule = Callable[[State, Out, Participant, Header, bytes, float], None]


def on_message(state: State, out: Out, peer: Participant, frames: Sequence[bytes], now: float) -> None:
    """A participant has sent something."""
    counters = state.counters
    counters.messages_in += 1
    peer.liveness.heard_at = now
    if peer.liveness.presence is not Presence.PRESENT:
        presence.on_heard(state, out, peer, now)
    if len(frames) != 2:
        counters.drop("wrong-frames")
        return
    counters.bytes_in += len(frames[0]) + len(frames[1])
    try:
        header = decode_header(frames[0])
    except ProtocolError:
        counters.drop("bad-header")
        return
    RULES.get(header.kind, _unsupported)(state, out, peer, header, frames[1], now)


def on_first_words(
    state: State, out: Out, routing_id: bytes, identity: Identity | None, frames: Sequence[bytes], now: float
) -> None:
    """A message on a connection that belongs to no participant; only hello makes it one."""
    state.counters.messages_in += 1
    state.counters.bytes_in += sum(map(len, frames))
    try:
        header = decode_header(frames[0]) if len(frames) == 2 else Header(0)
    except ProtocolError:
        header = Header(0)
    if header.kind == Kind.HELLO:
        admission.on_hello(state, out, routing_id, identity, frames[1], header.flags, now)
    elif header.kind != Kind.BYE:
        admission.on_stranger(state, out, routing_id, now)


def on_tick(state: State, out: Out, now: float) -> float:
    """What the time alone asks for; answers when to call again."""
    if state.keys is not None and state.keys.changed:
        state.keys.changed = False
        admission.on_keys_changed(state, out, state.keys.identify, now)
    if state.next_deadline() <= now:
        answers.on_deadlines(state, out, now)
    if now >= state.sweep_at:
        _sweep(state, out, now)
        state.sweep_at = now + SWEEP_S
    if now >= state.sample_at:
        state.sample_at = now + SAMPLE_S
        for cause, count in state.counters.sample(now).items():
            out.warn("dropped", cause=cause, count=count)
    return min(state.sweep_at, state.next_deadline())


def _sweep(state: State, out: Out, now: float) -> None:
    presence.on_presence_tick(state, out, now)
    if state.newcomers:
        admission.on_newcomers_tick(state, out, now)
    if state.held:
        routing.on_held_tick(state, out, now)
    if state.own_streams:
        streams.on_streams_tick(state, out, now)
    state.audiences.on_tick(state, out, now)
    if state.to_disconnect:
        admission.on_disconnects(state, out, now)
    if state.due_answers:
        operations.on_due_answers(state, out, now)
    topology.on_topology_tick(state, out, now)
    if not state.is_settled and now >= state.started_at + state.settle_s:
        holdings.on_settled(state, out)


def _hello(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    admission.on_hello(state, out, peer.routing_id, peer.identity, body, header.flags, now)


def _bye(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    presence.on_bye(state, out, peer, header, now)


def _heartbeat(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    if state.newcomers:
        admission.on_holder_heard(state, out, peer)
    try:
        presence.on_heartbeat(state, out, peer, header, body, now)
    except ProtocolError:
        state.counters.drop("bad-body")


def _update(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    try:
        updates.on_update(state, out, peer, header, body, now)
    except OrbitError as error:
        state.counters.drop("bad-body")
        out.error(peer, header.id, error)


def _credit(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    streams.on_credit(state, out, peer, header, now)


def _cancel(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    routing.on_cancel(state, out, peer, header, body, now)


def _wrong_way(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    state.counters.drop("wrong-way")
    out.error(peer, header.id, ProtocolError(f"only the broker sends messages of the kind {header.kind}"))


def _unsupported(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    state.counters.drop("unknown-kind")
    out.error(peer, header.id, Unsupported(f"this broker does not know messages of the kind {header.kind}"))


RULES: dict[int, Rule] = {
    Kind.HELLO: _hello,
    Kind.WELCOME: _wrong_way,
    Kind.WHO_ARE_YOU: _wrong_way,
    Kind.BYE: _bye,
    Kind.HEARTBEAT: _heartbeat,
    Kind.UPDATE: _update,
    Kind.REQUEST: routing.on_request,
    Kind.REPLY: answers.on_answer,
    Kind.ERROR: answers.on_answer,
    Kind.CHUNK: streams.on_chunk,
    Kind.CREDIT: _credit,
    Kind.RESEND: _wrong_way,
    Kind.CANCEL: _cancel,
    Kind.EVENT: events.on_event,
    Kind.TIP: events.on_tip,
    Kind.KEYS: _wrong_way,
    Kind.HOLDERS: _wrong_way,
}

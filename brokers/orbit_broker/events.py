"""Rules: events and tips of endpoints, checked, numbered in a stream of one audience, sealed, and handed on.

Whose events a publication has is stamped here. An audience that the endpoint does not serve and numbers that are not above
the last one are refused and counted. Bodies are passed on unread. What subscribers ask over the safe path is answered here.
"""

from __future__ import annotations

from typing import Any

from orbit_broker import permissions
from orbit_broker.audiences import EVERYBODY, Audience, Stream
from orbit_broker.counters import count_session
from orbit_broker.out import Out
from orbit_broker.state import Participant, State
from orbit_zmq.errors import ProtocolError
from orbit_zmq.rules.outbox import CONTROL
from orbit_zmq.wire.body import pack_body, unpack_map
from orbit_zmq.wire.header import Header, Kind, encode_header
from orbit_zmq.wire.limits import EVENT_BYTES, MAX_ID

AUDIENCES = 256  # of one endpoint, in one tip
STREAMS = 100_000  # of one audience; the one that changed longest ago is forgotten


def on_event(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    """An endpoint says that something has happened: one event, or those up to a number in one message."""
    last = header.up_to or header.id
    is_event = bool(header.operation or header.up_to) and header.id <= last and len(body) <= EVENT_BYTES
    if not is_event or not may_serve(peer, header.audience):
        state.counters.drop("refused-event")
        if header.audience:
            out.audit(peer, header, "event", "not-permitted", audience=header.audience)
        return
    audience = state.audiences.of(header.audience, now)
    stream = audience.streams.get(peer.incarnation)
    if stream is None:
        stream = open_stream(state, audience, peer.name, peer.incarnation, header.id - 1)
    elif header.id <= stream.last:
        state.counters.drop("old-event")
        return
    move(state, audience, stream, last)
    header.source, header.target = peer.name, peer.incarnation
    header.caller, header.user, header.on_behalf_of = b"", "", ""
    count = last - header.id + 1
    state.counters.events += count
    count_session(state.counters.events_of, (peer.name, header.plugin, header.session, header.audience), count)
    publish(state, out, audience, header, body)


def on_tip(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    """An endpoint says how far its streams have come, because they are quiet."""
    try:
        tips = read_tips(unpack_map(body, header.flags))
    except ProtocolError:
        state.counters.drop("bad-body")
        return
    for name, last in tips.items():
        if not may_serve(peer, name):
            state.counters.drop("refused-event")
            continue
        audience = state.audiences.of(name, now)
        stream = audience.streams.get(peer.incarnation)
        if stream is None:
            stream = open_stream(state, audience, peer.name, peer.incarnation, 0)
        if last >= stream.last:
            move(state, audience, stream, last)
            publish(state, out, audience, Header(Kind.TIP, id=last, source=peer.name, target=peer.incarnation), b"")


def on_hello_tips(state: State, peer: Participant, tips: dict[str, int], now: float) -> None:
    """Where the streams of an endpoint stand as it says hello. What a broker hears so of a stream first is old to it.

    The stream of its own user is there from now on, so that who listens already misses none of it if this broker dies.
    """
    for name, last in ({peer.identity.user: 0} | tips).items():
        if may_serve(peer, name):
            audience = state.audiences.of(name, now)
            stream = audience.streams.get(peer.incarnation)
            if stream is None:
                open_stream(state, audience, peer.name, peer.incarnation, last)
            elif last > stream.last:
                move(state, audience, stream, last)


def on_listening(state: State, out: Out, peer: Participant, version: int) -> None:
    """A subscriber's heartbeat: it is told the tips that have changed since it heard of them last."""
    body, flags = pack_body(tips_since(state, peer.hears, version))
    out.send(peer, CONTROL, Header(Kind.TIP, flags=flags), body)


def tips_since(state: State, names: set[str], version: int) -> dict[str, Any]:
    """`{version, streams}` of these audiences, those changed since that version."""
    streams = []
    for name in names:
        audience = state.audiences.by_name.get(name)
        if audience is not None:
            for stream in reversed(audience.streams.values()):
                if stream.version <= version:
                    break
                streams.append([name, stream.endpoint, stream.incarnation, stream.first, stream.last])
    return {"version": state.tips_version, "streams": streams}


def read_tips(said: object) -> dict[str, int]:
    """ProtocolError for anything but a map of audiences to numbers."""
    if not isinstance(said, dict) or len(said) > AUDIENCES:
        raise ProtocolError(f"tips are a map of at most {AUDIENCES} audiences to numbers")
    for name, last in said.items():
        if not isinstance(name, str) or type(last) is not int or not 0 < last <= MAX_ID:
            raise ProtocolError("a tip is the number of an event")
    return said


def may_serve(peer: Participant, audience: str) -> bool:
    """An endpoint's events are for its own user, for those it serves who have called it, and where it may, for any user."""
    if not peer.is_endpoint or not audience or audience == EVERYBODY:
        return False
    if audience == peer.identity.user or peer.identity.may_act_for:
        return True
    return audience in peer.users and permissions.serves(peer, audience)


def open_stream(state: State, audience: Audience, endpoint: str, incarnation: bytes, first: int) -> Stream:
    """A stream that this broker has not heard of before."""
    while len(audience.streams) >= STREAMS:
        audience.streams.popitem(last=False)
    stream = audience.streams[incarnation] = Stream(endpoint, incarnation, first, first, 0)
    move(state, audience, stream, first)
    return stream


def publish(state: State, out: Out, audience: Audience, header: Header, body: bytes) -> None:
    """Seal a message and hand it to whoever listens."""
    try:
        frame = encode_header(header)
    except ValueError:
        state.counters.drop("large-header")
        return
    out.publications.append(state.audiences.seal(audience, header, frame, body))


def move(state: State, audience: Audience, stream: Stream, last: int) -> None:
    """A stream has come so far."""
    state.tips_version += 1
    stream.last, stream.version = last, state.tips_version
    audience.streams.move_to_end(stream.incarnation)

"""Rules: what an endpoint says of its plugins, sessions, catalogue and load, in hello and afterwards."""

from __future__ import annotations

import hashlib

from orbit_broker import holdings, topology
from orbit_broker.hello import Facts, read_update
from orbit_broker.out import Out
from orbit_broker.routing import release_held
from orbit_broker.state import Participant, State
from orbit_zmq.errors import NotPermitted, ProtocolError
from orbit_zmq.wire.header import Header
from orbit_zmq.wire.limits import CATALOGUE_BYTES

SESSIONS = 100_000  # of one endpoint; more are not routed by their id alone


def on_update(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    """An endpoint has news of itself."""
    if not peer.is_endpoint:
        raise NotPermitted("only endpoints send updates")
    facts = read_update(body, header.flags)
    take_facts(state, out, peer, facts)
    holdings.on_sessions(state, out, peer, (session.holder for session in facts.opened))
    if facts.plugins is not None:
        topology.on_change(state, peer)
    if facts.catalogue_body is not None:
        release_held(state, out, peer.catalogue, now)


def take_facts(state: State, out: Out, endpoint: Participant, facts: Facts) -> None:
    """Note what was said; all of it, or nothing where a part is wrong."""
    body = facts.catalogue_body
    digest = endpoint.catalogue if facts.catalogue is None else facts.catalogue
    if body is not None and (len(body) > CATALOGUE_BYTES or hashlib.sha256(body).digest() != digest):
        raise ProtocolError("a catalogue that is too large, or whose hash is not the one that was said")
    if digest != endpoint.catalogue:
        before, endpoint.catalogue = endpoint.catalogue, digest
        state.forget_catalogue(before)
    if body is not None:
        state.catalogues[digest] = body
    for field in ("plugins", "absent", "load", "share"):
        said = getattr(facts, field)
        if said is not None:
            setattr(endpoint, field, said)
    if facts.plugins is not None or facts.share is not None or facts.catalogue is not None:
        state.permissions_version += 1
    for session_id in facts.closed:
        state.close_session(endpoint, session_id)
    for session in facts.opened:
        if len(endpoint.sessions) < SESSIONS:
            state.open_session(endpoint, session)
        else:
            state.counters.drop("too-many-sessions")

"""Rules: who is there. Connections that break, silence, heartbeats, bye, and what being lost does to calls.

`lose` is the only way by which a participant leaves: it ends the calls towards it, then the state forgets it.
"""

from __future__ import annotations

from orbit_broker import events, holdings, topology
from orbit_broker.out import Out
from orbit_broker.routing import send_cancel
from orbit_broker.state import Flight, Participant, State
from orbit_zmq.errors import EndpointLost, OutcomeUnknown
from orbit_zmq.rules.caller import cancel_body
from orbit_zmq.rules.liveness import Effect, Presence
from orbit_zmq.rules.outbox import CONTROL
from orbit_zmq.wire.body import unpack_map
from orbit_zmq.wire.header import FINAL, PROBE, Header, Kind

LATENCY_S = 5.0  # how often an endpoint's answering time is measured


def on_heard(state: State, out: Out, peer: Participant, now: float) -> None:
    """Any message of a suspect. (Of one who is present only the time is noted, by the loop's hot path.)"""
    if Effect.RESUME_REQUESTS in peer.liveness.on_heard(now):
        out.dirty[peer] = None
        topology.on_change(state, peer)
        out.log("back", participant=peer.name)


def on_gone(state: State, out: Out, peer: Participant, now: float) -> None:
    """Its connection is gone. Requests to it wait; all else that was queued would be out of date when it is back."""
    _leave(state, out, peer, "connection-closed", now)
    peer.liveness.on_closed(now)
    topology.on_change(state, peer)


def on_heartbeat(state: State, out: Out, peer: Participant, header: Header, body: bytes, now: float) -> None:
    """What it says of its work loop and its load, and how long it took to answer a probe."""
    if header.flags & PROBE:
        out.control(peer, Kind.HEARTBEAT)
    elif header.id and header.id == peer.probe:
        peer.latency_s = now - peer.probed_at
    facts = unpack_map(body, header.flags)
    age_s, load = facts.get("loop_age_s", 0.0), facts.get("load")
    if isinstance(age_s, (int, float)) and age_s >= 0:
        was_busy, is_busy = (age >= state.intervals.busy_s for age in (peer.loop_age_s, age_s))
        peer.loop_age_s = float(age_s)
        if was_busy != is_busy:
            topology.on_change(state, peer)
            out.log("busy" if is_busy else "not-busy", participant=peer.name, loop_age_s=peer.loop_age_s)
    if isinstance(load, dict):
        peer.load = load
    version = facts.get("tips")
    if type(version) is int:
        peer.is_listening = True
        peer.replayed, peer.missed = (_count(facts.get(name)) for name in ("replayed", "missed"))
        events.on_listening(state, out, peer, version)


def on_bye(state: State, out: Out, peer: Participant, header: Header, now: float) -> None:
    """It leaves, for good or to come back."""
    if header.flags & FINAL:
        lose(state, out, peer, "bye", now)
        return
    _leave(state, out, peer, "bye", now)
    peer.liveness.on_bye(False, now)
    topology.on_change(state, peer)


def on_presence_tick(state: State, out: Out, now: float) -> None:
    """Silence makes suspect, then lost; a heartbeat now and then finds out that a connection is gone."""
    intervals = state.intervals
    idle_s = min(intervals.heartbeat_s, intervals.probe_idle_s)
    for peer in tuple(state.participants.values()):
        effects = peer.liveness.on_tick(now)
        if effects:
            topology.on_change(state, peer)
            _announce(out, peer, "silence", now)
        if Effect.FAIL_REQUESTS in effects:
            lose(state, out, peer, "silence", now)
        elif peer.routing_id and now - peer.sent_at >= (intervals.probe_open_s if peer.made or peer.serving else idle_s):
            if not len(peer.outbox):
                _beat(out, peer, now)
            else:
                out.dirty[peer] = None  # trying to send what waits tells as much
        elif peer.routing_id and peer.is_endpoint and now - peer.probed_at >= LATENCY_S:
            _beat(out, peer, now)


def lose(state: State, out: Out, peer: Participant, cause: str, now: float) -> None:
    """End its calls and forget it. `cause` is bye, silence, replaced, revoked, or disconnected."""
    peer.liveness.presence = Presence.LOST
    for flight in tuple(peer.serving):
        state.close_flight(flight)
        if flight.caller is not peer:
            out.error(flight.caller, flight.id, _lost_call(flight, peer))
    for flight in tuple(peer.made):
        state.close_flight(flight)
        # One that fell silent may be back and ask again; one that has gone for good will not.
        if cause != "silence" and flight.may_have_run:
            send_cancel(out, flight, now, cancel_body("the caller has left"))
    dropped = peer.outbox.clear()
    if dropped:
        state.counters.drop("peer-lost", dropped)
    state.remove(peer)
    if peer.is_endpoint:
        state.depart(peer, cause, now)
    out.dirty.pop(peer, None)
    holdings.on_lost(state, out, peer)
    topology.on_change(state, peer, lost=True)
    _announce(out, peer, cause, now)


def _beat(out: Out, peer: Participant, now: float) -> None:
    """A heartbeat; now and then one that an endpoint answers at once."""
    if not peer.is_endpoint or (peer.latency_s is not None and now - peer.probed_at < LATENCY_S):
        out.control(peer, Kind.HEARTBEAT)
        return
    peer.probe, peer.probed_at = peer.probe + 1, now
    out.send(peer, CONTROL, Header(Kind.HEARTBEAT, id=peer.probe, flags=PROBE))


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _leave(state: State, out: Out, peer: Participant, cause: str, now: float) -> None:
    dropped = state.detach(peer)
    if dropped:
        state.counters.drop("peer-away", dropped)
    if peer.liveness.presence is Presence.PRESENT:
        _announce(out, peer, cause, now)


def _announce(out: Out, peer: Participant, cause: str, now: float) -> None:
    """Tell the log that somebody is not there; only an endpoint that goes without a word is worth a warning."""
    say = out.warn if peer.is_endpoint and cause != "bye" else out.log
    event = "lost" if peer.liveness.presence is Presence.LOST else "suspect"
    say(event, participant=peer.name, role=peer.role, cause=cause, silent_for_s=round(now - peer.liveness.heard_at, 3))


def _lost_call(flight: Flight, server: Participant) -> EndpointLost | OutcomeUnknown:
    details = {"endpoint": server.name}
    if flight.may_have_run:
        return OutcomeUnknown(f"{server.name} went away with the call; it may have been executed", details=details)
    return EndpointLost(f"{server.name} went away before the call reached it; nothing was executed", details=details)

"""Whether the cross-references of the state fit together: called by tests after every step, never on the way of a message."""

from __future__ import annotations

from collections import Counter

from orbit_broker.state import State
from orbit_zmq.rules.liveness import Presence


def check(state: State) -> list[str]:
    """What does not fit together; empty in every state that the rules may leave behind."""
    problems = [*_check_participants(state), *_check_tables(state), *_check_flights(state), *_check_sessions(state)]
    problems += _check_parties(state)
    for digest in state.catalogues:
        if not any(endpoint.catalogue == digest for endpoint in state.endpoints.values()):
            problems.append(f"catalogue {digest.hex()} belongs to nobody")
    problems += _check_held(state)
    if state.queued.used_bytes != sum(participant.outbox.bytes for participant in state.participants.values()):
        problems.append("the bytes in queues are miscounted")
    for routing_id, newcomer in state.newcomers.items():
        if routing_id != newcomer.routing_id or routing_id in state.peers:
            problems.append("a newcomer is connected already")
    return problems


def _check_held(state: State) -> list[str]:
    problems = []
    for key, held in state.held.items():
        if key != (held.caller.incarnation, held.header.id) or state.participants.get(key[0]) is not held.caller:
            problems.append(f"held request {held.header.id} has no caller")
        if key in state.flights:
            problems.append(f"request {held.header.id} is both held and in flight")
    if state.held != {key: held for waiting in state.held_for.values() for key, held in waiting.items()}:
        problems.append("held requests are not found by what they wait for")
    if state.held_bytes != sum(len(held.body) for held in state.held.values()):
        problems.append("the bytes of held requests are miscounted")
    return problems


def _check_participants(state: State) -> list[str]:
    problems = []
    for incarnation, participant in state.participants.items():
        if participant.incarnation != incarnation:
            problems.append(f"{participant.name} stands under another incarnation")
        if participant.routing_id and state.peers.get(participant.routing_id) is not participant:
            problems.append(f"{participant.name} has a connection that leads elsewhere")
        if participant.is_endpoint and state.endpoints.get(participant.name) is not participant:
            problems.append(f"endpoint {participant.name} is not in the table of names")
        if participant.liveness.presence is Presence.LOST:
            problems.append(f"{participant.name} is lost and still there")
        if not participant.routing_id and participant.takes_requests:
            problems.append(f"{participant.name} is present without a connection")
    return problems


def _check_parties(state: State) -> list[str]:
    problems = []
    for user_id, party in state.parties.items():
        if not party.participants or any(state.participants.get(one.incarnation) is not one for one in party.participants):
            problems.append(f"the key {user_id} has participants that are not there")
        if party.calls != sum(len(one.made) for one in party.participants):
            problems.append(f"the calls of the key {user_id} are miscounted")
        if party.held != sum(held.caller.party is party for held in state.held.values()):
            problems.append(f"the requests of the key {user_id} that wait are miscounted")
    for participant in state.participants.values():
        if state.parties.get(participant.identity.user_id) is not participant.party:
            problems.append(f"{participant.name} belongs to a key that is not there")
    return problems


def _check_tables(state: State) -> list[str]:
    problems = []
    for routing_id, participant in state.peers.items():
        if state.participants.get(participant.incarnation) is not participant or participant.routing_id != routing_id:
            problems.append(f"a connection leads to {participant.name}, which is not there")
    for name, endpoint in state.endpoints.items():
        if endpoint.name != name or state.participants.get(endpoint.incarnation) is not endpoint:
            problems.append(f"the name {name} leads to an endpoint that is not there")
    return problems


def _check_flights(state: State) -> list[str]:
    problems = []
    watched = {entry[2] for entry in state.deadlines}
    for key, flight in state.flights.items():
        here = [party for party in (flight.caller, flight.server) if party is not None]
        if any(state.participants.get(party.incarnation) is not party for party in here):
            problems.append(f"call {flight.id} has a caller or an endpoint that is not there")
        in_sets = flight in flight.caller.made and (flight.server is None or flight in flight.server.serving)
        if key != flight.key or not in_sets or flight.has_ended:
            problems.append(f"call {flight.id} is not where it belongs")
        if flight not in watched:
            problems.append(f"nobody watches the deadline of call {flight.id}")
    alive = set(state.flights.values())
    if state.own_streams != {flight for flight in alive if flight.server is None}:
        problems.append("the streams of the broker itself are miscounted")
    for participant in state.participants.values():
        if not participant.made <= alive or not participant.serving <= alive:
            problems.append(f"{participant.name} has calls that are not in flight")
        if sum(participant.windows.values()) != sum(flight.server is not None for flight in participant.made):
            problems.append(f"the window of {participant.name} is miscounted")
    return problems


def _check_sessions(state: State) -> list[str]:
    problems = []
    for session_id, holders in state.sessions.items():
        for holder in holders:
            if state.endpoints.get(holder.name) is not holder or session_id not in holder.sessions:
                problems.append(f"session {session_id} is at an endpoint that is not there")
    for participant in state.participants.values():
        for session_id in participant.sessions:
            if participant not in state.sessions.get(session_id, []):
                problems.append(f"session {session_id} of {participant.name} is not in the table")
    counted = Counter(
        (session.holder, participant)
        for participant in state.participants.values()
        for session in participant.sessions.values()
        if session.holder
    )
    if counted != {(holder, endpoint): n for holder, held in state.holdings.items() for endpoint, n in held.items()}:
        problems.append("the sessions that processes hold are miscounted")
    return problems

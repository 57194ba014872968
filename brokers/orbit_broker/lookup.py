"""Queries: which endpoint a caller means. By name, by a bare session id, or by what it has to offer.

Answers an endpoint or raises an OrbitError that names what was asked for; changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from orbit_broker import permissions
from orbit_broker.state import Participant, State
from orbit_zmq.errors import Conflict, NotFound
from orbit_zmq.rules.liveness import Presence

BUSY = "busy"
REASONS = 3  # of endpoints that lack a plugin are told


def by_name(state: State, name: str) -> Participant:
    endpoint = state.endpoints.get(name)
    if endpoint is None:
        raise NotFound(f"there is no endpoint {name}", details={"endpoint": name})
    return endpoint


def by_session(state: State, session_id: str, caller: Participant, user: str) -> Participant:
    """The endpoint of a session of this user; what belongs to others is not found, unless an admin asks."""
    holders = [
        endpoint
        for endpoint in state.sessions.get(session_id, ())
        if endpoint.sessions[session_id].user == user or caller.role == "admin"
    ]
    if not holders:
        raise NotFound(f"unknown session id: {session_id}", details={"session": session_id})
    if len(holders) > 1:
        names = sorted(endpoint.name for endpoint in holders)
        raise Conflict(
            f"the session {session_id} is at {' and at '.join(names)}",
            hint="Name the endpoint as well.",
            details={"endpoints": names},
        )
    return holders[0]


def by_capability(
    state: State,
    caller: Participant,
    user: str,
    *,
    plugin: str = "",
    role: str = "",
    scheduler: str = "",
    labels: Mapping[str, str] | None = None,
) -> Participant:
    """The less loaded of two random endpoints that fit: of those that are there and do not hang if there are any, else of
    those that hang, else of those that may come back."""
    fitting = [
        endpoint
        for endpoint in state.endpoints.values()
        if offers(endpoint, plugin, caller, user)
        and (not role or endpoint.host.get("role") == role)
        and (not scheduler or endpoint.host.get("scheduler") == scheduler)
        and all(endpoint.labels.get(key) == value for key, value in (labels or {}).items())
    ]
    present = [endpoint for endpoint in fitting if endpoint.liveness.presence is Presence.PRESENT] or fitting
    awake = [endpoint for endpoint in present if presence_of(state, endpoint) != BUSY] or present
    if not awake:
        wanted = {"plugin": plugin, "role": role, "scheduler": scheduler, **(labels or {})}
        asked = ", ".join(f"{key}={value}" for key, value in wanted.items() if value)
        raise NotFound(f"no endpoint has {asked or 'what was asked for'}", hint=_why_absent(state, plugin, caller, user))
    return min(_two_of(state.random, awake), key=load_of)


def _why_absent(state: State, plugin: str, caller: Participant, user: str) -> str:
    """Why the endpoints that are there do not serve a plugin that they could, of the first few."""
    near = sorted((one for one in state.endpoints.values() if offers(one, "", caller, user)), key=lambda one: one.name)
    said = [
        f"{endpoint.name}: {'; '.join(str(entry[key]) for key in ('reason', 'hint') if entry.get(key))}"
        for endpoint in near
        for entry in endpoint.absent
        if entry.get("plugin") == plugin
    ]
    return f"{'. '.join(said[:REASONS])}." if said else ""


def offers(endpoint: Participant, plugin: str, caller: Participant, user: str) -> bool:
    """Whether a caller may do something with that plugin, by instance or by type, or with the endpoint if none is named."""
    if not plugin:
        return permissions.serves(endpoint, user) and caller.identity.may_reach(endpoint.name, "*")
    instances = [name for name, facts in endpoint.plugins.items() if plugin in (name, facts.get("plugin"))]
    return any(permissions.rights_at(caller, endpoint, name, user) for name in instances)


def presence_of(state: State, participant: Participant) -> str:
    """present, busy (its work loop hangs, its line lives), or suspect."""
    if participant.liveness.presence is Presence.PRESENT and participant.loop_age_s >= state.intervals.busy_s:
        return BUSY
    return participant.liveness.presence.name.lower()


def load_of(endpoint: Participant) -> float:
    """Calls in flight here, and what it says that it runs."""
    running = endpoint.load.get("running")
    return len(endpoint.serving) + (running if isinstance(running, (int, float)) and running > 0 else 0)


def _two_of(source: random.Random, endpoints: list[Participant]) -> list[Participant]:
    return source.sample(endpoints, min(2, len(endpoints)))  # in any order, for two may be as busy

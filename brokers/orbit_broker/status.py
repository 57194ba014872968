"""The broker's account of itself, as the model that `status` answers. Reads the state, changes nothing."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import Any

from orbit_broker import lookup
from orbit_broker.counters import SessionKey
from orbit_broker.state import Participant, State
from orbit_zmq.models import (
    BrokerStatus,
    CallCounts,
    EventStatus,
    LoadStatus,
    LoopStatus,
    LostEndpoint,
    ParticipantStatus,
    QueueStatus,
    Rates,
    SecurityStatus,
    SessionActivity,
    Totals,
)

LOST_S = 900.0  # how long a lost endpoint is shown
BUSIEST = 20
STATES = 16  # of tasks, that one endpoint tells apart
STATE_CHARS = 32
Activity = Mapping[SessionKey, tuple[float, float]]


def status_of(state: State, now: float, user: str | None = None) -> BrokerStatus:
    """Everything that a monitor may want to show; of sessions only those of `user`, where one is given."""
    queues = [peer.outbox for peer in state.participants.values()]
    activity = state.counters.activity(now)
    rates = _rates_of_endpoints(activity)
    return BrokerStatus(
        epoch=state.epoch.hex(),
        broker_version=state.version,
        uptime_s=round(now - state.started_at, 3),
        **state.facts,
        **state.measure(),
        participants=[_participant(state, peer, now, rates) for peer in state.participants.values()],
        lost_endpoints=_lost_endpoints(state, now),
        busiest_sessions=_busiest(activity, user),
        calls=CallCounts(
            in_flight=len(state.flights),
            held=len(state.held),
            own_streams=len(state.own_streams),
        ),
        events=EventStatus(
            audiences=len(state.audiences.by_name),
            streams=sum(len(audience.streams) for audience in state.audiences.by_name.values()),
            subscribers=sum(map(_is_subscriber, state.participants.values())),
            replayed=sum(peer.replayed for peer in state.participants.values()),
            missed=sum(peer.missed for peer in state.participants.values()),
        ),
        security=SecurityStatus(
            keys=0 if state.keys is None else len(state.keys),
            key_list_damage="" if state.keys is None else state.keys.damage,
            **state.measure_security(),
        ),
        loop=LoopStatus(
            rounds=state.rounds.count,
            longest_round_s=round(state.rounds.longest_s, 6),
            longest_round_lately_s=round(state.rounds.longest_lately_s, 6),
        ),
        sessions=len(state.sessions),
        catalogues=len(state.catalogues),
        queues=QueueStatus(messages=sum(map(len, queues)), bytes=sum(queue.bytes for queue in queues)),
        totals=Totals(**state.counters.totals()),
        rates_1s=Rates(**state.counters.rates(1, now)),
        rates_10s=Rates(**state.counters.rates(10, now)),
        drops=dict(state.counters.drops),
    )


def _participant(state: State, peer: Participant, now: float, rates: Mapping[str, tuple[float, float]]) -> ParticipantStatus:
    calls_per_s, events_per_s = rates.get(peer.name, (0.0, 0.0)) if peer.is_endpoint else (0.0, 0.0)
    return ParticipantStatus(
        name=peer.name,
        role=peer.role,
        user=peer.identity.user,
        state=lookup.presence_of(state, peer),
        incarnation=peer.incarnation.hex(),
        is_connected=bool(peer.routing_id),
        silent_for_s=round(now - peer.liveness.heard_at, 3),
        loop_age_s=peer.loop_age_s,
        latency_s=None if peer.latency_s is None else round(peer.latency_s, 6),
        open_calls_made=len(peer.made),
        open_calls_served=len(peer.serving),
        calls_made=peer.calls_made,
        calls_served=peer.calls_served,
        calls_served_per_s=round(calls_per_s, 3),
        events_per_s=round(events_per_s, 3),
        sessions=len(peer.sessions),
        host_role=str(peer.host.get("role", "")),
        scheduler=str(peer.host.get("scheduler", "")),
        load=_load(peer.load) if peer.is_endpoint else None,
        is_subscriber=_is_subscriber(peer),
        replayed=peer.replayed,
        missed=peer.missed,
        queue=QueueStatus(messages=len(peer.outbox), bytes=peer.outbox.bytes),
    )


def _load(said: Mapping[str, Any]) -> LoadStatus:
    """What a peer says of its load; anything but a number counts as nothing."""
    counts = {name: said.get(name) for name in ("running", "waiting", "sessions", "tasks")}
    host_load = said.get("host_load")
    is_number = isinstance(host_load, (int, float)) and 0 <= host_load < math.inf
    return LoadStatus(
        **{name: count for name, count in counts.items() if type(count) is int and count >= 0},
        tasks_by_state=_states(said.get("tasks_by_state")),
        host_load=float(host_load or 0.0) if is_number else 0.0,
    )


def _states(said: object) -> dict[str, int]:
    """What a peer says of its tasks, as far as it is states with numbers, and no more of them than there can be."""
    if not isinstance(said, dict) or len(said) > STATES:
        return {}
    return {
        state: count
        for state, count in said.items()
        if isinstance(state, str) and state.isidentifier() and len(state) <= STATE_CHARS and type(count) is int and count >= 0
    }


def _is_subscriber(peer: Participant) -> bool:
    return bool(peer.hears) and peer.is_listening


def _lost_endpoints(state: State, now: float) -> list[LostEndpoint]:
    return [
        LostEndpoint(name=one.name, user=one.user, host_role=one.host_role, cause=one.cause, lost_for_s=round(now - one.at, 3))
        for one in reversed(state.departed.values())
        if now - one.at < LOST_S
    ]


def _rates_of_endpoints(activity: Activity) -> dict[str, tuple[float, float]]:
    rates: dict[str, tuple[float, float]] = {}
    for (endpoint, *_), (calls, events) in activity.items():
        before = rates.get(endpoint, (0.0, 0.0))
        rates[endpoint] = (before[0] + calls, before[1] + events)
    return rates


def _busiest(activity: Activity, user: str | None) -> list[SessionActivity]:
    known = [(key, rates) for key, rates in activity.items() if key[2] and user in (None, key[3])]
    return [
        SessionActivity(endpoint=endpoint, plugin=plugin, session=session, user=owner, calls_per_s=calls, events_per_s=events)
        for (endpoint, plugin, session, owner), (calls, events) in heapq.nlargest(BUSIEST, known, key=lambda one: sum(one[1]))
    ]

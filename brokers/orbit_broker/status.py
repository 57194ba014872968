"""The broker's account of itself, as the model that `status` answers. Reads the state, changes nothing."""

from __future__ import annotations

from orbit_broker import lookup
from orbit_broker.state import Participant, State
from orbit_zmq.models import (
    BrokerStatus,
    CallCounts,
    EventStatus,
    LoopStatus,
    ParticipantStatus,
    QueueStatus,
    Rates,
    SecurityStatus,
    Totals,
)


def status_of(state: State, now: float) -> BrokerStatus:
    """Everything that a monitor may want to show."""
    queues = [peer.outbox for peer in state.participants.values()]
    return BrokerStatus(
        epoch=state.epoch.hex(),
        broker_version=state.version,
        uptime_s=round(now - state.started_at, 3),
        **state.facts,
        **state.measure(),
        participants=[_participant(state, peer, now) for peer in state.participants.values()],
        calls=CallCounts(
            in_flight=len(state.flights),
            held=len(state.held),
            own_streams=len(state.own_streams),
        ),
        events=EventStatus(
            audiences=len(state.audiences.by_name),
            streams=sum(len(audience.streams) for audience in state.audiences.by_name.values()),
            subscribers=sum(bool(peer.hears) and peer.is_listening for peer in state.participants.values()),
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


def _participant(state: State, peer: Participant, now: float) -> ParticipantStatus:
    return ParticipantStatus(
        name=peer.name,
        role=peer.role,
        user=peer.identity.user,
        state=lookup.presence_of(state, peer),
        incarnation=peer.incarnation.hex(),
        is_connected=bool(peer.routing_id),
        silent_for_s=round(now - peer.liveness.heard_at, 3),
        loop_age_s=peer.loop_age_s,
        calls_made=len(peer.made),
        calls_served=len(peer.serving),
        sessions=len(peer.sessions),
        queue=QueueStatus(messages=len(peer.outbox), bytes=peer.outbox.bytes),
    )

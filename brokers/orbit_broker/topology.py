"""Rules: which endpoints there are, told to everybody as a stream of changes of the broker's own.

Changes are gathered to at most ten messages a second. Nothing is replayed: whoever missed one asks for the whole view.
"""

from __future__ import annotations

from typing import Any, Final

from orbit_broker import events, lookup
from orbit_broker.audiences import EVERYBODY
from orbit_broker.out import BROKER, Out
from orbit_broker.state import Participant, State
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import Header, Kind

COALESCE_S = 0.1
CHANGES = 100  # in one event, which has room for 32 KiB
TIP_AFTER_S = 0.25  # once, after the last change; further tips come with the answers to heartbeats
LOST: Final = "lost"


def on_change(state: State, endpoint: Participant, *, lost: bool = False) -> None:
    """An endpoint has come, gone, or become another."""
    if not endpoint.is_endpoint:
        return
    changes, name = state.topology.changes, endpoint.name
    facts = facts_of(state, endpoint)
    if lost:
        facts["state"] = LOST
    if changes.get(name) and changes[name][-1]["state"] != LOST:
        changes[name][-1] = facts
    else:
        changes.setdefault(name, []).append(facts)


def on_topology_tick(state: State, out: Out, now: float) -> None:
    """Tell what has changed, ten times a second at most."""
    topology = state.topology
    if topology.changes and now - topology.told_at >= COALESCE_S:
        topology.told_at = now
        topology.tip_at = now + TIP_AFTER_S
        changes = [[name, facts] for name, each in topology.changes.items() for facts in each]
        topology.changes.clear()
        for start in range(0, len(changes), CHANGES):
            _tell(state, out, changes[start : start + CHANGES], now)
    elif now >= topology.tip_at:
        topology.tip_at = float("inf")
        tip = Header(Kind.TIP, id=topology.number, source=BROKER, target=state.epoch)
        events.publish(state, out, state.audiences.of(EVERYBODY, now), tip, b"")


def whole_view(state: State) -> dict[str, Any]:
    """The answer of the operation `topology`. Changes that wait to be told are in it, and harmless when they come."""
    return {
        "incarnation": state.epoch,
        "number": state.topology.number,
        "endpoints": {name: facts_of(state, endpoint) for name, endpoint in state.endpoints.items()},
    }


def facts_of(state: State, endpoint: Participant) -> dict[str, Any]:
    return {
        "role": endpoint.host.get("role", ""),
        "state": lookup.presence_of(state, endpoint),
        "plugins": list(endpoint.plugins),
    }


def _tell(state: State, out: Out, changes: list[Any], now: float) -> None:
    body, flags = pack_body({"changes": changes})
    audience = state.audiences.of(EVERYBODY, now)
    state.topology.number += 1
    number = state.topology.number
    stream = audience.streams.get(state.epoch) or events.open_stream(state, audience, BROKER, state.epoch, 0)
    events.move(state, audience, stream, number)
    header = Header(
        Kind.EVENT,
        id=number,
        source=BROKER,
        target=state.epoch,
        operation="topology",
        audience=EVERYBODY,
        happened_at=state.wall_clock(),
        flags=flags,
    )
    events.publish(state, out, audience, header, body)

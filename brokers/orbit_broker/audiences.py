"""Audiences: who may hear what, under which key it is sealed, and when that key is replaced.

An audience is a user, or `all`. Its key is given only to those who may hear it, and remembered as given, so that it can be
replaced when one of them may no more, connected or not. Keys live in memory and are new at every start. No sockets here.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from orbit_zmq.errors import NotPermitted
from orbit_zmq.rules.outbox import CONTROL
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import Header, Kind
from orbit_zmq.wire.seal import KEY_BYTES, KEY_ID_BYTES, Sealer, topic_of

if TYPE_CHECKING:
    from orbit_broker.out import Out
    from orbit_broker.state import Identity, Participant, State

EVERYBODY: Final = "all"
KEY_S = 86_400.0
ROTATION_S = 0.1  # rotations within it are one
TOLD_A_ROUND = 100  # connections told of a new key in one round of the loop


@dataclass(slots=True, eq=False)
class Stream:
    """What one audience hears of one endpoint incarnation. Numbers up to `first` were sent before this broker knew it."""

    endpoint: str
    incarnation: bytes
    first: int
    last: int
    version: int


@dataclass(slots=True, eq=False)
class Audience:
    """One audience. `streams` are in the order of their last change."""

    name: str
    tag: str
    key: bytes
    sealer: Sealer
    rotated_at: float
    rotate_at: float
    given: dict[str, Identity] = field(default_factory=dict)  # by user id: who has the present key
    untold: dict[Participant, None] = field(default_factory=dict)  # who has to be told of it
    streams: OrderedDict[bytes, Stream] = field(default_factory=OrderedDict)

    def facts(self) -> dict[str, Any]:
        """What those who may hear it are told."""
        return {"tag": self.tag, "key_id": self.sealer.key_id, "key": self.key}


class Audiences:
    """All audiences of one broker."""

    def __init__(self) -> None:
        self.by_name: dict[str, Audience] = {}

    def of(self, name: str, now: float) -> Audience:
        """The audience of that name; it is there once it is asked for."""
        audience = self.by_name.get(name)
        if audience is None:
            sealer, key = _fresh_key()
            audience = self.by_name[name] = Audience(name, secrets.token_hex(8), key, sealer, now, now + KEY_S)
        return audience

    def give(self, name: str, participant: Participant, now: float) -> dict[str, Any]:
        """Tag and key for one who may hear the audience; NotPermitted for one who may not."""
        if not may_hear(participant.identity, name):
            raise NotPermitted(f"this participant may not hear the events of {name}")
        audience = self.of(name, now)
        participant.hears.add(name)
        audience.given[participant.identity.user_id] = participant.identity
        audience.untold.pop(participant, None)
        return audience.facts()

    def close_streams(self, incarnation: bytes) -> None:
        """An endpoint is lost: nobody can replay its events any more."""
        for audience in self.by_name.values():
            audience.streams.pop(incarnation, None)

    def seal(self, audience: Audience, header: Header, frame: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
        return audience.sealer.seal(topic_of(audience.tag, header.source), frame, body)

    def on_rights_changed(self, identify: Callable[[str], Identity | None], now: float) -> None:
        """Replace every key that somebody has who may not have it any more."""
        for audience in self.by_name.values():
            for user_id, before in tuple(audience.given.items()):
                fresh = identify(user_id)
                if fresh is None or not may_hear(fresh, audience.name) or fresh.user != before.user:
                    del audience.given[user_id]
                    audience.rotate_at = min(audience.rotate_at, max(now, audience.rotated_at + ROTATION_S))

    def on_tick(self, state: State, out: Out, now: float) -> None:
        """Replace what is due, and tell those who may know."""
        for audience in self.by_name.values():
            if now >= audience.rotate_at or audience.sealer.is_used_up:
                self._rotate(state, audience, now)
            for participant in tuple(audience.untold)[:TOLD_A_ROUND]:
                self._tell(state, out, audience, participant, now)

    def are_settled(self, now: float) -> bool:
        """Whether no key waits to be replaced, and everybody has been told of those that were."""
        return all(audience.rotate_at - now > ROTATION_S and not audience.untold for audience in self.by_name.values())

    def _rotate(self, state: State, audience: Audience, now: float) -> None:
        audience.sealer, audience.key = _fresh_key()
        audience.rotated_at, audience.rotate_at = now, now + KEY_S
        audience.given.clear()
        audience.untold = {peer: None for peer in state.peers.values() if audience.name in peer.hears}

    def _tell(self, state: State, out: Out, audience: Audience, participant: Participant, now: float) -> None:
        audience.untold.pop(participant, None)
        is_here = state.participants.get(participant.incarnation) is participant and bool(participant.routing_id)
        if not is_here:
            return  # it is told in its next welcome
        if not may_hear(participant.identity, audience.name):
            participant.hears.discard(audience.name)
            return
        body, flags = pack_body({audience.name: self.give(audience.name, participant, now)})
        out.send(participant, CONTROL, Header(Kind.KEYS, flags=flags), body, now)


def may_hear(identity: Identity, audience: str) -> bool:
    """Whether somebody may hear an audience: everybody's, one's own, and that of a user for whom one may act."""
    return audience in (EVERYBODY, identity.user) or identity.may_act_for


def welcome_audiences(state: State, participant: Participant, now: float) -> dict[str, Any]:
    """Keys and tags that come with welcome: everybody's, one's own, and what was asked for before."""
    wanted = {EVERYBODY, participant.identity.user, *participant.hears}
    participant.hears.clear()
    return {
        name: state.audiences.give(name, participant, now) for name in sorted(wanted) if may_hear(participant.identity, name)
    }


def _fresh_key() -> tuple[Sealer, bytes]:
    key = secrets.token_bytes(KEY_BYTES)
    return Sealer(secrets.token_bytes(KEY_ID_BYTES), key), key

"""The numbers that both sides of a connection keep to, and how two sides agree on them.

Hello carries a participant's limits, welcome the smaller of both sides'. Nothing here is negotiated anywhere else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from orbit_zmq.errors import ProtocolError, VersionMismatch

PROTOCOL_VERSIONS = (1, 1)  # the oldest and the newest version that this release speaks

HEADER_BYTES = 4096
HEADER_KEYS = 32
HEADER_DEPTH = 3
NAME_CHARS = 255
SETTLED_IDS = 256  # ids that one header may list; 9 bytes each keep well under HEADER_BYTES
HELLO_BYTES = 1 << 20
FRAME_BYTES = (1 << 20) + (1 << 16)  # MAXMSGSIZE: the largest chunk and a margin; libzmq cuts a peer that sends more
CHUNK_MAX_BYTES = 1 << 20  # a longer frame outlasts a heartbeat on a slow line
MAX_LEFT_S = 7 * 86_400.0
MAX_ID = (1 << 64) - 1
EVENT_BYTES = 32 << 10  # body of one event: it says what happened, and is not the data
REPLAY_BYTES = 1 << 20  # one answer to a subscriber that is behind
SESSIONS_IN_HELLO = 5_000  # more follow in updates
CATALOGUE_BYTES = 768 << 10  # what an endpoint may say of its plugins; with the rest it fits an update of HELLO_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side of a connection accepts. Bytes and counts; each is at least 1."""

    inline_bytes: int = 1 << 16  # larger bodies go as chunks
    chunk_bytes: int = 1 << 18  # 256 KiB: four of them fill the initial credit and one fetch of 1 MiB
    credit_chunks: int = 4  # chunks that may be sent before the first credit arrives
    open_calls: int = 1024  # calls that one caller may have unsettled at one endpoint
    body_bytes: int = 64 << 20  # decoded arguments or result of one call; streams of bytes have no limit

    def agreed_with(self, other: Limits) -> Limits:
        """The smaller of both sides, field by field."""
        return Limits(*(min(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))

    def to_body(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_body(cls, body: object) -> Limits:
        """Read limits that a peer sent, ignoring unknown names; ProtocolError for a value that is no positive integer."""
        if not isinstance(body, dict):
            raise ProtocolError(f"limits are a map, not {type(body).__name__}")
        known: dict[str, Any] = {}
        for field in fields(cls):
            value = body.get(field.name, field.default)
            if type(value) is not int or value < 1:
                raise ProtocolError(f"limit {field.name} is a positive integer")
            known[field.name] = value
        known["chunk_bytes"] = min(known["chunk_bytes"], CHUNK_MAX_BYTES)
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Intervals:
    """Times in seconds that the broker announces in welcome and that both sides keep to."""

    heartbeat_s: float = 2.0
    busy_s: float = 5.0  # age of the work loop's last turn from which an endpoint counts as busy
    suspect_s: float = 10.0  # silence on a connection that stays open
    lost_s: float = 30.0
    closed_lost_s: float = 3.0  # after a connection that closed while traffic flowed
    probe_open_s: float = 0.25  # peers with calls open
    probe_idle_s: float = 5.0  # all others
    name_probe_s: float = 1.0  # how long a connected holder of a name has to answer

    def to_body(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_body(cls, body: object) -> Intervals:
        """Read intervals that the broker sent; a value that is no number above zero is a ProtocolError."""
        if not isinstance(body, dict):
            raise ProtocolError(f"intervals are a map, not {type(body).__name__}")
        known: dict[str, float] = {}
        for field in fields(cls):
            value = body.get(field.name, field.default)
            if type(value) not in (int, float) or not 0 < value < MAX_LEFT_S:
                raise ProtocolError(f"interval {field.name} is a number of seconds above zero")
            known[field.name] = float(value)
        return cls(**known)


def agree_on_version(offered: object) -> int:
    """The newest version in both ranges; VersionMismatch naming both, ProtocolError for a range of another shape."""
    if not isinstance(offered, (list, tuple)) or len(offered) != 2 or any(type(bound) is not int for bound in offered):
        raise ProtocolError("versions are a list of two integers, oldest and newest")
    oldest: int = max(offered[0], PROTOCOL_VERSIONS[0])
    newest: int = min(offered[1], PROTOCOL_VERSIONS[1])
    if oldest > newest:
        raise VersionMismatch(
            f"the peer speaks protocol versions {offered[0]} to {offered[1]}, "
            f"this side {PROTOCOL_VERSIONS[0]} to {PROTOCOL_VERSIONS[1]}"
        )
    return newest

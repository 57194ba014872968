"""What a subscriber hears: events with their body still packed, and the number of those that it did not hear. Records only."""

from __future__ import annotations

from dataclasses import dataclass

from orbit_zmq.wire.header import Header


@dataclass(frozen=True, slots=True)
class Heard:
    """One event: where it comes from, its header, its body still packed, and whose it is."""

    endpoint: str
    incarnation: bytes
    header: Header
    body: bytes
    audience: str


@dataclass(frozen=True, slots=True)
class Missed:
    """So many events of an endpoint could not be had any more, or came faster than they were taken."""

    endpoint: str
    count: int

"""Whether a participant is there: present, suspect, or lost.

Events in, effects out, time passed in; the table below has every pair of state and event. That a work loop hangs while the
line lives ("busy") is not a matter of this table: it never makes anybody suspect or lost. No sockets and no clock here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from math import inf


class Presence(Enum):
    """present: heard lately.  suspect: silent or disconnected, calls wait.  lost: calls have ended."""

    PRESENT = auto()
    SUSPECT = auto()
    LOST = auto()


class Event(Enum):
    """What happened to the participant."""

    HEARD = auto()
    SILENT = auto()  # nothing heard for the time that the state allows
    CLOSED = auto()  # its connection is gone
    SAID_RETURNING = auto()  # bye, back soon
    SAID_FINAL = auto()  # bye for good, or another incarnation has taken its name


class Effect(Enum):
    """What has to be done about it."""

    ANNOUNCE = auto()
    RESUME_REQUESTS = auto()
    FAIL_REQUESTS = auto()


# Every pair is written out; a missing pair is a bug, not a default.
RULES: dict[tuple[Presence, Event], tuple[Presence, tuple[Effect, ...]]] = {
    (Presence.PRESENT, Event.HEARD): (Presence.PRESENT, ()),
    (Presence.PRESENT, Event.SILENT): (Presence.SUSPECT, (Effect.ANNOUNCE,)),
    (Presence.PRESENT, Event.CLOSED): (Presence.SUSPECT, (Effect.ANNOUNCE,)),
    (Presence.PRESENT, Event.SAID_RETURNING): (Presence.SUSPECT, (Effect.ANNOUNCE,)),
    (Presence.PRESENT, Event.SAID_FINAL): (Presence.LOST, (Effect.FAIL_REQUESTS, Effect.ANNOUNCE)),
    (Presence.SUSPECT, Event.HEARD): (Presence.PRESENT, (Effect.RESUME_REQUESTS, Effect.ANNOUNCE)),
    (Presence.SUSPECT, Event.SILENT): (Presence.LOST, (Effect.FAIL_REQUESTS, Effect.ANNOUNCE)),
    (Presence.SUSPECT, Event.CLOSED): (Presence.SUSPECT, ()),
    (Presence.SUSPECT, Event.SAID_RETURNING): (Presence.SUSPECT, ()),
    (Presence.SUSPECT, Event.SAID_FINAL): (Presence.LOST, (Effect.FAIL_REQUESTS, Effect.ANNOUNCE)),
    # Lost has ended the calls. The same incarnation may still come back, with its sessions and its memory.
    (Presence.LOST, Event.HEARD): (Presence.PRESENT, (Effect.ANNOUNCE,)),
    (Presence.LOST, Event.SILENT): (Presence.LOST, ()),
    (Presence.LOST, Event.CLOSED): (Presence.LOST, ()),
    (Presence.LOST, Event.SAID_RETURNING): (Presence.LOST, ()),
    (Presence.LOST, Event.SAID_FINAL): (Presence.LOST, ()),
}


@dataclass(slots=True)
class Liveness:
    """The presence of one participant. Every method answers the effects of what it was told."""

    suspect_s: float
    lost_s: float
    closed_lost_s: float
    heard_at: float
    presence: Presence = Presence.PRESENT
    lost_at: float = inf  # when a suspect counts as lost

    def on_heard(self, now: float) -> tuple[Effect, ...]:
        self.heard_at = now
        if self.presence is Presence.PRESENT:
            return ()
        return self._step(Event.HEARD)

    def on_closed(self, now: float) -> tuple[Effect, ...]:
        """A connection that closes while traffic flowed tells more than one that had been silent for long."""
        if self.presence is Presence.PRESENT:
            flowed = now - self.heard_at < self.suspect_s
            self.lost_at = now + self.closed_lost_s if flowed else self.heard_at + self.lost_s
        return self._step(Event.CLOSED)

    def on_bye(self, final: bool, now: float) -> tuple[Effect, ...]:
        self.heard_at = now
        self.lost_at = now + self.lost_s
        return self._step(Event.SAID_FINAL if final else Event.SAID_RETURNING)

    def on_tick(self, now: float) -> tuple[Effect, ...]:
        """Call often; a participant that was silent for very long goes through both steps at once."""
        effects: tuple[Effect, ...] = ()
        if self.presence is Presence.PRESENT and now - self.heard_at >= self.suspect_s:
            self.lost_at = self.heard_at + self.lost_s
            effects = self._step(Event.SILENT)
        if self.presence is Presence.SUSPECT and now >= self.lost_at:
            effects += self._step(Event.SILENT)
        return effects

    def _step(self, event: Event) -> tuple[Effect, ...]:
        self.presence, effects = RULES[self.presence, event]
        return effects

"""A participant's connection to the broker: when to open one, when to give one up, when to say hello.

One socket is one connection. Every break leads to a new one, the first at once, the next ones after a random time that
grows to five seconds; of several addresses each has its turn before the next pause. Who is not admitted ends its calls and
goes on trying, for it may be invited meanwhile; a refusal that trying again cannot mend ends the attempts. No sockets and no
clock here: events and the time come in, effects go out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum, auto

from orbit_zmq.wire.limits import Intervals

OPENING_S = 5.0  # from a new socket to welcome; TCP connect and handshake have 3 s each of their own
REACH_S = 1.0  # for a TCP connection, where there is another address to try
HURRY_S = 1.0  # between two attempts that calls ask for
BACKOFF_FIRST_S = 0.25
BACKOFF_MOST_S = 5.0


class State(Enum):
    """down: between two attempts.  opening: hello is on its way.  up: welcomed.  refused, closed: no more attempts."""

    DOWN = auto()
    OPENING = auto()
    UP = auto()
    REFUSED = auto()
    CLOSED = auto()


class Event(Enum):
    DUE = auto()  # the time for an attempt has come
    WELCOMED = auto()
    ASKED_WHO = auto()
    BROKEN = auto()  # the connection is gone, or nothing was heard on it for too long
    SAID_BYE = auto()  # the broker goes for good
    NOT_ADMITTED = auto()  # the broker does not know this key, or no longer
    REFUSED = auto()
    CLOSED = auto()  # our own side is done


class Effect(Enum):
    OPEN = auto()
    SAY_HELLO = auto()
    RESUME = auto()  # calls may be sent
    SUSPEND = auto()  # calls wait
    DROP = auto()  # throw the socket away
    END_CALLS = auto()  # with the reason of the refusal or the bye
    SAY_BYE = auto()


_RETRY = (State.DOWN, (Effect.SUSPEND, Effect.DROP))
_REFUSE = (State.REFUSED, (Effect.SUSPEND, Effect.DROP, Effect.END_CALLS))
_TURN_AWAY = (State.DOWN, (Effect.SUSPEND, Effect.DROP, Effect.END_CALLS))
_CLOSE = (State.CLOSED, (Effect.SUSPEND, Effect.DROP, Effect.END_CALLS))

# Every pair is written out; a missing pair is a bug, not a default.
RULES: dict[tuple[State, Event], tuple[State, tuple[Effect, ...]]] = {
    (State.DOWN, Event.DUE): (State.OPENING, (Effect.OPEN, Effect.SAY_HELLO)),
    (State.DOWN, Event.WELCOMED): (State.DOWN, ()),
    (State.DOWN, Event.ASKED_WHO): (State.DOWN, ()),
    (State.DOWN, Event.BROKEN): (State.DOWN, ()),
    (State.DOWN, Event.SAID_BYE): (State.DOWN, ()),
    (State.DOWN, Event.NOT_ADMITTED): (State.DOWN, (Effect.END_CALLS,)),
    (State.DOWN, Event.REFUSED): (State.REFUSED, (Effect.END_CALLS,)),
    (State.DOWN, Event.CLOSED): (State.CLOSED, (Effect.END_CALLS,)),
    (State.OPENING, Event.DUE): (State.OPENING, ()),
    (State.OPENING, Event.WELCOMED): (State.UP, (Effect.RESUME,)),
    (State.OPENING, Event.ASKED_WHO): (State.OPENING, (Effect.SAY_HELLO,)),
    (State.OPENING, Event.BROKEN): _RETRY,
    (State.OPENING, Event.SAID_BYE): _RETRY,
    (State.OPENING, Event.NOT_ADMITTED): _TURN_AWAY,
    (State.OPENING, Event.REFUSED): _REFUSE,
    (State.OPENING, Event.CLOSED): _CLOSE,
    (State.UP, Event.DUE): (State.UP, ()),
    (State.UP, Event.WELCOMED): (State.UP, ()),
    (State.UP, Event.ASKED_WHO): (State.OPENING, (Effect.SUSPEND, Effect.SAY_HELLO)),
    (State.UP, Event.BROKEN): _RETRY,
    (State.UP, Event.SAID_BYE): _TURN_AWAY,
    (State.UP, Event.NOT_ADMITTED): _TURN_AWAY,
    (State.UP, Event.REFUSED): _REFUSE,
    (State.UP, Event.CLOSED): (State.CLOSED, (Effect.SAY_BYE, *_CLOSE[1])),
    **{(State.REFUSED, event): (State.REFUSED, ()) for event in Event if event is not Event.CLOSED},
    (State.REFUSED, Event.CLOSED): (State.CLOSED, ()),
    **{(State.CLOSED, event): (State.CLOSED, ()) for event in Event},
}


class Connection:
    """The state of one participant's connection and the times that matter to it."""

    def __init__(self, now: float, *, addresses: int = 1, draw: Callable[[float, float], float] = random.uniform) -> None:
        self.state = State.DOWN
        self.intervals = Intervals()
        self.heard_at = now
        self.down_since = now
        self.welcomes = 0
        self.attempts = 0  # since the last welcome
        self.is_reached = False  # somebody has taken the connection
        self._addresses = addresses
        self._draw = draw
        self._opened_at = -math.inf
        self._due_at = now

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """What to do about an event."""
        before = self.state
        self.state, effects = RULES[before, event]
        if Effect.OPEN in effects:
            self.attempts += 1
            self.is_reached = False
            self.heard_at = self._opened_at = now
        elif Effect.RESUME in effects:
            self.attempts = 0
            self.welcomes += 1
            self.heard_at = now
        elif Effect.SUSPEND in effects and before is State.UP:
            self.down_since = self.heard_at = now
        if self.state is State.DOWN and before is not State.DOWN:
            self._due_at = now + self._pause_s()
        return effects

    def tick(self, now: float) -> tuple[Effect, ...]:
        """What the time alone asks for."""
        if self.state is State.DOWN and now >= self._due_at:
            return self.handle(Event.DUE, now)
        if self.state is State.OPENING and now - self.heard_at >= self._opening_s():
            return self.handle(Event.BROKEN, now)
        if self.state is State.UP and now - self.heard_at >= self.intervals.suspect_s:
            return self.handle(Event.BROKEN, now)
        return ()

    def next_tick(self) -> float:
        """When the time alone may ask for something."""
        if self.state is State.DOWN:
            return self._due_at
        return self.heard_at + (self._opening_s() if self.state is State.OPENING else self.intervals.suspect_s)

    def hurry(self, now: float) -> None:
        """Somebody wants to know: make the next attempt soon."""
        self._due_at = min(self._due_at, max(now, self._opened_at + HURRY_S))

    def _opening_s(self) -> float:
        return OPENING_S if self.is_reached or self._addresses == 1 else REACH_S

    def _pause_s(self) -> float:
        rounds, others_tried = divmod(self.attempts, self._addresses)
        if rounds == 0 or others_tried:
            return 0.0
        longest = BACKOFF_FIRST_S * (1 << min(rounds - 1, 10))
        return self._draw(0.0, min(longest, BACKOFF_MOST_S))

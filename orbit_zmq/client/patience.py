"""Patience: how long somebody who waits for results goes on waiting while the endpoint or the broker is away. Rules only.

A call that fails because somebody is away says nothing of the work itself, which goes on, or comes back with its session. So
whoever waits asks again, until what it waits for has come, is known to be gone, or the time is over. Time is passed in as
`now`; nothing here calls, sleeps or logs.
"""

from __future__ import annotations

from orbit_zmq.errors import (
    BrokerUnreachable,
    Busy,
    DeadlineExceeded,
    EndpointLost,
    NotFound,
    OrbitError,
    OutcomeUnknown,
    SessionClosed,
    SessionExpired,
    SessionNotReady,
    ShuttingDown,
)

ENDPOINT_AWAY_S = 900.0
BROKER_AWAY_S = 3600.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
WARN_S = 60.0

AWAY = (BrokerUnreachable, Busy, DeadlineExceeded, EndpointLost, OutcomeUnknown, SessionNotReady, ShuttingDown)
GONE = (SessionClosed, SessionExpired)


class Patience:
    """Of one who waits for the results of one session."""

    def __init__(self, endpoint: str, endpoint_away_s: float = ENDPOINT_AWAY_S, broker_away_s: float = BROKER_AWAY_S) -> None:
        self.endpoint = endpoint
        self.endpoint_away_s = endpoint_away_s
        self.broker_away_s = broker_away_s
        self._broker_since: float | None = None
        self._endpoint_since: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._warn_at = 0.0

    def on_answer(self) -> None:
        """All is well."""
        self._broker_since = self._endpoint_since = None
        self._pause_s = FIRST_PAUSE_S

    def on_failure(self, error: OrbitError, now: float, *, broker_is_there: bool) -> float:
        """How long to pause before asking again.

        Raises SessionClosed or SessionExpired where the session has ended, EndpointLost where the endpoint does not know it any
        more or has been away too long, BrokerUnreachable where the broker has, and the error itself where asking again cannot
        help.
        """
        if isinstance(error, GONE):
            raise type(error)(
                f"endpoint {self.endpoint} answers: {error.message}",
                hint="Somebody has closed it, or its time was over. Open a new session.",
            ) from error
        if _is_unknown_session(error):
            raise EndpointLost(
                f"endpoint {self.endpoint} has come back without the session: {error.message}",
                hint="A session with lifetime='persistent' or a ttl outlives its endpoint's process.",
                transient=False,
            ) from error
        ends_for_good = isinstance(error, ShuttingDown) and not error.transient
        if ends_for_good or (not isinstance(error, AWAY) and not _is_unknown_endpoint(error)):
            raise error
        if broker_is_there:
            self._broker_since = None
            self._endpoint_since = now if self._endpoint_since is None else self._endpoint_since
            left_s = self._endpoint_since + self.endpoint_away_s - now
            if left_s <= 0:
                raise EndpointLost(f"endpoint {self.endpoint} has been away for {self.endpoint_away_s:g} s") from error
        else:
            self._endpoint_since = None  # nobody counts as lost meanwhile
            if self._broker_since is None:
                self._broker_since, self._warn_at = now, now + WARN_S
            left_s = self._broker_since + self.broker_away_s - now
            if left_s <= 0:
                raise BrokerUnreachable(f"the broker has been away for {self.broker_away_s:g} s") from error
        self._pause_s, pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S), self._pause_s
        return min(pause_s, left_s)

    def warning_due(self, now: float) -> float | None:
        """Once a minute while the broker is away: for how many seconds it has been."""
        if self._broker_since is None or now < self._warn_at:
            return None
        self._warn_at = now + WARN_S
        return now - self._broker_since


def _is_unknown_session(error: OrbitError) -> bool:
    return isinstance(error, NotFound) and "endpoint" not in error.details and "known" not in error.details


def _is_unknown_endpoint(error: OrbitError) -> bool:
    """The broker has forgotten it, or it is being restarted with its plugins."""
    return isinstance(error, NotFound) and not _is_unknown_session(error)

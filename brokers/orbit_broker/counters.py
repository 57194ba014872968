"""What the broker counts, and how fast it grew over the last second and the last ten.

Plain integers that the hot path adds to; `sample` is called once a second with the time. Sessions are counted in one bucket
for each second, so that what is quiet is forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RATED = ("messages_in", "messages_out", "bytes_in", "bytes_out", "requests", "replies", "errors", "events")
WINDOW_S = 10  # samples kept, one a second, and one more to measure from
SESSIONS_A_SECOND = 10_000  # more are counted for their endpoint alone: a caller may make names up
SessionKey = tuple[str, str, str, str]  # endpoint, plugin, session, user


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    requests: int = 0
    replies: int = 0
    errors: int = 0
    events: int = 0
    drops: dict[str, int] = field(default_factory=dict)  # by cause
    calls_of: dict[SessionKey, int] = field(default_factory=dict)  # in this second
    events_of: dict[SessionKey, int] = field(default_factory=dict)
    _past: deque[tuple[float, dict[SessionKey, int], dict[SessionKey, int]]] = field(
        default_factory=lambda: deque(maxlen=WINDOW_S)
    )  # when each second began, and its two buckets
    _second_began: float = 0.0
    _reported: dict[str, int] = field(default_factory=dict)
    _samples: deque[tuple[float, tuple[int, ...]]] = field(default_factory=lambda: deque(maxlen=WINDOW_S + 1))

    def drop(self, cause: str, count: int = 1) -> None:
        """Something was thrown away; `cause` is one of our own words, never a peer's."""
        self.drops[cause] = self.drops.get(cause, 0) + count

    def sample(self, now: float) -> dict[str, int]:
        """Remember where the totals stand; answers the drops since the last sample, by cause."""
        self._samples.append((now, self._totals()))
        if self._second_began:
            self._past.append((self._second_began, self.calls_of, self.events_of))
        self.calls_of, self.events_of, self._second_began = {}, {}, now
        fresh = {cause: count - self._reported.get(cause, 0) for cause, count in self.drops.items()}
        self._reported = dict(self.drops)
        return {cause: count for cause, count in fresh.items() if count}

    def rates(self, over_s: int, now: float) -> dict[str, float]:
        """How much a second was added over about that many seconds."""
        start = next((sample for sample in reversed(self._samples) if now - sample[0] >= over_s), None)
        if start is None:
            start = self._samples[0] if self._samples else (now, self._totals())
        elapsed_s = now - start[0]
        if elapsed_s <= 0:
            return dict.fromkeys(RATED, 0.0)
        grown = zip(RATED, self._totals(), start[1], strict=True)
        return {name: round((total - before) / elapsed_s, 3) for name, total, before in grown}

    def activity(self, now: float) -> dict[SessionKey, tuple[float, float]]:
        """Calls and events a second of each session over about ten seconds."""
        buckets = [*self._past, (self._second_began, self.calls_of, self.events_of)]
        elapsed_s = max(now - buckets[0][0], 1.0)
        sums: dict[SessionKey, list[int]] = {}
        for _, *counted in buckets:
            for column, bucket in enumerate(counted):
                for key, count in bucket.items():
                    sums.setdefault(key, [0, 0])[column] += count
        return {key: (round(calls / elapsed_s, 3), round(events / elapsed_s, 3)) for key, (calls, events) in sums.items()}

    def totals(self) -> dict[str, int]:
        return dict(zip(RATED, self._totals(), strict=True))

    def _totals(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in RATED)


def count_session(bucket: dict[SessionKey, int], key: SessionKey, count: int = 1) -> None:
    """More calls or events of a session."""
    if key not in bucket and len(bucket) >= SESSIONS_A_SECOND:
        key = (key[0], "", "", "")
    bucket[key] = bucket.get(key, 0) + count

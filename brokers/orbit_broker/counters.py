"""What the broker counts, and how fast it grew over the last second and the last ten.

Plain integers that the hot path adds to; `sample` is called once a second with the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RATED = ("messages_in", "messages_out", "bytes_in", "bytes_out", "requests", "replies", "errors", "events")
WINDOW_S = 10  # samples kept, one a second, and one more to measure from


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
    _reported: dict[str, int] = field(default_factory=dict)
    _samples: deque[tuple[float, tuple[int, ...]]] = field(default_factory=lambda: deque(maxlen=WINDOW_S + 1))

    def drop(self, cause: str, count: int = 1) -> None:
        """Something was thrown away; `cause` is one of our own words, never a peer's."""
        self.drops[cause] = self.drops.get(cause, 0) + count

    def sample(self, now: float) -> dict[str, int]:
        """Remember where the totals stand; answers the drops since the last sample, by cause."""
        self._samples.append((now, self._totals()))
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

    def totals(self) -> dict[str, int]:
        return dict(zip(RATED, self._totals(), strict=True))

    def _totals(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in RATED)

"""What a session has done: counts, rates of the last second and the last ten, and the time spent in each stage.

Added up a batch at a time, from any thread, so that a task costs nothing here and an answer costs the same after a million of
them. This module must not look at tasks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

WINDOW_S = 10
# Taking a batch in, making tasks of it for a backend, handing them over, keeping their results, and reading results out.
STAGES = ("accept", "prepare", "hand_over", "keep", "fetch")
RATED = ("submitted", "finished", "fetched")


class Counters:
    """Of one session since it was opened."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stages: dict[str, tuple[int, int, float]] = dict.fromkeys(STAGES, (0, 0, 0.0))
        self._totals = dict.fromkeys(RATED, 0)
        self._seconds: deque[tuple[int, dict[str, int]]] = deque(maxlen=WINDOW_S + 1)  # what was added in each, by name
        self._bytes = {"in": 0, "out": 0}

    def add(self, name: str, count: int, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """So many tasks were submitted or finished, or their results fetched, with so many bytes."""
        with self._lock:
            second = int(self._clock())
            if not self._seconds or self._seconds[-1][0] != second:
                self._seconds.append((second, dict.fromkeys(RATED, 0)))
            self._seconds[-1][1][name] += count
            self._totals[name] += count
            self._bytes["in"] += bytes_in
            self._bytes["out"] += bytes_out

    def spent(self, stage: str, tasks: int, seconds: float) -> None:
        """A stage has dealt with so many tasks at once."""
        with self._lock:
            times, all_tasks, all_seconds = self._stages[stage]
            self._stages[stage] = (times + 1, all_tasks + tasks, all_seconds + seconds)

    def facts(self) -> dict[str, Any]:
        """`{submitted, finished, fetched, rates_1s, rates_10s, stages, bytes}`; a rate is of whole seconds that are over."""
        with self._lock:
            return {
                **self._totals,
                "rates_1s": self._rates(1),
                "rates_10s": self._rates(WINDOW_S),
                "stages": {
                    stage: {"times": times, "tasks": tasks, "seconds": seconds}
                    for stage, (times, tasks, seconds) in self._stages.items()
                },
                "bytes": dict(self._bytes),
            }

    def _rates(self, over_s: int) -> dict[str, float]:
        now = int(self._clock())
        recent = [added for second, added in self._seconds if now - over_s <= second < now]
        return {name: sum(added[name] for added in recent) / over_s for name in RATED}

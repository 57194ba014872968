"""How long the rounds of the loop take: from waking up to waiting again. Whoever waits for the broker waits that long at most.

The longest of the present and of the last ten seconds are kept, and the longest since the start. No clock here.
"""

from __future__ import annotations

WINDOW_S = 10.0


class Rounds:
    """Counts rounds and keeps the longest."""

    __slots__ = ("_before", "_began_at", "_present", "_window_at", "count", "longest_s")

    def __init__(self) -> None:
        self.count = 0
        self.longest_s = 0.0  # since the start
        self._began_at = 0.0
        self._window_at = 0.0
        self._present = 0.0  # the longest of the window that runs
        self._before = 0.0  # and of the one before

    def begin(self, now: float) -> None:
        """The loop has something to do."""
        self._began_at = now

    def end(self, now: float) -> None:
        """The loop waits again."""
        took_s = now - self._began_at
        self.count += 1
        if self.count == 1:  # it has not begun
            self._window_at = now
            return
        if took_s > self._present:
            self._present = took_s
            self.longest_s = max(self.longest_s, took_s)
        if now - self._window_at >= WINDOW_S:
            self._window_at = now
            self._before, self._present = self._present, 0.0

    @property
    def longest_lately_s(self) -> float:
        """Of the last ten to twenty seconds."""
        return max(self._before, self._present)

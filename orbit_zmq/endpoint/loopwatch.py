"""LoopWatch: how long ago the endpoint's work loop last turned, seen from another thread.

The loop stamps the time by a timer of its own; the transport's thread reads it and says so when it grows old, with the
stack that blocks the loop. It never touches the loop from outside and decides nothing.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback

from orbit_zmq.log import get_logger

log = get_logger(__name__)

STAMP_S = 0.5  # a tenth of the age from which an endpoint counts as busy


class LoopWatch:
    """Start it in the loop; ask it from the transport's thread."""

    def __init__(self, busy_s: float = 5.0) -> None:
        self.busy_s = busy_s
        self._last_turn = time.monotonic()
        self._thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = False

    def start(self) -> None:
        """Begin to stamp; call it in the loop's thread."""
        self._thread = threading.get_ident()
        self._stamp(asyncio.get_running_loop())

    def stop(self) -> None:
        """Stamp no more; call it in the loop's thread."""
        if self._timer is not None:
            self._timer.cancel()

    def age_s(self, now: float) -> float:
        """Seconds since the loop last turned; up to STAMP_S for one that is well."""
        return max(0.0, now - self._last_turn)

    def look(self, now: float) -> float:
        """The same, and a log line when the loop has become blocked and one when it turns again."""
        age_s = self.age_s(now)
        if age_s > self.busy_s and not self._blocked:
            self._blocked = True
            log.warning("loop-blocked", age_s=round(age_s, 3), stack=self._stack())
        elif age_s <= self.busy_s and self._blocked:
            self._blocked = False
            log.warning("loop-turns-again")
        return age_s

    def _stamp(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last_turn = time.monotonic()
        self._timer = loop.call_later(STAMP_S, self._stamp, loop)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

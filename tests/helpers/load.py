"""A known load: calls and events at a steady pace, counted by whoever makes them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from orbit_zmq import Plugin, PluginSession, operation


class LoadSession(PluginSession):
    @operation(effect="read")
    async def echo(self, number: int) -> int:
        return number


class LoadPlugin(Plugin):
    """Echoes, and says events when it is told to by the process that it is in."""

    plugin_name = "load"
    session_class = LoadSession


class Pace:
    """Does something so many times a second in a thread of its own, and counts it."""

    def __init__(self, per_s: float, step: Callable[[int], Any]) -> None:
        self._period_s = 1.0 / per_s
        self._step = step
        self._times: deque[float] = deque()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.total = 0

    def __enter__(self) -> Pace:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(30)

    def per_s(self, over_s: float) -> float:
        """How often a second it was done in the last seconds."""
        since = time.monotonic() - over_s
        return sum(moment >= since for moment in tuple(self._times)) / over_s

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ends.wait(max(0.0, due - time.monotonic())):
            self._step(self.total)
            self.total += 1
            self._times.append(time.monotonic())
            due += self._period_s

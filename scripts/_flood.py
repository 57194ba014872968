"""A plugin that tells events, as fast as it can or at a pace, for scripts/bench. Not part of the product."""

from __future__ import annotations

import asyncio
import threading
import time

from orbit_zmq.plugin import Plugin, PluginSession, operation

DATA = {"uid": "task.000001", "state": "DONE", "exit_code": 0}


class FloodSession(PluginSession):
    """Floods from a thread of its own, or from the endpoint's loop, until it is stopped."""

    def __init__(self, sid: str) -> None:
        super().__init__(sid)
        self._stop = threading.Event()
        self._told = 0
        self._flooding: asyncio.Task[None] | None = None

    @operation(effect="run")
    async def start(self, source: str) -> None:
        """Begin; `source` is thread or loop."""
        self._stop.clear()
        self._told = 0
        self._flooding = self.spawn(asyncio.to_thread(self._from_thread) if source == "thread" else self._from_loop())

    @operation(effect="run")
    async def stop(self) -> int:
        """End, and say how many events there were."""
        self._stop.set()
        if self._flooding is not None:
            await self._flooding
        return self._told

    @operation(effect="run", deadline_s=300)
    async def tell(self, count: int, per_s: float) -> None:
        """Tell so many; 0 per second is as fast as it goes."""
        await asyncio.to_thread(self._tell_at, count, per_s)

    def _tell_at(self, count: int, per_s: float) -> None:
        due = time.monotonic()
        for _ in range(count):
            self._tell()
            if per_s:
                due += 1 / per_s
                time.sleep(max(0.0, due - time.monotonic()))

    def _from_thread(self) -> None:
        while not self._stop.is_set():
            self._tell()

    async def _from_loop(self) -> None:
        while not self._stop.is_set():
            self._tell()
            await asyncio.sleep(0)

    def _tell(self) -> None:
        self._told += 1
        self.notify("flood", DATA)


class FloodPlugin(Plugin):
    plugin_name = "flood"
    session_class = FloodSession

"""Bells: a wait that somebody may end early. `Bell` is for threads, `AsyncBell` for coroutines of one loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Bell:
    """For threads."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def ring(self) -> None:
        """End the wait, or the next one if nobody waits."""
        self._rung.set()

    def wait(self, timeout_s: float) -> None:
        """Wait for the bell, so long at most."""
        self._rung.wait(timeout_s)
        self._rung.clear()


class AsyncBell:
    """For coroutines; rung in their loop."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """End the wait, or the next one if nobody waits."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the bell, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        self._rung.clear()

"""Those who wait in the endpoint's loop for what another thread brings: results, lines of output, room.

A loop is woken once for whatever has come since it last looked. What is waited for is not known here: who is woken looks again.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Sleepers:
    """Of one loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._waking = False

    def join(self) -> asyncio.Future[None]:
        """Be among those who are woken from now on; in the loop. To be handed to `woken` next."""
        loop = self._loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._waiting.add(waiter)
        return waiter

    async def woken(self, waiter: asyncio.Future[None], wait_s: float) -> None:
        """Wait until woken; at most so long."""
        in_vain = waiter.get_loop().call_later(wait_s, _wake, waiter)
        try:
            await waiter
        finally:
            in_vain.cancel()
            with self._lock:
                self._waiting.discard(waiter)

    def wake_soon(self) -> None:
        """Have all woken; from any thread."""
        with self._lock:
            wake = bool(self._waiting) and not self._waking
            self._waking = self._waking or wake
        if wake and self._loop is not None:
            with suppress(RuntimeError):  # the endpoint's loop has been closed: nobody waits
                self._loop.call_soon_threadsafe(self.wake)

    def wake(self) -> None:
        """Wake all at once; in the loop."""
        with self._lock:
            self._waking = False
            waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

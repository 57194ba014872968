"""Whose turn it is to fetch: of all who wait for results, one asks the endpoint and the others wait for what it brings.

The two classes are one idea, for coroutines and for threads; a generator cannot make one of the other. A turn knows who has it,
so that an interrupt between taking it and using it leaves nobody waiting for ever. They must not know what is fetched.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

LONGEST_WAIT_S = 3_600.0  # at a stretch; who waits looks again


class AsyncFetchTurn:
    """For coroutines of one loop."""

    def __init__(self) -> None:
        self._holder: asyncio.Task[object] | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    async def take(self, timeout_s: float) -> bool:
        """True: the turn is yours. False: somebody else's turn has ended, or the time is over. `give_back` in any case."""
        if self._holder is None:
            self._holder = asyncio.current_task()
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(timeout_s, LONGEST_WAIT_S)):
                    await waiter
        finally:
            self._waiting.discard(waiter)
        return False

    async def pause(self, pause_s: float) -> None:
        """Let some time pass before asking again."""
        await asyncio.sleep(pause_s)

    async def give_back(self) -> None:
        """Results have come, or failed to come: all who wait look again. Does nothing for who has not the turn."""
        if self._holder is not asyncio.current_task():
            return
        self._holder = None
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class FetchTurn:
    """The same for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: int | None = None

    def take(self, timeout_s: float) -> bool:
        with self._changed:
            if self._holder in (None, threading.get_ident()):  # its own: an interrupt came while it gave the turn back
                self._holder = threading.get_ident()
                return True
            self._changed.wait(min(timeout_s, LONGEST_WAIT_S))
            return False

    def pause(self, pause_s: float) -> None:
        time.sleep(pause_s)

    def give_back(self) -> None:
        with self._changed:
            if self._holder == threading.get_ident():
                self._holder = None
                self._changed.notify_all()

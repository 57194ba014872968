"""Whose turn it is to fetch: of all who wait for results, one asks the endpoint and the others wait for what it brings.

The two classes are one idea, for coroutines and for threads; a generator cannot make one of the other. They must not know
what is fetched.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress


class AsyncFetchTurn:
    """For coroutines of one loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._taken = False

    async def take(self, timeout_s: float) -> bool:
        """True: the turn is yours, give it back. False: somebody else's turn has ended, or the time is over."""
        async with self._changed:
            if not self._taken:
                self._taken = True
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            return False

    async def pause(self, pause_s: float) -> None:
        """Let some time pass before asking again."""
        await asyncio.sleep(pause_s)

    async def give_back(self) -> None:
        """Results have come, or failed to come: all who wait look again."""
        self._taken = False
        async with self._changed:
            self._changed.notify_all()


class FetchTurn:
    """The same for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False

    def take(self, timeout_s: float) -> bool:
        with self._changed:
            if not self._taken:
                self._taken = True
                return True
            self._changed.wait(timeout_s)
            return False

    def pause(self, pause_s: float) -> None:
        time.sleep(pause_s)

    def give_back(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()

"""Turns: sessions of one process that all want the same thing get it one after the other, each as often as the others.

Each session has a thread and a loop of its own, and the interpreter lets a busy thread run on for as long as it likes. This
module must not know what the turns are for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PATIENCE_S = 0.25  # for the others; after it one goes on without a turn: a loop that hangs holds nobody up


class Turns:
    """A lock across loops. Those who wait get it in the order in which they came."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One's turn, at the latest after the patience."""
        has_turn = await self._take()
        try:
            yield
        finally:
            if has_turn:
                self._pass_on()

    async def _take(self) -> bool:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._patience_s):
                await turn
        except TimeoutError:
            self._leave(turn)
        except asyncio.CancelledError:
            self._leave(turn)
            if not turn.cancelled():  # it came this very moment
                self._pass_on()
            raise
        return not turn.cancelled()

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """Wait no more. A turn that was passed to a loop at its end would be lost."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(turn)

    def _pass_on(self) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                with suppress(RuntimeError):  # its loop is closed
                    turn.get_loop().call_soon_threadsafe(self._give, turn)
                    return
            self._is_taken = False

    def _give(self, turn: asyncio.Future[None]) -> None:
        if turn.done():  # given up
            self._pass_on()
        else:
            turn.set_result(None)

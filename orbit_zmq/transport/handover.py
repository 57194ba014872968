"""Handing work from the thread of the sockets to an asyncio loop, many at a time.

A loop is woken once for whatever has gathered since it last looked, because waking it costs more than most of what it is
woken for. Nothing here waits or blocks.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Handover:
    """Calls of plain functions, in order, in a loop's thread."""

    __slots__ = ("_calls", "_loop", "_notify", "_thread", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop, notify: Callable[[Callable[[], object]], None]) -> None:
        """To be made in the loop's thread."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._notify = notify  # how to have something called once the link has nothing else to do
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def put(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the loop call this soon. Under the link's lock; does nothing once the loop is closed."""
        self._calls.append((function, arguments))
        if not self._woken:
            self._woken = True
            self._notify(self._wake)

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._drain()
            return
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop is closed: nobody is left to hear of it
            self._calls.clear()

    def _drain(self) -> None:
        self._woken = False
        calls = self._calls
        for _ in range(len(calls)):
            function, arguments = calls.popleft()
            function(*arguments)

"""Threads for what blocks for as long as a scheduler likes: those who ask the same at the same time take one among them.

Each plugin that asks schedulers has its own, so that a scheduler that hangs takes none from other plugins, and they are
daemons, so that no process waits for a scheduler when it ends. They know nothing of what they run.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")

THREADS = 16  # one for each question that differs from those that are being answered; further ones wait
IDLE_S = 10.0  # then a thread without work ends


class Threads:
    """Runs functions beside the loop."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]]]
        self._work = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._pending = 0  # functions that have not ended
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}

    async def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function answers or raises, together with whoever asks the same."""
        key = (function, *arguments)
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = self._begin(function, *arguments)
            answer.add_done_callback(lambda done: self._end(key, done))
        return cast(T, await asyncio.shield(answer))

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for what changes something, each for itself."""
        return await self._begin(function, *arguments)

    def _begin(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        work = partial(contextvars.copy_context().run, function, *arguments)  # its log lines have the call's request
        with self._lock:
            self._pending += 1
            is_short = self._threads < min(self._pending, THREADS)
            self._threads += is_short
        self._work.put((loop, future, work))
        if is_short:
            threading.Thread(target=self._serve, name="scheduler", daemon=True).start()
        return future

    def _end(self, key: tuple[Any, ...], done: asyncio.Future[Any]) -> None:
        del self._asked[key]
        if not done.cancelled():
            done.exception()  # those who asked may all have gone

    def _serve(self) -> None:
        while True:
            try:
                loop, future, work = self._work.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._pending < self._threads:
                        self._threads -= 1
                        return
                continue
            result, error = _outcome(work)
            with self._lock:
                self._pending -= 1
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_tell, future, result, error)


def _outcome(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - a backend of a third party; raised to those who asked
        return None, error


def _tell(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # canceled
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

"""What has been found out, kept for a time; many who ask for the same at once share one answer.

Errors are kept, too, for a shorter time, so that a scheduler that is down is not asked by everybody in turn. It knows nothing
of schedulers, and it gets the time from whoever made it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from orbit_zmq.errors import DeadlineExceeded

ERROR_S = 5.0
MOST_ENTRIES = 1_000  # one for each user and kind; the oldest go first
PATIENCE_S = 300.0  # several commands with a minute each; whoever asked has given up by then


class Cache:
    """Answers by key. For any thread; what collects an answer runs in the thread of the first who asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Future[Any]]] = {}  # key -> until when, and the answer or error
        self._under_way: dict[str, Future[Any]] = {}

    def get(self, key: str, ttl_s: float, collect: Callable[[], Any], *, force: bool = False) -> Any:
        """What is kept, or what `collect` answers or raises. With `force` not what is kept, but what is under way will do."""
        with self._lock:
            until, kept = self._kept.get(key, (0.0, None))
            if kept is not None and not force and self._clock() < until:
                answer: Future[Any] | None = kept
            else:
                answer = self._under_way.get(key)
            mine: Future[Any] | None = None
            if answer is None:
                answer = mine = self._under_way[key] = Future()
        if mine is not None:
            self._fill(key, ttl_s, collect, mine)
        try:
            error = answer.exception(PATIENCE_S)
        except TimeoutError:
            raise DeadlineExceeded(f"{key} was not found out within {PATIENCE_S:g} s") from None
        if error is not None:
            raise error.with_traceback(None)  # else it would grow with each who is told
        return answer.result()

    def kept(self, key: str) -> Any:
        """What is kept under that key, or None; never waits, and collects nothing."""
        with self._lock:
            until, kept = self._kept.get(key, (0.0, None))
        return kept.result() if kept is not None and self._clock() < until and kept.exception() is None else None

    def forget(self, *prefixes: str) -> None:
        """Ask again for what begins so; an answer that is under way is given to those who wait and not kept."""
        with self._lock:
            for store in (self._kept, self._under_way):
                for key in [key for key in store if key.startswith(prefixes)]:
                    del store[key]

    def _fill(self, key: str, ttl_s: float, collect: Callable[[], Any], answer: Future[Any]) -> None:
        kept_s = ttl_s
        try:
            answer.set_result(collect())
        except Exception as error:  # noqa: BLE001 - a backend of a third party; it is raised to all who wait
            answer.set_exception(error)
            kept_s = min(ttl_s, ERROR_S)
        except BaseException as error:  # the thread is to end, and nobody else's
            answer.set_exception(error)
            kept_s = 0.0
            raise
        finally:
            with self._lock:
                if self._under_way.get(key) is answer:  # else it was to be forgotten meanwhile
                    del self._under_way[key]
                    self._kept.pop(key, None)
                    self._kept[key] = (self._clock() + kept_s, answer)
                    if len(self._kept) > MOST_ENTRIES:
                        del self._kept[next(iter(self._kept))]

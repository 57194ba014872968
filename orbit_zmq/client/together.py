"""Several calls at once, and all their answers in order. The two functions are one idea, for coroutines and for threads; a
generator cannot make one of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 16  # threads


async def async_together(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """All at once, in tasks of this loop."""
    return list(await asyncio.gather(*(call() for call in calls)))


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The same in threads."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda call: call(), calls))

"""What the scripts of all peers have in common: tasks that do nothing, by the lines of standard input.

A Python that has the peer runs it. `WAY COUNT` has so many tasks run that way; the answer is the seconds from the submission to
the last result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable


def same(value: int) -> int:
    """The task."""
    return value


def serve(**ways: Callable[[int], float]) -> None:
    """Until standard input is closed."""
    print("ready", flush=True)
    for line in sys.stdin:
        way, count = line.split()
        print(ways[way](int(count)), flush=True)


def seconds(run: Callable[[int], Iterable[int]], count: int) -> float:
    """How long it takes until all values are there; they have to be right."""
    began = time.perf_counter()
    values = list(run(count))
    took_s = time.perf_counter() - began
    assert values == list(range(count)), values[:10]
    return took_s

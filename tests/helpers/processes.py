"""Processes that may end while one looks at them."""

from __future__ import annotations

import contextlib

import psutil


def names_below(pid: int) -> dict[int, str]:
    """The names of the processes below one, by their numbers; without those that have ended."""
    found: dict[int, str] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = process.name()
    return found

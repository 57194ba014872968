"""Tells whoever keeps lists of jobs that this process has just changed one: submitted it, canceled it, held or released it.

Who listens is not kept alive by it. It calls back in the thread of whoever made the change.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

_lock = threading.Lock()
_listeners: list[weakref.WeakMethod[Callable[[], None]]] = []


def on_jobs_changed(listener: Callable[[], None]) -> None:
    """Have a method called after each change, for as long as its object lives."""
    with _lock:
        _listeners[:] = [one for one in _listeners if one() is not None]
        _listeners.append(weakref.WeakMethod(listener))


def jobs_changed() -> None:
    """Say that this process has changed something about jobs."""
    with _lock:
        listeners = [one() for one in _listeners]
    for listener in listeners:
        if listener is not None:
            listener()

"""What runs over there for an executor, beside the function itself: chunks of a map, and the initializer.

Executors send these by name, so this module is imported where tasks run; it must not import anything that only a client or only
an endpoint needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from orbit_rhapsody.values import describe

_INITIALIZED: dict[str, str] = {}  # by executor, in this process: why its initializer failed, or nothing
_INITIALIZING = threading.Lock()  # one initializer at a time; who needs one waits for it


class InitializerFailed(Exception):
    """The initializer of an executor raised in a process that was to run its calls."""


def call_each(function: Callable[..., Any], chunk: Iterable[Sequence[Any]]) -> list[Any]:
    """What the function returns for each set of arguments."""
    return [function(*arguments) for arguments in chunk]


class Initialized:
    """A function that is called once the initializer of its executor has run in the same process."""

    def __init__(self, function: Callable[..., Any], executor: str, initializer: Callable[..., object], initargs: Any) -> None:
        self._function = function
        self._executor = executor
        self._initializer = initializer
        self._initargs = initargs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (failed := _INITIALIZED.get(self._executor)) is None:
            failed = self._initialize()
        if failed:
            raise InitializerFailed(failed)
        return self._function(*args, **kwargs)

    def _initialize(self) -> str:
        with _INITIALIZING:
            if self._executor not in _INITIALIZED:
                _INITIALIZED[self._executor] = _failure_of(self._initializer, self._initargs)
            return _INITIALIZED[self._executor]


def _failure_of(initializer: Callable[..., object], initargs: Any) -> str:
    try:
        initializer(*initargs)
    except BaseException as error:  # noqa: BLE001 - whatever it is, no call may run
        return describe(error)
    return ""

"""What runs over there for an executor, beside the function itself: chunks of a map, and the initializer.

Executors send these by name, so this module is imported where tasks run; it must not import anything that only a client or only
an endpoint needs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from orbit_rhapsody.values import describe

_OUTCOMES: dict[str, str] = {}  # by executor: why its initializer failed in this process, or nothing
_INITIALIZING = threading.Lock()  # one initializer at a time; who needs one waits for it


class InitializerFailed(Exception):
    """The initializer of an executor raised in a process that was to run its calls."""


def call_each(function: Callable[..., Any], chunk: Iterable[Sequence[Any]]) -> list[Any]:
    """What the function returns for each set of arguments."""
    return [function(*arguments) for arguments in chunk]


class Initialized:
    """A function that is called once the initializer of its executor has run in the same process.

    Both travel in one pickle, so that what a script defines is initialized where the function looks for it.
    """

    def __init__(self, function: Callable[..., Any], executor: str, initializer: Callable[..., object], initargs: Any) -> None:
        self._function = function
        self._executor = executor
        self._initializer = initializer
        self._initargs = initargs
        self._failure: str | None = None  # nothing where there is none; None until that is known

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._failure is None:
            with _INITIALIZING:
                self._initialize()
        if self._failure:
            raise InitializerFailed(self._failure)
        return self._function(*args, **kwargs)

    def _initialize(self) -> None:
        if self._failure is None and _is_of_a_module(self._initializer):
            self._failure = _OUTCOMES.get(self._executor)
        if self._failure is None:
            self._failure = _OUTCOMES[self._executor] = _failure_of(self._initializer, self._initargs)


def _is_of_a_module(function: Callable[..., object]) -> bool:
    """Whether it is the same for all functions here; what a script defines comes anew with each of them."""
    names = getattr(function, "__globals__", None)
    return names is None or names is getattr(sys.modules.get(function.__module__), "__dict__", None)


def _failure_of(initializer: Callable[..., object], initargs: Any) -> str:
    try:
        initializer(*initargs)
    except BaseException as error:  # noqa: BLE001 - whatever it is, no call may run
        return describe(error)
    return ""

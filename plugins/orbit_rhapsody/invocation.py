"""A function task on its way through a backend: loading the function, calling it, packing what it returns.

All of this happens in the backend's worker, never on a loop: a slow import, a large pickle or a sys.exit() in a user's
function concerns that task alone. This module must not know sessions, batches or results logs.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orbit_rhapsody.values import PYTHON_VERSION, check_python, describe, pack_error, pack_plain, pickle_value, unpickle
from orbit_zmq.errors import InvalidArgument, OrbitError, TooLarge

MAX_VALUE_BYTES = 4 << 30  # of what a function returns; it is in memory several times


class Function:
    """A function that tasks name, loaded when it is first called; if it cannot be loaded, each of them fails."""

    __slots__ = ("__weakref__", "_function", "_loading", "_path", "_pickled", "_python")

    def __init__(self, *, path: str = "", pickled: bytes = b"", python: str = PYTHON_VERSION) -> None:
        self._path = path
        self._pickled = pickled
        self._python = python
        self._function: Callable[..., Any] | None = None
        self._loading = threading.Lock()

    def load(self) -> Callable[..., Any]:
        with self._loading:
            if self._function is None:
                self._function = self._import() if self._path else self._unpickle()
            return self._function

    def _import(self) -> Callable[..., Any]:
        module_name, _, name = self._path.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise InvalidArgument(
                f"cannot resolve function {self._path!r}: {describe(error)}",
                hint="Write it as 'package.module:function' and install the package where the endpoint runs.",
            ) from error
        return _checked(found, self._path)

    def _unpickle(self) -> Callable[..., Any]:
        check_python(self._python, PYTHON_VERSION)
        return _checked(unpickle(self._pickled, "the task's function"), "the pickled function")

    def __reduce__(self) -> tuple[Any, ...]:
        return _function, (self._path, self._pickled, self._python)  # a backend may send it to another process


def _function(path: str, pickled: bytes, python: str) -> Function:
    return Function(path=path, pickled=pickled, python=python)


def _checked(found: Any, name: str) -> Callable[..., Any]:
    if not callable(found):
        raise InvalidArgument(f"{name} is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


@dataclass(slots=True)
class Outcome:
    """What a function returned: packed if it is plain, else pickled; or the error of a value that is neither."""

    plain: bytes | None = None
    pickled: bytes | None = None
    error: dict[str, Any] | None = None
    large: dict[str, Any] | None = None  # in place of a value that is kept elsewhere: its bytes, and whether they are a pickle
    started: float = 0.0
    finished: float = 0.0

    def __str__(self) -> str:
        return ""  # backends set stdout to str(return_value)


class TaskFailed(Exception):
    """A function raised, or could not be loaded; carries the packed error out of the worker."""

    def __init__(self, error: dict[str, Any], started: float, finished: float) -> None:
        super().__init__(error, started, finished)
        self.error = error
        self.started = started
        self.finished = finished

    def __str__(self) -> str:
        return f"{self.error['type']}: {self.error['message']}"


class Invocation:
    """The callable that a backend is given in place of the user's function."""

    __slots__ = ("_args", "_function", "_kwargs", "_pickled", "_python", "running")

    def __init__(self, function: Function, args: list[Any], kwargs: dict[str, Any], pickled: bytes | None, python: str) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._pickled = pickled
        self._python = python
        self.running = False  # seen by the engine when the backend runs it in a thread of this process

    def __call__(self) -> Outcome:
        started = time.time()
        self.running = True
        try:
            outcome = outcome_of(self._result())
        except BaseException as error:  # noqa: BLE001 - SystemExit too would end the loop that waits for the worker
            raise TaskFailed(pack_error(_without_frames(error)), started, time.time()) from None
        finally:
            self.running = False
        outcome.started, outcome.finished = started, time.time()
        return outcome

    def _result(self) -> object:
        function = self._function.load()
        args, kwargs = self._args, self._kwargs
        if self._pickled is not None:
            args, kwargs = unpickle(self._pickled, "the task's arguments", self._python)
        result = function(*args, **kwargs)
        return asyncio.run(_awaited(result)) if inspect.iscoroutine(result) else result


async def _awaited(coroutine: Any) -> object:
    return await coroutine


def _without_frames(error: BaseException) -> BaseException:
    """The error with its traceback cut to what lies below this module: the user's own frames."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    return error if isinstance(error, OrbitError) else error.with_traceback(traceback)


def outcome_of(value: object) -> Outcome:
    """A return value as bytes; one that cannot travel becomes an error, not an exception."""
    plain = pack_plain(value)
    if plain is not None:
        outcome = Outcome(plain=plain)
    else:
        try:
            outcome = Outcome(pickled=pickle_value(value))
        except InvalidArgument as error:
            return Outcome(error=pack_error(error))
    size = len(outcome.plain or outcome.pickled or b"")
    if size > MAX_VALUE_BYTES:
        return Outcome(error=pack_error(TooLarge(f"a return value of {size} bytes; at most {MAX_VALUE_BYTES} travel")))
    return outcome

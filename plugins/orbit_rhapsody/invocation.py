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

from orbit_rhapsody.large import INLINE_BYTES, REFERENCE_BYTES, LargeValue, taken_apart
from orbit_rhapsody.values import PYTHON_VERSION, check_python, describe, pack_error, pack_plain, pickle_value, unpickle
from orbit_zmq.errors import InternalError, InvalidArgument, OrbitError, TooLarge

Keep = Callable[[LargeValue], dict[str, Any]]  # answers what stands for the value


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
    """What a function returned: packed if it is plain, else pickled, or apart if it is large; or why it cannot travel."""

    plain: bytes | None = None
    pickled: bytes | None = None
    error: dict[str, Any] | None = None
    large: LargeValue | None = None  # until it is kept somewhere
    reference: dict[str, Any] | None = None  # from then on
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
        return str(self.error["message"])  # backends set stderr to it


class Invocation:
    """The callable that a backend is given in place of the user's function.

    `keep` puts a large value where it is streamed from; in another process the value goes back to this one first.
    """

    __slots__ = (
        "_args", "_by_reference", "_function", "_keep", "_kwargs", "_load", "_pickled", "_python",
        "has_begun", "running",
    )  # fmt: skip

    def __init__(
        self,
        function: Function,
        args: list[Any],
        kwargs: dict[str, Any],
        pickled: bytes | None,
        python: str,
        *,
        by_reference: bool = False,
        keep: Keep | None = None,
        load: Callable[[], tuple[Any, Any]] | None = None,
    ) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._pickled = pickled
        self._python = python
        self._by_reference = by_reference
        self._keep = keep
        self._load = load  # of arguments that are not here yet
        self.has_begun = self.running = False  # seen by the engine when the backend runs it in a thread of this process

    def __reduce__(self) -> tuple[Any, ...]:
        pickled = self._pickled if self._load is None else pickle_value(self._load())
        what = (self._function, self._args, self._kwargs, pickled, self._python, self._by_reference)
        return _invocation, what

    def __call__(self) -> Outcome:
        started = time.time()
        self.has_begun = self.running = True
        try:
            outcome = outcome_of(self._result(), by_reference=self._by_reference)
            if self._keep is not None:
                keep_apart(outcome, self._keep)
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
        elif self._load is not None:
            args, kwargs = self._load()
        result = function(*args, **kwargs)
        return asyncio.run(_awaited(result)) if inspect.iscoroutine(result) else result


def _invocation(
    function: Function, args: list[Any], kwargs: dict[str, Any], pickled: bytes | None, python: str, by_reference: bool
) -> Invocation:
    return Invocation(function, args, kwargs, pickled, python, by_reference=by_reference)


async def _awaited(coroutine: Any) -> object:
    return await coroutine


def _without_frames(error: BaseException) -> BaseException:
    """The error with its traceback cut to what lies below this module: the user's own frames."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    return error if isinstance(error, OrbitError) else error.with_traceback(traceback)


def outcome_of(value: object, *, by_reference: bool = False) -> Outcome:
    """A return value as bytes; one that cannot travel becomes an error, not an exception."""
    limit = REFERENCE_BYTES if by_reference else INLINE_BYTES
    plain = None if type(value) is bytes and len(value) > limit else pack_plain(value)
    if plain is not None and len(plain) <= limit:
        return Outcome(plain)
    try:
        large = taken_apart(value, plain, by_request=by_reference)
        if plain is None and large.size_bytes <= limit:
            return Outcome(pickled=pickle_value(value) if large.buffers else b"".join(large.head))
        return Outcome(large=large)
    except (InvalidArgument, TooLarge) as error:
        return Outcome(error=pack_error(error))


def keep_apart(outcome: Outcome, keep: Keep) -> None:
    """Put a value that is too large for a message where it is streamed from."""
    if outcome.large is None:
        return
    try:
        outcome.reference = keep(outcome.large)
    except InternalError as error:
        outcome.error = pack_error(error)
    outcome.large = None

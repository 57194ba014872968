"""What a caller hands in: dicts, Rhapsody's task objects, uids, results, and what is wrong with them at the door.

A dict is never changed. A Rhapsody object is what Rhapsody's own session makes of it: its result is written into it when it is
waited for, and after `submit_tasks` of the async client it can be awaited. Rhapsody numbers its objects anew in every process,
so such a number travels with a mark of this process, and stands for no task of another one. This module must not import
Rhapsody, which a client need not have, and must not send or fetch.
"""

from __future__ import annotations

import importlib
import os
import re
import reprlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from orbit_rhapsody.codec import FAILED, FINAL_STATES, MAX_UID_CHARS
from orbit_zmq.errors import InvalidArgument, OrbitError, RemoteError

Task = Mapping[str, Any]
TasksOrUids = Iterable[str | Task]

_NUMBERED = re.compile(r"task\.\d{6,}")  # what Rhapsody calls a task without a uid


def checked_tasks(tasks: Iterable[Task]) -> Sequence[Task]:
    """The tasks as a list; InvalidArgument for what is no list of tasks."""
    checked = _listed(tasks, "submit_tasks takes a list of tasks")
    for task in checked:
        if not isinstance(task, (dict, Mapping)):
            raise InvalidArgument(f"a task is a dict or a Rhapsody task object, not {_shown(task)}")
        uid = task.get("uid")
        if uid is not None:
            check_uid(uid)
    return checked


def check_uid(uid: object) -> None:
    """InvalidArgument for a uid that cannot be one."""
    if not isinstance(uid, str) or not 0 < len(uid) <= MAX_UID_CHARS:
        raise InvalidArgument(
            f"a task's uid is text of 1 to {MAX_UID_CHARS} characters, not {_shown(uid)}",
            hint="Leave it out, and one will be given.",
        )
    if not uid.isascii() and _has_surrogates(uid):
        raise InvalidArgument(f"a task's uid is text that UTF-8 can carry, not {_shown(uid)}")


def check_word(name: str, word: object, words: Collection[str]) -> None:
    """InvalidArgument for a wish that is none of these words; an empty one leaves it to the session."""
    if word not in ("", *words):
        raise InvalidArgument(f"{name} is {word!r}, not one of {', '.join(words)}", hint=f"Or leave {name} out.")


def named_tasks(tasks: TasksOrUids) -> Sequence[str | Task]:
    """The tasks to wait for as a list, also those that are the keys of a dict; InvalidArgument for what is none."""
    if isinstance(tasks, Mapping) and "uid" not in tasks:
        return list(tasks)
    return _listed(tasks, "tasks to wait for are a list of uids, tasks or results")


def uid_of(task: object) -> str:
    """The uid of anything that names a task."""
    uid = task if type(task) is str else task.get("uid") if isinstance(task, (dict, Mapping)) else None
    if not isinstance(uid, str):
        raise InvalidArgument(
            f"a task is named by its uid or by a dict that has one, not by {_shown(task)}",
            hint="submit_tasks answers the uids; a dict without a uid does not say which task it was.",
        )
    return uid if type(task) is dict or type(task) is str else sent_uid(task, uid)


def sent_uid(task: object, uid: str) -> str:
    """Under which uid a task goes: its own, or the number that Rhapsody gave to its object, with the mark of this process."""
    return f"{uid}.{_mark_of(os.getpid())}" if _NUMBERED.fullmatch(uid) and is_task_object(task) else uid


@cache
def _mark_of(process: int) -> str:
    return secrets.token_hex(4)


def refusal_of(task: object) -> OrbitError | None:
    """Why a task was not taken, where this is the answer of `submit_tasks` that says so, or the object that was handed in."""
    if type(task) is str or not isinstance(task, (dict, Mapping)) or task.get("state") != FAILED or "traceback" in task:
        return None  # a result has a traceback, if an empty one
    error = task.get("exception")
    return error if isinstance(error, OrbitError) else None


def note_refusal(task: object, error: OrbitError | None) -> None:
    """Write into an object that it was not taken, or that it was after all."""
    written: Any = task
    if error is not None:
        written.pop("traceback", None)
        written.update(state=FAILED, exception=error)
    elif refusal_of(task) is not None:
        del written["state"], written["exception"]


def is_task_object(task: object) -> bool:
    """Whether this is one of Rhapsody's own."""
    return type(task) is not dict and type(task) is not str and hasattr(task, "bind_future")


def given_back(task: object, result: dict[str, Any]) -> Any:
    """What a caller gets for what he has waited for: the result, or his Rhapsody object with the result in it."""
    if not is_task_object(task):
        return result
    written: Any = task
    written.update({**result, "uid": written["uid"]})
    if written.get("prompt") is not None:
        written["response"] = result["return_value"]  # where an AITask has it
    return written


class AsyncPending:
    """What `await task` waits for: the task object with its result, or the exception that its session would raise."""

    __slots__ = ("_task", "_wait")

    def __init__(self, task: Any, wait: Callable[[list[Any]], Awaitable[Any]]) -> None:
        self._task = task
        self._wait = wait

    def __await__(self) -> Generator[Any, None, Any]:
        return self._ended().__await__()

    async def _ended(self) -> Any:
        if self._task.get("state") not in FINAL_STATES:
            await self._wait([self._task])
        error = task_error(self._task)
        if error is not None:
            raise error
        return self._task


def async_make_awaitable(tasks: Iterable[Task], wait: Callable[[list[Any]], Awaitable[Any]]) -> None:
    """Rhapsody's objects among the tasks can be awaited from now on."""
    for task in tasks:
        if type(task) is not dict and is_task_object(task):
            bound: Any = task
            bound.bind_future(AsyncPending(task, wait))


def make_awaitable(tasks: Iterable[Task], wait: Callable[[list[Any]], Any]) -> None:
    """Of the client without a loop: there nothing is awaited."""


def task_error(result: Task) -> BaseException | None:
    """Why a task has no value, as an exception; None where it has."""
    if result["state"] == "DONE":
        return None
    error = result.get("exception")
    if isinstance(error, BaseException):
        return error
    if error:
        return RemoteError(str(error), remote_traceback=str(result.get("traceback") or ""))
    if is_task_object(result):
        return _execution_error(result)
    said = result.get("reason") or str(result.get("stderr") or "").strip()[-500:] or f"exit code {result.get('exit_code')}"
    return RemoteError(f"task {result['uid']} is {result['state']}: {said}")


def _execution_error(task: Task) -> BaseException:
    """Rhapsody's own, since its object is here."""
    errors = importlib.import_module("rhapsody.api.errors")
    made: BaseException = errors.TaskExecutionError(task["uid"], task.get("stderr") or "", task.get("exit_code"))
    return made


def _listed(given: Iterable[Any], what: str) -> Sequence[Any]:
    if isinstance(given, (str, bytes, bytearray, Mapping)) or not isinstance(given, Iterable):
        raise InvalidArgument(f"{what}, not {_shown(given)}", hint="Put a single one into a list: [task].")
    return given if isinstance(given, (list, tuple)) else list(given)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)  # which no msgpack text can have


def _shown(value: object) -> str:
    return f"a {type(value).__name__}: {reprlib.repr(value)}"

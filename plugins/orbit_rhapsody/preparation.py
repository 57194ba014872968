"""From a packed task to the dict that a Rhapsody backend takes.

What is wrong with a task is found here, when its turn comes, and concerns that task alone. Functions are named here and
loaded later, in the backend's worker: this module must not run or import anything of the user's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from orbit_rhapsody.codec import EXECUTABLE, ReceivedBatch, decode_task
from orbit_rhapsody.invocation import Function, Invocation
from orbit_zmq.errors import InvalidArgument, NotPermitted

WITHOUT_PICKLES = (
    "Without pickles a task is an executable, or a function that the endpoint can import, named 'package.module:function', "
    "with plain values as arguments. The endpoint's --pickle and the session's allow_pickled_tasks decide."
)


class Functions:
    """The functions of one session; batches that bring the same pickle share what it was loaded to."""

    def __init__(self) -> None:
        self._functions: WeakValueDictionary[object, Function] = WeakValueDictionary()
        self._lock = threading.Lock()

    def pickled(self, pickle: bytes, python: str) -> Function:
        return self._get((pickle, python), lambda: Function(pickled=pickle, python=python))

    def named(self, path: str) -> Function:
        return self._get(path, lambda: Function(path=path))

    def _get(self, key: object, make: Any) -> Function:
        with self._lock:
            function = self._functions.get(key)
            if function is None:
                function = self._functions[key] = make()
            return function


class Batch:
    """What the tasks of one batch share."""

    def __init__(self, received: ReceivedBatch, functions: Functions, *, submitted: float, allow_pickled: bool) -> None:
        self.submitted = submitted
        self._python = received.python
        self._allow_pickled = allow_pickled
        self._named = functions.named
        self._functions = {
            digest: functions.pickled(pickled, received.python)
            for digest, pickled in (received.functions.items() if allow_pickled else ())
        }

    def prepare(self, task: PackedTask, backends: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The backend of a task and the dict for it, or the OrbitError of what is wrong with the task."""
        fields = decode_task(task.packed)
        backend = fields.get("backend") or backends[0]
        if backend not in backends:
            raise InvalidArgument(f"this session has no backend {backend!r}; it has {', '.join(backends)}")
        prepared = self._executable(fields) if task.kind == EXECUTABLE else self._call(fields)
        prepared["uid"] = task.uid
        prepared["task_backend_specific_kwargs"] = _options(fields)
        return backend, prepared

    def _call(self, fields: dict[str, Any]) -> dict[str, Any]:
        args, kwargs, pickled = fields.get("args", []), fields.get("kwargs", {}), fields.get("pickled")
        if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(pickled, (bytes, type(None))):
            raise InvalidArgument("a task's args are a list, its kwargs a map, and pickled is bytes")
        if pickled is not None and not self._allow_pickled:
            raise NotPermitted("the task has pickled arguments, and pickles are not taken here", hint=WITHOUT_PICKLES)
        function = self._function(fields.get("function"))
        return {"function": Invocation(function, args, kwargs, pickled, self._python), "args": (), "kwargs": {}}

    def _function(self, function: object) -> Function:
        if isinstance(function, str):
            return self._named(function)
        if not isinstance(function, dict) or not isinstance(function.get("digest"), str):
            raise InvalidArgument("a task's function is {digest}, or text like 'package.module:function'")
        if not self._allow_pickled:
            raise NotPermitted("the task has a pickled function, and pickles are not taken here", hint=WITHOUT_PICKLES)
        found = self._functions.get(function["digest"])
        if found is None:
            raise InvalidArgument("the task names a function that its batch does not bring along")
        return found

    def _executable(self, fields: dict[str, Any]) -> dict[str, Any]:
        executable, arguments = fields.get("executable"), fields.get("arguments", [])
        if not isinstance(executable, str) or not executable:
            raise InvalidArgument(f"a task's executable is a path, not {executable!r}")
        if not isinstance(arguments, list) or not all(isinstance(item, (str, int, float)) for item in arguments):
            raise InvalidArgument("a task's arguments are a list of texts and numbers")
        return {"executable": executable, "arguments": [str(item) for item in arguments]}


@dataclass(slots=True)
class PackedTask:
    """A task that waits for its turn."""

    uid: str
    kind: int
    packed: bytes
    batch: Batch


def _options(fields: dict[str, Any]) -> dict[str, Any]:
    """The backend's own options; cwd, env and shell are among them there. `env` adds to the endpoint's environment."""
    options = fields.get("task_backend_specific_kwargs") or {}
    cwd, env, shell = fields.get("cwd"), fields.get("env"), fields.get("shell")
    if not isinstance(options, dict):
        raise InvalidArgument("task_backend_specific_kwargs is a map")
    if cwd is not None and not isinstance(cwd, str):
        raise InvalidArgument("a task's cwd is a path")
    if shell is not None and not isinstance(shell, bool):
        raise InvalidArgument("a task's shell is true or false")
    if cwd is not None:
        options = {**options, "cwd": cwd}
    if shell is not None:
        options = {**options, "shell": shell}
    if env is not None:
        if not isinstance(env, dict) or not all(type(part) is str for item in env.items() for part in item):
            raise InvalidArgument("a task's env is a map of text")
        options = {**options, "env": {**os.environ, **env}}
    return options

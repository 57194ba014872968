"""From a packed task to the dict that a Rhapsody backend takes.

What is wrong with a task is found here, when its turn comes, and concerns that task alone. Functions are named here and
loaded later, in the backend's worker: this module must not run or import anything of the user's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from orbit_rhapsody.codec import EXECUTABLE, OWN_FIELDS, ReceivedBatch, decode_task
from orbit_rhapsody.invocation import Function, Invocation
from orbit_rhapsody.large import INLINE, REFERENCE, reference_in
from orbit_rhapsody.options import options_of
from orbit_rhapsody.sharing import PLAIN, Kept, filled
from orbit_rhapsody.spool import Spool
from orbit_rhapsody.values import unpickle
from orbit_zmq.errors import InvalidArgument, NotPermitted

WITHOUT_PICKLES = (
    "Without pickles a task is an executable, or a function that the endpoint can import, named 'package.module:function', "
    "with plain values as arguments. The endpoint's --pickle and the session's allow_pickled_tasks decide."
)


NO_FUNCTION = Function()  # of executables
NOTHING: dict[str, Any] = {}


class Functions:
    """The functions of one session; batches that bring the same pickle share what it was loaded to."""

    def __init__(self) -> None:
        self.kept = Kept()
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


class Part:
    """What some tasks of a batch have in common, decoded when the first of them has its turn."""

    __slots__ = ("batch", "content", "fields", "kind", "packed", "prepared")

    def __init__(self, batch: Batch, kind: int, packed: bytes) -> None:
        self.batch = batch
        self.kind = kind
        self.packed = packed
        self.content = hash((kind, packed))  # with that of a task's own fields: whether a uid came with another task before
        self.fields: dict[str, Any] | None = None
        self.prepared: Prepared | None = None


class PackedTask:
    """A task that waits for its turn."""

    __slots__ = ("packed", "part", "uid")

    def __init__(self, uid: str, packed: bytes, part: Part) -> None:
        self.uid = uid
        self.packed = packed  # its own fields
        self.part = part

    @property
    def content(self) -> int:
        return hash((self.part.content, self.packed))


class Prepared(NamedTuple):
    """What the tasks of one part share once it has been looked at."""

    backend: str
    options: dict[str, Any]
    function: Function
    executable: str


class Batch:
    """What all tasks of one call of `submit` share."""

    def __init__(
        self,
        received: ReceivedBatch,
        functions: Functions,
        *,
        submitted: float,
        allow_pickled: bool,
        spool: Spool | None = None,
        results: str = INLINE,
    ) -> None:
        self.submitted = submitted
        self._spool = spool
        self._by_reference = (received.results or results) == REFERENCE
        self._streams_output = received.stream_output
        self._apart = {name: spool.hold(name) for name in received.apart} if spool is not None and allow_pickled else {}
        self._python = received.python
        self._allow_pickled = allow_pickled
        self._functions = functions
        self._brought = received.functions | {digest: functions.kept.get(digest) for digest in received.known}

    def tasks_of(self, received: ReceivedBatch) -> list[PackedTask]:
        """Its tasks; they keep the batch, and it does not keep them."""
        parts = [Part(self, kind, packed) for kind, packed in received.parts]
        return [PackedTask(uid, own, parts[number]) for uid, number, own in received.tasks]

    def prepare(self, task: PackedTask, backends: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The backend of a task and the dict for it, or the OrbitError of what is wrong with the task."""
        part = task.part
        fields = part.fields
        if fields is None:
            fields = part.fields = decode_task(part.packed)
        prepared = part.prepared
        own = decode_task(task.packed) if task.packed else NOTHING
        if own.keys() <= OWN_FIELDS:
            if prepared is None:
                prepared = part.prepared = self._look_at(part.kind, fields, backends)
            fields = fields | own if own else fields
        else:
            fields = fields | own
            prepared = self._look_at(part.kind, fields, backends)
        ready = self._executable(prepared, fields) if part.kind == EXECUTABLE else self._call(prepared, fields, task.uid)
        ready["uid"] = task.uid
        ready.update(prepared.options)
        if "capture_stdio" in ready and "/" in task.uid:
            raise InvalidArgument("a task with capture_stdio has no '/' in its uid, which names its files")
        return prepared.backend, ready

    def _look_at(self, kind: int, fields: dict[str, Any], backends: Sequence[str]) -> Prepared:
        backend = fields.get("backend") or backends[0]
        if backend not in backends:
            raise InvalidArgument(f"this session has no backend {backend!r}; it has {', '.join(backends)}")
        if self._streams_output and kind == EXECUTABLE:
            fields = {**fields, "stream_output": True}
        options = options_of(fields, kind, backend)
        if "prompt" in fields:
            return Prepared(backend, options, NO_FUNCTION, "")
        if kind != EXECUTABLE:
            return Prepared(backend, options, self._function(fields.get("function")), "")
        executable = fields.get("executable")
        if not isinstance(executable, str) or not executable or "\0" in executable:
            raise InvalidArgument(f"a task's executable is a path, not {executable!r}")
        return Prepared(backend, options, NO_FUNCTION, executable)

    def _call(self, prepared: Prepared, fields: dict[str, Any], uid: str) -> dict[str, Any]:
        args, kwargs, pickled = fields.get("args", []), fields.get("kwargs", {}), fields.get("pickled")
        if type(args) is not list or type(kwargs) is not dict or not isinstance(pickled, (bytes, type(None))):
            raise InvalidArgument("a task's args are a list, its kwargs a map, and pickled is bytes")
        if pickled is not None and not self._allow_pickled:
            raise NotPermitted("the task has pickled arguments, and pickles are not taken here", hint=WITHOUT_PICKLES)
        load = self._loader(fields["apart"]) if "apart" in fields else None
        if "shared" in fields:
            load, pickled = self._filler(fields["shared"], args, kwargs, pickled), None
        invocation = Invocation(
            prepared.function,
            args,
            kwargs,
            pickled,
            self._python,
            by_reference=self._by_reference,
            keep=partial(self._spool.put, uid) if self._spool is not None else None,
            load=load,
        )
        return {"function": invocation, "args": (), "kwargs": {}}

    def _filler(self, shared: object, args: Any, kwargs: Any, pickled: bytes | None) -> Callable[[], Any]:
        """What loads arguments of which some are shared with other tasks."""
        if not isinstance(shared, dict) or not all(isinstance(digest, str) for digest in shared.values()):
            raise InvalidArgument("a task's shared arguments are a map of digests")
        if not self._allow_pickled and not all(digest.startswith(PLAIN) for digest in shared.values()):
            raise NotPermitted("the task has pickled arguments, and pickles are not taken here", hint=WITHOUT_PICKLES)
        try:
            brought = {key: (digest, self._brought[digest]) for key, digest in shared.items()}
        except KeyError as missing:
            raise InvalidArgument(f"the task names an argument that its batch does not bring along: {missing}") from None

        def load() -> tuple[Any, Any]:
            own: tuple[Any, Any] = (args, kwargs)
            if pickled is not None:
                own = unpickle(pickled, "the task's arguments", self._python)
            return filled(*own, brought, self._python)

        return load

    def _loader(self, apart: object) -> Callable[[], Any]:
        """What loads arguments that came before the batch."""
        reference = reference_in(apart)
        if not self._allow_pickled:
            raise NotPermitted("the task has pickled arguments, and pickles are not taken here", hint=WITHOUT_PICKLES)
        held = self._apart.get(reference["uid"])
        if held is None:
            raise InvalidArgument("the task names arguments that its batch does not name")
        return partial(held.load, reference)

    def _executable(self, prepared: Prepared, fields: dict[str, Any]) -> dict[str, Any]:
        arguments = fields.get("arguments", [])
        if type(arguments) is not list or (arguments and not all(isinstance(item, (str, int, float)) for item in arguments)):
            raise InvalidArgument("a task's arguments are a list of texts and numbers")
        if any(isinstance(item, str) and "\0" in item for item in arguments):
            raise InvalidArgument("a task's arguments have a NUL, which no program can be given")
        return {"executable": prepared.executable, "arguments": [str(item) for item in arguments]}

    def _function(self, function: object) -> Function:
        if isinstance(function, str):
            return self._functions.named(function)
        if not isinstance(function, dict) or not isinstance(function.get("digest"), str):
            raise InvalidArgument("a task's function is {digest}, or text like 'package.module:function'")
        if not self._allow_pickled:
            raise NotPermitted("the task has a pickled function, and pickles are not taken here", hint=WITHOUT_PICKLES)
        found = self._brought.get(function["digest"])
        if found is None:
            raise InvalidArgument("the task names a function that its batch does not bring along")
        return self._functions.pickled(found, self._python)

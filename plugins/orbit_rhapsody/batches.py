"""Tasks as batches, on the client's side: what many have in common is packed once, large things by the hash of what they hold.

The format is that of codec.py. This module must not send anything, and changes nothing that the caller has handed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import msgpack

from orbit_rhapsody.codec import EXECUTABLE, FUNCTION, OWN_FIELDS
from orbit_rhapsody.large import LargeValue, taken_apart
from orbit_rhapsody.sharing import SHARED_BYTES, SharedArguments, without
from orbit_rhapsody.values import (
    PYTHON_VERSION,
    check_python,
    pickle_function,
    pickle_value,
    strict_packer,
)
from orbit_zmq.errors import InvalidArgument, OrbitError, TooLarge
from orbit_zmq.wire.body import PACKER_BYTES

BATCH_BYTES = 1 << 20  # keeps the endpoint's and the client's work overlapped; larger ones are not faster
BATCH_TASKS = 16_384
FIRST_TASKS = 1_024  # of the first batch, so that the endpoint begins soon; each one may have twice as many as that before it
MAX_TASK_BYTES = 48 << 20  # below the wire's limit for one body, with room for the rest of the batch
ENTRY_BYTES = 8  # of a task in a batch, beside its uid and its fields

_OPTIONS = (
    "backend", "task_backend_specific_kwargs",
    "cwd", "env", "environment", "shell", "timeout", "ranks", "type", "capture_stdio", "stream_output",
)  # fmt: skip
_PROMPT = (
    "prompt", "model", "inference_endpoint", "system_prompt", "temperature", "max_tokens", "top_p", "top_k", "stop_sequences",
)  # fmt: skip
TASK_FIELDS = {
    "function": frozenset({"uid", "function", "args", "kwargs", *_OPTIONS}),
    "executable": frozenset({"uid", "executable", "arguments", *_OPTIONS}),
    "prompt": frozenset({"uid", *_PROMPT, *_OPTIONS}),
}
# What Rhapsody's task objects carry of their own accord, and what their backends and this client fill in.
_RESULT_FIELDS = frozenset(
    {
        "state", "raw_state", "stdout", "stderr", "exit_code", "return_value", "response", "exception", "traceback", "reason",
        "times", "result_ref", "future", "_future", "task_type",
    }
)  # fmt: skip
_NOT_COMMON = OWN_FIELDS | _RESULT_FIELDS | {"uid"}
_NOTHING_SHARED: dict[str, object] = {}
_REMEMBERED_PARTS = 1_024


@dataclass(slots=True)
class EncodedBatch:
    """What one call of `submit` sends. Tasks are known by their position among all: those in here, and those refused."""

    sent: list[int] = field(default_factory=list)
    refused: dict[int, OrbitError] = field(default_factory=dict)
    apart: dict[str, LargeValue] = field(default_factory=dict)  # to be sent before it, by name
    envelope: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """What is sent; nothing where no task is."""
        return self.packed()

    def packed(self, reader: dict[str, Any] | None = None) -> bytes:
        """The same; with the reader who takes results along."""
        if not self.envelope:
            return b""
        packed: bytes = msgpack.packb(
            self.envelope if reader is None else {**self.envelope, "reader": reader}, buf_size=PACKER_BYTES
        )
        return packed


class _Functions:
    """The pickles of the functions of one call: each distinct function is pickled once."""

    def __init__(self, python_there: str) -> None:
        self._python_there = ".".join(python_there.split(".")[:2])
        self._known: dict[int, tuple[object, str]] = {}  # keeps the function, so that its id stays its own
        self.pickles: dict[str, bytes] = {}

    def digest(self, function: Callable[..., Any]) -> str:
        known = self._known.get(id(function))
        if known is not None:
            return known[1]
        check_python(PYTHON_VERSION, self._python_there or PYTHON_VERSION)
        pickled = pickle_function(function)
        digest = hashlib.blake2b(pickled, digest_size=12).hexdigest()
        self.pickles[digest] = pickled
        self._known[id(function)] = (function, digest)
        return digest


class _Part(NamedTuple):
    """What some tasks of a call have in common."""

    kind: int
    packed: bytes
    digest: str  # of the function, or nothing


class _Shape:
    """Tasks with the same keys, and their parts by the identity of the values in them: for most tasks one look-up does."""

    __slots__ = ("parts", "values_of")

    def __init__(self, keys: tuple[str, ...]) -> None:
        common = [key for key in keys if key not in _NOT_COMMON]
        self.values_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*common, *common) if common else _no_values
        self.parts: dict[tuple[int, ...], tuple[tuple[Any, ...], _Part]] = {}  # keeps the values, so that ids stay their own


class _Encoder:
    """The tasks of one call, each as its part and the packed map of its own fields."""

    def __init__(self, python_there: str) -> None:
        self.functions = _Functions(python_there)
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self.large = SharedArguments()
        self.shared: Mapping[str, object] = _NOTHING_SHARED  # by the task that was encoded last: large arguments by digest
        self.apart: dict[bytes, tuple[str, LargeValue]] = {}  # by the task's own fields, in which only its name stands

    def encode(self, task: Mapping[str, Any]) -> tuple[_Part, bytes]:
        """An OrbitError says what is wrong with the task."""
        keys = tuple(task)
        shape = self._shapes.get(keys)
        if shape is None:
            shape = self._shapes[keys] = _Shape(keys)
        values = shape.values_of(task)
        identities = tuple(map(id, values))
        known = shape.parts.get(identities)
        if known is None:
            if len(shape.parts) >= _REMEMBERED_PARTS:
                shape.parts.clear()
            known = shape.parts[identities] = (values, self._part_of(task))
        part = known[1]
        self.shared = _NOTHING_SHARED
        own = self._own_call(task) if part.kind == FUNCTION else _own_arguments(task)
        return part, own if len(own) <= MAX_TASK_BYTES else self._own_reference(task)

    def _own_call(self, task: Mapping[str, Any]) -> bytes:
        """The packed arguments of a function, those that are large by their digests."""
        args, kwargs = task.get("args") or (), task.get("kwargs") or {}
        own = b""
        if not self.large.has_any(args, kwargs):
            own = _own_call(args, kwargs)
            if not SHARED_BYTES <= len(own) <= MAX_TASK_BYTES:
                return own
        large = self.large.take(args, kwargs)
        if not large:
            return own or _own_call(args, kwargs)
        self.shared = dict(large.values())
        return _own_call(*without(args, kwargs, large), {key: digest for key, (digest, _) in large.items()})

    def _own_reference(self, task: Mapping[str, Any]) -> bytes:
        """In place of arguments that are too large for a batch; they are sent before it, as a stream."""
        if task.get("function") is None:
            raise TooLarge(f"arguments of more than {MAX_TASK_BYTES} bytes", hint="Write them to a file for the program.")
        value = taken_apart((tuple(task.get("args") or ()), task.get("kwargs") or {}))
        name = value.digest()
        own = _pack({"apart": value.reference(name)})
        self.apart[own] = (name, value)
        return own

    def _part_of(self, task: Mapping[str, Any]) -> _Part:
        said = [name for name in TASK_FIELDS if task.get(name) is not None]
        if len(said) != 1:
            _refuse_unknown_fields(task, frozenset().union(*TASK_FIELDS.values()))  # it may be one of these, misspelt
            raise InvalidArgument(
                "a task needs either 'function' or 'executable', and not both",
                hint="Or a 'prompt', for a backend that answers one.",
            )
        what = said[0]
        if not task.keys() <= TASK_FIELDS[what]:
            _refuse_unknown_fields(task, TASK_FIELDS[what])
        common = {name: task[name] for name in _OPTIONS if task.get(name) is not None}
        if what != "function":
            names = _PROMPT if what == "prompt" else ("executable",)
            common |= {name: task[name] for name in names if task.get(name) is not None}
            return _Part(FUNCTION if what == "prompt" else EXECUTABLE, _pack(common), "")
        function = task["function"]
        digest = "" if isinstance(function, str) else self.functions.digest(_callable(function))
        common["function"] = {"digest": digest} if digest else function
        return _Part(FUNCTION, _pack(common), digest)


class _Open:
    """A batch that is being filled. What the endpoint keeps is not brought again."""

    def __init__(self, kept: Collection[str]) -> None:
        self._kept = kept
        self._shared: dict[str, bytes] = {}
        self._known: set[str] = set()
        self.batch = EncodedBatch()
        self.size_bytes = 0
        self.entries: list[tuple[str, int, bytes]] = []
        self._numbers: dict[_Part, int] = {}

    def add(self, position: int, uid: str, part: _Part, own: bytes, encoder: _Encoder) -> None:
        functions = encoder.functions
        if encoder.shared:
            self._bring(encoder)
        if encoder.apart and own in encoder.apart:
            name, value = encoder.apart[own]
            self.batch.apart[name] = value
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._numbers)
            self.size_bytes += len(part.packed) + (len(functions.pickles[part.digest]) if part.digest else 0)
        self.entries.append((uid, number, own))
        self.batch.sent.append(position)
        self.size_bytes += len(own) + len(uid) + ENTRY_BYTES

    def _bring(self, encoder: _Encoder) -> None:
        for digest, argument in encoder.shared.items():
            if digest in self._kept:
                self._known.add(digest)
            elif digest not in self._shared:
                self._shared[digest] = encoder.large.packed(digest, argument)
                self.size_bytes += len(self._shared[digest])

    def sealed(self, functions: _Functions, said: dict[str, Any]) -> EncodedBatch:
        if self.entries:
            digests = {part.digest for part in self._numbers if part.digest}
            pickles = {digest: functions.pickles[digest] for digest in digests if digest not in self._kept} | self._shared
            known = [*self._known, *(digest for digest in digests if digest in self._kept)]
            parts = [(part.kind, part.packed) for part in self._numbers]
            self.batch.envelope = {
                "python": PYTHON_VERSION,
                "functions": pickles,
                "parts": parts,
                "tasks": self.entries,
                **({"known": known} if known else {}),
                **({"apart": list(self.batch.apart)} if self.batch.apart else {}),
                **said,
            }
        return self.batch


def encode_batches(
    tasks: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    batch_bytes: int = BATCH_BYTES,
    batch_tasks: int = BATCH_TASKS,
    on_unknown: str = "",
    results: str = "",
    stream_output: bool = False,
    python_there: str = "",
    kept: Collection[str] = (),
) -> Iterator[EncodedBatch]:
    """The batches that carry these (uid, task) pairs, in order. A task that cannot be encoded is refused alone.

    `kept` are the digests of the pickles that the session has; it may grow from one batch to the next.

    `on_unknown`, `results` and `stream_output` are said of all of them; `python_there` is the endpoint's version, where that
    is known.
    """
    encoder, filling, most = _Encoder(python_there), _Open(kept), min(FIRST_TASKS, batch_tasks)
    wishes = {"on_unknown": on_unknown, "results": results, "stream_output": stream_output}
    said = {name: wish for name, wish in wishes.items() if wish}
    for position, (uid, task) in enumerate(tasks):
        try:
            part, own = encoder.encode(task)
        except OrbitError as error:
            filling.batch.refused[position] = error
            continue
        if filling.entries and (filling.size_bytes + len(own) > batch_bytes or len(filling.entries) >= most):
            yield filling.sealed(encoder.functions, said)
            filling, most = _Open(kept), min(most * 2, batch_tasks)
        filling.add(position, uid, part, own, encoder)
    if filling.entries or filling.batch.refused:
        yield filling.sealed(encoder.functions, said)


def _no_values(task: Mapping[str, Any]) -> tuple[Any, ...]:
    return ()


def _refuse_unknown_fields(task: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(
        str(name) for name in task.keys() - known if task[name] and name not in _RESULT_FIELDS
    )  # an empty field says nothing: Rhapsody's task objects have all of them
    if unknown:
        raise InvalidArgument(
            f"a task with {', '.join(map(repr, unknown))}, which this plugin does not know",
            hint=f"A task of this kind has the fields {', '.join(sorted(known))}.",
        )


def _callable(function: object) -> Callable[..., Any]:
    if not callable(function):
        raise InvalidArgument(f"a task's function is a {type(function).__name__}, which cannot be called")
    return function


def _own_arguments(task: Mapping[str, Any]) -> bytes:
    """The packed arguments of an executable; nothing where there are none."""
    arguments = task.get("arguments") or ()
    if not isinstance(arguments, (list, tuple)):
        raise InvalidArgument(f"a task's arguments are a list or a tuple, not a {type(arguments).__name__}")
    return _pack({"arguments": list(arguments)}) if arguments else b""


def _own_call(args: Any, kwargs: Any, shared: dict[int | str, str] | None = None) -> bytes:
    """The packed arguments of a function; nothing where there are none."""
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise InvalidArgument("a task's args are a list or a tuple, and its kwargs are a dict")
    if not args and not kwargs:
        return b""
    more = {"shared": shared} if shared else {}
    try:
        own = {"args": list(args), "kwargs": kwargs, **more} if kwargs else {"args": list(args), **more}
        packed: bytes = strict_packer().pack(own)
        return packed
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _pack({"pickled": pickle_value((tuple(args), kwargs)), **more})


def _pack(entry: dict[str, Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(entry, buf_size=PACKER_BYTES)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"a field of the task cannot be sent: {error}") from error
    return packed

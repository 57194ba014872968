"""Batches of tasks, the answer to a batch, and portions of results, as bytes: what client and endpoint agree on.

A batch is the msgpack of `{python, functions: {digest: cloudpickle}, tasks: [[uid, kind, packed task], ...]}`; each
task is packed by itself, so that the endpoint can keep it as bytes until its turn comes, and so that one bad task fails
alone. A packed task is a map with `function` (`{digest}` or `"package.module:function"`), `args` and `kwargs` or, for
arguments that are not plain, `pickled`; or with `executable`, `arguments`, `cwd`, `env`, `shell`; and in both cases
`backend` and `task_backend_specific_kwargs`. This module must not load a function or import one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from orbit_rhapsody.values import (
    PYTHON_VERSION,
    check_python,
    pickle_function,
    pickle_value,
    strict_packer,
    unpack_error,
    unpickle,
)
from orbit_zmq.errors import InvalidArgument, OrbitError, ProtocolError, TooLarge, error_from_body

SUBMITTED, RUNNING, DONE, FAILED, CANCELED = "SUBMITTED", "RUNNING", "DONE", "FAILED", "CANCELED"
STATES = (SUBMITTED, RUNNING, DONE, FAILED, CANCELED)
FINAL_STATES = frozenset({DONE, FAILED, CANCELED})

FUNCTION, EXECUTABLE = 0, 1
ON_UNKNOWN = ("fail", "rerun")  # a task that had been started when the endpoint ended

BATCH_BYTES = 1 << 20  # keeps the endpoint's and the client's work overlapped; larger ones are not faster
BATCH_TASKS = 16_384
MAX_TASK_BYTES = 48 << 20  # below the wire's limit for one body, with room for the rest of the batch
MAX_UID_CHARS = 255

_FIELDS = {
    FUNCTION: frozenset({"uid", "function", "args", "kwargs", "backend", "task_backend_specific_kwargs"}),
    EXECUTABLE: frozenset({"uid", "executable", "arguments", "cwd", "env", "shell", "backend", "task_backend_specific_kwargs"}),
}
# What Rhapsody's task objects carry of their own accord and their backends fill in.
_RESULT_FIELDS = frozenset(
    {"state", "stdout", "stderr", "exit_code", "return_value", "response", "exception", "future", "_future", "task_type"}
)
_NOTHING: dict[str, Any] = {
    "uid": "", "state": "", "raw_state": "", "exit_code": None, "stdout": "", "stderr": "", "exception": None,
    "traceback": "", "times": {}, "return_value": None, "reason": "",
}  # fmt: skip
_BROKEN = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


@dataclass(slots=True)
class EncodedBatch:
    """What one call of `submit` sends. Tasks are known by their position among all: those in here, and those refused."""

    sent: list[int] = field(default_factory=list)
    refused: dict[int, OrbitError] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class ReceivedBatch:
    """A batch as it arrived: its tasks still packed, its functions still pickled."""

    tasks: list[tuple[str, int, bytes]]
    functions: dict[str, bytes]
    python: str
    on_unknown: str = ""  # what becomes of tasks of unknown fate; empty: as the session has it


class _Functions:
    """The pickles of the functions of one call: each distinct function is pickled once."""

    def __init__(self, on_unknown: str, python_there: str) -> None:
        self.on_unknown = on_unknown
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


def encode_batches(
    tasks: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    batch_bytes: int = BATCH_BYTES,
    batch_tasks: int = BATCH_TASKS,
    on_unknown: str = "",
    python_there: str = "",
) -> Iterator[EncodedBatch]:
    """The batches that carry these (uid, task) pairs, in order. A task that cannot be encoded is refused alone.

    `on_unknown` is said of all of them; `python_there` is the endpoint's version, where that is known.
    """
    functions = _Functions(on_unknown, python_there)
    batch, entries, used, size = EncodedBatch(), list[tuple[str, int, bytes]](), set[str](), 0
    for position, (uid, task) in enumerate(tasks):
        try:
            kind, digest, packed = _encode_task(task, functions)
        except OrbitError as error:
            batch.refused[position] = error
            continue
        extra = len(packed) + len(uid) + 8
        if digest and digest not in used:
            extra += len(functions.pickles[digest])
        if entries and (size + extra > batch_bytes or len(entries) >= batch_tasks):
            yield _sealed(batch, entries, used, functions)
            batch, entries, used, size = EncodedBatch(), [], set(), 0
        entries.append((uid, kind, packed))
        batch.sent.append(position)
        size += extra
        if digest:
            used.add(digest)
    if entries or batch.refused:
        yield _sealed(batch, entries, used, functions)


def _sealed(batch: EncodedBatch, entries: list[tuple[str, int, bytes]], used: set[str], functions: _Functions) -> EncodedBatch:
    if entries:
        pickles = {digest: functions.pickles[digest] for digest in used}
        said = {"on_unknown": functions.on_unknown} if functions.on_unknown else {}
        batch.body = msgpack.packb({"python": PYTHON_VERSION, "functions": pickles, "tasks": entries, **said})
    return batch


def _encode_task(task: Mapping[str, Any], functions: _Functions) -> tuple[int, str, bytes]:
    """Kind, digest of the function (or nothing) and the packed task."""
    function, executable = task.get("function"), task.get("executable")
    if (function is None) == (executable is None):
        raise InvalidArgument("a task needs either 'function' or 'executable', and not both")
    kind = EXECUTABLE if function is None else FUNCTION
    if not task.keys() <= _FIELDS[kind]:
        _refuse_unknown_fields(task, kind)
    entry = {name: task[name] for name in ("backend", "task_backend_specific_kwargs") if task.get(name)}
    if kind == EXECUTABLE:
        digest = ""
        entry |= {name: task[name] for name in ("executable", "cwd", "env", "shell") if task.get(name) is not None}
        entry["arguments"] = list(task.get("arguments") or ())
        packed = _pack(entry)
    else:
        digest = "" if isinstance(function, str) else functions.digest(_callable(function))
        entry["function"] = {"digest": digest} if digest else function
        packed = _pack_arguments(entry, task.get("args") or (), task.get("kwargs") or {})
    if len(packed) > MAX_TASK_BYTES:
        raise TooLarge(f"a task of {len(packed)} bytes; at most {MAX_TASK_BYTES} can be sent")
    return kind, digest, packed


def _refuse_unknown_fields(task: Mapping[str, Any], kind: int) -> None:
    unknown = sorted(
        str(name) for name in task.keys() - _FIELDS[kind] if task[name] and name not in _RESULT_FIELDS
    )  # an empty field says nothing: Rhapsody's task objects have all of them
    if unknown:
        raise InvalidArgument(
            f"a task with {', '.join(map(repr, unknown))}, which this plugin does not know",
            hint=f"A task of this kind has the fields {', '.join(sorted(_FIELDS[kind]))}.",
        )


def _callable(function: object) -> Callable[..., Any]:
    if not callable(function):
        raise InvalidArgument(f"a task's function is a {type(function).__name__}, which cannot be called")
    return function


def _pack_arguments(entry: dict[str, Any], args: object, kwargs: object) -> bytes:
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
        raise InvalidArgument("a task's args are a list or a tuple, and its kwargs are a dict")
    try:
        packed: bytes = strict_packer().pack({**entry, "args": list(args), "kwargs": kwargs})
        return packed
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _pack({**entry, "pickled": pickle_value((tuple(args), kwargs))})


def _pack(entry: dict[str, Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(entry)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"a field of the task cannot be sent: {error}") from error
    return packed


def decode_batch(body: bytes) -> ReceivedBatch:
    """The envelope of a batch; InvalidArgument when it is none. Tasks may also be maps that have their uid inside."""
    try:
        batch = msgpack.unpackb(body, strict_map_key=True)
        functions, tasks = batch.get("functions") or {}, batch["tasks"]
        if not all(type(pickled) is bytes for pickled in functions.values()):
            raise TypeError("a function that is not bytes")
        on_unknown = batch.get("on_unknown", "")
        if on_unknown not in ("", *ON_UNKNOWN):
            raise ValueError(f"on_unknown is {on_unknown!r}, not one of {', '.join(ON_UNKNOWN)}")
        return ReceivedBatch([_entry(task) for task in tasks], functions, str(batch.get("python", "")), on_unknown)
    except (*_BROKEN, AttributeError, KeyError) as error:
        raise InvalidArgument(
            f"a batch that is not a map with functions and tasks: {type(error).__name__}: {error}",
            hint="Use submit_tasks of the plugin's client.",
        ) from error


def _entry(task: Any) -> tuple[str, int, bytes]:
    if isinstance(task, dict):
        uid, kind = task.pop("uid"), FUNCTION if task.get("function") is not None else EXECUTABLE
        packed: bytes = msgpack.packb(task)
    else:
        uid, kind, packed = task
    if type(uid) is not str or not 0 < len(uid) <= MAX_UID_CHARS or kind not in (FUNCTION, EXECUTABLE):
        raise ValueError(f"a task needs a uid of 1 to {MAX_UID_CHARS} characters")
    if type(packed) is not bytes:
        raise TypeError("a task that is not packed")
    return uid, kind, packed


def decode_task(packed: bytes) -> dict[str, Any]:
    """The map of one packed task, or InvalidArgument."""
    try:
        task = msgpack.unpackb(packed, strict_map_key=False)
    except _BROKEN as error:
        raise InvalidArgument(f"a task that cannot be decoded: {error}") from error
    if not isinstance(task, dict):
        raise InvalidArgument(f"a task that is a {type(task).__name__} in place of a map")
    return task


@dataclass(slots=True)
class Acknowledgement:
    """The answer to a batch: only what is out of the ordinary is listed, by the position of the task in the batch."""

    known: dict[int, str] = field(default_factory=dict)
    refused: dict[int, OrbitError] = field(default_factory=dict)

    def encode(self) -> bytes:
        refused = {str(index): error.to_body() for index, error in self.refused.items()}
        known = {str(index): state for index, state in self.known.items()}
        packed: bytes = msgpack.packb({"known": known, "refused": refused})
        return packed

    @classmethod
    def decode(cls, body: bytes) -> Acknowledgement:
        try:
            answer = msgpack.unpackb(body)
            return cls(
                {int(index): state for index, state in answer["known"].items()},
                {int(index): error_from_body(error) for index, error in answer["refused"].items()},
            )
        except (*_BROKEN, KeyError, AttributeError) as error:
            raise ProtocolError(f"an answer to submit that cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Portion:
    """Results from number `first` on, in the order in which they came; `after` is the cursor to ask with next."""

    first: int
    after: int
    more: bool
    records: list[Any]  # packed when it is encoded, maps when it has been decoded

    def encode(self) -> bytes:
        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(4)
        for value in ("first", self.first, "after", self.after, "more", self.more, "records"):
            packer.pack(value)
        packer.pack_array_header(len(self.records))
        return b"".join([packer.bytes(), *self.records])

    @classmethod
    def decode(cls, body: bytes) -> Portion:
        try:
            portion = msgpack.unpackb(body)
            return cls(portion["first"], portion["after"], portion["more"], portion["records"])
        except (*_BROKEN, KeyError) as error:
            raise ProtocolError(f"a portion of results that cannot be read: {error}") from error


def with_value(record: dict[str, Any], data: bytes) -> dict[str, Any]:
    """A record with the value that its `return_ref` stands for."""
    reference = record["return_ref"]
    if reference["is_pickle"]:
        return {**record, "return_pickle": data, "python": reference["python"]}
    return {**record, "return_value": msgpack.unpackb(data)}


def task_result(record: dict[str, Any]) -> dict[str, Any]:
    """What a user sees of a record: all fields, pickles loaded, the exception an object where that is possible."""
    record = _NOTHING | record
    error = record.get("exception")
    if isinstance(error, dict):
        record["traceback"] = error.get("traceback", "")
        record["exception"] = unpack_error(error)
    record.pop("return_ref", None)
    pickled, python = record.pop("return_pickle", None), record.pop("python", PYTHON_VERSION)
    if pickled is not None:
        try:
            record["return_value"] = unpickle(pickled, "the task's return value", python)
        except InvalidArgument as unreadable:
            record["exception"] = unreadable  # the task is done; what it returned cannot be read here
    return record

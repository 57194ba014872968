"""Batches of tasks, the answer to a batch, and portions of results, as bytes: what client and endpoint agree on.

A batch is the msgpack of `{python, functions: {digest: cloudpickle}, parts: [[kind, packed map], ...], tasks: [[uid, part,
packed map], ...]}`. What many tasks have in common is in a part, once; the fields of a task are those of its part and its
own. Both stay packed, so that the endpoint can keep a task as bytes until its turn comes, and so that one bad task fails alone.
Without `parts` the second entry of a task is its kind. A task has `function` (`{digest}` or `"package.module:function"`),
`args` and `kwargs` or, for arguments that are not plain, `pickled`; or `executable` and `arguments`, or `prompt`; and in all
cases `backend` and what `_OPTIONS` lists. With `reader: {consumer, after, max_bytes}` the answer brings results along. Large
arguments are in `shared`, by place or name, as digests: they are among the functions, or the session keeps them (`known`).
This module must not load a function or import one.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import msgpack

from orbit_rhapsody.large import RESULTS, LargeValue, taken_apart
from orbit_rhapsody.sharing import SHARED_BYTES, SharedArguments, without
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
FIRST_TASKS = 1_024  # of the first batch, so that the endpoint begins soon; each one may have twice as many as that before it
MAX_TASK_BYTES = 48 << 20  # below the wire's limit for one body, with room for the rest of the batch
ENTRY_BYTES = 8  # of a task in a batch, beside its uid and its fields
MAX_UID_CHARS = 255
MAX_CONSUMER_CHARS = 64

_OPTIONS = (
    "backend", "task_backend_specific_kwargs",
    "cwd", "env", "environment", "shell", "timeout", "ranks", "type", "capture_stdio", "stream_output",
)  # fmt: skip
_PROMPT = (
    "prompt", "model", "inference_endpoint", "system_prompt", "temperature", "max_tokens", "top_p", "top_k", "stop_sequences",
)  # fmt: skip
_FIELDS = {
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
_NOTHING: dict[str, Any] = {
    "uid": "", "state": "", "raw_state": "", "exit_code": None, "signal": None, "stdout": "", "stderr": "", "exception": None,
    "traceback": "", "times": {}, "return_value": None, "reason": "",
}  # fmt: skip
_PLAIN = frozenset({"uid", "state", "raw_state", "exit_code", "stdout", "stderr", "reason", "times", "return_value"})
_KINDS = ((FUNCTION, b""), (EXECUTABLE, b""))  # the parts of a batch that has none
OWN_FIELDS = frozenset({"args", "kwargs", "arguments", "pickled", "apart", "shared"})  # what usually differs from task to task
_NOT_COMMON = OWN_FIELDS | _RESULT_FIELDS | {"uid"}
_NOTHING_SHARED: dict[str, object] = {}
_REMEMBERED_PARTS = 1_024
_BROKEN = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


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
        packed: bytes = msgpack.packb(self.envelope if reader is None else {**self.envelope, "reader": reader})
        return packed


class Reader(NamedTuple):
    """Who takes results along with the answer to a batch: as the arguments of `fetch`."""

    consumer: str
    after: int
    max_bytes: int


@dataclass(slots=True)
class ReceivedBatch:
    """A batch as it arrived: its tasks still packed, its functions still pickled."""

    tasks: list[tuple[str, int, bytes]]  # uid, number of its part, its own fields
    functions: dict[str, bytes]
    python: str
    on_unknown: str = ""  # what becomes of tasks of unknown fate; empty: as the session has it
    results: str = ""  # inline or reference; likewise
    stream_output: bool = False  # of all executables, beside those that say so themselves
    parts: list[tuple[int, bytes]] = field(default_factory=lambda: list(_KINDS))  # kind, common fields
    reader: Reader | None = None
    known: tuple[str, ...] = ()  # digests of pickles that the session keeps
    apart: tuple[str, ...] = ()  # the names of arguments that came before it


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
        said = [name for name in _FIELDS if task.get(name) is not None]
        if len(said) != 1:
            raise InvalidArgument(
                "a task needs either 'function' or 'executable', and not both",
                hint="Or a 'prompt', for a backend that answers one.",
            )
        what = said[0]
        if not task.keys() <= _FIELDS[what]:
            _refuse_unknown_fields(task, _FIELDS[what])
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


def _unpacked(body: bytes) -> Any:
    """Plain values without the collector, which would look through all of the caller's tasks again and again meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return msgpack.unpackb(body)
    finally:
        if was_enabled:
            gc.enable()


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
        packed: bytes = msgpack.packb(entry)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"a field of the task cannot be sent: {error}") from error
    return packed


def decode_batch(body: bytes) -> ReceivedBatch:
    """The envelope of a batch; InvalidArgument when it is none. Tasks may also be maps that have their uid inside."""
    try:
        batch = msgpack.unpackb(body, strict_map_key=True, use_list=False)
        functions, parts = batch.get("functions") or {}, list(batch.get("parts") or _KINDS)
        if not all(type(pickled) is bytes for pickled in functions.values()):
            raise TypeError("a function that is not bytes")
        if not all(kind in (FUNCTION, EXECUTABLE) and type(packed) is bytes for kind, packed in parts):
            raise TypeError("a part is a kind and bytes")
        on_unknown = batch.get("on_unknown", "")
        if on_unknown not in ("", *ON_UNKNOWN):
            raise ValueError(f"on_unknown is {on_unknown!r}, not one of {', '.join(ON_UNKNOWN)}")
        results = batch.get("results", "")
        if results not in ("", *RESULTS):
            raise ValueError(f"results is {results!r}, not one of {', '.join(RESULTS)}")
        tasks = _entries(batch["tasks"], parts)
        return ReceivedBatch(
            tasks,
            functions,
            str(batch.get("python", "")),
            on_unknown=on_unknown,
            results=results,
            stream_output=bool(batch.get("stream_output")),
            parts=parts,
            reader=_reader_of(batch.get("reader")),
            known=_names(batch.get("known", ())),
            apart=_names(batch.get("apart", ())),
        )
    except (*_BROKEN, AttributeError, KeyError) as error:
        raise InvalidArgument(
            f"a batch that is not a map with functions and tasks: {type(error).__name__}: {error}",
            hint="Use submit_tasks of the plugin's client.",
        ) from error


def _reader_of(said: Any) -> Reader | None:
    if said is None:
        return None
    reader = Reader(said["consumer"], said["after"], said["max_bytes"])
    if type(reader.consumer) is not str or not 0 < len(reader.consumer) <= MAX_CONSUMER_CHARS:
        raise ValueError(f"a consumer's name has 1 to {MAX_CONSUMER_CHARS} characters")
    if type(reader.after) is not int or type(reader.max_bytes) is not int:
        raise TypeError("a reader whose cursor or limit is no number")
    return reader


def _names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, tuple) or not all(isinstance(name, str) and 0 < len(name) <= MAX_UID_CHARS for name in found):
        raise ValueError("known or apart is not a list of names")
    return found


def _entries(tasks: Iterable[Any], parts: list[tuple[int, bytes]]) -> list[tuple[str, int, bytes]]:
    entries = []
    for task in tasks:
        uid, number, own = task if type(task) is tuple else _entry_of(task, parts)
        if type(uid) is not str or not 0 < len(uid) <= MAX_UID_CHARS:
            raise ValueError(f"a task needs a uid of 1 to {MAX_UID_CHARS} characters")
        if type(own) is not bytes or type(number) is not int or not 0 <= number < len(parts):
            raise TypeError("a task that is not a uid, the number of a part, and bytes")
        entries.append((uid, number, own))
    return entries


def _entry_of(task: Any, parts: list[tuple[int, bytes]]) -> tuple[str, int, bytes]:
    """A task that came as a map."""
    fields = dict(task)
    uid, kind = fields.pop("uid"), EXECUTABLE if fields.get("executable") is not None else FUNCTION
    if (kind, b"") not in parts:
        parts.append((kind, b""))
    return uid, parts.index((kind, b"")), msgpack.packb(fields)


def decode_task(packed: bytes) -> dict[str, Any]:
    """The map of one packed task, or InvalidArgument."""
    if not packed:
        return {}
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
    portion: Portion | None = None  # what came along for the reader
    kept: list[str] = field(default_factory=list)  # digests of pickles that need not be brought again

    def encode(self) -> bytes:
        refused = {str(index): error.to_body() for index, error in self.refused.items()}
        known = {str(index): state for index, state in self.known.items()}
        if self.portion is None:
            packed: bytes = msgpack.packb({"known": known, "refused": refused, "kept": self.kept})
            return packed
        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(4)
        for value in ("known", known, "refused", refused, "kept", self.kept, "portion"):
            packer.pack(value)
        return bytes(packer.bytes() + self.portion.encode())

    @classmethod
    def decode(cls, body: bytes) -> Acknowledgement:
        try:
            answer = _unpacked(body)
            return cls(
                {int(index): state for index, state in answer["known"].items()},
                {int(index): error_from_body(error) for index, error in answer["refused"].items()},
                Portion.of(answer["portion"]) if "portion" in answer else None,
                list(answer.get("kept", ())),
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
    def of(cls, fields: dict[str, Any]) -> Portion:
        return cls(fields["first"], fields["after"], fields["more"], fields["records"])

    @classmethod
    def decode(cls, body: bytes) -> Portion:
        try:
            return cls.of(_unpacked(body))
        except (*_BROKEN, KeyError) as error:
            raise ProtocolError(f"a portion of results that cannot be read: {error}") from error


def full_record(record: bytes) -> dict[str, Any]:
    """All fields of a packed record, also those that say nothing."""
    full = {**_NOTHING, "times": {}, **msgpack.unpackb(record)}
    del full["traceback"]  # it is with the exception
    return full


def plain_result(record: dict[str, Any]) -> dict[str, Any]:
    """What `task_result` would answer, where nothing has to be loaded for that; else the record as it is."""
    return _NOTHING | record if record.keys() <= _PLAIN else record


def task_result(record: dict[str, Any]) -> dict[str, Any]:
    """What a user sees of a record: all fields, pickles loaded, the exception an object where that is possible."""
    if "traceback" in record:
        return record  # it has been a result before
    record = _NOTHING | record
    error = record.get("exception")
    if isinstance(error, dict):
        record["traceback"] = error.get("traceback", "")
        record["exception"] = unpack_error(error)
    reference = record.pop("return_ref", None)
    if reference is not None and reference["by_request"]:
        record["result_ref"] = reference
    pickled, python = record.pop("return_pickle", None), record.pop("python", PYTHON_VERSION)
    if pickled is not None:
        try:
            record["return_value"] = unpickle(pickled, "the task's return value", python)
        except InvalidArgument as unreadable:
            record["exception"] = unreadable  # the task is done; what it returned cannot be read here
    return record

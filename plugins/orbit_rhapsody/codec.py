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
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from orbit_rhapsody.large import RESULTS
from orbit_rhapsody.values import (
    PYTHON_VERSION,
    unpack_error,
    unpickle,
)
from orbit_zmq.errors import InvalidArgument, OrbitError, ProtocolError, error_from_body
from orbit_zmq.wire.body import PACKER_BYTES

SUBMITTED, RUNNING, DONE, FAILED, CANCELED = "SUBMITTED", "RUNNING", "DONE", "FAILED", "CANCELED"
STATES = (SUBMITTED, RUNNING, DONE, FAILED, CANCELED)
FINAL_STATES = frozenset({DONE, FAILED, CANCELED})

FUNCTION, EXECUTABLE = 0, 1
ON_UNKNOWN = ("fail", "rerun")  # a task that had been started when the endpoint ended
MAX_UID_CHARS = 255
MAX_CONSUMER_CHARS = 64
_NOTHING: dict[str, Any] = {
    "uid": "", "state": "", "raw_state": "", "exit_code": None, "signal": None, "stdout": "", "stderr": "", "exception": None,
    "traceback": "", "times": {}, "return_value": None, "reason": "",
}  # fmt: skip
_PLAIN = frozenset({"uid", "state", "raw_state", "exit_code", "stdout", "stderr", "reason", "times", "return_value"})
_KINDS = ((FUNCTION, b""), (EXECUTABLE, b""))  # the parts of a batch that has none
OWN_FIELDS = frozenset({"args", "kwargs", "arguments", "pickled", "apart", "shared"})  # what usually differs from task to task
_BROKEN = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


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


def _unpacked(body: bytes) -> Any:
    """Plain values without the collector, which would look through all of the caller's tasks again and again meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return msgpack.unpackb(body)
    finally:
        if was_enabled:
            gc.enable()


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
        packer = msgpack.Packer(autoreset=False, buf_size=PACKER_BYTES)
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
        packer = msgpack.Packer(autoreset=False, buf_size=PACKER_BYTES)
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

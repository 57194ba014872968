"""Python values and exceptions as bytes, and back.

A value that msgpack gives back exactly as it was travels as msgpack; everything else is pickled, by pickle where that
will do and by cloudpickle where it will not, as for what a user's script defines. (One exception: a bytearray arrives as
bytes.) This module must not decide who may unpickle what.
"""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import cloudpickle
import msgpack

from orbit_zmq.errors import InvalidArgument, OrbitError, RemoteError, RemoteTraceback, error_from_body
from orbit_zmq.wire.body import PACKER_BYTES

MAX_TRACEBACK_CHARS = 16_384  # the end of a traceback names the fault
MAX_MESSAGE_CHARS = 4_096
MAX_PICKLED_ERROR_BYTES = 262_144  # larger ones travel as text: an exception may hold on to any amount of data

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

_SCALARS = frozenset({type(None), bool, float, bytes})
_NOT_PLAIN = (TypeError, ValueError, OverflowError, RecursionError)  # surrogates are a ValueError
_packers = threading.local()  # a Packer serves one thread at a time

Buffer = bytes | bytearray | memoryview
LEAST_APART_BYTES = 64 << 10  # of a buffer that is kept out of its pickle; a smaller one is copied faster than it is counted
_SEARCHED_BYTES = 1 << 20  # a longer piece of a pickle is data of the user's and names no class
_OF_A_SCRIPT = b"__main__"

# What cannot be pickled, and what to do in its place; the words are those of pickle.
_ADVICE = {
    "generator": "A generator lives in its process alone: pass list(...) of it, or make a task of each part.",
    "coroutine": "Await it, and pass what comes of it.",
    "TextIOWrapper": "An open file lives in its process alone: pass its path or what it holds.",
    "Buffered": "An open file lives in its process alone: pass its path or what it holds.",
    "socket": "A socket lives in its process alone: pass its address.",
    "lock": "A lock lives in its process alone: pass the values that it guards, or make it inside the function.",
}
_ANY_ADVICE = "Pass plain values, or objects that cloudpickle can handle."


def strict_packer() -> msgpack.Packer:
    """This thread's packer that refuses what would come back changed: tuples, subclasses, sets."""
    try:
        return _packers.strict
    except AttributeError:
        _packers.strict = msgpack.Packer(strict_types=True, buf_size=PACKER_BYTES)
        return _packers.strict


def pack_plain(value: object) -> bytes | None:
    """The msgpack of a value that a body of the wire gives back unchanged, or None."""
    try:
        packed: bytes = strict_packer().pack(value)
        if type(value) in (list, dict):
            msgpack.unpackb(packed)  # refuses keys that are not text
        return packed
    except _NOT_PLAIN:
        return None


def pickle_value(value: object) -> bytes:
    """The pickle of a value; InvalidArgument says what cannot be pickled."""
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            pickled = pickle.dumps(value, protocol=5)
            if _OF_A_SCRIPT not in pickled:
                return pickled
        except Exception:  # noqa: BLE001 - the user's own __reduce__ runs here; cloudpickle has the last word
            pass
    try:
        return bytes(cloudpickle.dumps(value, protocol=5))
    except Exception as error:
        raise _cannot_be_pickled(value, error) from error


def pickle_apart(value: object) -> tuple[list[Buffer], list[memoryview]]:
    """The pickle of a value in pieces, and its large buffers, which no piece has. Neither is a copy."""
    if not cloudpickle.list_registry_pickle_by_value():
        try:
            pieces, buffers = _pieces(pickle.Pickler, value)
            if not any(_OF_A_SCRIPT in piece for piece in pieces if len(piece) <= _SEARCHED_BYTES):
                return pieces, buffers
        except Exception:  # noqa: BLE001 - the same
            pass
    try:
        return _pieces(cloudpickle.Pickler, value)
    except Exception as error:
        raise _cannot_be_pickled(value, error) from error


class _Pieces(list[Buffer]):
    """What a pickler writes to; a large byte string of the value's arrives as it is."""

    write = list.append


def _pieces(pickler: Any, value: object) -> tuple[list[Buffer], list[memoryview]]:
    pieces, buffers = _Pieces(), list[memoryview]()

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= LEAST_APART_BYTES:
            buffers.append(raw)
        return raw.nbytes < LEAST_APART_BYTES

    pickler(pieces, protocol=5, buffer_callback=is_in_band).dump(value)
    return pieces, buffers


def _cannot_be_pickled(value: object, error: Exception) -> InvalidArgument:
    kind, why = type(value).__qualname__, describe(error)
    advice = next((advice for word, advice in _ADVICE.items() if word in f"{kind} {why}"), _ANY_ADVICE)
    return InvalidArgument(f"a value of type {kind} cannot be pickled: {why}", hint=advice)


def pickle_function(function: object) -> bytes:
    """The cloudpickle of a function; InvalidArgument says why there is none."""
    try:
        return bytes(cloudpickle.dumps(function, protocol=5))
    except Exception as error:
        raise InvalidArgument(
            f"the function {function!r} cannot be pickled: {describe(error)}",
            hint="Keep locks, sockets and open files out of what the function refers to.",
        ) from error


def check_python(here: str, there: str) -> None:
    """Raise InvalidArgument where a function that Python `here` pickles cannot run under Python `there`."""
    if here != there:
        raise InvalidArgument(
            f"a function pickled by Python {here} cannot run under Python {there}",
            hint="Use the same minor version of Python on both sides, or name the function as 'package.module:function'.",
        )


def unpickle(data: Buffer, what: str, version: str = PYTHON_VERSION, buffers: Sequence[Buffer] = ()) -> Any:
    """The value of a pickle; InvalidArgument says what it was and, where they differ, both Python versions."""
    try:
        return pickle.loads(data, buffers=buffers)  # callers have checked that the sender may run code
    except (Exception, SystemExit) as error:  # one value ends no loop, and no program
        differs = "" if version == PYTHON_VERSION else f"; pickled by Python {version}, read by Python {PYTHON_VERSION}"
        raise InvalidArgument(
            f"{what} cannot be unpickled: {describe(error)}{differs}",
            hint="Install the modules that it needs on both sides, or have cloudpickle.register_pickle_by_value carry them "
            "along, and use the same Python version.",
        ) from error


def describe(error: BaseException) -> str:
    """An exception in one line."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's own __str__
        text = "an exception that cannot be printed"
    name = type(error).__qualname__
    return f"{name}: {text}"[:MAX_MESSAGE_CHARS] if text else name


def pack_error(error: BaseException) -> dict[str, Any]:
    """An exception as plain values: type, message, traceback, and its pickle where it has one."""
    kind = type(error)
    try:
        message = error.message if isinstance(error, OrbitError) else str(error)
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - the same
        message = text = "an exception that cannot be printed"
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "message": _text(message, MAX_MESSAGE_CHARS),
        "traceback": _text(text, MAX_TRACEBACK_CHARS),
        "pickled": _pickled_error(error),
    }


def _pickled_error(error: BaseException) -> bytes | None:
    """With all that it holds where that can be pickled, else with its arguments alone, else not at all."""
    versions: list[object] = [_AsItSays(error)]
    kind = type(error)
    if kind.__reduce__ is BaseException.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__:
        # Python's own way forgets that a constructor may want something else.
        versions = [_Portable(error, dict(error.__dict__)), _Portable(error, {})]
    for version in versions:
        try:
            pickled = pickle_value(version)
        except InvalidArgument:
            continue
        if len(pickled) <= MAX_PICKLED_ERROR_BYTES:
            return pickled
    return None


class _AsItSays:
    """Pickled in place of an exception in the exception's own way, whatever a library has set up for it: Dask's workers, and
    every process that has imported Dask, would pickle one that loads where Dask is installed and nowhere else."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self._error.__reduce_ex__(5)


class _Portable:
    """Pickled in place of an exception, and loaded as one of the same type with the same arguments."""

    def __init__(self, error: BaseException, attributes: dict[str, Any]) -> None:
        self._facts = (type(error), error.args, attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, self._facts


def _rebuilt(kind: type[BaseException], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    try:
        error = kind(*arguments)
    except Exception:  # noqa: BLE001 - the user's own constructor, which had been given something else
        error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


def unpack_error(packed: dict[str, Any]) -> BaseException:
    """The exception itself where its pickle loads here, with the remote traceback as its cause.

    Else a RemoteError with its text, which is of the original type too where that is one of Python's own.
    """
    pickled = packed.get("pickled")
    try:
        error = unpickle(pickled, "an exception") if isinstance(pickled, bytes) else None
    except InvalidArgument:
        error = None
    if not isinstance(error, BaseException):
        return _typed_error(str(packed.get("type", "")), str(packed.get("message", "")), str(packed.get("traceback", "")))
    if packed.get("traceback"):
        error.__cause__ = RemoteTraceback(packed["traceback"])
    return error


def _typed_error(kind: str, message: str, traceback_text: str) -> OrbitError:
    body = {"code": "internal", "message": message, "type": kind, "traceback": traceback_text}
    error = error_from_body(body)
    return error_from_body({**body, "message": f"{kind}: {message}"}) if type(error) is RemoteError else error


def printable(text: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def _text(text: object, limit: int) -> str:
    return printable(str(text)[-limit:])

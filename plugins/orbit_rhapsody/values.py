"""Python values and exceptions as bytes, and back.

A value that msgpack gives back exactly as it was travels as msgpack; everything else is pickled, by pickle where that
will do and by cloudpickle where it will not. (One exception: a bytearray arrives as bytes.) This module must not decide
who may unpickle what.
"""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
from typing import Any

import cloudpickle
import msgpack

from orbit_zmq.errors import InvalidArgument, OrbitError, RemoteTraceback

MAX_TRACEBACK_CHARS = 16_384  # the end of a traceback names the fault
MAX_MESSAGE_CHARS = 4_096
MAX_PICKLED_ERROR_BYTES = 262_144  # larger ones travel as text: an exception may hold on to any amount of data

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

_SCALARS = frozenset({type(None), bool, float, bytes})
_NOT_PLAIN = (TypeError, ValueError, OverflowError, RecursionError)  # surrogates are a ValueError
_packers = threading.local()  # a Packer serves one thread at a time


def strict_packer() -> msgpack.Packer:
    """This thread's packer that refuses what would come back changed: tuples, subclasses, sets."""
    try:
        return _packers.strict
    except AttributeError:
        _packers.strict = msgpack.Packer(strict_types=True)
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
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # noqa: BLE001 - the user's own __reduce__ runs here; cloudpickle has the last word
        pass
    try:
        return bytes(cloudpickle.dumps(value, protocol=5))
    except Exception as error:
        raise InvalidArgument(
            f"a value of type {type(value).__qualname__} cannot be pickled: {describe(error)}",
            hint="Pass plain values, or objects that cloudpickle can handle.",
        ) from error


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


def unpickle(data: bytes, what: str, version: str = PYTHON_VERSION) -> Any:
    """The value of a pickle; InvalidArgument says what it was and, where they differ, both Python versions."""
    try:
        return pickle.loads(data)  # callers have checked that the sender may run code
    except Exception as error:
        differs = "" if version == PYTHON_VERSION else f"; pickled by Python {version}, read by Python {PYTHON_VERSION}"
        raise InvalidArgument(
            f"{what} cannot be unpickled: {describe(error)}{differs}",
            hint="Install the modules that it needs on both sides, and use the same Python version.",
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
    try:
        pickled: bytes | None = pickle_value(error)
    except InvalidArgument:
        pickled = None
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "message": _text(message, MAX_MESSAGE_CHARS),
        "traceback": _text(text, MAX_TRACEBACK_CHARS),
        "pickled": pickled if pickled is not None and len(pickled) <= MAX_PICKLED_ERROR_BYTES else None,
    }


def unpack_error(packed: dict[str, Any]) -> BaseException | str:
    """The exception itself where its pickle loads here, with the remote traceback as its cause; else a line of text."""
    pickled = packed.get("pickled")
    text = f"{packed.get('type', '')}: {packed.get('message', '')}"
    if not isinstance(pickled, bytes):
        return text
    try:
        error = unpickle(pickled, "an exception")
    except InvalidArgument:
        return text
    if not isinstance(error, BaseException):
        return text
    if packed.get("traceback"):
        error.__cause__ = RemoteTraceback(packed["traceback"])
    return error


def printable(text: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def _text(text: object, limit: int) -> str:
    return printable(str(text)[-limit:])

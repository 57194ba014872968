"""Bodies: arguments, results and facts as msgpack bytes.

Bytes stay bytes, text is UTF-8, integers outside 64 bits travel as tagged strings under the header flag TAGGED. Nothing
here is executed or looked up: what a peer sends becomes plain values or a ProtocolError.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Set
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgpack

from orbit_zmq.errors import InvalidArgument, ProtocolError
from orbit_zmq.wire.header import TAGGED

_TAG = "\0i:"  # an integer outside 64 bits
_ESCAPE = "\0s:"  # a string that begins with a NUL
MAX_DEPTH = 64
PACKER_BYTES = 4_096  # to begin with; msgpack would take 256 KiB from the system and give it back for each body
_SINGLE = frozenset((str, bytes, int, float, bool, type(None)))  # values that have no keys in them


def pack_body(value: object) -> tuple[bytes, int]:
    """The bytes of a value and the flags that its header needs; InvalidArgument names a type or key that cannot travel."""
    try:
        _check_keys(value)
        try:
            return msgpack.packb(value, default=_known, buf_size=PACKER_BYTES), 0
        except OverflowError:
            return msgpack.packb(_tagged(value, 0), default=_known, buf_size=PACKER_BYTES), TAGGED
    except _BadKeyError as error:
        raise InvalidArgument(str(error), hint="Use text keys, such as str(key).") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"a value that cannot be sent: {error}", hint="Send plain values, or bytes.") from error


def unpack_body(frame: bytes, flags: int = 0) -> Any:
    """The value of a body, or ProtocolError."""
    if not frame:
        return None
    try:
        value = msgpack.unpackb(frame, strict_map_key=True, ext_hook=_refuse_extension, timestamp=0)
        return _untagged(value, 0) if flags & TAGGED else value
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a body that is not msgpack: {str(error) or type(error).__name__}") from error


def unpack_map(frame: bytes, flags: int = 0) -> dict[str, Any]:
    """The same for a body that has to be a map."""
    value = unpack_body(frame, flags)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError(f"a body of type {type(value).__name__} in place of a map")
    return value


class _BadKeyError(Exception):
    """A key that no receiver would take."""


def _check_keys(value: object) -> None:
    """Refuse here what unpacking refuses at the other side, where nobody is left to say whose fault it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str and not isinstance(key, (str, bytes)):
                raise _BadKeyError(f"a map that cannot be sent: its key {repr(key)[:80]} is {type(key).__name__}, not text")
            if type(item) not in _SINGLE:
                _check_keys(item)
    elif isinstance(value, (list, tuple)) and not _SINGLE.issuperset(map(type, value)):
        for item in value:
            if type(item) not in _SINGLE:
                _check_keys(item)


def _known(value: object) -> object:
    """The same for what msgpack does not know: it is seen only while it is packed."""
    plain = _plain(value)
    _check_keys(plain)
    return plain


def _plain(value: object) -> object:
    """What msgpack does not know, in terms of what it knows."""
    if isinstance(value, int):
        raise OverflowError
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (PurePath, uuid.UUID)):
        return str(value)
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")


def _tagged(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"a value nested deeper than {MAX_DEPTH}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return f"{_TAG}{value:x}"
    if isinstance(value, str):
        return f"{_ESCAPE}{value}" if value.startswith("\0") else value
    if isinstance(value, dict):
        return {_tagged(key, depth + 1): _tagged(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tagged(item, depth + 1) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview, float, int)) or value is None:
        return value
    return _tagged(_known(value), depth + 1)


def _untagged(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        if value.startswith(_TAG):
            return int(value[len(_TAG) :], 16)
        return value[len(_ESCAPE) :] if value.startswith(_ESCAPE) else value
    if isinstance(value, dict):
        return {_untagged(key, depth + 1): _untagged(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_untagged(item, depth + 1) for item in value]
    return value


def _refuse_extension(code: int, payload: bytes) -> None:
    raise ValueError("an extension type")

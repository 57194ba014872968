"""The header: what the broker reads of every message.

A msgpack map with one-letter keys, at most 4 KiB. `decode_header` turns any bytes into a Header or raises ProtocolError,
never anything else; `encode_header` is its inverse. No sockets, no clock, no logging. docs/protocol.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter
from typing import Any, Final

import msgpack

from orbit_zmq.errors import ProtocolError
from orbit_zmq.wire.limits import HEADER_BYTES, HEADER_DEPTH, HEADER_KEYS, MAX_ID, MAX_LEFT_S, NAME_CHARS, SETTLED_IDS


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    WELCOME = 2
    WHO_ARE_YOU = 3
    BYE = 4
    HEARTBEAT = 5
    UPDATE = 6
    REQUEST = 7
    REPLY = 8
    ERROR = 9
    CHUNK = 10
    CREDIT = 11
    RESEND = 12
    CANCEL = 13
    EVENT = 14
    TIP = 15
    KEYS = 16
    HOLDERS = 17


class Channel(IntEnum):
    """Which bytes a chunk belongs to: a body too large to go inline, or a stream that goes with it, each way."""

    ARGUMENTS = 0
    RESULT = 1
    STREAM_IN = 2
    STREAM_OUT = 3


# Flags. Plain integers, because the broker tests them for each message.
RAW: Final = 1  # the body is bytes, not msgpack
STREAMED: Final = 2  # the body follows as chunks on channel 0 or 1; the body frame is empty
STREAM: Final = 4  # a stream of bytes follows on channel 2 or 3, beside the body
LAST: Final = 8  # chunk: nothing follows; credit: all of it has arrived
RESENT: Final = 16  # the request may have been sent before
IDEMPOTENT: Final = 32  # the request takes no place in the caller's window
FINAL: Final = 64  # bye: for good; without it: back soon
TAGGED: Final = 128  # the body has integers outside 64 bits as tagged strings
REWIND: Final = 256  # credit: send again from the chunk that is wanted next
PROBE: Final = 512  # heartbeat: answer at once

# Rights, as bits: what a caller may do. An operation's effect needs the right of the same name.
READ: Final = 1
WRITE: Final = 2
RUN: Final = 4
ALL_RIGHTS: Final = READ | WRITE | RUN
RIGHT_OF: Final = {"read": READ, "write": WRITE, "run": RUN}
ADMIN: Final = 8  # beside them: the caller is an admin, who is shown what belongs to others, and may not use it


@dataclass(slots=True)
class Header:
    """One header. A field that is absent from the wire has the default given here."""

    kind: int
    id: int = 0
    caller: bytes = b""  # incarnation of the caller, 16 bytes; the broker stamps it
    source: str = ""  # name of the sender; the broker stamps it
    user: str = ""  # on whose behalf; the broker stamps it
    endpoint: str = ""
    target: bytes = b""  # incarnation of the endpoint that the request was first sent to, 16 bytes
    plugin: str = ""
    session: str = ""
    operation: str = ""
    left_s: float = 0.0  # 0 stands for absent
    flags: int = 0
    on_behalf_of: str = ""
    rights: int = 0  # request: what the caller may do there; the broker stamps it
    trace: str = ""
    settled_below: int = 0
    settled: tuple[int, ...] = ()
    audience: str = ""  # event: who may hear it, a user or `all`
    happened_at: float = 0.0  # event: when, by the sender's clock (seconds since 1970)
    channel: int = 0
    chunk: int = 0  # chunk: its number; credit, resent request, reply: the chunk wanted or sent next
    up_to: int = 0  # credit: chunks below this number may be sent
    extra: dict[str, Any] = field(default_factory=dict)  # fields of a newer version, passed on as they are


def _is_text(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= NAME_CHARS


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _is_incarnation(value: object) -> bool:
    return type(value) is bytes and len(value) == 16


def _is_left(value: object) -> bool:
    return type(value) in (float, int) and 0 < value <= MAX_LEFT_S  # type: ignore[operator]  # False for nan and inf


def _is_time(value: object) -> bool:
    return type(value) in (float, int) and 0 < value < 1e12  # type: ignore[operator]  # False for nan and inf


def _is_small(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 16


def _is_settled(value: object) -> bool:
    return type(value) is list and len(value) <= SETTLED_IDS and all(map(_is_id, value))


# key on the wire -> attribute of Header, what its value must be. The order is the order on the wire.
FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "k": ("kind", _is_small),
    "i": ("id", _is_id),
    "c": ("caller", _is_incarnation),
    "s": ("source", _is_text),
    "u": ("user", _is_text),
    "e": ("endpoint", _is_text),
    "t": ("target", _is_incarnation),
    "p": ("plugin", _is_text),
    "n": ("session", _is_text),
    "o": ("operation", _is_text),
    "l": ("left_s", _is_left),
    "f": ("flags", _is_small),
    "b": ("on_behalf_of", _is_text),
    "r": ("rights", _is_small),
    "x": ("trace", _is_text),
    "d": ("settled_below", _is_id),
    "g": ("settled", _is_settled),
    "w": ("audience", _is_text),
    "y": ("happened_at", _is_time),
    "a": ("channel", lambda value: type(value) is int and 0 <= value <= 3),
    "q": ("chunk", _is_id),
    "m": ("up_to", _is_id),
}
_KEYS = tuple(FIELDS)
_values = attrgetter(*(attribute for attribute, _ in FIELDS.values()))
_pack = msgpack.Packer(autoreset=True).pack


def encode_header(header: Header) -> bytes:
    """The bytes of one header. Fields at their default are left out; ValueError when it exceeds 4 KiB."""
    fields: dict[str, Any] = {key: value for key, value in zip(_KEYS, _values(header), strict=True) if value}
    if header.extra:
        fields |= header.extra
    frame: bytes = _pack(fields)
    if len(frame) > HEADER_BYTES:
        raise ValueError(f"a header of {len(frame)} bytes; the limit is {HEADER_BYTES}")
    return frame


def decode_header(frame: bytes) -> Header:
    """Read one header, or raise ProtocolError; never anything else."""
    if len(frame) > HEADER_BYTES:
        raise ProtocolError(f"a header of {len(frame)} bytes; the limit is {HEADER_BYTES}")
    try:
        fields = msgpack.unpackb(
            frame, strict_map_key=True, max_map_len=HEADER_KEYS, max_array_len=SETTLED_IDS, ext_hook=_refuse_extension
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a header that is not msgpack: {error}") from error
    if type(fields) is not dict or "k" not in fields:
        raise ProtocolError("a header that is not a map with a kind")
    return _header_from(fields)


def _header_from(fields: dict[Any, Any]) -> Header:
    header = Header(0)
    for key, value in fields.items():
        known = FIELDS.get(key)
        if known is None:
            _check_extra(key, value)
            header.extra[key] = value
            continue
        attribute, is_valid = known
        if not is_valid(value):
            raise ProtocolError(f"header field {key!r} has a value that it cannot have")
        setattr(header, attribute, tuple(value) if attribute == "settled" else value)
    return header


def _check_extra(key: object, value: object, depth: int = 2) -> None:
    """A field of a newer version may hold plain values, nested no deeper than the header's depth."""
    if type(key) is not str:
        raise ProtocolError("a header key that is not a string")
    if isinstance(value, (dict, list)):
        if depth > HEADER_DEPTH:
            raise ProtocolError(f"header field {key!r} is nested deeper than {HEADER_DEPTH}")
        for item in value.values() if isinstance(value, dict) else value:
            _check_extra(key, item, depth + 1)
    elif isinstance(value, msgpack.Timestamp):
        raise ProtocolError(f"header field {key!r} holds a timestamp")


def _refuse_extension(code: int, payload: bytes) -> None:
    raise ValueError("an extension type")

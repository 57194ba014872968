"""The header: what the broker reads of every message.

A msgpack map with one-letter keys, at most 4 KiB. `decode_header` turns any bytes into a Header or raises ProtocolError,
never anything else; `encode_header` is its inverse. No sockets, no clock, no logging. docs/protocol.md has the table.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Final

import msgpack
import msgspec
from msgspec import Meta, field

from orbit_zmq.errors import ProtocolError
from orbit_zmq.wire.limits import HEADER_BYTES, HEADER_DEPTH, HEADER_KEYS, MAX_LEFT_S, NAME_CHARS, SETTLED_IDS


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


ABSENT: Final = 0.0  # msgspec leaves out a float that is this very object
Text = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]
Number = Annotated[int, Meta(ge=0)]  # up to 64 bits: msgpack has no larger ones
Small = Annotated[int, Meta(ge=0, lt=1 << 16)]
Incarnation = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Header(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """One header. A field that is absent from the wire has the default given here; values that come from there are checked.

    Fields stand in the order of the wire. gc: a header holds nothing that could hold it.
    """

    kind: Small = field(name="k")
    id: Number = field(default=0, name="i")
    caller: Incarnation = field(default=b"", name="c")  # incarnation of the caller; the broker stamps it
    source: Text = field(default="", name="s")  # name of the sender; the broker stamps it
    user: Text = field(default="", name="u")  # on whose behalf; the broker stamps it
    endpoint: Text = field(default="", name="e")
    target: Incarnation = field(default=b"", name="t")  # incarnation of the endpoint that the request was first sent to
    plugin: Text = field(default="", name="p")
    session: Text = field(default="", name="n")
    operation: Text = field(default="", name="o")
    left_s: Annotated[float, Meta(gt=0, le=MAX_LEFT_S)] = field(default=ABSENT, name="l")
    flags: Small = field(default=0, name="f")
    on_behalf_of: Text = field(default="", name="b")
    rights: Small = field(default=0, name="r")  # request: what the caller may do there; the broker stamps it
    trace: Text = field(default="", name="x")
    settled_below: Number = field(default=0, name="d")
    settled: Annotated[tuple[Number, ...], Meta(max_length=SETTLED_IDS)] = field(default=(), name="g")
    audience: Text = field(default="", name="w")  # event: who may hear it, a user or `all`
    happened_at: Annotated[float, Meta(gt=0, lt=1e12)] = field(default=ABSENT, name="y")  # event: seconds since 1970
    channel: Annotated[int, Meta(ge=0, le=3)] = field(default=0, name="a")
    chunk: Number = field(default=0, name="q")  # its number; credit, resent request, reply: the chunk wanted or sent next
    up_to: Number = field(default=0, name="m")  # credit: chunks below this number may be sent
    extra: Annotated[dict[str, Any], Meta(max_length=0)] = field(default_factory=dict, name="")  # of a newer version, passed on


# key on the wire -> attribute of Header
FIELDS: Final = {
    key: attribute
    for attribute, key in zip(Header.__struct_fields__, Header.__struct_encode_fields__, strict=True)
    if attribute != "extra"
}
_decode = msgspec.msgpack.Decoder(Header).decode
_encode = msgspec.msgpack.Encoder().encode
_LARGE_MAP: Final = b"\xde\x00"  # how msgspec begins a map of up to 255 fields, of which
_SMALL_MAPS: Final = [bytes((0x80 | keys,)) for keys in range(16)]  # those of less than 16 have a shorter beginning
_MOST_KEYS: Final = _LARGE_MAP + bytes((HEADER_KEYS,))  # beginnings of larger maps are greater


def encode_header(header: Header) -> bytes:
    """The bytes of one header. Fields at their default are left out; ValueError when it exceeds 4 KiB."""
    if header.extra:
        values = {key: getattr(header, attribute) for key, attribute in FIELDS.items()}
        frame = _encode({key: value for key, value in values.items() if value} | header.extra)
    else:
        if not header.left_s:
            header.left_s = ABSENT
        if not header.happened_at:
            header.happened_at = ABSENT
        frame = _encode(header)
        if frame[:2] == _LARGE_MAP and frame[2] < 16:
            frame = _SMALL_MAPS[frame[2]] + frame[3:]
    if len(frame) > HEADER_BYTES:
        raise ValueError(f"a header of {len(frame)} bytes; the limit is {HEADER_BYTES}")
    return frame


def decode_header(frame: bytes) -> Header:
    """Read one header, or raise ProtocolError; never anything else."""
    if len(frame) > HEADER_BYTES:
        raise ProtocolError(f"a header of {len(frame)} bytes; the limit is {HEADER_BYTES}")
    if frame[:3] <= _MOST_KEYS:
        try:
            return _decode(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # it is wrong, or of a newer version
    return _decode_newer(frame)


def _decode_newer(frame: bytes) -> Header:
    """The same, with the fields that this version does not know."""
    try:
        fields = msgpack.unpackb(
            frame, strict_map_key=True, max_map_len=HEADER_KEYS, max_array_len=SETTLED_IDS, ext_hook=_refuse_extension
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a header that is not msgpack: {error}") from error
    if type(fields) is not dict:
        raise ProtocolError("a header that is not a map")
    extra = {key: value for key, value in fields.items() if key not in FIELDS}
    for key, value in extra.items():
        _check_extra(key, value)
    try:
        header = msgspec.convert({key: value for key, value in fields.items() if key in FIELDS}, Header)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"a header with a value that it cannot have: {error}") from error
    header.extra = extra
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

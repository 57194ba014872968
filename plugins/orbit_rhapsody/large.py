"""Large values: taken apart without a copy, kept and sent piece by piece, and put together where they are wanted.

What is kept is the head, which is bytes, msgpack or a pickle, followed by the buffers that belong to the pickle: who puts it
together gives numpy the memory that it arrived in. This module must not touch files, loops or sockets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import msgpack

from orbit_rhapsody.values import PYTHON_VERSION, Buffer, pickle_apart, unpickle
from orbit_zmq.errors import InternalError, InvalidArgument, TooLarge

INLINE_BYTES = 4 << 20  # of a value in a message: a longer one would hold up the results behind it
REFERENCE_BYTES = 1 << 10  # the same where references are asked for: a shorter value is not worth one
MAX_VALUE_BYTES = 4 << 30
CHUNK_BYTES = 1 << 20

INLINE, REFERENCE = RESULTS = ("inline", "reference")  # what a user wants to get

BYTES: Final = "bytes"
PLAIN: Final = "plain"  # msgpack
PICKLE: Final = "pickle"


@dataclass(slots=True)
class LargeValue:
    """A value that is too large for a message. It refers to the memory of the value itself, so it is kept at once."""

    form: str
    head: list[Buffer]
    buffers: list[memoryview] = field(default_factory=list)
    by_request: bool = False  # somebody wants the reference and not the value

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.head)) + sum(buffer.nbytes for buffer in self.buffers)

    def pieces(self) -> Iterator[Buffer]:
        """All of it, to be written one after another."""
        yield from self.head
        yield from self.buffers

    def chunks(self) -> Iterator[bytes]:
        """All of it, in pieces for the wire."""
        for piece in self.pieces():
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[start : start + CHUNK_BYTES])

    def digest(self) -> str:
        """What tells it from others by its contents."""
        made = hashlib.blake2b(digest_size=16)
        for piece in self.pieces():
            made.update(piece)
        return made.hexdigest()

    def reference(self, uid: str) -> dict[str, Any]:
        """What stands for it in a message, as the value of that task."""
        return {
            "uid": uid,
            "bytes": self.size_bytes,
            "form": self.form,
            "buffers": [[buffer.nbytes, buffer.readonly] for buffer in self.buffers],
            "python": PYTHON_VERSION,
            "by_request": self.by_request,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        buffers = [(bytes(buffer), buffer.readonly) for buffer in self.buffers]
        return _from_another_process, (self.form, b"".join(self.head), buffers, self.by_request)


def _from_another_process(form: str, head: bytes, buffers: list[tuple[bytes, bool]], by_request: bool) -> LargeValue:
    views = [memoryview(data) if is_readonly else memoryview(bytearray(data)) for data, is_readonly in buffers]
    return LargeValue(form, [head], views, by_request)


def taken_apart(value: object, plain: bytes | None = None, *, by_request: bool = False) -> LargeValue:
    """A value, whose msgpack may be known; InvalidArgument if it cannot be pickled, TooLarge beyond MAX_VALUE_BYTES."""
    if plain is not None:
        large = LargeValue(PLAIN, [plain], by_request=by_request)
    elif type(value) is bytes:
        large = LargeValue(BYTES, [value], by_request=by_request)
    else:
        large = LargeValue(PICKLE, *pickle_apart(value), by_request=by_request)
    if large.size_bytes > MAX_VALUE_BYTES:
        raise TooLarge(f"a value of {large.size_bytes} bytes; at most {MAX_VALUE_BYTES} travel", hint="Write it to a file.")
    return large


def reference_in(found: object) -> Mapping[str, Any]:
    """The reference to a value, or the one that is in a result; InvalidArgument if there is none."""
    reference = found.get("result_ref", found) if isinstance(found, Mapping) else None
    if not _is_reference(reference):
        raise InvalidArgument("no reference to a value", hint="Pass a result, or the result_ref that is in it.")
    return reference


class ArrivingValue:
    """A value that comes in chunks, in the one piece of memory where it stays."""

    def __init__(self, reference: Mapping[str, Any]) -> None:
        self._reference = reference
        self._memory = bytearray(reference["bytes"])
        self._filled = 0

    def add(self, chunk: bytes) -> None:
        end = self._filled + len(chunk)
        if end > len(self._memory):
            raise InternalError(f"more than the {len(self._memory)} bytes of {self._what} have come")
        self._memory[self._filled : end] = chunk
        self._filled = end

    def value(self) -> Any:
        """The value, once all has come; InvalidArgument where it cannot be read here."""
        if self._filled != len(self._memory):
            raise InternalError(f"{self._filled} of the {len(self._memory)} bytes of {self._what} have come")
        buffers = self._buffers()
        head = memoryview(self._memory)[: len(self._memory) - sum(map(len, buffers))]
        if self._reference["form"] == BYTES:
            return bytes(head)
        if self._reference["form"] == PLAIN:
            return msgpack.unpackb(head)
        return unpickle(head, self._what, self._reference["python"], buffers)

    @property
    def _what(self) -> str:
        return f"the value of {self._reference['uid']}"

    def _buffers(self) -> list[memoryview]:
        sizes = self._reference["buffers"]
        start, buffers = len(self._memory) - sum(size for size, _ in sizes), []
        for size, is_readonly in sizes:
            buffer = memoryview(self._memory)[start : start + size]
            buffers.append(buffer.toreadonly() if is_readonly else buffer)
            start += size
        return buffers


def _is_reference(found: object) -> TypeGuard[Mapping[str, Any]]:
    return (
        isinstance(found, Mapping)
        and isinstance(found.get("uid"), str)
        and isinstance(found.get("python"), str)
        and isinstance(found.get("buffers"), list)
        and found.get("form") in (BYTES, PLAIN, PICKLE)
        and isinstance(size := found.get("bytes"), int)
        and 0 <= size <= MAX_VALUE_BYTES
    )

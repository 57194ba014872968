"""The streams of one call, watched on their way between the transport and an operation.

Each chunk moves the call's deadline. What an operation yields is checked, and what it raises becomes an OrbitError, so
that the transport never meets an exception of plugin code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from orbit_zmq.endpoint.raised import error_of
from orbit_zmq.errors import InternalError


class StreamIn:
    """The chunks that an operation reads."""

    def __init__(self, chunks: AsyncIterator[bytes], moved: Callable[[], None]) -> None:
        self._chunks = chunks
        self._moved = moved

    def __aiter__(self) -> StreamIn:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self._moved()
        return chunk


class StreamOut:
    """The chunks that an operation yields."""

    def __init__(self, label: str, chunks: AsyncIterator[bytes], moved: Callable[[], None]) -> None:
        self._label = label
        if not hasattr(chunks, "__anext__"):
            raise InternalError(f"{label} returned {type(chunks).__name__} in place of a stream of bytes")
        self._chunks = chunks
        self._moved = moved

    def __aiter__(self) -> StreamOut:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except (StopAsyncIteration, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise error_of(error) from error
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise InternalError(f"{self._label} yielded {type(chunk).__name__} into a stream of bytes")
        self._moved()
        return bytes(chunk)

    async def aclose(self) -> None:
        """End the operation's generator where it stands; harmless after its end."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

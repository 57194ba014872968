"""Chunk streams: bytes of any length over one link, in order, under absolute credit, resumable after a break.

A sender keeps what has not been acknowledged and sends only below the number that its receiver has allowed. A receiver
hands out what comes next, sees gaps, and says from where to send again. Neither knows of messages, sockets or clocks:
times come in as `now` (seconds, monotonic).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from orbit_zmq.errors import ProtocolError, TooLarge
from orbit_zmq.wire.limits import Limits

WINDOW_CHUNKS: Final = 8  # 2 MiB at the default chunk size: enough for 200 MB/s at 10 ms, small enough to hold for each stream
MAX_WINDOW_CHUNKS: Final = 64  # a receiver that allows more is held to this
SILENCE_S: Final = 2.0  # without a credit for so long, the unacknowledged chunks are sent again
READ_AHEAD_CHUNKS: Final = 2  # chunks that a producer may make before they may be sent


class ChunkSender:
    """The sending half of one channel."""

    __slots__ = ("_allowed", "_chunk_bytes", "_ended", "_held", "_made", "_moved_at", "_sent", "_unacknowledged")

    def __init__(self, chunk_bytes: int, credit: int, *, held: bool = False) -> None:
        self._chunk_bytes = chunk_bytes
        self._allowed = credit  # chunks below this number may be sent
        self._made = 0
        self._sent = 0
        self._unacknowledged: deque[tuple[int, memoryview, bool]] = deque()
        self._ended = False
        self._held = held
        self._moved_at = 0.0

    @property
    def has_room(self) -> bool:
        """Whether a producer should make more: chunks are not made faster than they may be sent."""
        return not self._ended and self._made < self._allowed + READ_AHEAD_CHUNKS

    @property
    def finished(self) -> bool:
        """Everything has been sent and acknowledged."""
        return self._ended and not self._unacknowledged

    def feed(self, data: bytes, last: bool) -> None:
        """Add bytes; after `last` nothing more. The bytes are cut into chunks, not copied."""
        if self._ended:
            raise ValueError("the stream has ended")
        view = memoryview(data)
        pieces = range(0, len(view), self._chunk_bytes) if view else range(1 if last else 0)
        for start in pieces:
            is_last = last and start + self._chunk_bytes >= len(view)
            self._unacknowledged.append((self._made, view[start : start + self._chunk_bytes], is_last))
            self._made += 1
        self._ended = last

    def sendable(self) -> Iterator[tuple[int, memoryview, bool]]:
        """The chunks (number, bytes, last) that may go now, each marked as sent."""
        if self._held or self._sent >= min(self._made, self._allowed):
            return
        for chunk in tuple(self._unacknowledged):
            if chunk[0] < self._sent:
                continue
            if chunk[0] >= self._allowed:
                return
            self._sent = chunk[0] + 1
            yield chunk

    def on_credit(self, wanted: int, up_to: int, rewind: bool, now: float) -> None:
        """Forget what has arrived, note what may be sent; ProtocolError when the peer wants what never was."""
        if wanted > self._made:
            raise ProtocolError(f"a credit for chunk {wanted} of a stream that has {self._made}")
        while self._unacknowledged and self._unacknowledged[0][0] < wanted:
            self._unacknowledged.popleft()
        self._sent = max(self._sent, wanted)
        self._allowed = max(self._allowed, min(up_to, wanted + MAX_WINDOW_CHUNKS))
        self._moved_at = now
        if rewind:
            self.rewind(wanted)

    def rewind(self, wanted: int) -> None:
        """Send again from this chunk on."""
        self._held = False
        self._sent = max(wanted, self._unacknowledged[0][0] if self._unacknowledged else self._made)

    def hold(self) -> None:
        """Send nothing until a credit with rewind says from where."""
        self._held = True

    def tick(self, now: float) -> bool:
        """After a silence, make what was sent and not acknowledged sendable again; whether that happened."""
        if self._held or not self._unacknowledged or self._sent <= self._unacknowledged[0][0]:
            self._moved_at = now
            return False
        if self._moved_at == 0.0:
            self._moved_at = now
        if now - self._moved_at < SILENCE_S:
            return False
        self._moved_at = now
        self._sent = self._unacknowledged[0][0]
        return True


class ChunkReceiver:
    """The receiving half of one channel."""

    __slots__ = ("_allowed", "_asked_at", "_consumed", "_must_credit", "_must_rewind", "_window", "finished", "wanted")

    def __init__(self, credit: int, window: int = WINDOW_CHUNKS) -> None:
        self.wanted = 0  # number of the chunk that comes next
        self.finished = False
        self._consumed = 0
        self._allowed = max(credit, Limits().credit_chunks)  # the other end may not know of a smaller limit here
        self._window = max(window, credit)
        self._must_credit = False
        self._must_rewind = False
        self._asked_at = -1  # the chunk that was asked for again, so that one gap asks once

    def on_chunk(self, number: int, last: bool) -> bool:
        """Whether this chunk is the next one and to be handed on; duplicates and gaps are noted for the next credit.

        ProtocolError when it was not allowed yet: credit is what bounds memory.
        """
        if number >= self._allowed:
            raise ProtocolError(f"chunk {number} of a stream that was allowed {self._allowed}")
        if number != self.wanted or self.finished:
            if number < self.wanted:
                self._must_credit = True
            elif self._asked_at != self.wanted:
                self._asked_at = self.wanted
                self._must_rewind = True
            return False
        self.wanted += 1
        self.finished = last
        return True

    def on_consumed(self) -> None:
        """The consumer has taken one chunk, so that another may come."""
        self._consumed += 1

    def ask_again(self) -> None:
        """Make the next credit say from where to send again."""
        self._must_rewind = True

    def credit(self) -> tuple[int, int, bool] | None:
        """What to send as credit now (wanted, up to, rewind), or None while no credit is due."""
        allowed = self._consumed + self._window
        due = self._must_credit or self._must_rewind or self.finished or allowed - self._allowed >= self._window // 2
        if not due:
            return None
        rewind, self._must_credit, self._must_rewind = self._must_rewind, False, False
        self._allowed = max(self._allowed, allowed)
        return self.wanted, self._allowed, rewind


class Assembly:
    """A body that arrives as chunks, put together up to a limit."""

    __slots__ = ("_limit_bytes", "_parts", "_size", "receiver")

    def __init__(self, credit: int, limit_bytes: int) -> None:
        self.receiver = ChunkReceiver(credit)
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def on_chunk(self, number: int, data: bytes, last: bool) -> bytes | None:
        """The whole body when this chunk completes it; TooLarge past the limit."""
        if not self.receiver.on_chunk(number, last):
            return None
        self._size += len(data)
        if self._size > self._limit_bytes:
            raise TooLarge(f"a body of more than {self._limit_bytes} bytes")
        self._parts.append(data)
        self.receiver.on_consumed()
        return b"".join(self._parts) if last else None

"""What programs write: the end of it is kept for their results, and its lines can be read while they run.

Lines are numbered for each program, over both of its streams, in the order in which they came; a reader says which number it
has got to, so one that was cut off goes on there. A program waits for a reader that is behind, as for a pipe; without one, what
there is no room for is left out from the beginning, and counted. This module must not start programs or know what lines say.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from orbit_rhapsody.sleepers import Sleepers

KEPT_BYTES = 1 << 20  # of one stream for a result: many thousands of results share one memory
LEAST_KEPT_BYTES = 64 << 10
ROOM_BYTES = 256 << 20  # of all that run at once
LINES_BYTES = 4 << 20  # of one program, for readers
LINES_ROOM_BYTES = 64 << 20  # of a session
LINE_BYTES = 64 << 10  # a longer line comes in pieces
ENTRY_BYTES = 100  # that a line takes beside its text
FOLLOWED_S = 10.0  # a reader that has asked so lately goes on reading: a portion takes some time on a slow line
FIRST_READER_S = 0.5  # who submits a task to read it asks about as soon; only what fills its room waits so long

Entry = tuple[int, str, str]  # number, stdout or stderr, text


class Line(NamedTuple):
    """A line that a program has written, as a user reads it."""

    number: int  # from 1 on, over both streams
    stream: str  # stdout or stderr
    text: str
    missed: int  # lines directly before this one that there was no room for


def kept_bytes(running: int) -> int:
    """How much is kept of each stream while so many programs run."""
    return max(LEAST_KEPT_BYTES, min(KEPT_BYTES, ROOM_BYTES // (2 * max(1, running))))


class Tail:
    """The end of what was written, in bounded memory."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0

    def add(self, block: bytes, limit: int = KEPT_BYTES) -> None:
        self._blocks.append(block)
        self._size += len(block)
        while self._size - len(self._blocks[0]) >= limit:
            dropped = self._blocks.popleft()
            self._size -= len(dropped)
            self._dropped += len(dropped)

    def text(self) -> str:
        """As text, with how much is missing before it; bytes that are not UTF-8 are shown as \\xff."""
        text = b"".join(self._blocks).decode("utf-8", "backslashreplace")
        return f"[{self._dropped} bytes before this are not kept]\n{text}" if self._dropped else text


class _Program:
    """The lines of one program."""

    def __init__(self) -> None:
        self.lines: deque[Entry] = deque()
        self.size_bytes = 0
        self.last = 0
        self.has_ended = False
        self.reached = 0  # some reader has all lines up to this number
        self.read_at: float | None = None  # when one asked last
        self.waiting = 0  # readers that wait for the next line
        self._full_at: float | None = None  # when its room was full for the first time
        self._begun = {"stdout": b"", "stderr": b""}  # lines without an end so far

    def is_to_wait(self, block: bytes, limit: int, now: float) -> bool:
        """Whether there is no room for the block, and a reader that makes some."""
        needed = len(block) + ENTRY_BYTES * (block.count(b"\n") + 1)
        while self.lines and self.lines[0][0] <= self.reached and self.size_bytes + needed > limit:
            self._drop_first()
        if not self.lines or self.size_bytes + needed <= limit:
            return False
        if self.waiting:
            return True
        if self._full_at is None:
            self._full_at = now
        since, patience_s = (self._full_at, FIRST_READER_S) if self.read_at is None else (self.read_at, FOLLOWED_S)
        return now - since < patience_s

    def add(self, stream: str, block: bytes) -> None:
        *whole, rest = (self._begun[stream] + block).split(b"\n")
        for line in whole:
            self._append_pieces(stream, line)
        while len(rest) > LINE_BYTES:
            self._append(stream, rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self._begun[stream] = rest

    def end(self) -> None:
        self.has_ended = True
        for stream, rest in self._begun.items():
            if rest:
                self._append(stream, rest)
        self._begun.clear()

    def cut(self, limit: int) -> None:
        while self.size_bytes > limit and self.lines:
            self._drop_first()

    def _drop_first(self) -> None:
        self.size_bytes -= len(self.lines.popleft()[2]) + ENTRY_BYTES

    def read(self, after: int, max_bytes: int) -> dict[str, Any]:
        """The lines after that number, and how many there were that are gone."""
        first = self.last - len(self.lines) + 1
        lines, size = list[Entry](), 0
        for line in islice(self.lines, max(0, after + 1 - first), None):
            size += len(line[2]) + ENTRY_BYTES
            if lines and size > max_bytes:
                break
            lines.append(line)
        reached = lines[-1][0] if lines else max(after, first - 1)
        return {
            "lines": lines,
            "after": reached,
            "cut": max(0, min(first, self.last + 1) - after - 1),
            "ended": self.has_ended and reached >= self.last,
        }

    def _append_pieces(self, stream: str, line: bytes) -> None:
        for start in range(0, max(1, len(line)), LINE_BYTES):
            self._append(stream, line[start : start + LINE_BYTES])

    def _append(self, stream: str, line: bytes) -> None:
        self.last += 1
        text = line.decode("utf-8", "backslashreplace")
        self.lines.append((self.last, stream, text))
        self.size_bytes += len(text) + ENTRY_BYTES


class OutputLines:
    """The lines of a session's programs; `read` belongs to the endpoint's loop, everything else to any thread."""

    def __init__(self) -> None:
        self._programs: dict[str, _Program] = {}
        self._ended: OrderedDict[str, _Program] = OrderedDict()  # those with lines, the oldest first
        self._running = 0
        self._ended_bytes = 0
        self._lock = threading.Lock()
        self._readers = Sleepers()

    def __contains__(self, uid: str) -> bool:
        return uid in self._programs

    def begin(self, uid: str) -> None:
        """A program starts whose lines may be read."""
        with self._lock:
            self._programs[uid] = _Program()
            self._running += 1
        self._readers.wake_soon()

    def add(self, uid: str, stream: str, block: bytes) -> bool:
        """It has written something. False: a reader is behind, so nothing was taken, and it is to be offered again soon."""
        with self._lock:
            program = self._programs.get(uid)
            if program is None or program.has_ended:
                return True
            limit = min(LINES_BYTES, LINES_ROOM_BYTES // max(1, self._running))
            if program.is_to_wait(block, limit, time.monotonic()):
                return False
            program.add(stream, block)
            program.cut(limit)
        self._readers.wake_soon()
        return True

    def end(self, uid: str) -> None:
        """It writes no more; its lines stay as long as there is room for them."""
        with self._lock:
            program = self._programs.get(uid)
            if program is None or program.has_ended:
                return
            program.end()
            self._running -= 1
            self._ended_bytes += program.size_bytes
            self._ended[uid] = program
            while self._ended_bytes > LINES_ROOM_BYTES:
                _, oldest = self._ended.popitem(last=False)
                self._ended_bytes -= oldest.size_bytes
                oldest.cut(0)
        self._readers.wake_soon()

    def drop(self, uids: Iterable[str]) -> None:
        """These tasks are forgotten."""
        if not self._programs:
            return
        with self._lock:
            for uid in uids:
                self._programs.pop(uid, None)
                program = self._ended.pop(uid, None)
                self._ended_bytes -= program.size_bytes if program is not None else 0

    async def read(self, uid: str, after: int, max_bytes: int, wait_s: float) -> dict[str, Any] | None:
        """The lines of a program after that number; waits for the first one, or for its end. None where it has not begun.

        `{lines: [[number, stream, text]], after, cut, ended}`: `after` to ask with next, `cut` lines that are gone.
        """
        deadline = time.monotonic() + wait_s
        while True:
            with self._lock:
                program = self._programs.get(uid)
                found = program.read(after, max_bytes) if program is not None else None
                if program is not None:
                    program.reached, program.read_at = max(program.reached, after), time.monotonic()
                left_s = deadline - time.monotonic()
                if (found is not None and (found["lines"] or found["ended"])) or left_s <= 0:
                    return found
                waiter = self._readers.join()
                if program is not None:
                    program.waiting += 1
            try:
                await self._readers.woken(waiter, left_s)
            finally:
                with self._lock:
                    if program is not None:
                        program.waiting -= 1

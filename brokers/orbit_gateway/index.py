"""The index: which running number each event was given, kept on disk so that a gateway that is started again goes on.

It is only ever appended to, in segments; each begins with where every stream stood, so that old ones can be deleted. A record
is a msgpack list `[first id, user, incarnation, first number, count]`; one with a count of 0 says where a stream stood. What
the events say is not in it. A torn end, left by a kill, is cut off. While the disk is full, numbers are kept in memory and
written later: readers go on, and only a process that is killed meanwhile loses which event had which number.
"""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import msgpack

from orbit_zmq.files import make_private_directory
from orbit_zmq.log import get_logger

RETAIN_S = 600.0  # as long as endpoints keep their events
SEGMENT_S = 120.0
SUFFIX = ".index"
STREAMS = 100_000  # whose last number is remembered
PENDING = 100_000  # records that wait for a disk that is full; the oldest go first
AGAIN_S = 1.0  # from one attempt to write to the next
MAX_COUNT = 1 << 20  # of one record; more is damage, and so is a number that JavaScript cannot count to
MAX_ID = 1 << 53

log = get_logger("orbit_gateway")


class Run(NamedTuple):
    """Events of one stream that follow each other, and the running numbers that they have."""

    first_id: int
    first: int
    length: int


class Index:
    """The numbers given so far, and the file that the next ones are written to."""

    def __init__(self, directory: Path, now_wall: float | None = None) -> None:
        self.last = 0
        self._directory = make_private_directory(directory, "the gateway's state")
        self._starts: dict[str, dict[bytes, int]] = {}  # user -> stream -> after which number the kept records begin
        self._ends: dict[tuple[str, bytes], int] = {}  # where each stream stands
        self._runs: dict[tuple[str, bytes], list[Run]] = {}  # what an earlier process has numbered
        self._pending: list[list[object]] = []
        self._read(time.time() if now_wall is None else now_wall)
        self._file = -1
        self._again_at = 0.0  # while the disk is full: when to try again
        self._begin_segment()

    @property
    def users(self) -> list[str]:
        """Whose events an earlier process has listened to."""
        return list(self._starts)

    def cursor_of(self, user: str) -> dict[bytes, int]:
        """After which numbers to hear a user's streams; those of before a restart so that all that is kept comes again."""
        if any(owner == user for owner, _ in self._runs):
            return dict(self._starts[user])
        return {incarnation: end for (owner, incarnation), end in self._ends.items() if owner == user}

    def begin(self, user: str, stands: dict[bytes, int]) -> None:
        """A user is listened to from here on."""
        self._starts[user] = dict(stands)
        self._pending.append([self.last, user, b"", 0, 0])
        for incarnation, number in stands.items():
            self._ends[user, incarnation] = number
            self._pending.append([self.last, user, incarnation, number, 0])
        self.flush()

    def forget(self, user: str) -> None:
        """A user is listened to no more."""
        self._starts.pop(user, None)
        for key in [key for key in self._ends if key[0] == user]:
            del self._ends[key]
        for key in [key for key in self._runs if key[0] == user]:
            del self._runs[key]

    def number(self, user: str, incarnation: bytes, number: int) -> tuple[int, bool]:
        """The running number of an event, and whether it is a new one. It is in force after `flush`."""
        key = (user, incarnation)
        if self._runs and (known := self._known(key, number)):
            return known, False
        self.last += 1
        self._ends[key] = number
        latest = self._pending[-1] if self._pending else None
        if latest is not None and latest[1] == user and latest[2] == incarnation and latest[4]:
            _, _, _, first, count = latest
            if first + count == number and count < MAX_COUNT:  # type: ignore[operator]
                latest[4] = count + 1  # type: ignore[operator]
                return self.last, True
        self._pending.append([self.last, user, incarnation, number, 1])
        return self.last, True

    def ids_of(self, user: str) -> array[int]:
        """All running numbers that an earlier process gave to events of a user, in order."""
        runs = (run for (owner, _), known in self._runs.items() if owner == user for run in known)
        return array("Q", sorted(id_ for run in runs for id_ in range(run.first_id, run.first_id + run.length)))

    def settle(self, user: str) -> None:
        """What an earlier process has numbered has come again, as far as it can."""
        for key in [key for key in self._runs if key[0] == user]:
            del self._runs[key]

    def flush(self) -> None:
        """Write what has been numbered; a kill after this loses none of it, unless the disk is full."""
        now = time.monotonic()
        if not self._pending or now < self._again_at:
            return
        try:
            self._write(self._file, b"".join(msgpack.packb(record) for record in self._pending))
            self._pending.clear()
            if now - self._began_at >= SEGMENT_S:
                self._begin_segment()
        except OSError as error:
            if not self._again_at:
                log.error("index-not-written", path=str(self._directory), reason=str(error), effect="readers go on")
            self._again_at = now + AGAIN_S
            del self._pending[: max(0, len(self._pending) - PENDING)]
            return
        if self._again_at:
            log.info("index-written-again", path=str(self._directory))
            self._again_at = 0.0

    def close(self) -> None:
        self.flush()
        os.close(self._file)

    def _known(self, key: tuple[str, bytes], number: int) -> int:
        runs = self._runs.get(key)
        if not runs:
            return 0
        at = bisect_right(runs, number, key=lambda run: run.first) - 1
        run = runs[at] if at >= 0 else None
        return run.first_id + number - run.first if run is not None and number < run.first + run.length else 0

    def _segments(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{SUFFIX}"))

    def _begin_segment(self) -> None:
        """A new file, which says where every stream stands; those that are too old go."""
        segments = self._segments()
        sequence = int(segments[-1].stem) + 1 if segments and segments[-1].stem.isdigit() else 1
        while len(self._ends) > STREAMS:
            del self._ends[next(iter(self._ends))]
        marks: list[list[object]] = [[self.last, user, b"", 0, 0] for user in self._starts]
        marks += [[self.last, user, incarnation, end, 0] for (user, incarnation), end in self._ends.items()]
        path = self._directory / f"{sequence:016}{SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._write(file, b"".join(map(msgpack.packb, marks or [[self.last, "", b"", 0, 0]])))
        except OSError:
            os.close(file)
            path.unlink()
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._began_at = file, time.monotonic()
        for old in segments:
            if old.stat().st_mtime < time.time() - RETAIN_S:
                old.unlink(missing_ok=True)

    def _write(self, file: int, data: bytes) -> None:
        """All of it, or nothing, so that no record is torn in the middle of a file."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            if len(view) < len(data):
                os.ftruncate(file, os.fstat(file).st_size - len(data) + len(view))
            raise

    def _read(self, now_wall: float) -> None:
        segments = self._segments()
        recent = [path for path in segments[:-2] if path.stat().st_mtime >= now_wall - RETAIN_S]
        kept = recent + segments[-2:]  # of two, for the newest may be empty after a failure of power
        for path in kept:
            unpacker = msgpack.Unpacker(max_buffer_size=0)
            try:
                unpacker.feed(path.read_bytes())
                for record in unpacker:
                    self._take(*record)
            except (OSError, ValueError, TypeError, msgpack.UnpackException) as error:
                log.warning("index-damaged", path=str(path), reason=str(error) or type(error).__name__)

    def _take(self, first_id: int, user: str, incarnation: bytes, first: int, count: int) -> None:
        if not (0 <= first_id < MAX_ID and 0 <= count <= MAX_COUNT and 0 <= first < 1 << 63):
            raise ValueError("numbers that are none")
        if not (isinstance(user, str) and isinstance(incarnation, bytes)):
            raise ValueError("names that are none")
        self.last = max(self.last, first_id + max(count - 1, 0))
        if not user:
            return
        starts = self._starts.setdefault(user, {})
        if not incarnation and not count:
            return
        key = (user, incarnation)
        starts.setdefault(incarnation, first - 1 if count else first)
        self._ends[key] = max(self._ends.get(key, 0), first + count - 1 if count else first)
        if count:
            self._runs.setdefault(key, []).append(Run(first_id, first, count))

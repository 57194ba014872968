"""The spool: values and arguments that are too large for a message, in files of their own.

A file is named after what it belongs to, so a directory says by itself what is in it. The files go with the task, with the
session, and with the endpoint; those that somebody asked to have by reference go with the session or when they are discarded.
Return values of a session that lasts are in its journal instead, as long as that keeps anything, and outlive the process.
This module must not know what the bytes mean.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import psutil

from orbit_rhapsody.journal import Journal
from orbit_rhapsody.large import CHUNK_BYTES, ArrivingValue, LargeValue
from orbit_zmq.errors import InternalError, InvalidArgument, ResultExpired

PREFIX = "orbit-values-"  # of the names of directories
CLOCK_SLACK_S = 60.0  # between the clocks of files and of processes; in doubt a directory stays


class Held:
    """Arguments that came by themselves, before the tasks that need them; their file goes with the last of those."""

    def __init__(self, spool: Spool, name: str) -> None:
        self._spool = spool
        self._name = name
        self.fault: InternalError | None = None  # why what came last could not be kept

    def load(self, reference: Mapping[str, Any]) -> Any:
        """The value, in the calling thread; InvalidArgument where it is not there."""
        value = ArrivingValue(reference)
        try:
            with self._spool.open(self._name) as file:
                while chunk := file.read(CHUNK_BYTES):
                    value.add(chunk)
        except OSError as error:
            why = self.fault.message if self.fault else error.strerror or "they never came"
            raise InvalidArgument(
                f"the arguments of the task, {reference['bytes']} bytes, are not there: {why}",
                hint=f"Submit it again; if there is no room, make some in {tempfile.gettempdir()} where the endpoint runs.",
            ) from error
        return value.value()


class Spool:
    """The large values of one session, by task. `read` and `take` belong to a loop, everything else to any thread."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._being_kept: dict[str, LargeValue] = {}  # given to the journal, and not on disk yet
        self._directory: Path | None = None
        self.held_bytes = 0  # on the disk
        self._sizes: dict[str, int] = {}
        self._stays: set[str] = set()
        self._lock = threading.RLock()  # the garbage collector may come by anywhere, and let go of what was held
        self._closed = False
        self._numbers = count()
        self._arrived: dict[str, Held] = {}
        self._holding: WeakValueDictionary[str, Held] = WeakValueDictionary()

    def put(self, uid: str, value: LargeValue) -> dict[str, Any]:
        """Keep a task's value, and answer what stands for it; InternalError where the disk does not take it."""
        if self._journal is None or self._journal.fault:
            self._put_file(uid, value)
        else:
            self._being_kept[uid] = value
            self._journal.value(uid, value.chunks())
            self._journal.when_kept(lambda: self._settle(uid))
        self._is_kept(uid, value.size_bytes, stays=value.by_request)
        return value.reference(uid)

    def _settle(self, uid: str) -> None:
        """The journal has a value, or has failed: then it is kept as long as the process lives."""
        value = self._being_kept.get(uid)
        if value is not None and self._journal is not None and self._journal.fault:
            with suppress(InternalError):  # who asks for it is told
                self._put_file(uid, value)
        self._being_kept.pop(uid, None)

    def _put_file(self, uid: str, value: LargeValue) -> None:
        path = self._new(uid)
        try:
            with open(path, "wb", buffering=0) as file:
                for piece in value.pieces():
                    _write(file, piece)
        except OSError as error:
            self.discard((uid,))
            raise _does_not_fit(value.size_bytes, error) from error

    async def take(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Keep what arrives, until all have let go of it that `hold` it; how many bytes there were."""
        held = self._arrived[name] = self._held(name)
        held.fault = None
        try:
            size = await self._take_file(name, chunks)
        except InternalError as error:
            held.fault = error
            raise
        self._is_kept(name, size, stays=True)
        return size

    async def _take_file(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        path, size = self._new(name), 0
        arriving = path.with_suffix(f".{next(self._numbers)}")
        try:
            with await asyncio.to_thread(open, arriving, "wb", 0) as file:
                async for chunk in chunks:
                    await asyncio.to_thread(_write, file, chunk)
                    size += len(chunk)
            arriving.replace(path)
        except OSError as error:
            raise _does_not_fit(size, error) from error
        finally:
            arriving.unlink(missing_ok=True)
        return size

    def hold(self, name: str) -> Held:
        """Have what has arrived under this name kept for as long as the answer is kept."""
        held = self._held(name)
        self._arrived.pop(name, None)
        return held

    def _held(self, name: str) -> Held:
        with self._lock:
            held = self._holding.get(name)
            if held is None:
                held = self._holding[name] = Held(self, name)
                weakref.finalize(held, self._let_go, name)
            return held

    def _let_go(self, name: str) -> None:
        if name not in self._holding:  # else it has arrived again meanwhile
            self.discard((name,))

    async def read(self, uid: str) -> AsyncIterator[bytes]:
        """A value in chunks; ResultExpired where there is none any more."""
        value = self._being_kept.get(uid)
        pieces = self._journal.pieces(uid) if self._journal is not None else 0
        if value is not None:
            for chunk in value.chunks():
                yield chunk
        elif pieces and not self._has_file(uid):
            for number in range(pieces):
                yield await asyncio.to_thread(self._piece, uid, number)
        else:
            async for chunk in self._read_file(uid):
                yield chunk

    def _has_file(self, uid: str) -> bool:
        return self._directory is not None and (self._directory / _name(uid)).exists()

    def _piece(self, uid: str, number: int) -> bytes:
        try:
            piece = self._journal.piece(uid, number) if self._journal is not None else None
        except InternalError as error:
            raise _gone(uid) from error
        if piece is None:
            raise _gone(uid)
        return piece

    async def _read_file(self, uid: str) -> AsyncIterator[bytes]:
        try:
            file = await asyncio.to_thread(self.open, uid)
        except OSError as error:
            raise _gone(uid) from error
        with file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    def open(self, uid: str) -> Any:
        """The file of a value, or FileNotFoundError."""
        directory = self._directory
        if directory is None or uid not in self._sizes:
            raise FileNotFoundError(uid)
        return open(directory / _name(uid), "rb", buffering=0)

    def drop(self, uids: Iterable[str]) -> None:
        """These are not wanted any more, but for what was asked for by reference."""
        if self._sizes or self._journal is not None:
            self._remove(uid for uid in uids if uid not in self._stays)

    def discard(self, uids: Iterable[str]) -> None:
        """These are not wanted any more."""
        self._remove(uids)

    def close(self) -> None:
        """Drop all."""
        with self._lock:
            self._closed = True
            self._arrived.clear()
            self._being_kept.clear()
            self._sizes.clear()
            self.held_bytes = 0
            self._stays.clear()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

    def _new(self, uid: str) -> Path:
        with self._lock:
            if self._closed:
                raise InternalError("the session was closed")
            if self._directory is None:
                try:
                    self._directory = _new_directory()
                except OSError as error:
                    raise _does_not_fit(0, error) from error
            return self._directory / _name(uid)

    def _is_kept(self, uid: str, size: int, *, stays: bool) -> None:
        with self._lock:
            self.held_bytes += size - self._sizes.get(uid, 0)
            self._sizes[uid] = size
            if stays:
                self._stays.add(uid)

    def _remove(self, uids: Iterable[str]) -> None:
        with self._lock:
            for uid in uids:
                self.held_bytes -= self._sizes.pop(uid, 0)
                self._stays.discard(uid)
                self._being_kept.pop(uid, None)
                if self._journal is not None:
                    self._journal.drop_values((uid,))
                if self._directory is not None:
                    with suppress(OSError):
                        (self._directory / _name(uid)).unlink()


def _new_directory() -> Path:
    """Its name says whose it is, so that the next endpoint on this machine removes what a killed one has left."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", suffix=f"-{socket.gethostname()}"))


def remove_leftovers() -> None:
    """Remove the directories of this user's processes on this machine that are not there any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        named = re.fullmatch(rf"{PREFIX}(\d+)-[a-z0-9_]+-(.+)", path.name)
        if named is None or named[2] != socket.gethostname():
            continue
        with suppress(OSError):
            facts = path.lstat()
            if facts.st_uid == os.getuid() and stat.S_ISDIR(facts.st_mode) and not _is_alive(int(named[1]), facts.st_ctime):
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int, since: float) -> bool:
    """Whether that process is there, and no other that was given its number afterwards."""
    try:
        return psutil.Process(pid).create_time() <= since + CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _gone(uid: str) -> ResultExpired:
    return ResultExpired(
        f"the return value of task {uid} is gone",
        hint="It was discarded, or its task was forgotten, or the endpoint was started anew without a session that lasts. "
        "Run the task again.",
    )


def _write(file: Any, piece: Any) -> None:
    left = memoryview(piece).cast("B")
    while len(left):  # a raw file takes at most 2 GiB at once
        left = left[file.write(left) :]


def _name(uid: str) -> str:
    return hashlib.blake2b(uid.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _does_not_fit(size: int, error: OSError) -> InternalError:
    return InternalError(
        f"a value of {size} bytes cannot be kept: {error.strerror}",
        hint=f"Make room in {tempfile.gettempdir()}, set TMPDIR, or have the function write a file.",
    )

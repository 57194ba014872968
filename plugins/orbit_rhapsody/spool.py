"""The spool: return values that are too large for a message, apart until somebody has streamed them.

In a session that lasts they are in its journal, and outlive the process; else, and while the journal keeps nothing, in files of
this process's own. They go with the task and with the session. This module must not know what the bytes mean.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from orbit_rhapsody.journal import Journal
from orbit_zmq.errors import InternalError, ResultExpired

CHUNK_BYTES = 1 << 20


class Spool:
    """The large values of one session, by task. `read` belongs to a loop, everything else to any thread."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._being_kept: dict[str, bytes] = {}  # given to the journal, and not on disk yet
        self._directory: Path | None = None
        self._files: dict[str, Path] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    def put(self, uid: str, value: bytes) -> None:
        """Keep a value; InternalError where the disk does not take it."""
        if self._journal is None or self._journal.fault:
            self._put_file(uid, value)
            return
        self._being_kept[uid] = value
        self._journal.value(uid, value)
        self._journal.when_kept(lambda: self._settle(uid))

    def _settle(self, uid: str) -> None:
        """The journal has a value, or has failed: then it is kept as long as the process lives."""
        value = self._being_kept.get(uid)
        if value is not None and self._journal is not None and self._journal.fault:
            with suppress(InternalError):  # who asks for it is told
                self._put_file(uid, value)
        self._being_kept.pop(uid, None)

    def _put_file(self, uid: str, value: bytes) -> None:
        try:
            with self._lock:
                if self._directory is None:
                    self._directory = Path(tempfile.mkdtemp(prefix="orbit-values-"))
                path = self._directory / str(next(self._numbers))
                self._files[uid] = path
            path.write_bytes(value)
        except OSError as error:
            self.drop((uid,))
            raise InternalError(
                f"a return value of {len(value)} bytes cannot be kept: {error.strerror}",
                hint=f"Make room in {tempfile.gettempdir()}, set TMPDIR, or have the function write a file.",
            ) from error

    async def read(self, uid: str) -> AsyncIterator[bytes]:
        """A value in chunks; ResultExpired where there is none any more."""
        value, path = self._being_kept.get(uid), self._files.get(uid)
        pieces = self._journal.pieces(uid) if self._journal is not None else 0
        if value is not None:
            for start in range(0, len(value), CHUNK_BYTES):
                yield value[start : start + CHUNK_BYTES]
        elif path is not None or not pieces:
            async for chunk in self._read_file(uid, path):
                yield chunk
        else:
            for number in range(pieces):
                yield await asyncio.to_thread(self._piece, uid, number)

    def _piece(self, uid: str, number: int) -> bytes:
        try:
            piece = self._journal.piece(uid, number) if self._journal is not None else None
        except InternalError as error:
            raise _gone(uid) from error
        if piece is None:
            raise _gone(uid)
        return piece

    async def _read_file(self, uid: str, path: Path | None) -> AsyncIterator[bytes]:
        try:
            file = await asyncio.to_thread(open, path or "", "rb")
        except OSError as error:
            raise _gone(uid) from error
        with file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    def drop(self, uids: Iterable[str]) -> None:
        """These are not wanted any more."""
        wanted = tuple(uids)
        if self._journal is not None:
            self._journal.drop_values(wanted)
        if not self._files:
            return
        with self._lock:
            for uid in wanted:
                path = self._files.pop(uid, None)
                if path is not None:
                    with suppress(OSError):
                        path.unlink()

    def close(self) -> None:
        """Drop what is this process's own."""
        with self._lock:
            self._files.clear()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None


def _gone(uid: str) -> ResultExpired:
    return ResultExpired(
        f"the return value of task {uid} is gone",
        hint="A value that large outlives the endpoint's process only in a session that lasts.",
    )

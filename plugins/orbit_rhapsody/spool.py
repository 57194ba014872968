"""The spool: return values that are too large for a message, in files of their own until somebody has streamed them.

The files are this process's alone: they go with the task, with the session, and with the endpoint. This module must not know
what the bytes mean.
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

from orbit_zmq.errors import InternalError, ResultExpired

CHUNK_BYTES = 1 << 20


class Spool:
    """The large values of one session, by task. `read` belongs to a loop, everything else to any thread."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._files: dict[str, Path] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    def put(self, uid: str, value: bytes) -> None:
        """Keep a value; InternalError where the disk does not take it."""
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
        path = self._files.get(uid)
        try:
            file = await asyncio.to_thread(open, path or "", "rb")
        except OSError as error:
            raise ResultExpired(
                f"the return value of task {uid} is gone",
                hint="Large values go with the endpoint's process; have the function write a file to keep them.",
            ) from error
        with file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk

    def drop(self, uids: Iterable[str]) -> None:
        """These are not wanted any more."""
        if not self._files:
            return
        with self._lock:
            for uid in uids:
                path = self._files.pop(uid, None)
                if path is not None:
                    with suppress(OSError):
                        path.unlink()

    def close(self) -> None:
        """Drop all."""
        with self._lock:
            self._files.clear()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

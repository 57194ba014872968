"""The store: what an endpoint remembers of its lasting sessions when its process is gone. One sqlite file, for one process.

Writes are queued by whoever has them, from any thread, and committed in batches by a thread of the store's own, in the order
in which they came. When the disk is full or fails, the endpoint goes on without the store and says why. A file that is damaged
is moved aside. It must not know what the values mean, and never holds up a loop.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orbit_zmq.endpoint.storefile import (
    Damaged,
    TooNew,
    is_complete,
    mark_owner,
    move_aside,
    note_incomplete,
    open_file,
    owner_of,
    path_of,
    set_complete,
)
from orbit_zmq.errors import Conflict, InternalError
from orbit_zmq.log import get_logger

log = get_logger(__name__)

LIMIT_BYTES = 10 << 30  # of the file; past it the oldest results of sessions are given up
CLOSE_S = 5.0  # for what is still to be written when the endpoint stops
SIZE_S = 10.0  # between two looks at how much of the file is used

_KEEP_SESSION = "INSERT OR REPLACE INTO sessions (id, facts) VALUES (?, ?)"
_DROP_SESSION = "DELETE FROM sessions WHERE id = ?"
_DROP_ITEMS = "DELETE FROM items WHERE session = ?"
_KEEP = "INSERT OR REPLACE INTO items (session, key, value) VALUES (?, ?, ?)"
_DROP = "DELETE FROM items WHERE session = ? AND key = ?"

Write = tuple[str, tuple[Any, ...]]


class Store:
    """The store of one endpoint. `fault` says why nothing is kept, and is empty while all is well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault = ""
        self.dropped = 0  # writes that were not kept because of the fault
        self._connection: sqlite3.Connection | None = None
        self._using = threading.Lock()  # the connection: the writer's, and that of whoever reads
        self._changed = threading.Condition()
        self._writes: deque[Write] = deque()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  # told when so many writes have been dealt with
        self._is_telling = False
        self._queued = 0
        self._written = 0
        self._closing = False
        self._used_bytes = 0  # of the file; what was deleted from it is used again
        self._sized_at = float("-inf")
        self._thread = threading.Thread(target=self._write_always, name="orbit-store", daemon=True)

    @classmethod
    def open(cls, directory: Path, endpoint: str) -> Store:
        """The store of the endpoint of that name. Conflict while another process has it; any other fault is in `fault`."""
        store = cls(path_of(directory, endpoint))
        store._open()
        return store

    def _open(self) -> None:
        try:
            self._connection = open_file(self.path)
            mark_owner(self.path)
            if not is_complete(self.path):
                note_incomplete(self._connection)
            set_complete(self.path, True)
        except BlockingIOError:
            raise Conflict(
                f"another process has the sessions of this endpoint: {owner_of(self.path)}",
                hint=f"Stop it, choose another name with -n, or set ORBIT_STATE_DIR. The file is {self.path}.",
                details={"path": str(self.path)},
            ) from None
        except Damaged as error:
            aside = move_aside(self.path)
            log.error("store-damaged", path=str(self.path), reason=str(error), moved_to=str(aside))
            if aside is None:
                self._fail(f"the file is damaged and cannot be moved: {error}")
            else:
                self._open()
        except (TooNew, sqlite3.Error, OSError) as error:
            self._fail(str(error))

    # Writing, from any thread

    def keep_session(self, session: str, facts: bytes) -> None:
        """Remember a session."""
        self._queue([(_KEEP_SESSION, (session, facts))])

    def drop_session(self, session: str) -> None:
        """Forget a session and all that it has kept."""
        self._queue([(_DROP_SESSION, (session,)), (_DROP_ITEMS, (session,))])

    def keep(self, session: str, items: Iterable[tuple[str, bytes]]) -> None:
        """Remember values of a session by key; a key that is there gets the new value."""
        self._queue([(_KEEP, (session, key, value)) for key, value in items])

    def drop(self, session: str, keys: Iterable[str]) -> None:
        """Forget values."""
        self._queue([(_DROP, (session, key)) for key in keys])

    def when_kept(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called once all that was given so far is kept or has failed; in order, here or elsewhere."""
        with self._changed:
            if self._waiting or self._is_telling or (self._queued > self._written and not self.fault):
                self._waiting.append((self._queued, callback))
                return
        callback()

    def _queue(self, writes: list[Write]) -> None:
        with self._changed:
            if self._is_over():
                self.dropped += len(writes)
                return
            self._writes.extend(writes)
            self._queued += len(writes)
            if self._thread.ident is None:  # most endpoints never have anything to write
                self._thread.start()
            self._changed.notify()

    def _is_over(self) -> bool:
        return bool(self.fault) or self._closing

    # Reading, from any thread but a loop's

    def sessions(self) -> list[tuple[str, bytes]]:
        """All sessions that are remembered."""
        return self._read("SELECT id, facts FROM sessions ORDER BY rowid", ())

    def items(self, session: str, prefix: str) -> list[tuple[str, bytes]]:
        """The values of a session whose keys begin so, in the order of the keys."""
        query = "SELECT key, value FROM items WHERE session = ? AND key >= ? AND key < ? ORDER BY key"
        return self._read(query, (session, prefix, prefix + "\U0010ffff"))

    def get(self, session: str, key: str) -> bytes | None:
        """One value."""
        found = self._read("SELECT key, value FROM items WHERE session = ? AND key = ?", (session, key))
        return found[0][1] if found else None

    def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[str, bytes]]:
        with self._using:
            if self._connection is None:
                return []
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise InternalError(f"the store {self.path} cannot be read: {error}") from error

    @property
    def is_over_limit(self) -> bool:
        """Whether sessions have to give up the oldest of what they keep; as it was SIZE_S ago at most."""
        return self._used_bytes > LIMIT_BYTES

    def close(self) -> None:
        """Write what is queued and let go of the file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        else:
            self._let_go()

    # The writer's thread

    def _write_always(self) -> None:
        while True:
            with self._changed:
                while not self._writes and not self._closing:
                    self._changed.wait()
                batch, self._writes = self._writes, deque()
            if batch:
                self._write(batch)
                self._tell(len(batch))
            elif self._closing:
                break
        self._let_go()

    def _let_go(self) -> None:
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _write(self, batch: Iterable[Write]) -> None:
        """One transaction: of a batch all is kept, or nothing."""
        if self.fault or self._connection is None:
            return
        with self._using:
            try:
                self._connection.execute("BEGIN")
                for statement, values in batch:
                    self._connection.execute(statement, values)
                self._connection.execute("COMMIT")
                self._look_at_size(self._connection)
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                set_complete(self.path, False)
                self._fail(str(error))

    def _look_at_size(self, connection: sqlite3.Connection) -> None:
        if time.monotonic() - self._sized_at >= SIZE_S:
            self._sized_at = time.monotonic()
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            )
            self._used_bytes = (pages - free) * size

    def _tell(self, written: int) -> None:
        with self._changed:
            self._written += written
        while (callback := self._next_to_tell()) is not None:
            try:
                callback()
            except Exception:  # the plugin call: one session's fault is not the next one's
                log.exception("store-callback-failed")

    def _next_to_tell(self) -> Callable[[], None] | None:
        with self._changed:
            self._is_telling = bool(self._waiting) and (bool(self.fault) or self._waiting[0][0] <= self._written)
            return self._waiting.popleft()[1] if self._is_telling else None

    def _fail(self, reason: str) -> None:
        self.fault = reason
        log.error("store-off", path=str(self.path), reason=reason, effect="sessions and results end with this process")

"""The store's file: opening it for this process alone, its schema, and what is done with a file that is damaged.

A write-ahead log is used on local disks only; network file systems get a rollback journal. Both are locked as long as the
process runs, and the lock ends with it, however it ends. Nothing here knows what is kept.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from orbit_zmq.plugin.store import INCOMPLETE

SCHEMA_VERSION = 1
CHECK_BYTES = 64 << 20  # a larger file is not read through at every start
LOCK_S = 5.0  # for the predecessor of the same name to come to its end
PAGES_KEPT = 1_000  # of the write-ahead log between two checkpoints: 4 MiB
LOG_BYTES = 64 << 20  # that the log may keep of the disk after one large write
LOCAL = frozenset({"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
JOURNALS = ("-wal", "-shm", "-journal")
MARKS = (".owner", ".complete")  # instead of .sqlite
DAMAGE = ("sqlite_corrupt", "sqlite_notadb")

SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, facts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    session TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (session, key)
);
"""


class Damaged(Exception):
    """The file is no store any more."""


class TooNew(Exception):
    """A newer release has written the file."""


def path_of(directory: Path, endpoint: str) -> Path:
    """Where the store of the endpoint of that name lies."""
    return directory / f"endpoint-{endpoint}.sqlite"


def open_file(path: Path) -> sqlite3.Connection:
    """The file, made where there is none. BlockingIOError: another process has it; Damaged, TooNew, sqlite3.Error, OSError."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        name = str(getattr(error, "sqlite_errorname", "")).lower()
        if name.startswith(("sqlite_busy", "sqlite_locked")):
            raise BlockingIOError(str(error)) from error
        if name.startswith(DAMAGE):
            raise Damaged(str(error)) from error
        raise
    except Exception:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    is_local = filesystem_of(path) in LOCAL
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute(f"PRAGMA journal_mode = {'WAL' if is_local else 'TRUNCATE'}")
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if is_local else 'FULL'}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {PAGES_KEPT}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    connection.execute("BEGIN EXCLUSIVE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise TooNew(f"its schema has version {version}, this release knows {SCHEMA_VERSION}")
    if path.stat().st_size <= CHECK_BYTES:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise Damaged(str(found))
    for statement in SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def filesystem_of(path: Path) -> str:
    """The kind of file system that a path lies on, or nothing where that cannot be found out."""
    import psutil  # an endpoint has it; the command line does without

    place = os.path.realpath(path)
    best, kind = "", ""
    with suppress(OSError):
        for mount in psutil.disk_partitions(all=True):
            inside = place == mount.mountpoint or place.startswith(mount.mountpoint.rstrip("/") + "/")
            if inside and len(mount.mountpoint) >= len(best):
                best, kind = mount.mountpoint, mount.fstype
    return kind.lower()


def move_aside(path: Path) -> Path | None:
    """Rename a damaged file and its journals, so that nothing of it is lost; its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
    try:
        path.rename(aside)
        for suffix in JOURNALS:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    except OSError:
        return None
    return aside


def remove(path: Path) -> None:
    """Nothing is left of the store of an endpoint that does not come back; BlockingIOError while a process has it."""
    if path.exists():
        try:
            open_file(path).close()
        except BlockingIOError:
            raise
        except (Damaged, TooNew, sqlite3.Error, OSError):
            pass  # nobody has it
    others = [path.with_name(path.name + suffix) for suffix in JOURNALS] + [path.with_suffix(mark) for mark in MARKS]
    for each in (path, *others, *path.parent.glob(f"{glob.escape(path.name)}.damaged-*")):
        with suppress(OSError):
            each.unlink(missing_ok=True)


def mark_owner(path: Path) -> None:
    """Say beside the file which process has it; a hint for people, the lock is the file's own."""
    with suppress(OSError):
        path.with_suffix(".owner").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))


def set_complete(path: Path, is_complete: bool) -> None:
    """Say beside the file whether all that was to be in it is. Taking this back needs no room on a full disk."""
    mark = path.with_suffix(".complete")
    with suppress(OSError):
        if is_complete:
            mark.touch(mode=0o600)
        else:
            mark.unlink(missing_ok=True)


def note_incomplete(connection: sqlite3.Connection) -> None:
    """Tell the sessions in the file that the last process could not write all that they had to keep."""
    connection.execute(
        "INSERT OR REPLACE INTO items (session, key, value) SELECT id, ?, ? FROM sessions", (INCOMPLETE, b"\xc3")
    )


def is_complete(path: Path) -> bool:
    """Whether the last process that had the file could write all that it had to."""
    return path.with_suffix(".complete").exists()


def owner_of(path: Path) -> str:
    """Who has the file, in words."""
    try:
        owner = json.loads(path.with_suffix(".owner").read_text())
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which one is not known"

"""Files that only their owner may read: written whole or not at all, and refused when others could have read them.

What is written here is small (keys, lists, records). Nothing here knows what is inside.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from orbit_zmq.errors import NotPermitted

OTHERS = stat.S_IRWXG | stat.S_IRWXO
TOKEN_BYTES = 6  # in the name of a file that is not whole yet


def make_private_directory(path: Path, variable: str) -> Path:
    """Make the directory (0700) if it is absent, and refuse one that is another user's or that others may enter.

    `variable` is the environment variable that names another place; errors tell the user of it.
    """
    hint = f"Set {variable} to a directory of your own, or run: chmod 700 {path}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise NotPermitted(f"The directory {path} cannot be made: {error.strerror}.", hint=hint) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NotPermitted(f"{path} is not a directory of this user.", hint=hint)
    if found.st_mode & OTHERS:
        raise NotPermitted(f"The directory {path} is open to other users.", hint=hint)
    return path


def write_private(path: Path, content: str) -> None:
    """Replace the file (0600) at once and durably; a reader sees the old content or the new, never a part."""
    temporary = _write_temporary(path, content)
    try:
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error
    _sync_directory(path.parent)


def create_private(path: Path, content: str) -> bool:
    """Make the file (0600) unless it exists; False when it does. Of two processes at once, one makes it."""
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)  # unlike a rename it never replaces the file of a process that was faster
    except FileExistsError:
        return False
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return True


def remove_private(path: Path) -> None:
    """Remove the file if it is there, and what a process has left that was killed while it wrote it."""
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * TOKEN_BYTES}}}")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name == path.name or temporary.fullmatch(name):
                with contextlib.suppress(OSError):
                    path.with_name(name).unlink(missing_ok=True)


def read_private(path: Path) -> str:
    """The content; NotPermitted when group or others may read the file. FileNotFoundError passes as it is."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & OTHERS:
                raise NotPermitted(
                    f"{path} can be read by other users, so what is inside is no secret any more.",
                    hint=f"If nobody has read it run: chmod 600 {path}; else delete it and have a new one made.",
                )
            if found.st_uid not in (os.geteuid(), 0):
                raise NotPermitted(f"{path} belongs to another user.", hint="Use a file of your own.")
            return file.read()
    except PermissionError as error:
        if isinstance(error, NotPermitted):
            raise
        raise NotPermitted(f"{path} cannot be read by this user.", hint="Use a file of your own.") from error


def file_version(path: Path) -> tuple[int, int, int] | None:
    """What tells one version of a file from another; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _write_temporary(path: Path, content: str) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error
    return temporary


def _sync_directory(directory: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> NotPermitted:
    return NotPermitted(
        f"{path} cannot be written: {error.strerror}.",
        hint="Set ORBIT_STATE_DIR and ORBIT_RUNTIME_DIR to directories that can be written.",
    )

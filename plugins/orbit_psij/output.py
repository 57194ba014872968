"""What jobs print, read by cursor: bytes from an offset on, a bounded part at a time. It knows nothing of jobs.

A file that is not there yet is empty, as is what is no regular file: a pipe would keep its reader waiting, and a device may
never end. One that has become shorter was begun anew, as by a job that was requeued: it is read from its beginning.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orbit_zmq.errors import NotPermitted

PORTION_BYTES = 1 << 20
LONGEST_SIGN = 4  # bytes of one character in UTF-8


def read_part(path: Path, offset: int, max_bytes: int = PORTION_BYTES) -> tuple[bytes, int, int]:
    """What is there from the offset on, the offset after it, and the size of the file; NotPermitted where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would be to read from it
            return b"", 0, 0
        with open(path, "rb", opener=_without_waiting) as file:
            size = os.fstat(file.fileno()).st_size
            begin = offset if offset <= size else 0
            file.seek(begin)
            part = file.read(max_bytes)
    except FileNotFoundError:
        return b"", 0, 0
    except OSError as error:
        hint = "Is it on a file system that this host sees, and may the endpoint's user read it?"
        raise NotPermitted(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    return part, begin + len(part), max(size, begin + len(part))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_text(path: Path, offset: int, is_final: bool, max_bytes: int = PORTION_BYTES) -> tuple[str, int, int]:
    """The same as text; a character of which not all bytes are there is left for the next time, unless no more will come."""
    part, after, size = read_part(path, offset, max_bytes)
    kept = b"" if is_final and after >= size else unfinished(part)
    whole = part[: len(part) - len(kept)]
    return whole.decode(errors="replace"), after - len(kept), size


def unfinished(part: bytes) -> bytes:
    """The bytes at the end that may be the beginning of a character."""
    for length in range(1, min(LONGEST_SIGN, len(part) + 1)):
        first = part[-length]
        if first < 0x80:
            return b""
        if first >= 0xC0:
            wanted = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
            return part[-length:] if wanted > length else b""
    return b""

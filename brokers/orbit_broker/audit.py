"""The audit log: who did or was refused what, on whose behalf, one JSON object a line, in a file of its own.

It has what admins do and what was refused to whom; it never has a secret, nor the arguments of a call. The file is 0600 and
rotated by size. One peer writes a bounded number of lines; the rest is counted, and said with the next line of that peer.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

FILE_BYTES = 10 << 20
FILES = 5  # kept beside the one that is written
LINES_PER_S = 5.0  # of one peer, in the long run
BURST = 50
PEERS = 4_096  # whose rates are remembered


class Audit:
    """Where audit lines go. Writing one never raises: a full disk must not end the broker."""

    def __init__(self, path: Path) -> None:
        self.lost = 0  # lines that could not be written
        self._file = _PrivateFile(path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8", delay=True)
        self._peers: dict[str, list[float]] = {}  # key -> [lines that it may write now, when that was, suppressed]

    def write(self, records: list[dict[str, Any]], now: float) -> None:
        """Write what the rates allow, and forget the records."""
        for record in records:
            suppressed = self._take(str(record.get("key", "")), now)
            if suppressed is not None:
                self._write_line(record | ({"suppressed": suppressed} if suppressed else {}))
        records.clear()

    def close(self) -> None:
        self._file.close()

    def _take(self, key: str, now: float) -> int | None:
        """How many lines of this peer were left out since its last; None when this one is left out as well."""
        if key not in self._peers and len(self._peers) >= PEERS:
            self._peers.clear()
        peer = self._peers.setdefault(key, [float(BURST), now, 0.0])
        peer[0] = min(BURST, peer[0] + (now - peer[1]) * LINES_PER_S)
        peer[1] = now
        if peer[0] < 1:
            peer[2] += 1
            return None
        peer[0] -= 1
        suppressed, peer[2] = int(peer[2]), 0.0
        return suppressed

    def _write_line(self, record: dict[str, Any]) -> None:
        facts = {name: value for name, value in record.items() if value not in ("", None)}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts})
        try:
            self._file.write_line(line)
        except OSError:
            self.lost += 1


class _PrivateFile(RotatingFileHandler):
    """The standard library's rotation, for a file that only its owner may read."""

    def write_line(self, line: str) -> None:
        stream = self.stream or self._open()
        self.stream = stream
        if stream.tell() + len(line) >= self.maxBytes:
            self.doRollover()
            stream = self.stream = self._open()
        stream.write(line + "\n")
        stream.flush()

    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename,
            "a",
            encoding=self.encoding,
            opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600),
        )

"""Histories: one JSON object a line, appended as things happen, so that a killed process has said all that it knew."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class History:
    """A file that is only ever appended to."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, **facts: Any) -> None:
        """Write one record at once."""
        os.write(self._descriptor, (json.dumps(facts) + "\n").encode())

    def add_all(self, records: list[Record]) -> None:
        """Write several records with one call of the system."""
        text = "".join(json.dumps(record) + "\n" for record in records).encode()
        while text:
            text = text[os.write(self._descriptor, text) :]

    def close(self) -> None:
        os.close(self._descriptor)


def read_history(path: Path) -> Iterator[Record]:
    """The records of a file; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)

"""Where the two ends of a tunnel meet before there is one: files in a directory that both see, a home most often.

`<name>.req` is written by the child and asks for a tunnel to it; that it exists is the sign that the child is ready.
`<name>.port` says how the tunnel is, by whoever keeps it, or by the child that has given up. `<name>.pid` has ssh's process.
Each is written whole or not at all, and the directory is read before a file is: a client of NFS remembers for long that a
file was not there, and not what else is in the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.files import make_private_directory, remove_private, write_private
from orbit_zmq.paths import state_dir

SUFFIXES = (".req", ".port", ".pid")
REQUESTS = 3  # of one child, with other ports each


@dataclass(frozen=True, slots=True)
class Request:
    """What a child asks for: that the broker's two addresses be reached at these ports of its machine."""

    endpoint_name: str
    hostname: str
    port: int  # for requests
    events_port: int
    number: int = 1  # of the attempt, for a port may be taken
    asked_at: float = 0.0  # seconds since 1970
    tried: str = ""  # what has failed before


@dataclass(frozen=True, slots=True)
class Report:
    """How the tunnel is, written by whoever keeps it at each change."""

    number: int  # of the request that it answers
    state: str  # pending, active, reconnecting, failed, done; no_tunnel where none is needed
    mode: str  # none, forward, reverse
    port: int = 0
    pid: int | None = None
    ssh_host: str = ""
    since: float = 0.0  # of the state, seconds since 1970
    reason: str = ""
    hint: str = ""
    wants_other_port: bool = False  # it cannot be had at these ports, and is not tried any more until it is asked for at others

    def answers(self, request: Request) -> bool:
        """Whether it is about that request, and not about one of an earlier run of the job."""
        return (self.number, self.port, self.ssh_host) == (request.number, request.port, request.hostname)


class Rendezvous:
    """The files of one child."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        self._name = name
        self._directory = directory or state_dir() / "tunnels"
        make_private_directory(self._directory, "ORBIT_STATE_DIR")

    def clear(self) -> None:
        """Remove all of it."""
        for suffix in SUFFIXES:
            remove_private(self._path(suffix))

    def ask(self, request: Request) -> None:
        write_private(self._path(".req"), json.dumps(asdict(request)))

    def withdraw(self) -> None:
        """Nobody waits for an answer any more."""
        with contextlib.suppress(OSError):
            self._path(".req").unlink(missing_ok=True)

    def request(self) -> Request | None:
        """The child's request, if there is one."""
        found = self._read(".req")
        return _made(Request, found) if found is not None else None

    def report(self, report: Report) -> None:
        if report.pid is not None:
            write_private(self._path(".pid"), str(report.pid))
        write_private(self._path(".port"), json.dumps(asdict(report)))

    def reported(self) -> Report | None:
        """The last report, if there is one."""
        found = self._read(".port")
        return _made(Report, found) if found is not None else None

    def _read(self, suffix: str) -> dict[str, Any] | None:
        path = self._path(suffix)
        if path.name not in os.listdir(self._directory):
            return None
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):  # it is being replaced on another machine
            return None
        return found if isinstance(found, dict) else None

    def _path(self, suffix: str) -> Path:
        return self._directory / f"{self._name}{suffix}"


def _made(kind: Any, found: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        raise InvalidArgument(f"a file of a tunnel is not as this version knows it: {error.error_count()} fields") from None

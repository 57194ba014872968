"""The records of endpoints and supervisors that run for this user on this machine, so that they can be found and ended.

A record is a hint, never a lock: the process may be gone, its number may be another process's by now, and a runtime directory
that several machines share may hold records of another host. Nothing here starts or ends anything. (The broker's record is
the runtime file, which says where it listens as well.)
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from orbit_zmq.errors import NotPermitted
from orbit_zmq.files import read_private, write_private
from orbit_zmq.log import get_logger
from orbit_zmq.paths import runtime_dir
from orbit_zmq.runtime_file import runs

ENDPOINT = "endpoint"
SUPERVISOR = "supervisor"
SUPERVISED = "broker"  # the name in a supervisor's record

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One running process; `started` is wall-clock seconds of the record, `log` the file that it writes to, or empty."""

    kind: str
    name: str
    pid: int
    hostname: str
    started: float
    log: str = ""
    parent_pid: int = 0  # of `orbit up` or whatever else would not expect its end; 0: none

    @classmethod
    def of_this_process(cls, kind: str, name: str, *, log: str = "", parent_pid: int = 0) -> ProcessRecord:
        return cls(kind, name, os.getpid(), socket.gethostname(), time.time(), log, parent_pid)

    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.hostname == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether that very process is there; one on another machine is believed to be."""
        return not self.is_here() or runs(self.pid, self.started)

    def write(self) -> None:
        """Publish it, in place of an older one of that name. No service ends for a record: what cannot be is logged."""
        try:
            write_private(_path(self.kind, self.name), json.dumps(asdict(self)) + "\n")
        except NotPermitted as error:
            log.warning("record-not-written", kind=self.kind, name=self.name, reason=error.message)

    def remove(self) -> None:
        """Take it away, unless it has been replaced by another process's. What cannot be is logged."""
        try:
            if read_record(self.kind, self.name) == self:
                _path(self.kind, self.name).unlink(missing_ok=True)
        except OSError as error:  # NotPermitted is one, too
            log.warning("record-not-removed", kind=self.kind, name=self.name, reason=str(error))


def read_record(kind: str, name: str) -> ProcessRecord | None:
    """The record of that name, of a process that is there or not; None where there is none or it is damaged.

    NotPermitted where others could have written it.
    """
    try:
        return _record_of(json.loads(read_private(_path(kind, name))))
    except NotPermitted:
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def records_of(kind: str) -> list[ProcessRecord]:
    """All records of a kind that can be read, by name; one that may not be believed is logged."""
    suffixes = (path.name.removeprefix(f"{kind}.").removesuffix(".json") for path in runtime_dir().glob(f"{kind}.*.json"))
    found = (believed_record(kind, name) for name in sorted(suffixes))
    return [record for record in found if record is not None]


def believed_record(kind: str, name: str) -> ProcessRecord | None:
    """The record of that name; one that others could have written is logged and counts as none."""
    try:
        return read_record(kind, name)
    except NotPermitted as error:
        log.warning("record-not-read", kind=kind, name=name, reason=error.message)
        return None


def running_supervisor() -> ProcessRecord | None:
    """The supervisor of this user's broker on this machine, where there is one."""
    record = read_record(SUPERVISOR, SUPERVISED)
    return record if record is not None and record.is_here() and record.is_alive() else None


def _path(kind: str, name: str) -> Path:
    return runtime_dir() / f"{kind}.{name}.json"


def _record_of(content: dict[str, object]) -> ProcessRecord:
    record = ProcessRecord(**content)  # type: ignore[arg-type]  # looked at in the next lines
    texts, numbers = (record.kind, record.name, record.hostname, record.log), (record.pid, record.parent_pid)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("a record of other types")
    if record.pid <= 0 or not isinstance(record.started, (int, float)):
        raise ValueError("a record of no process")
    return record

"""The record of the broker that runs for this user on this machine, so that local programs find it without being told.

It says where the broker listens and under which key. It is a hint, never a lock: whoever reads it still has to connect. The
record of a process that is gone counts as absent.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from orbit_zmq.errors import NotPermitted
from orbit_zmq.files import read_private, write_private
from orbit_zmq.paths import runtime_dir

FILE_NAME = "broker.json"
CLOCK_SLACK_S = 5.0  # a process cannot have begun after its own record, apart from steps of the clock


@dataclass(frozen=True, slots=True)
class RuntimeFile:
    """One running broker; `ipc` is a path, `tcp` an address or None, `epoch` hexadecimal, `started` wall-clock seconds.

    The last two say where events are published.
    """

    pid: int
    hostname: str
    ipc: str
    tcp: str | None
    public_key: str
    epoch: str
    started: float
    events_ipc: str | None = None
    events_tcp: str | None = None

    def is_here(self) -> bool:
        """Whether it runs on this machine; a runtime directory may be shared by several."""
        return self.hostname == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether the process is there. One on another machine is believed to be."""
        return not self.is_here() or runs(self.pid, self.started)


def runtime_file_path() -> Path:
    """Where the record lies."""
    return runtime_dir() / FILE_NAME


def write_runtime_file(record: RuntimeFile) -> None:
    """Publish the record of a broker that listens."""
    write_private(runtime_file_path(), json.dumps(asdict(record)) + "\n")


def read_runtime_file() -> RuntimeFile | None:
    """The record of a broker that is there, or None: no file, a damaged one, or one that a dead process has left."""
    try:
        content = json.loads(read_private(runtime_file_path()))
        record = RuntimeFile(**content)
    except NotPermitted:
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if _has_right_types(record) and record.is_alive() else None


def remove_runtime_file(expected_pid: int) -> bool:
    """Take the record away if it is that process's; a newer broker's stays."""
    path = runtime_file_path()
    try:
        if json.loads(read_private(path)).get("pid") != expected_pid:
            return False
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    path.unlink(missing_ok=True)
    return True


def _has_right_types(record: RuntimeFile) -> bool:
    texts = (record.hostname, record.ipc, record.public_key, record.epoch)
    return (
        type(record.pid) is int
        and record.pid > 0
        and all(isinstance(text, str) for text in texts)
        and all(address is None or isinstance(address, str) for address in (record.tcp, record.events_ipc, record.events_tcp))
        and isinstance(record.started, (int, float))
    )


def runs(pid: int, started: float) -> bool:
    """Whether a process of this user has that number and began before then; a number is given out again."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return False  # the process number went to another user: ours is gone
    import psutil  # only where a record is found

    try:
        process = psutil.Process(pid)
        is_older = process.create_time() <= started + CLOCK_SLACK_S  # else the number has been given out again
        return bool(is_older and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False

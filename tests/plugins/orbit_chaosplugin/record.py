"""One line for each execution, written before anything else happens, so that a killed process has said what it began.

ORBIT_CHAOS_LOG names the file or pipe. One write of less than PIPE_BUF bytes is never torn.
"""

from __future__ import annotations

import json
import os
import time

VARIABLE = "ORBIT_CHAOS_LOG"
_descriptors: dict[int, int] = {}  # by process, for the workers that fork


def executed(key: str) -> None:
    """Write that this key is executed now."""
    pid = os.getpid()
    if pid not in _descriptors:
        _descriptors[pid] = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND)
    os.write(_descriptors[pid], (json.dumps({"key": key, "t": time.monotonic(), "pid": pid}) + "\n").encode())


def work(key: str, number: int) -> int:
    """A task: a function that is named and not sent."""
    executed(key)
    return number * number


def work_for(key: str, number: int, seconds: float) -> int:
    """A task that takes its time."""
    executed(key)
    time.sleep(seconds)
    return number * number

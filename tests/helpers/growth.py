"""How much memory processes came to take."""

from __future__ import annotations

import re
from pathlib import Path


def memory(pid: int | str, line: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    found = re.search(rf"{line}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


class Growth:
    """The highest memory of processes since now, above what they have now."""

    def __init__(self, **pids: int | str) -> None:
        self.pids = pids
        for pid in pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
        self.before = {name: memory(pid, "VmRSS") for name, pid in pids.items()}

    def bytes(self) -> dict[str, int]:
        return {name: memory(pid, "VmHWM") - self.before[name] for name, pid in self.pids.items()}

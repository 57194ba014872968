"""Streams of any length cost no memory, in any process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab

STREAM_BYTES = 200 << 20
GROWTH_BYTES = 32 << 20
BLOCK = bytes(1 << 16)


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


def blocks(total: int) -> Iterator[bytes]:
    for _ in range(total // len(BLOCK)):
        yield BLOCK


@pytest.mark.timeout(300)
def test_two_hundred_megabytes_each_way_grow_no_process(lab: Lab):
    endpoint = lab.start_endpoint("hpc1", url=lab.tcp)
    assert lab.broker is not None
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "test")
    plugin.count(data=blocks(1 << 20))
    growth = Growth(client="self", broker=lab.broker.pid, endpoint=endpoint.pid)

    assert plugin.count(data=blocks(STREAM_BYTES)) == STREAM_BYTES
    assert sum(map(len, plugin.produce(total_bytes=STREAM_BYTES))) == STREAM_BYTES
    grown = growth.bytes()
    print({name: f"{size / 1e6:.1f} MB" for name, size in grown.items()})
    assert max(grown.values()) < GROWTH_BYTES, grown

"""Streams of any length cost no memory, in any process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from growth import Growth
from lab import Lab

STREAM_BYTES = 200 << 20
GROWTH_BYTES = 32 << 20
BLOCK = bytes(1 << 16)


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

"""A thousand endpoints in a few processes come back to a broker that was killed, and it stays small."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
from chaoslab.figures import report
from chaoslab.world import World
from lab import wait_until

from orbit_zmq import Client

ENDPOINTS = 1_000
PROCESSES = 10
BACK_S = 10.0
MEMORY_MB = 200.0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_thousand_endpoints_are_back_soon_after_a_restart(world: World):
    world.start_broker()
    each = ENDPOINTS // PROCESSES
    crowds = {f"crowd{p}": [f"e{p}-{n}" for n in range(each)] for p in range(PROCESSES)}
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(lambda item: world.start_crowd(*item), crowds.items()))
    with Client(url=world.ipc) as client:
        wait_until(partial(_are_all_present, client), 60, "all endpoints")
        world.kill("broker")
        world.restart("broker")
        back = time.monotonic()
        wait_until(partial(_are_all_present, client), 60, "all endpoints again")
        took_s = time.monotonic() - back
        memory = psutil.Process(world.children["broker"].pid).memory_info().rss / 2**20
        answers = [client.call(f"e{p}-7", "chaos", "look", {"key": "k", "number": 3})["square"] for p in range(PROCESSES)]
    assert answers == [9] * PROCESSES
    report("a thousand endpoints are back", took_s, BACK_S, "s")
    report("memory of their broker", memory, MEMORY_MB, "MB")
    assert took_s <= BACK_S and memory <= MEMORY_MB


def _are_all_present(client: Client) -> bool:
    status = client.broker_status()
    return sum(party["role"] == "endpoint" and party["is_connected"] for party in status["participants"]) == ENDPOINTS

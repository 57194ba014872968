"""SIGTERM under load: broker and endpoint end within seconds, whatever is open, and the open calls end as well."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from functools import partial

import pytest
from chaoslab.figures import report
from chaoslab.world import World
from lab import wait_until

from orbit_zmq import AsyncClient
from orbit_zmq.errors import OrbitError

CALLERS = 10
CALLS = 10_000
ENDPOINTS = [f"hpc{number}" for number in range(10)]  # a caller may have 1,024 calls open at one
EXIT_S = 3.0
BUSY = 4  # so many times longer on a machine that has other things to do
DEADLINE_S = 300.0


@pytest.mark.timeout(480)
def test_ten_thousand_open_calls_keep_neither_broker_nor_endpoints_from_ending(world: World):
    world.start_broker()
    world.start_crowd("crowd", ENDPOINTS)
    outcomes, broker_s, crowd_s = asyncio.run(_shut_down(world))
    report("broker's exit after SIGTERM", broker_s, EXIT_S, "s")
    report("ten endpoints' exit under the same calls", crowd_s, 2 * EXIT_S, "s")
    assert sum(outcomes.values()) == CALLS and set(outcomes) <= {"shutting-down", "outcome-unknown", "endpoint-lost"}, outcomes
    assert broker_s <= BUSY * EXIT_S


async def _shut_down(world: World) -> tuple[Counter[str], float, float]:
    clients = [AsyncClient(url=world.ipc) for _ in range(CALLERS)]
    for client in clients:
        await client.connect()
    calls = [asyncio.create_task(_call(clients[n % CALLERS], n)) for n in range(CALLS)]
    await asyncio.to_thread(wait_until, partial(_are_open, world), 120, "all calls at work")
    broker_s = await asyncio.to_thread(_time_of_end, world, "broker")
    assert not any(call.done() for call in calls)  # a restart of the broker ends none
    await asyncio.to_thread(world.restart, "broker")
    crowd_s = await asyncio.to_thread(_time_of_end, world, "crowd")
    outcomes = Counter(await asyncio.gather(*calls))
    for client in clients:
        await client.close()
    return outcomes, broker_s, crowd_s


async def _call(client: AsyncClient, number: int) -> str:
    arguments = {"key": f"c{number}", "number": number, "seconds": 600.0}
    try:
        await client.call(ENDPOINTS[number // CALLERS % len(ENDPOINTS)], "chaos", "once", arguments, deadline_s=DEADLINE_S)
    except OrbitError as error:
        return error.code
    return "ok"


def _are_open(world: World) -> bool:
    return len(world.executions()) >= CALLS


def _time_of_end(world: World, name: str) -> float:
    asked = time.monotonic()
    world.signal(name, signal.SIGTERM)
    wait_until(lambda: world.children[name].exit_code() is not None, 60, f"the end of {name}")
    return time.monotonic() - asked

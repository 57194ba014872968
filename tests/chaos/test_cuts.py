"""The connection is reset again and again under load; nothing is lost, fails, or runs twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_zmq import AsyncClient

CUTS = 100
OPEN_CALLS = 64
RATE_PER_S = 200


@pytest.mark.timeout(600)
def test_a_hundred_resets_under_load_end_no_call_and_run_none_twice(lab: Lab):
    client_line, endpoint_line = lab.proxy(lab.tcp), lab.proxy(lab.tcp)
    lab.start_endpoint("hpc1", url=endpoint_line.address)
    history = asyncio.run(_work_under_cuts(client_line, endpoint_line))

    assert history.errors == []
    assert min(history.finished_between) > 0, history.finished_between
    executions = Counter(lab.executed())
    assert set(executions.values()) == {1}
    assert set(executions) == {f"once-{n}" for n in range(history.writes)}


class History:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.finished = 0
        self.writes = 0
        self.finished_between: list[int] = []


async def _work_under_cuts(client_line: Any, endpoint_line: Any) -> History:
    history, done = History(), asyncio.Event()
    async with AsyncClient(url=client_line.address) as client:
        plugin = await client.get_plugin("hpc1", "test")
        slots = asyncio.Semaphore(OPEN_CALLS)

        async def call(number: int) -> None:
            try:
                if number % 2:
                    key, history.writes = f"once-{history.writes}", history.writes + 1
                    answer = await plugin.call("once", key=key, seconds=0.2, deadline_s=200)
                    assert answer["key"] == key
                else:
                    assert await plugin.call("echo", text=str(number), deadline_s=200) == str(number)
                history.finished += 1
            except Exception as error:
                history.errors.append(repr(error))
            finally:
                slots.release()

        cutter = threading.Thread(target=_cut, args=(history, client_line, endpoint_line, done, asyncio.get_running_loop()))
        cutter.start()
        async with asyncio.TaskGroup() as group:
            number, began = 0, time.monotonic()
            while not done.is_set():
                await slots.acquire()
                group.create_task(call(number))
                number += 1
                await asyncio.sleep(max(0.0, began + number / RATE_PER_S - time.monotonic()))
        cutter.join()
    return history


def _has_finished(history: History, calls: int) -> bool:
    return history.finished >= calls


def _cut(history: History, client_line: Any, endpoint_line: Any, done: asyncio.Event, loop: Any) -> None:
    """Reset one of the two connections whenever calls have finished since the last time."""
    try:
        for turn in range(CUTS):
            before = history.finished
            wait_until(partial(_has_finished, history, before + 5), within_s=60, what="a call that finishes")
            history.finished_between.append(history.finished - before)
            (client_line if turn % 2 else endpoint_line).cut()
    finally:
        loop.call_soon_threadsafe(done.set)

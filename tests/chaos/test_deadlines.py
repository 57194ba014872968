"""No answer comes late: calls that nobody answers end at their deadline, as exactly as a timer of the same process fires."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time

import pytest
from chaoslab.figures import percentile, report
from chaoslab.world import World

from orbit_zmq import AsyncClient, Client
from orbit_zmq.errors import DeadlineExceeded, EndpointLost

CALLS = 5_000
LATE_S = 0.25
BUSY = 4  # so many times longer on a machine that has other things to do


@pytest.mark.timeout(400)
def test_calls_end_at_their_deadline_whatever_is_stopped(world: World):
    world.start_broker()
    names = [f"hpc{number}" for number in range(5)]
    world.start_crowd("crowd", names)
    late, control = asyncio.run(_measure(world, names))
    report("control timer late, p99.9", percentile(control, 0.999), LATE_S, "s")
    report("answer after its deadline, p99.9", percentile(late, 0.999), LATE_S, "s")
    report("answer after its deadline, latest", max(late), LATE_S, "s")
    assert len(late) == CALLS
    assert percentile(late, 0.999) - percentile(control, 0.999) <= BUSY * LATE_S


@pytest.mark.timeout(240)
def test_a_call_that_is_made_again_has_no_more_time_than_it_was_given(world: World):
    """The line is down while the endpoint is started anew; what is said again meets the new one, which does not answer."""
    world.start_broker()
    world.start_endpoint("hpc1", on_line=False, plugins="chaos")
    line = world.line("client")
    with Client(url=line.address) as client:
        client.call("hpc1", "chaos", "look", {"key": "first", "number": 1})
        line.hold()
        heal = threading.Timer(7.0, line.heal)
        world.kill("hpc1")
        world.restart("hpc1")
        world.signal("hpc1", signal.SIGSTOP)
        heal.start()
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, EndpointLost)):
            client.call("hpc1", "chaos", "look", {"key": "second", "number": 1}, deadline_s=9.0)
        took_s = time.monotonic() - began
        world.signal("hpc1", signal.SIGCONT)
        heal.join()
    assert took_s < 15.0  # where it had its time anew, that would be 16


async def _measure(world: World, names: list[str]) -> tuple[list[float], list[float]]:
    late: list[float] = []
    control: list[float] = []
    source = random.Random(1)
    async with AsyncClient(url=world.ipc) as client:
        for name in names:
            await client.call(name, "chaos", "look", {"key": "k", "number": 1})
        world.signal("crowd", signal.SIGSTOP)

        async def call(number: int) -> None:
            arguments, deadline_s = {"key": f"c{number}", "number": 1}, source.uniform(0.5, 8.0)
            ends_at = time.monotonic() + deadline_s
            with pytest.raises(DeadlineExceeded):
                await client.call(names[number % len(names)], "chaos", "once", arguments, deadline_s=deadline_s)
            late.append(time.monotonic() - ends_at)

        async def watch() -> None:
            while True:
                due = time.monotonic() + 0.01
                await asyncio.sleep(0.01)
                control.append(time.monotonic() - due)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(call(number) for number in range(CALLS)))
        watching.cancel()
    world.signal("crowd", signal.SIGCONT)
    return late, control

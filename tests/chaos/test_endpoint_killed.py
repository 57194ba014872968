"""An endpoint's process is killed: callers see it suspected at once, and its calls end soon, as what they are."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import pytest
from chaoslab.figures import percentile, report
from chaoslab.world import World
from lab import wait_until

from orbit_zmq import Client
from orbit_zmq.errors import OrbitError, OutcomeUnknown

ENDPOINTS = 12
CALLS = 8
SUSPECT_S = 0.5
ENDED_S = 4.0
BUSY = 4  # so many times longer on a machine that has other things to do; a machine that stands still adds its own
STOOD_STILL_S = 6.0


class Views:
    """When an endpoint was first seen in a state."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], float] = {}

    def take(self, view: dict[str, dict[str, Any]]) -> None:
        for name, facts in view.items():
            self.seen.setdefault((name, facts["state"]), time.monotonic())


@pytest.mark.timeout(400)
def test_callers_see_it_suspected_at_once_and_its_calls_end(world: World):
    world.start_broker()
    names = [f"hpc{number}" for number in range(ENDPOINTS)]
    for name in names:
        world.start_endpoint(name, on_line=False, plugins="chaos")
    suspected, ended = [], []
    with Client(url=world.ipc) as client:
        views = Views()
        client.on_topology_change(views.take)
        for name in names:
            ends: list[float] = []
            callers = [threading.Thread(target=_call, args=(client, name, number, ends)) for number in range(CALLS)]
            for caller in callers:
                caller.start()
            wait_until(partial(_are_executed, world, name), 60, f"calls at {name}")
            killed = time.monotonic()
            world.kill(name)
            wait_until(partial(views.seen.__contains__, (name, "suspect")), 60, f"{name} suspected")
            suspected.append(views.seen[name, "suspect"] - killed)
            for caller in callers:
                caller.join(60)
            assert len(ends) == CALLS
            ended.append(max(ends) - killed)

    report("suspect seen by callers, p99", percentile(suspected, 0.99), SUSPECT_S, "s")
    report("its calls ended, longest", max(ended), ENDED_S, "s")
    assert percentile(suspected, 0.99) <= BUSY * SUSPECT_S + STOOD_STILL_S
    assert max(ended) <= BUSY * ENDED_S


@pytest.mark.timeout(240)
@pytest.mark.parametrize("by", ["name", "capability"])
def test_a_call_that_meets_a_restarted_endpoint_when_it_is_sent_again_is_not_run_again(world: World, by: str):
    world.start_broker()
    world.start_endpoint("hpc1", on_line=False, plugins="chaos")
    line, errors = world.line("client"), list[OrbitError]()
    with Client(url=line.address) as client:
        name = "hpc1" if by == "name" else "*"

        def call() -> None:
            try:
                client.call(name, "chaos", "once", {"key": "k", "number": 1, "seconds": 30.0}, deadline_s=30)
            except OrbitError as error:
                errors.append(error)

        calling = threading.Thread(target=call)
        calling.start()
        wait_until(world.executions, 60, "the call at work")
        line.hold()
        line.cut()
        world.kill("hpc1")
        world.restart("hpc1")
        line.heal()
        calling.join(100)
    assert [error.code for error in errors] == ["outcome-unknown"]
    assert len(world.executions()) == 1


def _call(client: Client, name: str, number: int, ends: list[float]) -> None:
    with pytest.raises(OutcomeUnknown):
        client.call(name, "chaos", "once", {"key": f"{name}-{number}", "number": 1, "seconds": 60.0}, deadline_s=60)
    ends.append(time.monotonic())


def _are_executed(world: World, name: str) -> bool:
    return sum(record["key"].startswith(f"{name}-") for record in world.executions()) == CALLS

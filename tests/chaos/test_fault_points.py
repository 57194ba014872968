"""Each process dies at each of its fault points, under work; nothing is lost, and nothing that may not is run twice."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from chaoslab.checker import check
from chaoslab.world import World
from lab import wait_until

from orbit_zmq.faultpoint import POINTS

PASSAGE = 100
PROCESS = {"broker": "broker", "endpoint": "hpc1", "client": "hpc1"}  # who is to die; an endpoint sends as a client does


@pytest.mark.parametrize("point", sorted(POINTS.keys() - {"client.answered"}))
def test_a_process_that_dies_there_breaks_no_promise(world: World, point: str):
    victim = PROCESS[point.partition(".")[0]]
    world.plant(victim, f"{point}=kill@{PASSAGE}")
    world.start_broker()
    for endpoint in ("hpc1", "hpc2"):
        world.start_endpoint(endpoint, on_line=False)
    world.start_workload("client", ["hpc1", "hpc2"], 200.0, on_line=False, deadline_s=5)
    wait_until(lambda: world.children[victim].exit_code() is not None, 60, f"{victim} to come to {point}")
    began = time.monotonic()
    world.restart(victim)
    back = time.monotonic()
    wait_until(lambda: len(world.executions()) > 2 * PASSAGE, 60, "work after that")
    world.end_workload("client")
    verdict = check([world.history("client")], world.executions(), away=[(began - 10, back + 20)] if victim == "hpc1" else [])
    assert verdict.violations == []


def test_a_client_that_dies_with_answers_on_the_way_has_had_nothing_run_twice(world: World):
    world.plant("client", f"client.answered=kill@{PASSAGE}")
    world.start_broker()
    world.start_endpoint("hpc1", on_line=False)
    world.start_workload("client", ["hpc1"], 200.0, kinds="once,large", on_line=False)
    wait_until(lambda: world.children["client"].exit_code() is not None, 60, "the client to come to its fault point")
    world.start_workload("other", ["hpc1"], 200.0, on_line=False)
    wait_until(lambda: len(world.executions()) > 2 * PASSAGE, 60, "work after that")
    world.end_workload("other")

    executions = Counter(record["key"] for record in world.executions())
    began = {record["key"] for record in world.history("client") if record["event"] == "begin"}
    assert {executions[key] for key in began} <= {0, 1}
    ours = [record for record in world.executions() if record["key"] not in began]
    assert check([world.history("other")], ours).violations == []

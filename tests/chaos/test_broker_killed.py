"""The broker dies with work in flight and is started again: nothing is lost, nothing runs twice, and work goes on."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from functools import partial

import pytest
from chaoslab.figures import percentile, report
from chaoslab.world import World
from lab import wait_until

from orbit_zmq import Client

TASKS = 10_000
KILLS = 100
RESUMES_S = 5.0
BUSY = 4  # so many times longer on a machine that has other things to do


@pytest.mark.timeout(480)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
def test_ten_thousand_tasks_in_flight_outlive_a_broker(world: World, number: int):
    world.start_broker()
    world.start_endpoint("hpc1", on_line=False)
    names = [f"task-{n}" for n in range(TASKS)]
    tasks = [
        {"uid": uid, "function": "orbit_chaosplugin.record:work_for", "args": [uid, n, 0.002]} for n, uid in enumerate(names)
    ]
    with Client(url=world.tcp) as client:
        session = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
        results, came = {}, []

        def collect() -> None:
            for result in session.as_completed(names, timeout=240):
                results[result["uid"]] = result
                came.append(time.monotonic())

        session.submit_tasks(tasks[:1])
        session.submit_tasks(tasks[1:])
        collecting = threading.Thread(target=collect)
        collecting.start()
        wait_until(lambda: len(results) > 100, 60, "the first results")
        world.signal("broker", number)
        wait_until(lambda: world.children["broker"].exit_code() is not None)
        died, done_before = time.monotonic(), len(results)
        world.restart("broker")
        back = time.monotonic()
        collecting.join(240)

    assert [results[uid]["return_value"] for uid in names] == [n * n for n in range(TASKS)]
    assert Counter(record["key"] for record in world.executions()) == Counter(names)
    assert done_before < TASKS
    resumed_s = min(moment for moment in came if moment > died) - back
    assert report("work goes on after the broker is back", resumed_s, RESUMES_S, "s") <= BUSY * RESUMES_S


@pytest.mark.timeout(900)
def test_work_is_seen_between_any_two_of_a_hundred_kills(world: World):
    world.start_broker()
    world.start_endpoint("hpc1", on_line=False)
    world.start_workload("client", ["hpc1"], 100.0, kinds="once,look,anywhere", on_line=False, deadline_s=60)
    resumed = []
    for _ in range(KILLS):
        world.kill("broker")
        world.restart("broker")
        back = time.monotonic()
        resumed.append(wait_until(partial(_first_after, world, back), 60, "a call that ends after a restart") - back)
    world.end_workload("client")

    report("work goes on, p50", percentile(resumed, 0.5), RESUMES_S, "s")
    report("work goes on, longest", max(resumed), RESUMES_S, "s")
    history = world.history("client")
    assert [record for record in history if record.get("outcome", "ok") != "ok"] == []
    once = {record["id"] for record in history if record["event"] == "begin" and not record["may_repeat"]}
    executions = Counter(record["key"] for record in world.executions())
    assert {key: executions[key] for key in once} == dict.fromkeys(once, 1)
    assert max(resumed) <= BUSY * RESUMES_S


def _first_after(world: World, moment: float) -> float:
    """When the first call that began after that moment ended well."""
    began = set()
    for record in world.tail("client"):
        if record["event"] == "begin" and record["t"] > moment:
            began.add(record["id"])
        elif record["event"] == "end" and record["id"] in began and record["outcome"] == "ok":
            return record["t"]
    return 0.0

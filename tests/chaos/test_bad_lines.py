"""A line that is reset, or down for a minute, ends neither calls nor tasks; a machine that is busy loses nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from chaoslab.figures import report
from chaoslab.world import World
from lab import wait_until

from orbit_zmq import Client

DOWN_S = 60.0
TASKS = 200
BUSY_S = float(os.environ.get("ORBIT_CHAOS_BUSY_S", "60"))
LARGE_BYTES = 8 << 20


@pytest.mark.parametrize("side", ["hpc1", "client"])
def test_a_reset_ends_no_call(world: World, side: str):
    world.start_broker()
    world.start_endpoint("hpc1", plugins="chaos")
    answers: list[int] = []
    with Client(url=world.line("client").address) as client:

        def call(number: int) -> None:
            arguments = {"key": f"c{number}", "number": number, "seconds": 1.5}
            answers.append(client.call("hpc1", "chaos", "once", arguments, deadline_s=100)["square"])

        callers = [threading.Thread(target=call, args=(number,)) for number in range(20)]
        for caller in callers:
            caller.start()
        wait_until(lambda: len(world.executions()) == 20, what="calls at work")
        world.line(side).cut()
        for caller in callers:
            caller.join(100)
    assert sorted(answers) == [number * number for number in range(20)]
    assert len(world.executions()) == 20


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("side", ["hpc1", "client"])
def test_a_minute_without_a_line_ends_no_task(world: World, side: str):
    world.start_broker()
    world.start_endpoint("hpc1")
    names = [f"t{number}" for number in range(TASKS)]
    work = "orbit_chaosplugin.record:work_for"
    with Client(url=world.line("client").address) as client:
        session = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
        session.submit_tasks([{"uid": uid, "function": work, "args": [uid, n, 0.2]} for n, uid in enumerate(names)])
        results: list[dict[str, Any]] = []
        waiting = threading.Thread(target=lambda: results.extend(session.wait_tasks(names, timeout=150)))
        waiting.start()
        wait_until(world.executions, 20, "tasks at work")
        world.line(side).hold()
        world.line(side).cut()  # what is open is reset, and nothing new comes through
        waiting.join(DOWN_S)
        healed = time.monotonic()
        world.line(side).heal()
        waiting.join(60)
        report("results after the line is back", time.monotonic() - healed, 10, "s")
    assert [result["return_value"] for result in results] == [number * number for number in range(TASKS)]
    assert len(world.executions()) == TASKS


@pytest.mark.long
@pytest.mark.timeout(300 + BUSY_S)
def test_nobody_is_lost_on_a_machine_that_is_busy(world: World):
    """Every processor has more to do than it can, and large messages go back and forth; ORBIT_CHAOS_BUSY_S makes it longer."""
    world.start_broker()
    for name in ("hpc1", "hpc2"):
        world.start_endpoint(name, plugins="chaos")
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    calls = 0
    try:
        with Client(url=world.line("client").address) as client:
            ends_at = time.monotonic() + BUSY_S
            while time.monotonic() < ends_at:
                arguments = {"key": f"c{calls}", "number": 2, "padding": bytes(LARGE_BYTES), "size": LARGE_BYTES}
                answer = client.call(f"hpc{calls % 2 + 1}", "chaos", "once", arguments, deadline_s=60)
                assert answer["square"] == 4 and len(answer["padding"]) == LARGE_BYTES
                calls += 1
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    lost = [line for line in world.log_of("broker").splitlines() if '"lost"' in line or '"suspect"' in line]
    report("endpoints suspected or lost", len(lost), 0, "times")
    assert lost == [] and calls > 0

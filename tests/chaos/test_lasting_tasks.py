"""Ten thousand tasks in flight, and a kill: of the endpoint that runs them, or of a broker that its supervisor restarts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaoslab.figures import report
from chaoslab.world import World
from lab import lasting_port, wait_until
from shell import Shell

from orbit_zmq import Client
from orbit_zmq.errors import OutcomeUnknown

TASKS = 10_000
NAMES = [f"task-{number}" for number in range(TASKS)]
RESUMES_S = 5.0
BUSY = 4  # so many times longer on a machine that has other things to do


class Collecting:
    """Reads the results of a session while something happens."""

    def __init__(self, session: Any) -> None:
        self.came: list[tuple[float, dict[str, Any]]] = []
        self._session = session
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for result in self._session.as_completed(NAMES, timeout=240):
            self.came.append((time.monotonic(), result))

    def wait(self, results: int) -> None:
        wait_until(lambda: len(self.came) > results, 60, f"{results} results")

    def end(self) -> dict[str, dict[str, Any]]:
        """The results, of which there is one for each task."""
        self._thread.join(240)
        results = {result["uid"]: result for _, result in self.came}
        assert len(self.came) == len(results) == TASKS
        return results


def submit(session: Any, on_unknown: str = "fail") -> None:
    work = "orbit_chaosplugin.record:work_for"
    session.submit_tasks(
        [{"uid": uid, "function": work, "args": [uid, number, 0.002]} for number, uid in enumerate(NAMES)],
        on_unknown=on_unknown,
    )


def squares(results: dict[str, dict[str, Any]]) -> set[str]:
    """The tasks that are done and say what they should."""
    return {uid for number, uid in enumerate(NAMES) if results[uid]["return_value"] == number * number}


@pytest.mark.timeout(480)
@pytest.mark.parametrize("on_unknown", ["fail", "rerun"])
def test_ten_thousand_tasks_of_a_lasting_session_outlive_their_endpoint(world: World, on_unknown: str):
    world.start_broker()
    world.start_endpoint("hpc1", on_line=False)
    with Client(url=world.tcp) as client:
        session = client.get_plugin("hpc1", "rhapsody", sid="lasting", lifetime="persistent", backends=["concurrent"])
        submit(session, on_unknown)
        collecting = Collecting(session)
        collecting.wait(100)
        world.kill("hpc1")
        done_before = len(collecting.came)
        world.restart("hpc1")
        results = collecting.end()
        session.unregister_session()

    unknown = {uid for uid, result in results.items() if isinstance(result["exception"], OutcomeUnknown)}
    executions = Counter(record["key"] for record in world.executions())
    report("tasks of unknown fate", len(unknown), TASKS, "tasks")
    assert done_before < TASKS
    assert squares(results) == set(NAMES) - unknown
    assert set(NAMES) - unknown <= executions.keys()
    if on_unknown == "fail":
        assert max(executions.values()) == 1
    else:
        assert unknown == set()


@pytest.mark.timeout(480)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
def test_ten_thousand_tasks_outlive_a_broker_that_its_supervisor_restarts(world: World, number: int):
    shell = Shell(world.environment)
    runtime = world.place / "runtime" / "broker.json"
    started = shell.run("broker", "start", "--detach", "--supervise", "--host", "127.0.0.1", "--port", str(lasting_port()))
    assert started.returncode == 0, started.stderr
    try:
        status = shell.json("broker", "status")
        world.ipc = f"ipc://{status['ipc']}"
        world.start_endpoint("hpc1", on_line=False)
        with Client(url=world.ipc) as client:
            session = client.get_plugin("hpc1", "rhapsody", sid="lasting", lifetime="persistent", backends=["concurrent"])
            submit(session)
            collecting = Collecting(session)
            collecting.wait(100)
            killed = int(json.loads(runtime.read_text())["pid"])
            os.kill(killed, number)
            wait_until(partial(_has_another_broker, runtime, killed), 60, "another broker listens")
            back = time.monotonic()
            results = collecting.end()
            session.unregister_session()
        assert shell.json("broker", "status")["epoch"] != status["epoch"]
    finally:
        shell.stop_all()

    assert squares(results) == set(NAMES)
    assert Counter(record["key"] for record in world.executions()) == Counter(NAMES)
    resumed_s = min(moment for moment, _ in collecting.came if moment > back) - back
    assert report("work goes on after the broker is back", resumed_s, RESUMES_S, "s") <= BUSY * RESUMES_S


def _has_another_broker(runtime: Path, killed: int) -> bool:
    """Whether a broker listens that is not that one."""
    return runtime.exists() and int(json.loads(runtime.read_text())["pid"]) != killed

"""Ctrl-C while tasks are submitted, results that came in meanwhile, and a session that somebody else closes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_rhapsody.client import RhapsodyClient
from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import Canceled, SessionClosed

PATIENCE_S = 60.0

INTERRUPTED = """
import random, signal, sys, threading, time
from orbit_zmq import Client

random.seed(11)
interrupts = 0
with Client(url=sys.argv[1], connect_timeout_s=60) as client:
    rhapsody = client.get_plugin("hpc1", "rhapsody", backends=["noop"])
    main = threading.main_thread().ident
    for round in range(10):
        tasks = [{"uid": f"{round}.{n}", "executable": "x"} for n in range(20_000)]
        timer = threading.Timer(random.uniform(0, 0.3), signal.pthread_kill, (main, signal.SIGINT))
        try:
            timer.start()
            rhapsody.submit_tasks(tasks)
            timer.join()
        except KeyboardInterrupt:
            interrupts += 1
        results = rhapsody.wait_tasks(rhapsody.open_tasks, timeout=60)
        assert {result["state"] for result in results} <= {"DONE", "FAILED"}, {result["state"] for result in results}
        list(rhapsody.as_completed(timeout=60))
        assert rhapsody.open_tasks == [], rhapsody.open_tasks
    print(interrupts, flush=True)
"""


def session_at(lab: Lab, **arguments: Any) -> RhapsodyClient:
    plugin = lab.client().get_plugin("hpc1", "rhapsody", **arguments)
    assert isinstance(plugin, RhapsodyClient)
    return plugin


@pytest.mark.timeout(400)
def test_ctrl_c_while_tasks_are_submitted_leaves_none_that_is_waited_for_without_end(rhapsody_lab: Lab) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, rhapsody_lab.url],
        env=environment_of_child(),
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2


def test_what_an_interrupted_call_never_sent_ends_as_soon_as_that_is_known(rhapsody: RhapsodyClient) -> None:
    rhapsody._inbox.expect(["never"])
    rhapsody._submissions.ask_about(["never"], time.monotonic() - PATIENCE_S)
    began = time.monotonic()

    (result,) = rhapsody.wait_tasks(["never"], timeout=PATIENCE_S)

    assert isinstance(result["exception"], Canceled)
    assert time.monotonic() - began < 15  # a poll for nothing takes 20


@pytest.mark.parametrize("tasks", [10, 5_000])
def test_as_completed_without_tasks_gives_what_came_in_while_they_were_submitted(rhapsody_lab: Lab, tasks: int) -> None:
    plugin = session_at(rhapsody_lab)
    answers = plugin.submit_tasks([{"function": abs, "args": [number]} for number in range(tasks)])

    found = [result["uid"] for result in plugin.as_completed(timeout=PATIENCE_S)]

    assert sorted(found) == sorted(answer["uid"] for answer in answers)
    assert list(plugin.as_completed(timeout=PATIENCE_S)) == []
    plugin.close()


def test_a_session_that_somebody_else_closes_is_said_to_be_closed_to_who_waits_and_who_submits(rhapsody_lab: Lab) -> None:
    plugin = session_at(rhapsody_lab, sid="shared", lifetime="persistent")
    other = rhapsody_lab.client().attach("shared")
    plugin.submit_tasks([{"uid": "long", "executable": "/bin/sleep", "arguments": ["100"]}])
    results: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: results.extend(plugin.wait_tasks(["long"], timeout=PATIENCE_S)))
    waiting.start()
    wait_until(lambda: plugin.get_task("long")["state"] == "RUNNING", what="it runs")

    other.unregister_session()
    waiting.join(PATIENCE_S)

    assert isinstance(results[0]["exception"], SessionClosed)
    with pytest.raises(SessionClosed, match=r"endpoint hpc1 answers: .*shared"):
        plugin.submit_tasks([{"function": pow, "args": [1, 2]}])

"""Tasks and results that pile up: the endpoint holds a bounded amount, and whoever submits goes on as fast as there is room.

The endpoint runs in this process, so that its bounds can be made small.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from lab import wait_until

from orbit_rhapsody import engine, results, service
from orbit_zmq.testing import serve

PATIENCE_S = 60.0


def block_of(size: int) -> bytes:
    return bytes(size)


def statistics(plugin: Any) -> dict[str, Any]:
    answer: dict[str, Any] = plugin.get_statistics()
    return answer


def test_results_that_nobody_fetches_hold_up_further_tasks_until_somebody_does(monkeypatch):
    monkeypatch.setattr(results, "UNFETCHED_BYTES", 1 << 20)
    monkeypatch.setattr(engine, "FUNCTIONS_IN_FLIGHT", 8)
    with serve("rhapsody", backends=["concurrent"]) as running:
        plugin: Any = running.plugin
        tasks = plugin.submit_tasks([{"function": block_of, "args": [100_000]} for _ in range(100)])
        wait_until(lambda: statistics(plugin)["unfetched_bytes"] >= 1 << 20, what="the results have filled their room")
        wait_until(lambda: statistics(plugin)["in_flight"] == 0, what="no further task is started")

        held = statistics(plugin)
        assert held["unfetched_bytes"] <= (1 << 20) + 8 * 101_000
        assert held["queued"] > 50

        assert {len(result["return_value"]) for result in plugin.wait_tasks(tasks, timeout=PATIENCE_S)} == {100_000}
        assert statistics(plugin)["states"]["DONE"] == 100


def test_who_submits_more_than_there_is_room_for_takes_results_in_and_goes_on(monkeypatch):
    monkeypatch.setattr(service, "QUEUED_BYTES", 100_000)
    monkeypatch.setattr(results, "UNFETCHED_BYTES", 1 << 20)
    monkeypatch.setattr(engine, "FUNCTIONS_IN_FLIGHT", 8)
    with serve("rhapsody", backends=["concurrent"]) as running:
        plugin: Any = running.plugin
        most = 0
        over = threading.Event()

        def watch() -> None:
            nonlocal most
            while not over.is_set():
                most = max(most, statistics(plugin)["unfetched_bytes"])
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        submitted = []
        for _ in range(40):  # far more than either bound, and nobody waits for results
            submitted += plugin.submit_tasks([{"function": len, "args": [b"x" * 10_000]} for _ in range(20)])
            submitted += plugin.submit_tasks([{"function": block_of, "args": [50_000]} for _ in range(20)])
        over.set()
        watcher.join(PATIENCE_S)

        ended = plugin.wait_tasks(submitted, timeout=PATIENCE_S)

        assert [result["state"] for result in ended] == ["DONE"] * 1_600
        assert most <= 2 << 20


def test_a_function_of_another_python_fails_before_it_is_sent(monkeypatch):
    from orbit_zmq import environment

    facts = environment.environment_facts()
    monkeypatch.setitem(facts, "python_version", "3.2.1")
    with serve("rhapsody", backends=["concurrent"]) as running:
        plugin: Any = running.plugin

        pickled, named = plugin.submit_tasks([{"function": block_of, "args": [1]}, {"function": "math:hypot", "args": [3, 4]}])

        assert pickled["state"] == "FAILED"
        assert "cannot run under Python 3.2" in str(pickled["exception"])
        assert "package.module:function" in str(pickled["exception"])
        assert statistics(plugin)["submitted"] == 1
        first, second = plugin.wait_tasks([pickled, named], timeout=PATIENCE_S)
        assert first["exception"] is pickled["exception"]
        assert second["return_value"] == 5.0


def test_an_endpoint_says_under_what_it_runs(monkeypatch):
    with serve("rhapsody", backends=["noop"]) as running:
        facts = running.client.endpoint("testing").facts.environment

        assert {"python_version", "platform", "serializers"} <= facts.keys()
        assert {"cloudpickle", "msgpack", "pickle"} == facts["serializers"].keys()

"""The endpoint is killed again and again under tasks of a lasting session: each ends once, none runs twice unless it may."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_zmq.errors import OutcomeUnknown

KILLS = 10
BATCH = 100
PATIENCE_S = 100.0
SEED = 20_261


def trace(directory: str, uid: str) -> str:
    """Leave a line for each execution, in one write."""
    descriptor = os.open(f"{directory}/trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{uid}\n".encode())
    finally:
        os.close(descriptor)
    return uid


class Work:
    """Submits batch after batch until it is told to stop; of half of the tasks a second run is allowed."""

    def __init__(self, plugin: Any, directory: Path) -> None:
        self.stop = threading.Event()
        self.submitted: set[str] = set()
        self.results: dict[str, dict[str, Any]] = {}
        self.twice: list[str] = []
        self.failure: BaseException | None = None
        self._plugin = plugin
        self._directory = str(directory)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            number = 0
            while not self.stop.is_set():
                for policy in ("fail", "rerun"):
                    self._submit([f"{policy}{number + index}" for index in range(BATCH)], policy)
                number += BATCH
                self._take([f"fail{number - BATCH + index}" for index in range(BATCH // 2)])  # the others are open meanwhile
            self._take(sorted(self.submitted - self.results.keys()))
        except BaseException as error:
            self.failure = error

    def _submit(self, uids: list[str], policy: str) -> None:
        tasks = [{"uid": uid, "function": trace, "args": [self._directory, uid]} for uid in uids]
        self._plugin.submit_tasks(tasks, on_unknown=policy)
        self.submitted.update(uids)

    def _take(self, uids: list[str]) -> None:
        for result in self._plugin.as_completed(uids, timeout=PATIENCE_S):
            self.twice += [result["uid"]] if result["uid"] in self.results else []
            self.results[result["uid"]] = result


def has_gone_on(work: Work, results: int) -> bool:
    return len(work.results) > results or work.failure is not None


@pytest.mark.timeout(600)
def test_each_task_ends_once_and_none_is_run_twice_unless_it_may(lab: Lab, tmp_path: Path):
    chance = random.Random(SEED)
    endpoint = lab.start_endpoint(plugins="rhapsody")
    work = Work(lab.client().get_plugin("hpc1", "rhapsody", lifetime="persistent"), tmp_path)
    work.thread.start()
    for _ in range(KILLS):
        wait_until(partial(has_gone_on, work, len(work.results) + BATCH), within_s=PATIENCE_S, what="work goes on")
        threading.Event().wait(chance.random() * 0.2)  # where in its work it is hit is the seed's choice
        os.kill(endpoint.pid, signal.SIGKILL)
        endpoint.end()
        endpoint = lab.start_endpoint(plugins="rhapsody")
    work.stop.set()
    work.thread.join(PATIENCE_S)

    assert work.failure is None
    assert work.twice == []
    assert work.results.keys() == work.submitted
    executed = Counter((tmp_path / "trace").read_text().split())
    unknown = {uid for uid, result in work.results.items() if isinstance(result["exception"], OutcomeUnknown)}
    assert {result["state"] for uid, result in work.results.items() if uid not in unknown} == {"DONE"}
    assert work.results.keys() - unknown <= executed.keys()
    assert {uid for uid in unknown if uid.startswith("rerun")} == set()
    assert {uid for uid, count in executed.items() if count > 1 and uid.startswith("fail")} == set()

"""A worker under the real Dragon, inside a job of a real Slurm."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from lab import Lab, wait_until
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab

PATIENCE_S = 120.0
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(importlib.util.find_spec("dragon") is None, reason="dragonhpc is not installed"),
]


@pytest.fixture
def lab(slurm: SlurmLab) -> Iterator[Lab]:
    with broker_at(slurm) as made:
        made.environment["HOME"] = str(made.place)
        made.start_endpoint("login", url=made.tcp, plugins="psij")
        yield made


def orbit(lab: Lab, *words: str) -> str:
    command = [sys.executable, "-P", "-m", "orbit_zmq.cli", "worker", *words, "--endpoint", "login", "--url", lab.url]
    done = subprocess.run(command, env=lab.environment, capture_output=True, text=True, timeout=350, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tasks_run_on_dragon_inside_a_job_of_one_node_and_all_of_it_ends_with_the_job(lab: Lab) -> None:
    name = f"login.{os.getpid()}"
    orbit(lab, "start", "--name", name, "--duration", "10m", "--tunnel", "none", "--launcher", "dragon")

    with lab.client().get_plugin(name, "rhapsody") as plugin:
        assert plugin.get_statistics()["backends"].keys() == {"dragon"}
        answers = plugin.submit_tasks([{"function": "math:factorial", "args": [n]} for n in range(5)])
        results = plugin.wait_tasks(answers, timeout=PATIENCE_S)
        assert [result["return_value"] for result in results] == [1, 1, 2, 6, 24]

    orbit(lab, "stop", name)
    wait_until(lambda: not is_running(name), PATIENCE_S, what="no process is left")


def is_running(name: str) -> bool:
    return any(name in (one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))

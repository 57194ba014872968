"""`why` and `orbit job` on a real Slurm: the scheduler's reason of a job that waits, its place and start, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab import Lab, wait_until
from shell import Shell
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab

from orbit_zmq import Client
from orbit_zmq.why import Why

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 100.0
ALL = ("--nodes", "2", "--exclusive", "--duration", "10m")  # of the nodes that there are


@pytest.fixture(scope="module")
def lab(slurm: SlurmLab) -> Iterator[Lab]:
    with broker_at(slurm) as made:
        made.start_endpoint("hpc1", plugins="jobs,queue_info")
        yield made


@pytest.fixture
def shell(lab: Lab) -> Iterator[Shell]:
    made = Shell(lab.environment)
    with made.stack:
        yield made
        made.run("job", "cancel", "all")


def submit(shell: Shell, *words: str) -> str:
    done = shell.run("job", "submit", "-q", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def at_scheduler(client: Client, job_id: str, word: str) -> Why:
    """What is said once the batch system gives that reason."""

    def said() -> Why | None:
        found = client.why(job_id)
        return found if found.scheduler is not None and found.scheduler.raw_reason == word else None

    found = wait_until(said, PATIENCE_S, f"Slurm says {word} of {job_id}")
    assert found is not None
    return found


def test_a_job_that_waits_says_for_what_and_where_it_stands(lab: Lab, shell: Shell) -> None:
    client = lab.client()
    first = submit(shell, *ALL, "--", "sleep", "1000")
    wait_until(lambda: client.why(first).phase == "running", PATIENCE_S, "the first one runs")
    second, third = (submit(shell, *ALL, "--", "sleep", "1000") for _ in range(2))

    resources, priority = at_scheduler(client, second, "Resources"), at_scheduler(client, third, "Priority")

    assert (resources.kind, resources.state, resources.phase, resources.at) == ("job", "pending", "waiting", "scheduler")
    part: Any = resources.scheduler
    assert (part.state, part.place, part.queue, part.nodes) == ("PENDING", 1, "debug", 2)
    assert priority.scheduler is not None and priority.scheduler.place == 2
    assert resources.reason.startswith(
        "It waits in debug: it is its turn, and the nodes that it needs are not free yet (Resources)"
    )
    assert "it is number 2 there" in priority.reason
    wait_until(lambda: (said := client.why(second).scheduler) is not None and said.estimated_start, PATIENCE_S, "a start")
    native = at_scheduler(client, part.native_id, "Resources")
    assert (native.kind, native.at, native.scheduler and native.scheduler.native_id) == ("job", "scheduler", part.native_id)

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(shell.run("why", second, "--json").stdout)["item"]
        return found if (found["scheduler"] or {}).get("raw_reason") == "Resources" else {}

    assert wait_until(shown, PATIENCE_S, "it is shown")["at"] == "scheduler"

    def running() -> Why | None:
        found = client.why(first)
        return found if found.scheduler is not None and found.scheduler.state == "RUNNING" else None

    found = wait_until(running, PATIENCE_S, "Slurm says that the first one runs")
    assert found is not None and found.at is None


def test_a_job_that_is_held_says_who_may_let_it_go(lab: Lab, shell: Shell, slurm: SlurmLab) -> None:
    client = lab.client()
    job_id = submit(shell, "--attribute", "slurm.begin=now+1hour", "--", "true")
    at_scheduler(client, job_id, "BeginTime")
    native_id = str(shell.json("job", "show", job_id)["native_id"])
    slurm.run("scontrol", "uhold", native_id)  # as its user would

    held = at_scheduler(client, job_id, "JobHeldUser")
    assert (held.phase, held.at) == ("waiting", "scheduler") and "`scontrol release` lets it go" in held.reason


def test_the_exit_code_of_who_waits_is_the_jobs(shell: Shell) -> None:
    assert shell.run("job", "submit", "--wait", "--", "/bin/sh", "-c", "exit 7", timeout_s=PATIENCE_S).returncode == 7
    job_id = submit(shell, "--", "sleep", "1000")
    shell.run("job", "cancel", job_id, "--reason", "enough of it")
    assert shell.run("job", "wait", job_id, timeout_s=PATIENCE_S).returncode == 123


@pytest.mark.long
def test_a_job_whose_time_is_over_has_an_exit_code_of_its_own(shell: Shell) -> None:
    done = shell.run("job", "submit", "--wait", "--duration", "60", "--", "sleep", "1000", timeout_s=300)
    assert done.returncode == 124, done.stdout

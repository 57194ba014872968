"""Jobs in every state on a real Slurm: what an endpoint tells of them is what Slurm's own commands print."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until
from slurmlab import printed, zoo
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab, shared_slurm_lab
from slurmlab.compare import differences

ORBIT = [sys.executable, "-m", "orbit_zmq.cli"]
pytestmark = pytest.mark.timeout(900)  # the first test waits for Slurm to notice who is over time: half a minute
PATIENCE_S = 100.0
TRIES = 10  # estimates of when jobs start are made anew every few seconds
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[SlurmLab]:
    """For all test processes of this run: nobody here changes anything."""
    own = tmp_path_factory.getbasetemp()
    with shared_slurm_lab((own if worker_id == "master" else own.parent) / "zoo", zoo.fill) as made:
        assert zoo.count(made) >= 300
        yield made


@pytest.fixture(scope="module")
def lab(full: SlurmLab) -> Iterator[Lab]:
    with broker_at(full) as made:
        made.start_endpoint("hpc1", plugins="queue_info")
        made.start_endpoint("plain", plugins="test")
        yield made


@pytest.fixture(scope="module")
def queue_info(lab: Lab) -> Any:
    return lab.client().get_plugin("hpc1", "queue_info")


@pytest.fixture
def run(lab: Lab) -> Run:
    def run(*words: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*ORBIT, "queue", *words],
            env=lab.environment | more,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


def items(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return found


def ids(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stdout.split())


def test_every_field_is_what_slurm_prints(full: SlurmLab, queue_info: Any) -> None:
    said: dict[str, str] = {}
    for number in range(TRIES):
        found = {one.partition(" is ")[0]: one for one in differences(full.run, queue_info)}
        said = found if number == 0 else {field: said[field] for field in said.keys() & found.keys()}
        if not said:
            break
    assert said == {}  # no field was different each time


def test_jobs_of_every_state_are_among_them(queue_info: Any) -> None:
    reasons = {"Priority", "Dependency", "DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin", "BeginTime"}

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = queue_info.list_all_jobs(user="*", force=True)["jobs"]
        return found if reasons <= {job["reason"] for job in found} else []

    jobs = wait_until(listed, PATIENCE_S, "each reason is given")
    assert {job["state"] for job in jobs} == {"PENDING", "RUNNING", "HELD", "DONE", "FAILED", "CANCELLED"}
    assert {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"} <= {
        job["raw_state"] for job in jobs
    }
    assert zoo.STRANGE_NAME in {job["job_name"] for job in jobs}


def test_jobs_are_those_of_a_user(full: SlurmLab, queue_info: Any) -> None:
    jobs = printed.jobs(full.run)
    for user in ("root", "nobody"):
        of_user = {job_id for job_id, job in jobs.items() if job["user"] == user}
        assert {job["job_id"] for job in queue_info.list_all_jobs(user=user)["jobs"]} == of_user != set()
        in_long = {job_id for job_id in of_user if jobs[job_id]["partition"] == "long"}
        assert {job["job_id"] for job in queue_info.list_jobs("long", user=user)["jobs"]} == in_long != set()
    own, of_root = (queue_info.list_all_jobs(**user)["jobs"] for user in ({}, {"user": "root"}))
    assert [job["job_id"] for job in own] == [job["job_id"] for job in of_root]
    assert queue_info.list_all_jobs(user="games")["jobs"] == []


def test_partitions_are_those_of_a_users_associations(queue_info: Any) -> None:
    everything = {"closed", "debug", "drained", "gpu", "long", "stopped"}

    assert set(queue_info.get_info(user="*")["queues"]) == set(queue_info.get_info()["queues"]) == everything
    assert set(queue_info.get_info(user="nobody")["queues"]) == {"debug", "long"}
    assert set(queue_info.get_info(user="games")["queues"]) == everything  # of whom nothing is known


def test_members_of_an_array_are_told_one_by_one(full: SlurmLab, queue_info: Any) -> None:
    lines = full.run("squeue", "--array", "--noheader", "--states=all", "--name=members", "--format=%F %K %T").splitlines()
    (array,) = {line.split()[0] for line in lines}

    found = queue_info.list_array_jobs(array)["jobs"]

    assert sorted(f"{job['array_job_id']} {job['array_task_id']} {job['raw_state']}" for job in found) == sorted(lines)
    assert len(found) == 20


def test_queues_are_listed_for_people_and_programs(run: Run) -> None:
    listed = items(run("list", "--json"))

    assert [one["name"] for one in listed] == ["closed", "debug", "drained", "gpu", "long", "stopped"]
    assert {one["name"]: one["time_limit"] for one in listed}["long"] == "unlimited"
    assert {(one["endpoint"], one["plugin"]) for one in listed} == {("hpc1", "queue_info")}
    assert ids(run("list", "-q", "--state", "up")) == {"closed", "debug", "gpu", "long"}
    assert ids(run("list", "-q", "d*,lo", "--user", "*")) == {"debug", "drained", "long"}
    assert ids(run("list", "-q", "--user", "nobody")) == {"debug", "long"}
    table = run("list", "debug", ORBIT_OUTPUT="table").stdout
    assert "30m" in table and "3.9GiB" in table and "a100=2" in table
    assert "There is no user 'no-such-user'" in run("list", "--user", "no-such-user", code=1).stderr
    assert "There is: closed, debug, drained" in run("list", "absent", code=1).stderr


def test_jobs_are_listed_by_state_user_queue_and_id(full: SlurmLab, run: Run) -> None:
    jobs = printed.jobs(full.run)

    def those(is_so: Callable[[dict[str, Any]], bool]) -> set[str]:
        found = {job_id for job_id, job in jobs.items() if is_so(job)}
        assert found
        return found

    unended = {job_id for job_id, job in jobs.items() if job["state"] not in ("DONE", "FAILED", "CANCELLED")}
    assert ids(run("jobs", "-q", "--user", "*")) == unended
    assert ids(run("jobs", "-q", "--user", "*", "all")) == set(jobs)
    assert ids(run("jobs", "-q", "--user", "nobody", "--state", "pending,running")) == those(
        lambda job: job["user"] == "nobody" and job["state"] in ("PENDING", "RUNNING")
    )
    assert ids(run("jobs", "-q", "--user", "*", "--state", "TIMEOUT")) == those(lambda job: job["raw_state"] == "TIMEOUT")
    assert ids(run("jobs", "-q", "--user", "*", "--partition", "gp,stop*")) == those(
        lambda job: job["partition"] in ("gpu", "stopped") and job["job_id"] in unended
    )
    (one,) = items(run("jobs", "3", "--json"))
    assert (one["job_id"], one["state"], one["std_out"]) == ("3", "DONE", f"{full.place}/jobs/slurm-3.out")
    assert "There is no queue 'absent'" in run("jobs", "--partition", "absent", code=1).stderr
    assert run("jobs", "--user", "games", ORBIT_OUTPUT="table").stderr == "There is no such job.\n"


def test_jobs_that_have_ended_come_from_the_accounting(full: SlurmLab, run: Run) -> None:
    finished = printed.finished_jobs(full.run)

    assert ids(run("jobs", "-q", "--user", "*", "--finished")) == set(finished)
    assert len(ids(run("jobs", "-q", "--finished", "--limit", "3"))) == 3
    assert ids(run("jobs", "-q", "--finished", "--since", "0s")) == set()
    table = run("jobs", "--user", "*", "--finished", ORBIT_OUTPUT="table").stdout
    assert "EXIT" in table and "ENDED" in table and "NonZeroExitCode" in table


def test_allocations_are_listed_with_their_limits(run: Run) -> None:
    listed = {one["account"]: one for one in items(run("allocations", "--json"))}

    assert set(listed) == {"root", "physics", "chemistry"}
    assert (listed["chemistry"]["max_wall"], listed["chemistry"]["max_jobs"]) == (7200, 400)
    assert listed["physics"]["max_wall"] == "unlimited"
    assert run("allocations", "-q", "--user", "nobody").stdout == "physics\nphysics\n"
    assert "unlimited" in run("allocations", ORBIT_OUTPUT="table").stdout


def test_one_queue_is_shown_with_its_jobs(run: Run) -> None:
    shown = json.loads(run("show", "gp", "--json").stdout)["item"]

    assert (shown["name"], shown["gpu_types"], shown["max_nodes"], shown["time_limit"]) == ("gpu", {"a100": 2}, 1, 216_000)
    assert {job["partition"] for job in shown["jobs"]} == {"gpu"}
    table = run("show", "gpu", ORBIT_OUTPUT="table").stdout
    assert "2d12h" in table and "JOBS" in table
    assert "means debug at hpc1" in run("show", "d*", code=2).stderr


def test_who_has_no_batch_system_says_so(run: Run) -> None:
    assert "--state: BOGUS is no state" in run("jobs", "--state", "bogus", code=2).stderr
    assert "No endpoint serves the plugin queue_info" in run("list", "--endpoint", "plain", code=1).stderr
    assert "No endpoint serves the plugin other" in run("jobs", "--plugin", "other", code=1).stderr


def test_the_comparison_runs_as_a_script(full: SlurmLab, lab: Lab, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slurmlab.compare", "hpc1", "--url", lab.url],
        env=lab.environment, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(("Everything is as printed.", "jobs "))  # an estimate may have changed just now

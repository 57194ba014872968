"""The plugin queue_info on a real Slurm: how often it asks, what a command that hangs holds up, and what it does to jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pwd
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, is_gone, wait_until
from slurmlab import printed
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab, slurm_lab
from slurmlab.counted import CountedCommands

from orbit_queue_info.queue_info import TTL_S
from orbit_zmq import AsyncClient
from orbit_zmq.children import command_of
from orbit_zmq.errors import DeadlineExceeded, NotFound, OrbitError

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 100.0
AT_ONCE = 100
OPERATIONS = ("get_info", "list_all_jobs", "list_allocations", "list_reservations", "list_finished_jobs")
ORBIT = [sys.executable, "-m", "orbit_zmq.cli"]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> CountedCommands:
    return CountedCommands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def lab(slurm: SlurmLab, commands: CountedCommands) -> Iterator[Lab]:
    with broker_at(slurm, PATH=commands.path) as made:
        made.start_endpoint("hpc1", plugins="queue_info,test")
        yield made


@pytest.fixture(scope="module")
def queue_info(lab: Lab) -> Any:
    return lab.client().get_plugin("hpc1", "queue_info")


def submit(slurm: SlurmLab, *words: str, script: str = "sleep 20000") -> str:
    return slurm.run("sbatch", "--parsable", *words, f"--wrap={script}").strip()


def ids(answer: dict[str, Any]) -> set[str]:
    return {job["job_id"] for job in answer["jobs"]}


def test_a_hundred_who_ask_at_once_cause_one_command_of_each_kind(lab: Lab, commands: CountedCommands, queue_info: Any) -> None:
    queue_info.get_info()  # what the first endpoint asks when it starts
    queue_info.list_allocations()
    commands.forget()
    lab.start_endpoint("cold", plugins="queue_info")

    async def ask_all() -> list[Any]:
        async with AsyncClient(url=lab.url) as client:
            calls = [
                client.call("cold", "queue_info", operation, {}, session="default")
                for operation in OPERATIONS
                for _ in range(AT_ONCE)
            ]
            return await asyncio.gather(*calls)

    began = time.monotonic()
    answers = asyncio.run(ask_all())
    times = 1 + int((time.monotonic() - began) / min(TTL_S.values()))  # on a machine on which that takes long

    for number in range(len(OPERATIONS)):
        of_one = answers[number * AT_ONCE : (number + 1) * AT_ONCE]
        assert len(of_one) == AT_ONCE and len({json.dumps(answer) for answer in of_one}) <= times
    asked = Counter(
        f"{command} {call}"
        for command in ("sinfo", "squeue", "scontrol", "sacct", "sacctmgr")
        for call in commands.calls(command)
    )
    assert {call.split()[0] for call in asked} == {"sinfo", "squeue", "scontrol", "sacct", "sacctmgr"}
    assert {call: count for call, count in asked.items() if count > times and "--version" not in call} == {}


def test_a_command_that_hangs_holds_up_nothing_else(lab: Lab, commands: CountedCommands, queue_info: Any) -> None:
    test, client = lab.client().get_plugin("hpc1", "test"), lab.client()

    def is_present() -> None:
        wait_until(lambda: client.endpoint("hpc1").facts.state == "present", PATIENCE_S, "it is no busy endpoint")

    users = [entry.pw_name for entry in pwd.getpwall()]  # more than there are threads for
    with ThreadPoolExecutor(len(users)) as pool:
        commands.hang("sinfo")
        try:
            asked = len(commands.calls("sinfo"))
            hanging = [pool.submit(queue_info.get_info, "*", force=True) for _ in users]
            wait_until(lambda: len(commands.calls("sinfo")) > asked, PATIENCE_S, what="sinfo is asked")

            assert test.echo(text="here") == "here"
            assert queue_info.backend() == "slurm"
            assert ids(queue_info.list_all_jobs("*", force=True)) == ids(queue_info.list_all_jobs("*"))
            assert queue_info.list_allocations(force=True)["allocations"]
            is_present()

            hanging += [pool.submit(queue_info.get_info, user, force=True) for user in users]
            assert [test.echo(text=user) for user in users] == users
            is_present()
            assert not any(one.done() for one in hanging)
        finally:
            commands.let_go("sinfo")
        assert all("debug" in one.result(PATIENCE_S)["queues"] for one in hanging)


@pytest.mark.long
def test_after_a_minute_of_silence_those_who_asked_are_told(lab: Lab, commands: CountedCommands, queue_info: Any) -> None:
    test = lab.client().get_plugin("hpc1", "test")
    commands.hang("sinfo")
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(queue_info.get_info, "*", force=True)
            answered = 0
            while not asked.done():
                test.echo(text="here")
                answered += 1
        with pytest.raises(DeadlineExceeded, match="sinfo gave no answer within 60 s"):
            asked.result()
        assert answered > 1_000
    finally:
        commands.let_go("sinfo")
    assert "debug" in queue_info.get_info("*", force=True)["queues"]


def test_an_endpoint_that_ends_leaves_no_command_behind(lab: Lab, commands: CountedCommands) -> None:
    commands.hang("squeue")
    try:
        endpoint = lab.start_endpoint("leaving", plugins="queue_info")
        asked = len(commands.calls("squeue"))
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(lab.client().get_plugin("leaving", "queue_info").list_all_jobs)
            wait_until(lambda: len(commands.calls("squeue")) > asked, PATIENCE_S, what="squeue is asked")
            below = psutil.Process(endpoint.pid).children(recursive=True)
            assert below

            endpoint.end()

            with pytest.raises(OrbitError):
                lost.result(PATIENCE_S)
        wait_until(lambda: all(is_gone(one.pid) for one in below if one.is_running()), PATIENCE_S, "nothing is left")
    finally:
        commands.let_go("squeue")


def test_a_job_is_held_released_and_canceled_and_the_list_knows_at_once(slurm: SlurmLab, queue_info: Any) -> None:
    job = submit(slurm, "--begin=now+1hour")
    queue_info.list_all_jobs(force=True)

    def state() -> str:
        (found,) = [one for one in queue_info.list_all_jobs()["jobs"] if one["job_id"] == job]
        return str(found["state"])

    assert state() == "PENDING"
    assert queue_info.hold_job(job) == {"job_id": job, "status": "held"}
    assert state() == "HELD"
    assert queue_info.release_job(int(job)) == {"job_id": job, "status": "released"}
    assert state() == "PENDING"
    assert queue_info.cancel_job(job) == {"job_id": job, "status": "canceled"}
    assert state() == "CANCELLED"
    assert slurm.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").split() == ["CANCELLED"]
    with pytest.raises(NotFound):
        queue_info.cancel_job("999999")


def test_the_nodes_of_a_job_are_told_in_slurms_order(slurm: SlurmLab, queue_info: Any) -> None:
    job = submit(slurm, "--nodes=2", "--time=5")
    try:
        wait_until(lambda: queue_info.job_nodes(job) == ["n1", "n2"], PATIENCE_S, "the job runs on both nodes")
        assert queue_info.job_nodes(int(job)) == ["n1", "n2"]
    finally:
        slurm.run("scancel", job)
    wait_until(lambda: queue_info.job_nodes(job) == [], PATIENCE_S, "the job has no nodes any more")


def test_an_endpoint_inside_a_job_knows_its_allocation(slurm: SlurmLab, lab: Lab, queue_info: Any) -> None:
    variables = {name: value for name, value in lab.environment.items() if name.startswith(("ORBIT_", "PYTHON", "PATH"))}
    words = [*command_of("orbit_zmq.endpoint"), "--url", lab.url, "--name", "inside", "--plugins", "queue_info"]
    exports = "\n".join(f"export {name}='{value}'" for name, value in variables.items())
    script = Path(lab.place / "job.sh")
    script.write_text(f"#!/bin/sh\n{exports}\nexec {' '.join(words)}\n")
    words = ["--nodes=2", "--time=7", "--gres=gpu:a100:1", "--job-name=pilot", "--account=chemistry"]
    job = slurm.run("sbatch", "--parsable", *words, str(script)).strip()
    try:
        client = lab.client()
        wait_until(lambda: "inside" in [one.name for one in client.endpoints()], PATIENCE_S, "the endpoint in the job is there")
        inside = client.get_plugin("inside", "queue_info")

        assert inside.job_allocation() == {
            "job_id": job,
            "partition": "debug",
            "n_nodes": 2,
            "nodelist": "n[1-2]",
            "cpus_per_node": 1,
            "gpus_per_node": 1,
            "account": "chemistry",
            "job_name": "pilot",
            "runtime": 420,
        }
        assert inside.nodelist() == ["n1", "n2"]
        assert client.endpoint("inside").facts.host["role"] == "compute"
        assert queue_info.job_allocation() is None and queue_info.nodelist() == []
    finally:
        with contextlib.suppress(AssertionError):
            slurm.run("scancel", job)


def test_several_clusters_are_several_instances(lab: Lab, slurm: SlurmLab) -> None:
    with slurm_lab(accounting=False) as other:
        theirs = submit(other, "--hold", "--job-name=theirs")
        ours = submit(slurm, "--hold", "--job-name=ours")
        options = ["--plugin", f"queue_info:other=conf={other.conf}"]
        lab.start_endpoint("two", plugins="queue_info", options=options)

        def jobs(*words: str) -> list[tuple[str, str, str]]:
            command = [*ORBIT, "queue", "jobs", "--endpoint", "two", "--json", "--state", "HELD", *words]
            done = subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
            return [(one["plugin"], one["job_id"], one["job_name"]) for one in json.loads(done.stdout)["items"]]

        assert sorted(jobs()) == [("other", theirs, "theirs"), ("queue_info", ours, "ours")]
        assert jobs("--plugin", "other") == [("other", theirs, "theirs")]
        client = lab.client()
        assert client.get_plugin("two", "other").list_allocations() == {"allocations": []}
        assert len(client.get_plugin("two", "queue_info").list_allocations()["allocations"]) == 3
        assert client.get_plugin("two", "other").cancel_job(theirs)["status"] == "canceled"
        slurm.run("scancel", ours)


def test_without_accounting_nothing_fails(slurm: SlurmLab, lab: Lab, queue_info: Any) -> None:
    done = submit(slurm, script="true")
    wait_until(lambda: _states(slurm).get(done) == "COMPLETED", PATIENCE_S, "the job is done")
    held = submit(slurm, "--hold", "--begin=now+1hour")  # it does not begin in the moment in which nobody holds it
    slurm.stop("slurmdbd")
    try:
        lab.start_endpoint("new", plugins="queue_info")
        for plugin in (queue_info, lab.client().get_plugin("new", "queue_info")):
            assert plugin.is_enabled()
            assert plugin.get_info(force=True)["queues"].keys() == printed.queues(slurm.run).keys()
            jobs = {job["job_id"]: job for job in plugin.list_all_jobs("*", force=True)["jobs"]}
            assert jobs.keys() == _states(slurm).keys()
            assert (jobs[done]["state"], jobs[held]["state"]) == ("DONE", "HELD")
            assert plugin.list_allocations(force=True) == {"allocations": []}
            assert done in [job["job_id"] for job in plugin.list_finished_jobs(force=True)["jobs"]]
            assert plugin.list_reservations(force=True) == {"reservations": []}
            assert plugin.release_job(held)["status"] == "released" and plugin.hold_job(held)["status"] == "held"
        command = [*ORBIT, "queue", "allocations", "--endpoint", "new"]
        said = subprocess.run(
            command,
            env=lab.environment | {"ORBIT_OUTPUT": "table"},
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
        assert said.stderr == "No accounts are kept.\n"
    finally:
        slurm.start_again("slurmdbd")
        slurm.run("scancel", held)


def _states(slurm: SlurmLab) -> dict[str, str]:
    lines = slurm.run("squeue", "--noheader", "--all", "--states=all", "--format=%A %T").splitlines()
    return dict(line.split() for line in lines)

"""The plugin psij on a real Slurm: what it says of jobs is true, and it does not ask too often."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab
from slurmlab.counted import CountedCommands, too_many

from orbit_zmq.errors import InvalidArgument, SchedulerFailed

pytestmark = pytest.mark.timeout(900)  # a minute of Slurm's, and a machine that others use

PATIENCE_S = 100.0
BETWEEN_S = 1.0  # two questions of one kind to the scheduler
LATE = 1.5  # one, as a moment is taken some processes after its question was due, and what clocks differ by
FINAL = ("COMPLETED", "FAILED", "CANCELED")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> CountedCommands:
    return CountedCommands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def lab(slurm: SlurmLab, commands: CountedCommands) -> Iterator[Lab]:
    with broker_at(slurm, PATH=commands.path) as made:
        made.start_endpoint("hpc1", plugins="psij,queue_info,test")
        yield made


@pytest.fixture
def psij(lab: Lab) -> Iterator[Any]:
    with lab.client().get_plugin("hpc1", "psij") as session:
        yield session
        session.close(cancel=True)


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], "directory": "/tmp", **more}


def submit(psij: Any, script: str, **more: Any) -> str:
    return str(psij.submit_job(shell(script, **more), executor="slurm")["job_id"])


def ended(psij: Any, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = psij.wait_job(job_id, timeout=PATIENCE_S)
    return found


def state_of(psij: Any, job_id: str) -> str:
    return str(psij.get_job_status(job_id)["state"])


def is_active(psij: Any, job_id: str) -> bool:
    return state_of(psij, job_id) == "ACTIVE"


def native_id(psij: Any, job_id: str) -> str:
    return str(psij.get_job_status(job_id)["native_id"])


def test_the_default_executor_is_that_of_the_machine(slurm: SlurmLab) -> None:
    with broker_at(slurm) as lab:
        del lab.environment["ORBIT_BATCH_SYSTEM"]
        lab.start_endpoint("hpc1", plugins="psij")
        found = lab.client().call("hpc1", "psij", "executors")
    assert found["default"] == "slurm"
    assert {one["name"]: one["available"] for one in found["executors"]}["slurm"]


def test_jobs_end_as_they_did_with_exit_code_and_reason_and_each_change_is_told(slurm: SlurmLab, psij: Any) -> None:
    heard: list[dict[str, Any]] = []
    psij.on_notification(lambda endpoint, plugin, topic, data: heard.append(data), topic="job_status")
    good, bad = submit(psij, "echo häß; exit 0"), submit(psij, "echo oh >&2; exit 7")
    killed, canceled, scanceled = submit(psij, "kill -9 $$"), submit(psij, "sleep 1000"), submit(psij, "sleep 1000")
    for job_id in (canceled, scanceled):
        wait_until(partial(is_active, psij, job_id), PATIENCE_S)
    psij.cancel_job(canceled)
    slurm.run("scancel", native_id(psij, scanceled))
    jobs = (good, bad, killed, canceled, scanceled)
    ends = [ended(psij, job_id) for job_id in jobs]

    assert [(end["state"], end["exit_code"], end["signal"]) for end in ends[:3]] == [
        ("COMPLETED", 0, None), ("FAILED", 7, None), ("FAILED", 137, 9),
    ]  # fmt: skip
    assert [end["state"] for end in ends[3:]] == ["CANCELED", "CANCELED"]
    assert [end["raw_state"].split()[0] for end in ends] == ["COMPLETED", "FAILED", "FAILED", "CANCELLED", "CANCELLED"]
    assert psij.get_job_status(good)["stdout"] == "häß\n" and psij.get_job_status(bad)["stderr"] == "oh\n"
    wait_until(lambda: sum(data["state"] in FINAL for data in heard) == len(jobs), PATIENCE_S)
    for job_id in jobs:
        told = [data["state"] for data in heard if data["job_id"] == job_id]
        assert told[0] == "QUEUED" and told[-1] in FINAL and len(set(told)) == len(told)


def test_slurm_is_told_the_exit_code_of_the_job(slurm: SlurmLab, psij: Any) -> None:
    first = submit(psij, "exit 3")
    after = submit(psij, "true", attributes={"custom_attributes": {"slurm.dependency": f"afterok:{native_id(psij, first)}"}})
    assert ended(psij, first)["exit_code"] == 3
    wait_until(lambda: psij.get_job_status(after)["message"] == "DependencyNeverSatisfied", PATIENCE_S)
    psij.cancel_job(after)
    assert (ended(psij, after)["state"], ended(psij, after)["started_at"]) == ("CANCELED", None)


def test_all_jobs_of_all_sessions_are_asked_for_at_once_and_once_a_second_at_most(
    lab: Lab, psij: Any, commands: CountedCommands
) -> None:
    commands.forget()
    sessions = [psij, lab.client().get_plugin("hpc1", "psij"), lab.client().get_plugin("hpc1", "psij")]
    jobs = [submit(sessions[number % 3], f"sleep {number % 4}; exit {number % 2}") for number in range(30)]
    ends = [ended(psij, job_id) for job_id in jobs]

    assert [end["exit_code"] for end in ends] == [number % 2 for number in range(30)]
    for command in ("squeue", "sacct"):
        assert too_many(commands.moments(command), BETWEEN_S) <= LATE
    assert not any("--jobs" in call for call in commands.calls("squeue"))


def test_a_job_waits_in_the_words_of_the_scheduler(slurm: SlurmLab, psij: Any) -> None:
    job_id = submit(psij, "true", attributes={"custom_attributes": {"slurm.hold": True}})
    wait_until(lambda: psij.get_job_status(job_id)["message"] == "JobHeldUser", PATIENCE_S)
    status = psij.get_job_status(job_id)
    assert (status["state"], status["raw_state"]) == ("QUEUED", "PENDING")
    slurm.run("scontrol", "release", status["native_id"])
    assert ended(psij, job_id)["state"] == "COMPLETED"


def test_a_job_that_is_started_again_has_not_ended(slurm: SlurmLab, psij: Any) -> None:
    heard: list[str] = []
    psij.on_notification(lambda endpoint, plugin, topic, data: heard.append(data["state"]), topic="job_status")
    job_id = submit(psij, "echo begun; sleep 1000", attributes={"custom_attributes": {"slurm.requeue": True}})
    wait_until(partial(is_active, psij, job_id), PATIENCE_S)
    slurm.run("scontrol", "requeue", native_id(psij, job_id))
    wait_until(lambda: state_of(psij, job_id) == "QUEUED", PATIENCE_S)
    assert not set(heard) & set(FINAL)
    psij.cancel_job(job_id)
    assert ended(psij, job_id)["state"] == "CANCELED"


def test_what_slurm_refuses_is_said_in_its_words_and_nothing_is_left(psij: Any) -> None:
    with pytest.raises(SchedulerFailed, match="nvalid partition"):
        submit(psij, "true", attributes={"queue_name": "nowhere"})
    with pytest.raises(InvalidArgument, match="node_count is 2"):
        submit(psij, "true", attributes={"node_count": 2}, resources={"node_count": 1})
    assert psij.list_jobs()["jobs"] == []


def test_a_job_has_the_nodes_the_limit_and_the_environment_that_it_asked_for(slurm: SlurmLab, psij: Any) -> None:
    attributes = {"node_count": 2, "duration": "00:20:00", "queue_name": "debug"}
    job_id = submit(psij, 'echo "$SLURM_NNODES $LC_ALL $OWN"; sleep 1000', attributes=attributes, environment={"OWN": "a b"})
    wait_until(lambda: psij.get_job_status(job_id)["stdout"], PATIENCE_S)
    assert psij.get_job_status(job_id)["stdout"] == f"2 {os.environ.get('LC_ALL', '')} a b\n"
    assert slurm.run("squeue", "-h", "-o", "%D %l %P", "-j", native_id(psij, job_id)).split() == ["2", "20:00", "debug"]


def test_the_script_that_is_shown_is_the_one_that_slurm_has(slurm: SlurmLab, psij: Any) -> None:
    spec = shell("sleep 1000", environment={"A": "it's\nlines"}, attributes={"duration": "1h", "queue_name": "debug"})
    job = psij.submit_job({**spec, "attributes": {"duration": "20m"}}, executor="slurm")
    wait_until(lambda: state_of(psij, job["job_id"]) == "ACTIVE", PATIENCE_S)
    submitted = slurm.run("scontrol", "write", "batch_script", job["native_id"], "-")
    shown = psij.preview_job({**spec, "attributes": {"duration": "20m"}}, executor="slurm")["script"]
    other = next(line for line in shown.splitlines() if "--comment=" in line).partition("orbit:")[2].strip('"')
    assert shown.replace(other, job["job_id"]).rstrip("\n\0") == submitted.rstrip("\n\0")


def test_lists_of_queue_info_know_at_once_what_was_submitted_and_canceled(lab: Lab, psij: Any) -> None:
    queue_info = lab.client().get_plugin("hpc1", "queue_info")
    queue_info.list_all_jobs()
    job = psij.submit_job(shell("sleep 1000"), executor="slurm")
    assert job["native_id"] in [one["job_id"] for one in queue_info.list_all_jobs()["jobs"]]


def test_a_killed_endpoint_finds_its_jobs_again_also_the_one_that_it_was_submitting(
    slurm: SlurmLab, commands: CountedCommands, tmp_path: Path
) -> None:
    """The command that submits kills the endpoint before it can say the id."""
    place = tmp_path / "bin"
    place.mkdir()
    fatal = place / "sbatch"
    real = next(Path(folder) / "sbatch" for folder in os.environ["PATH"].split(":") if (Path(folder) / "sbatch").exists())
    fatal.write_text(
        f'#!/bin/sh\n{real} "$@" >{tmp_path}/said; [ ! -e {tmp_path}/fatal ] && exec cat {tmp_path}/said\nkill -9 $PPID\n'
    )
    fatal.chmod(0o755)
    with broker_at(slurm, PATH=f"{place}:{commands.path}") as lab:
        lab.start_endpoint("hpc2", plugins="psij")
        psij = lab.client().get_plugin("hpc2", "psij", sid="mine", lifetime="persistent")
        before = submit(psij, "sleep 1; echo before; exit 3")
        (tmp_path / "fatal").touch()
        with pytest.raises(RuntimeError):
            submit(psij, "sleep 2; echo found; exit 5")
        (tmp_path / "fatal").unlink()
        native = (tmp_path / "said").read_text().split()[-1]

        lab.start_endpoint("hpc2", plugins="psij")
        psij = lab.client().get_plugin("hpc2", "psij", sid="mine")
        print(
            slurm.run("squeue", "--states=all", "--Format=JobArrayID:20,State:20,Comment:60"),
            psij.list_jobs(),
            lab.log_of("hpc2")[-3000:],
        )
        (found,) = [job["job_id"] for job in psij.list_jobs()["jobs"] if job["job_id"] != before]
        assert (ended(psij, before)["exit_code"], ended(psij, found)["exit_code"]) == (3, 5)
        assert psij.get_job_status(found)["stdout"] == "found\n"
        assert psij.get_job_status(found)["native_id"] == native


WRITER = """
import sys, time
line = "".join(chr(0x21 + 37 * number % 0x2000) + "ä€𝄞" for number in range(20_000)) + "\\n"
all_of_it = line.encode() * ((100 << 20) // len(line.encode()) + 1)
for begin in range(0, len(all_of_it), 999_983):  # which cuts characters
    sys.stdout.buffer.write(all_of_it[begin : begin + 999_983])
    sys.stdout.buffer.flush()
    time.sleep(0.02)
"""


@pytest.mark.long
def test_a_hundred_megabytes_of_text_are_followed_live_byte_for_byte(psij: Any) -> None:
    spec = {"executable": "/usr/bin/env", "arguments": ["python3", "-c", WRITER], "directory": "/tmp"}
    job = psij.submit_job(spec, executor="slurm")
    text, offset, seen_running = [], 0, False
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status = psij.get_job_status(job["job_id"], stdout_offset=offset)
        text.append(status["stdout"])
        offset = status["stdout_offset"]
        seen_running = seen_running or (bool(status["stdout"]) and status["state"] == "ACTIVE")
        if status["state"] in FINAL and not status["stdout"]:
            break
        assert time.monotonic() < deadline or status["stdout"]
    written = Path(status["stdout_path"]).read_bytes()
    assert len(written) >= 100 << 20 and seen_running and status["state"] == "COMPLETED"
    assert "".join(text).encode() == written
    assert b"".join(psij.follow_output(job["job_id"])) == written


@pytest.mark.long
def test_a_job_that_takes_too_long_has_failed_by_its_time_limit(psij: Any) -> None:
    job_id = submit(psij, "sleep 1000", attributes={"duration": 60})
    end = psij.wait_job(job_id, timeout=300)
    assert (end["state"], end["raw_state"], end["message"]) == ("FAILED", "TIMEOUT", "TimeLimit")


def test_a_job_that_ends_while_the_controller_is_down_is_known_to_have_ended(
    slurm: SlurmLab, psij: Any, tmp_path: Path
) -> None:
    job_id = submit(psij, f"echo up; until [ -e {tmp_path}/go ]; do sleep 0.1; done; exit 4")
    wait_until(lambda: state_of(psij, job_id) == "ACTIVE", PATIENCE_S)
    slurm.stop("slurmctld")
    try:
        (tmp_path / "go").touch()
        end = ended(psij, job_id)
        assert (end["state"], end["exit_code"], end["source"]) == ("FAILED", 4, "record")
    finally:
        slurm.start_again("slurmctld")

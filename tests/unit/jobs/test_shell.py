"""Jobs as processes of this machine: each has a handle and an outcome of its own, whoever asks, and nothing is guessed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lab import wait_until
from processes import names_below

from orbit_jobs.models import Array, JobDryRun, JobHandle, JobStatus, JobStatusResult, JobValidationError
from orbit_jobs.runner import Job
from orbit_jobs.shell import ShellRunner
from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import DeadlineExceeded
from orbit_zmq.files import write_private

WAIT_S = 60.0
ASK = """
import sys
from orbit_jobs.models import JobHandle
from orbit_jobs.runner import status
found = status(JobHandle.model_validate_json(sys.argv[1]))
print(found.status, found.detail.get("exit_code"))
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[ShellRunner]:
    runner = ShellRunner(root=tmp_path / "jobs", cwd=tmp_path)
    runner._name = "shell"
    yield runner
    for record in tmp_path.glob("jobs/*/native"):
        with suppress(ProcessLookupError):
            os.killpg(int(record.read_text()), signal.SIGKILL)


def submitted(shell: ShellRunner, *command: str, **more: Any) -> JobHandle:
    job = Job.of(list(command))
    handle = shell.submit(Job(job.spec.model_copy(update=more), job.job_id))
    assert isinstance(handle, JobHandle) and handle.native_id is not None
    write_private(Path(handle.metadata["directory"]) / "native", handle.native_id.partition(".")[0])
    return handle


def pid_of(handle: JobHandle) -> int:
    return int(str(handle.native_id).partition(".")[0])


def running(shell: ShellRunner, handle: JobHandle) -> JobStatusResult:
    """Once its command runs: a shell misses a signal in the instant in which it begins a process."""
    wait_until(lambda: "sleep" in names_below(pid_of(handle)).values(), WAIT_S, "it runs")
    return shell.status(handle)


def test_two_successful_jobs_keep_two_handles(shell: ShellRunner) -> None:
    first, second = submitted(shell, "true"), submitted(shell, "true")
    found = [shell.wait(handle, WAIT_S) for handle in (first, second)]

    assert first.job_id != second.job_id and [one.status for one in found] == [JobStatus.SUCCESSFUL] * 2
    assert [one.detail["source"] for one in found] == ["record", "record"]


def test_a_job_of_one_process_is_asked_for_in_another(shell: ShellRunner) -> None:
    handle = submitted(shell, "sh", "-c", "exit 3")
    shell.wait(handle, WAIT_S)
    done = subprocess.run(
        [sys.executable, "-c", ASK, handle.model_dump_json()], env=environment_of_child(), capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip

    assert done.stdout.split() == ["failed", "3"], done.stderr


def test_a_job_that_runs_is_running_and_is_cancelled_when_asked_to(shell: ShellRunner) -> None:
    handle = submitted(shell, "sleep", "1000")
    assert running(shell, handle).detail["started"]
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        shell.wait(handle, 0.0)

    shell.cancel(handle, "enough")

    found = shell.wait(handle, WAIT_S)
    assert found.status is JobStatus.CANCELLED
    assert (found.detail["cancel_reason"], found.detail["signal"]) == ("enough", signal.SIGTERM)
    shell.cancel(handle, "again")  # one that has ended stays as it is
    assert shell.status(handle).status is JobStatus.CANCELLED


def test_a_job_that_is_killed_with_its_wrapper_has_an_unknown_end(shell: ShellRunner) -> None:
    handle = submitted(shell, "sleep", "1000")
    running(shell, handle)

    os.killpg(pid_of(handle), signal.SIGKILL)

    found = shell.wait(handle, WAIT_S)
    assert found.status is JobStatus.FINISHED_UNKNOWN and "exit_code" not in found.detail


def test_a_job_whose_record_is_gone_has_an_unknown_end(shell: ShellRunner) -> None:
    handle = submitted(shell, "true")
    assert shell.wait(handle, WAIT_S).status is JobStatus.SUCCESSFUL
    (Path(handle.metadata["directory"]) / "record").unlink()

    assert shell.wait(handle, WAIT_S).status is JobStatus.FINISHED_UNKNOWN


def test_a_process_that_has_taken_over_the_number_is_not_the_job(shell: ShellRunner) -> None:
    handle = submitted(shell, "true")
    shell.wait(handle, WAIT_S)
    (Path(handle.metadata["directory"]) / "record").unlink()
    reused = handle.model_copy(update={"native_id": f"{os.getpid()}.1"})

    assert shell.status(reused).status is JobStatus.FINISHED_UNKNOWN


def test_the_environment_is_replaced_where_one_is_given(shell: ShellRunner, tmp_path: Path) -> None:
    alone = shell.model_copy(update={"env": {"PATH": os.environ["PATH"], "ONLY": "this"}})
    handle = submitted(alone, "env", environment={"MORE": "a 'b'"})
    shell.wait(handle, WAIT_S)

    said = Path(handle.metadata["stdout"]).read_text().splitlines()
    assert {"ONLY=this", "MORE=a 'b'"} <= set(said) and not any(line.startswith("HOME=") for line in said)


def test_without_detach_submit_returns_when_the_job_has_ended(shell: ShellRunner, tmp_path: Path) -> None:
    handle = submitted(shell.model_copy(update={"detach": False}), "sh", "-c", "sleep 0.5; pwd; exit 2")

    found = shell.status(handle)
    assert (found.status, found.detail["exit_code"]) == (JobStatus.FAILED, 2)
    assert Path(handle.metadata["stdout"]).read_text().strip() == str(tmp_path)


def test_members_of_an_array_run_no_more_at_once_than_wanted(shell: ShellRunner, tmp_path: Path) -> None:
    script = "echo {} >>begun; sleep 0.1; exit $ORBIT_ARRAY_INDEX"
    spec = Job.of(["sh", "-c", script]).spec
    handle = shell.submit(Job(spec, array=Array.parse("0-2,5%1")))
    assert isinstance(handle, JobHandle)
    found = shell.wait(handle, WAIT_S)

    assert found.status is JobStatus.FAILED and found.detail["counts"] == {"successful": 1, "failed": 3}
    assert [one["exit_code"] for one in found.detail["members"].values()] == [0, 1, 2, 5]
    assert (tmp_path / "begun").read_text() == "{}\n" * 4


def test_members_that_never_began_are_cancelled_with_the_rest(shell: ShellRunner) -> None:
    handle = shell.submit(Job(Job.of(["sleep", "1000"]).spec, array=Array.parse("0-3%2")))
    assert isinstance(handle, JobHandle)
    wait_until(lambda: shell.status(handle).detail["counts"].get("running") == 2, WAIT_S)

    shell.cancel(handle)

    assert shell.wait(handle, WAIT_S).detail["counts"] == {"cancelled": 4}


def test_what_cannot_run_is_said_beforehand(shell: ShellRunner) -> None:
    for command, more, kind in (
        (["/no/such/program"], {}, "missing_executable"),
        (["no-such-program"], {}, "missing_executable"),
        (["true"], {"directory": "/no/such/place"}, "missing_directory"),
    ):
        with pytest.raises(JobValidationError) as caught:
            submitted(shell, *command, **more)
        assert [issue.kind for issue in caught.value.issues] == [kind]


def test_a_dry_run_leaves_nothing_behind_and_shows_what_would_be_run(shell: ShellRunner, tmp_path: Path) -> None:
    shown = shell.submit({"executable": "true", "attributes": {"duration": 60}}, dry_run=True)

    assert isinstance(shown, JobDryRun) and shown.script.startswith("#!/bin/bash")
    assert [issue.severity for issue in shown.issues] == ["warning"] and not (tmp_path / "jobs").exists()

"""Commands of a scheduler: run without a shell, in the C locale, within a time, and with a bound on what they print."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from lab import wait_until

from orbit_zmq.batch.commands import ask, checked_job_id, run
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, NotPermitted, SchedulerFailed, TooLarge


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def make(script: str, name: str = "squeue") -> str:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        return name

    return make


def test_its_output_and_its_arguments_are_what_they_are(command):
    name = command('printf "%s|" "$@"; echo "$LC_ALL $SLURM_CONF $SQUEUE_USERS"')

    assert ask([name, "a b", "$(id)", "*"], environment={"SLURM_CONF": "/x"}) == "a b|$(id)|*|C /x \n"


def test_formats_of_the_user_are_not_passed_on(command, monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")

    assert ask([command('echo "$SQUEUE_FORMAT,$SLURM_TIME_FORMAT"')]) == ",%s\n"


def test_what_takes_too_long_is_killed_with_its_children(command, tmp_path):
    name = command("sleep 101 & sleep 100")
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="squeue gave no answer within 3 s"):
        run([name], environment={"MARKED": str(tmp_path)}, timeout_s=3)

    assert time.monotonic() - began < 50
    wait_until(lambda: not any(is_marked(process, str(tmp_path)) for process in psutil.process_iter()))


def is_marked(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):  # it has ended
        return process.environ().get("MARKED") == mark
    return False


def test_one_that_closes_its_output_and_lives_on_has_its_time_too(command):
    with pytest.raises(DeadlineExceeded):
        run([command("exec >&- 2>&-; sleep 60")], timeout_s=0.5)


def test_what_prints_without_end_is_stopped(command):
    with pytest.raises(TooLarge, match="more than 1 MiB"):
        run([command("yes")], limit_bytes=1 << 20)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", NotFound, "Invalid job id"),
        ("echo 'qstat: Unknown Job Id 12.pbs' >&2; exit 153", NotFound, "Unknown Job"),
        ("echo 'Access/permission denied' >&2; exit 1", NotPermitted, "denied"),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", SchedulerFailed, "squeue: Unable to contact"),
        ("exit 7", SchedulerFailed, "exit code 7"),
    ],
)
def test_a_failure_is_an_error_that_says_what_the_command_said(command, script, error, words):
    with pytest.raises(error, match=words):
        ask([command(script)])


def test_a_refusal_for_good_says_so_and_names_the_command_once(command):
    name = command("echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2; exit 1", "sbatch")
    with pytest.raises(SchedulerFailed) as refused:
        ask([name])
    assert refused.value.message.startswith("sbatch: error: Batch job submission failed") and not refused.value.transient

    with pytest.raises(SchedulerFailed) as away:
        ask([command("echo 'Unable to contact slurm controller' >&2; exit 1", "sinfo")])
    assert away.value.transient


def test_a_command_that_is_not_there_is_named():
    with pytest.raises(SchedulerFailed, match="no-such-command is not installed"):
        ask(["no-such-command"])


@pytest.mark.parametrize("bad", ["", "-x", "--all", "1;2", "1 2", "x" * 200, "../1"])
def test_what_is_no_id_of_a_job_never_reaches_a_command(bad):
    with pytest.raises(InvalidArgument):
        checked_job_id(bad)


@pytest.mark.parametrize("good", [17, "17", "17_3", "17_[1-3]", "17[].pbs-server", "17[4].host.domain", "ƒiFkbMhFM"])
def test_what_schedulers_call_a_job_is_an_id(good):
    assert checked_job_id(good) == str(good)

"""Runners: how one is found and made, what each checks beforehand, and that a handle works in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orbit_jobs.batch import BatchRunner
from orbit_jobs.models import Array, Issue, JobDryRun, JobHandle, JobStatus, JobStatusResult, JobValidationError
from orbit_jobs.runner import Job, JobRunner, build, runner_names, runner_of
from orbit_jobs.shell import ShellRunner
from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import InvalidArgument, Unsupported

THIRD_PARTY = '''
"""A runner of somebody else: jobs that are done the moment they are submitted."""
from pathlib import Path

from orbit_jobs.models import Issue, JobDryRun, JobStatus, JobStatusResult
from orbit_jobs.runner import JobRunner


class NotesRunner(JobRunner):
    place: Path

    def _submit_validate(self, job):
        return [] if self.place.is_dir() else [Issue(kind="missing_directory", msg=f"There is no directory {self.place}.")]

    def _submit(self, job, *, dry_run):
        if dry_run:
            return JobDryRun(command=f"note {job.command}")
        (self.place / job.job_id).write_text(" ".join(job.command))
        return self.handle(job)

    def _status(self, handle):
        is_there = (self.place / handle.job_id).exists()
        return JobStatusResult.of(handle, JobStatus.SUCCESSFUL if is_there else JobStatus.FINISHED_UNKNOWN)
'''
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "some-notes"
version = "1.0"
[project.entry-points."orbit_zmq.job_runners"]
notes = "some_notes:NotesRunner"
"""
SUBMIT = """
import sys
from orbit_jobs.runner import build
print(build({"runner": "notes", "place": sys.argv[1]}).submit(["take", "note"]).model_dump_json())
"""
ASK = """
import sys
from orbit_jobs.models import JobHandle
from orbit_jobs.runner import status
print(status(JobHandle.model_validate_json(sys.argv[1])).status)
"""


class Careful(JobRunner):
    """Says what it is told to say."""

    wrong: str = ""
    severity: str = "error"
    blind: bool = False

    def _submit_validate(self, job: Job) -> Iterable[Issue] | None:
        return [Issue(kind="wrong", msg=self.wrong, severity=self.severity)] if self.wrong else None

    def _status_validate(self, handle: JobHandle) -> Iterable[Issue] | None:
        return [Issue(kind="blind", msg="It cannot be asked.")] if self.blind else []

    def _submit(self, job: Job, *, dry_run: bool) -> JobHandle | JobDryRun:
        return JobDryRun(command=job.spec.executable) if dry_run else self.handle(job, "1")

    def _status(self, handle: JobHandle) -> JobStatusResult:
        return JobStatusResult.of(handle, JobStatus.PENDING)


def test_a_runner_is_built_from_its_name_its_module_or_itself() -> None:
    assert isinstance(build("shell"), ShellRunner) and isinstance(build("local"), ShellRunner)
    slurm = build({"runner": "slurm", "attributes": {"queue_name": "debug"}})
    assert isinstance(slurm, BatchRunner) and (slurm.executor, slurm.backend) == ("slurm", "slurm")
    assert slurm.attributes.queue_name == "debug"
    found = build({"module": f"{ShellRunner.__module__}:ShellRunner", "detach": False})
    assert isinstance(found, ShellRunner) and not found.detach
    assert build(found) is found
    assert {"shell", "batch", "slurm", "pbs", "lsf"} <= set(runner_names())


@pytest.mark.parametrize(
    ("config", "said", "kind"),
    [
        ({}, "none of them", ValueError),
        ({"detach": True}, "none of them", ValueError),
        ({"runner": "shell", "module": "x"}, "runner, module", ValueError),
        ("slurmm", "Did you mean 'slurm'", ModuleNotFoundError),
        ({"module": "no.such.module"}, "does not import", ModuleNotFoundError),
        ({"module": "json"}, "no JobRunner", LookupError),
        ({"runner": "shell", "detatch": True}, "Did you mean 'detach'", ValueError),
        ({"runner": "slurm", "attributes": {"queue": "x"}}, "queue", ValueError),
        ({"name": "nowhere"}, "no target 'nowhere'", ModuleNotFoundError),
    ],
)
def test_what_is_no_runner_is_refused_by_name(config: Any, said: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=said):
        build(config)


def test_a_target_of_the_settings_is_built_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBIT_CONFIG_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    (tmp_path / "config.toml").write_text('[plugins.jobs.jobs.targets.here]\nrunner = "shell"\ncwd = "/tmp"\n')

    found = build({"name": "here", "detach": False})

    assert isinstance(found, ShellRunner) and (found.cwd, found.detach) == (Path("/tmp"), False)


def test_what_is_wrong_is_said_before_anything_is_done_and_on_a_dry_run_too() -> None:
    for dry_run in (True, False):
        with pytest.raises(JobValidationError, match="It is wrong") as caught:
            Careful(wrong="It is wrong.").submit(["true"], dry_run=dry_run)
        assert [issue.kind for issue in caught.value.issues] == ["wrong"]
    with pytest.raises(JobValidationError, match="takes no arrays"):
        Careful().submit(Job(Job.of(["true"]).spec, array=Array.parse("0-1")))
    with pytest.raises(JobValidationError, match="cannot be asked"):
        Careful(blind=True).status(JobHandle(job_id="job.1", backend="x"))


def test_a_warning_is_shown_and_keeps_nothing_from_being_done() -> None:
    careful = Careful(wrong="It is odd.", severity="warning")
    shown = careful.submit(["true"], dry_run=True)

    assert isinstance(shown, JobDryRun) and [issue.msg for issue in shown.issues] == ["It is odd."] and shown.job_id
    assert isinstance(careful.submit(["true"]), JobHandle)


def test_a_runner_that_cannot_cancel_says_so() -> None:
    with pytest.raises(Unsupported, match="cannot cancel"):
        Careful().cancel(JobHandle(job_id="job.1", backend="x"))


def test_a_job_is_a_spec_its_fields_or_the_words_of_a_command() -> None:
    assert Job.of(["sleep", "1"]).command == Job.of({"executable": "sleep", "arguments": ["1"]}).command == ["sleep", "1"]
    wrong: list[Any] = ["sleep 1", [], {"executable": "x", "argument": []}]
    for given in wrong:
        with pytest.raises(InvalidArgument):
            Job.of(given)


def test_a_handle_says_which_runner_it_needs_without_its_secrets() -> None:
    handle = build({"runner": "shell", "env": {"TOKEN": "secret"}, "cwd": "/tmp", "detach": False}).handle(Job.of(["true"]))

    assert "secret" not in handle.model_dump_json() and "secret" not in repr(build({"runner": "shell", "env": {"T": "secret"}}))
    again = runner_of(JobHandle.model_validate_json(handle.model_dump_json()))
    assert isinstance(again, ShellRunner) and again.cwd == Path("/tmp") and again.env is None


def test_a_third_partys_runner_in_a_wheel_of_its_own_is_found_and_its_handles_work_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "some_notes.py").write_text(THIRD_PARTY)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "notes").mkdir()
    assert len(THIRD_PARTY.split("class NotesRunner")[1].splitlines()) <= 20

    def run(*words: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path / "notes", env=environment_of_child(**more), capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=tmp_path, check=True, timeout=100, capture_output=True,
    )  # fmt: skip
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(target)
    path = {"PYTHONPATH": os.pathsep.join((str(target), os.environ.get("PYTHONPATH", "")))}

    handle = run("-c", SUBMIT, str(tmp_path / "notes"), **path)

    assert '"backend":"notes"' in handle
    assert run("-c", ASK, handle, **path) == "successful"

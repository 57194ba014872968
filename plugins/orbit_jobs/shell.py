"""ShellRunner: jobs as processes of this machine, for laptops and tests. There is no queue: what is submitted runs.

A job is a session of processes of its own that lives on when whoever has started it ends. Its process id and start time tell it
from a later process of that number, one that nobody has asked about counts as ended, and only its own record says how.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from orbit_jobs.files import JobFiles, default_root
from orbit_jobs.judging import Verdict, alive, ended, together
from orbit_jobs.models import Array, Issue, JobDryRun, JobHandle, JobStatus, JobStatusResult
from orbit_jobs.runner import Job, JobRunner
from orbit_psij.rendering import launched, render, warnings_of
from orbit_psij.schedulers import LOCAL
from orbit_psij.schedulers import cancel as cancel_process
from orbit_zmq.batch.exit_record import ExitRecord, is_running, session_lives, started_ticks, wrapped
from orbit_zmq.errors import NotFound, SchedulerFailed
from orbit_zmq.files import write_private

NOT_USED = ("duration", "queue_name", "account", "project_name", "reservation_id")  # nobody here would heed them
ALL_MEMBERS = (
    'printf "%s\\n" "$@" | xargs -n 1 -P {limit} /bin/sh -c \'exec env ORBIT_ARRAY_INDEX="$1" /bin/bash "$0"\' {script}'
)
_children: dict[int, subprocess.Popen[bytes]] = {}  # that this process has started and that may have ended since


class ShellRunner(JobRunner):
    """Runs jobs as processes of this machine. `env`, where given, replaces the whole environment."""

    poll_s: ClassVar[float] = 0.2
    takes_arrays: ClassVar[bool] = True
    secrets: ClassVar[frozenset[str]] = frozenset({"env"})

    cwd: Path | None = None
    env: dict[str, str] | None = Field(default=None, repr=False)
    detach: bool = True  # False: submit returns when the job has ended
    root: Path | None = None  # where jobs have their directories

    def _submit_validate(self, job: Job) -> Iterable[Issue]:
        environment = self._environment(job)
        directory = self._directory(job)
        if not os.path.isdir(directory):  # of a name that is too long, too
            yield Issue(kind="missing_directory", msg=f"There is no directory {directory}.", ctx={"directory": str(directory)})
        found = shutil.which(job.spec.executable, path=environment.get("PATH", os.defpath))
        beside = "/" in job.spec.executable and os.access(directory / job.spec.executable, os.X_OK)
        if found is None and not beside:
            said = f"There is no program {job.spec.executable} on this machine."
            yield Issue(kind="missing_executable", msg=said, ctx={"executable": job.spec.executable})
        passed_over = [name for name in NOT_USED if getattr(job.spec.attributes, name)]
        yield from (
            Issue(kind="not_used", msg=f"attributes.{name} is not heeded here", severity="warning") for name in passed_over
        )
        yield from (Issue(kind="not_used", msg=text, severity="warning") for text in warnings_of(LOCAL, job.spec))

    def _submit(self, job: Job, *, dry_run: bool) -> JobHandle | JobDryRun:
        files = self._files(job.job_id)
        stdout, stderr = self._output(job, files)
        words = wrapped(
            launched(job.spec, job.job_id),
            record=files.record,
            stdin=self._path(job, job.spec.stdin_path),
            stdout=stdout,
            stderr=stderr,
            kind="member" if job.array else "local",
        )
        spec = job.spec.model_copy(update={"directory": str(self._directory(job))})
        script = render(LOCAL, spec, job_id=job.job_id, launch_command=words, script_dir=files.directory)
        command = _command(files, job.array)
        if dry_run:
            details = {"directory": str(self._directory(job)), "stdout": str(stdout), "stderr": str(stderr)}
            return JobDryRun(command=shlex.join(command), script=script, details=details)
        files.make()
        write_private(files.script, script)
        native_id = self._start(command, self._environment(job))
        return self.handle(job, native_id, directory=str(files.directory), stdout=str(stdout), stderr=str(stderr))

    def _status_validate(self, handle: JobHandle) -> Iterable[Issue]:
        if "directory" not in handle.metadata:
            yield Issue(kind="no_directory", msg=f"The handle of {handle.job_id} does not say where its record lies.")

    def _status(self, handle: JobHandle) -> JobStatusResult:
        files = JobFiles(Path(handle.metadata["directory"]))
        lives = _session_lives(handle.native_id)
        cancelled = files.cancel_reason()
        members: list[int | None] = [None]
        if text := handle.metadata.get("array"):
            members = list(Array.parse(text).indices)
        verdicts = {member: _judged(files, member, lives, cancelled is not None) for member in members}
        return together(handle, verdicts, cancel_reason=cancelled)

    def _cancel(self, handle: JobHandle, reason: str) -> None:
        files = JobFiles(Path(handle.metadata["directory"]))
        files.note_cancel(reason)
        if handle.native_id is not None:
            with suppress(NotFound):  # it has ended by itself
                cancel_process(LOCAL, handle.native_id)

    def recover(self, job: Job) -> JobHandle | None:
        files = self._files(job.job_id)
        record = files.read_record(job.array.indices[0] if job.array else None)
        if record is None:
            return None
        stdout, stderr = self._output(job, files)
        native_id = None if job.array else f"{record.pid}.{record.pid_started}"
        return self.handle(job, native_id, directory=str(files.directory), stdout=str(stdout), stderr=str(stderr))

    def _start(self, command: list[str], environment: dict[str, str]) -> str:
        _reap()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise SchedulerFailed(f"{command[0]} cannot be started: {error.strerror}", transient=False) from None
        native_id = f"{process.pid}.{started_ticks(process.pid) or 0}"
        if self.detach:
            _children[process.pid] = process
        else:
            process.wait()
        return native_id

    def _files(self, job_id: str) -> JobFiles:
        return JobFiles((self.root or default_root()) / job_id)

    def _directory(self, job: Job) -> Path:
        return Path(job.spec.directory or self.cwd or Path.cwd()).absolute()

    def _path(self, job: Job, given: str | None) -> Path | None:
        return None if given is None else self._directory(job) / given

    def _output(self, job: Job, files: JobFiles) -> tuple[Path, Path]:
        return (
            self._path(job, job.spec.stdout_path) or files.stdout,
            self._path(job, job.spec.stderr_path) or files.stderr,
        )

    def _environment(self, job: Job) -> dict[str, str]:
        found = dict(os.environ) if self.env is None else dict(self.env)
        found.pop("ORBIT_JOIN", None)  # a secret of the endpoint
        return found


def _command(files: JobFiles, array: Array | None) -> list[str]:
    """What starts the script, once or for each member."""
    if array is None:
        return ["/bin/bash", str(files.script)]
    limit = array.limit or len(array.indices)
    text = ALL_MEMBERS.format(limit=limit, script=shlex.quote(str(files.script)))
    return ["/bin/sh", "-c", text, "orbit-array", *map(str, array.indices)]


def _judged(files: JobFiles, member: int | None, lives: bool, cancel_asked: bool) -> Verdict:
    record = files.read_record(member)
    if _has_ended(record):
        return ended(record, None, None, cancel_asked=cancel_asked)
    if record is not None and is_running(record):
        return alive(record, None, JobStatus.RUNNING)
    if record is None and lives:
        return alive(record, None, JobStatus.PENDING)
    record = files.read_record(member)  # it may have been written since the first look
    return ended(record, None, None, cancel_asked=cancel_asked)


def _has_ended(record: ExitRecord | None) -> bool:
    return record is not None and record.exit_code is not None


def _session_lives(native_id: str | None) -> bool:
    """Whether the process that leads the job is there; one that has ended and that nobody has asked about is not."""
    _reap()
    if native_id is None:
        return False
    pid, _, ticks = native_id.partition(".")
    return pid.isdigit() and session_lives(int(pid), ticks)


def _reap() -> None:
    """Ask about those that this process has started, so that they do not stay behind when they have ended."""
    for pid, process in list(_children.items()):
        if process.poll() is not None:
            _children.pop(pid, None)

"""BatchRunner: jobs of a batch system, through PSI/J. One class for all schedulers that PSI/J renders scripts for.

A job writes its own record into a directory that its nodes see; the accounting and the scheduler are asked for all jobs
together. A scheduler that does not answer changes nothing of what is known. How a script looks is the matter of
`orbit_psij`, and what an end means that of `judging`.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from orbit_jobs.files import JobFiles, default_root
from orbit_jobs.judging import Verdict, alive, ended, together
from orbit_jobs.models import Array, Issue, JobDryRun, JobHandle, JobSpec, JobStatus, JobStatusResult
from orbit_jobs.runner import Job, JobRunner
from orbit_psij.models import Attributes, Resources
from orbit_psij.rendering import launched, render, warnings_of
from orbit_psij.schedulers import COMMANDS, submit_command, submit_script, why_not
from orbit_psij.schedulers import cancel as cancel_native
from orbit_psij.states import accounting, find_by_comment, states
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.batch.exit_record import ExitRecord, wrapped
from orbit_zmq.batch.outcome import NativeState, is_of_this_run, may_come_again
from orbit_zmq.batch.states import WAITING
from orbit_zmq.errors import NotFound, OrbitError
from orbit_zmq.files import write_private

SETTLE_S = 1.5  # for a record to be seen, and for the scheduler to say why a job has ended
LAG_S = 10.0  # a scheduler may not list a job that it has just taken
LISTS = ("slurm", "pbs")  # schedulers that render arrays and dependencies natively
ONE_RANGE = re.compile(r"\d+-\d+(%\d+)?")
Native = dict[str, NativeState]
Member = tuple[str, int | None]  # a job's id, and the index in its array


class BatchRunner(JobRunner):
    """Hands jobs to a batch system. `attributes` and `resources` are what a job gets that does not say otherwise."""

    poll_s: ClassVar[float] = 1.0
    takes_arrays: ClassVar[bool] = True

    executor: str = Field(default_factory=lambda: detect_batch_system().psij_executor)
    attributes: Attributes = Field(default_factory=Attributes)
    resources: Resources = Field(default_factory=Resources)
    root: Path | None = None  # where jobs have their directories; their nodes have to see it
    _seen: _Seen = PrivateAttr(default_factory=lambda: _Seen())

    def _submit_validate(self, job: Job) -> Iterable[Issue]:
        if reason := why_not(self.executor):
            yield Issue(kind="executor_not_available", msg=f"{self.executor} cannot be used here: {reason}", severity="warning")
        if job.array is not None and not self._renders(job.array):
            yield Issue(kind="array_unsupported", msg=f"{self.executor} takes no array like {job.array}.")
        taken = {f"slurm.{name}" for name in ("array", "dependency", "comment")} | {"pbs.J"}
        for name in sorted(taken & set(job.spec.attributes.custom_attributes)):
            said = f"custom_attributes: {name} is set by what follows the job; use array= and after="
            yield Issue(kind="reserved", msg=said, ctx={"name": name})
        yield from (
            Issue(kind="not_used", msg=text, severity="warning") for text in warnings_of(self.executor, self._settled(job))
        )

    def _submit(self, job: Job, *, dry_run: bool) -> JobHandle | JobDryRun:
        files = self._files(job.job_id)
        spec = self._settled(job)
        stdout, stderr = _output(spec, files)
        words = wrapped(
            launched(spec, job.job_id),
            record=files.record,
            stdin=Path(spec.stdin_path) if spec.stdin_path else None,
            stdout=stdout,
            stderr=stderr,
            kind="array" if job.array else "batch",
        )
        script = render(self.executor, spec, job_id=job.job_id, launch_command=words, script_dir=files.directory)
        if dry_run:
            return self._shown(spec, files, script, stdout, stderr)
        files.make()
        write_private(files.script, script)
        native_id = submit_script(self.executor, files.script)
        return self._taken(job, native_id)

    def _shown(self, spec: JobSpec, files: JobFiles, script: str, stdout: Path, stderr: Path) -> JobDryRun:
        said = {"executor": self.executor, "stdout": str(stdout), "stderr": str(stderr), "directory": spec.directory}
        said |= {"queue_name": spec.attributes.queue_name, "account": spec.account, "name": spec.name}
        try:
            command = shlex.join(submit_command(self.executor, files.script))
        except OSError:  # one that looks at the script, which is not there
            command = shlex.join([COMMANDS[self.executor][0], str(files.script)])
        return JobDryRun(command=command, script=script, details={name: str(value) for name, value in said.items() if value})

    def _taken(self, job: Job, native_id: str) -> JobHandle:
        files = self._files(job.job_id)
        stdout, stderr = _output(self._settled(job), files)
        return self.handle(job, native_id, directory=str(files.directory), stdout=str(stdout), stderr=str(stderr))

    def _status_validate(self, handle: JobHandle) -> Iterable[Issue]:
        if "directory" not in handle.metadata or handle.native_id is None:
            yield Issue(kind="not_ours", msg=f"The handle of {handle.job_id} does not say what the scheduler calls it.")

    def _status(self, handle: JobHandle) -> JobStatusResult:
        (found,) = self._asked([handle], patient=False)
        if isinstance(found, OrbitError):
            raise found
        return found

    def status_many(self, handles: Sequence[JobHandle]) -> list[JobStatusResult | OrbitError]:
        return self._asked(handles, patient=True)

    def _asked(self, handles: Sequence[JobHandle], *, patient: bool) -> list[JobStatusResult | OrbitError]:
        """The scheduler first; of those that it does not show as waiting the records; of those that remain the accounting."""
        fault: OrbitError | None = None
        known: Native = {}
        try:
            known = states(self.executor, [handle.native_id for handle in handles if handle.native_id])
        except OrbitError as error:
            fault = error
        looks = [_Look(handle, known, fault, patient, self._seen) for handle in handles]
        doubtful = sorted({native_id for look in looks for native_id in look.doubtful})
        accounted = accounting(self.executor, doubtful) if doubtful and fault is None else {}
        return [look.result(accounted) for look in looks]

    def _cancel(self, handle: JobHandle, reason: str) -> None:
        JobFiles(Path(handle.metadata["directory"])).note_cancel(reason)
        if handle.native_id is not None:
            with suppress(NotFound):  # it has ended by itself
                cancel_native(self.executor, handle.native_id)

    def recover(self, job: Job) -> JobHandle | None:
        native_id = find_by_comment(self.executor).get(job.job_id)
        if native_id is None:
            files = self._files(job.job_id)
            record = files.read_record(None) if job.array is None else None
            native_id = record.native_id if record is not None else None
        return self._taken(job, native_id) if native_id else None

    def takes_after(self, after: Sequence[JobHandle]) -> bool:
        return self.executor in LISTS and all(one.backend == self.backend and one.native_id for one in after)

    def _renders(self, array: Array) -> bool:
        return self.executor == "slurm" or (self.executor == "pbs" and ONE_RANGE.fullmatch(str(array)) is not None)

    def _files(self, job_id: str) -> JobFiles:
        return JobFiles((self.root or default_root()) / job_id)

    def _settled(self, job: Job) -> JobSpec:
        """The job with the runner's defaults, and with its array and dependencies as the scheduler's own options."""
        given, resources = job.spec.attributes, job.spec.settled_resources()
        custom = {**self.attributes.custom_attributes, **given.custom_attributes, **self._options(job)}
        attributes = _merged(self.attributes, given).model_copy(update={"custom_attributes": custom})
        return job.spec.model_copy(update={"attributes": attributes, "resources": _merged(self.resources, resources)})

    def _options(self, job: Job) -> dict[str, Any]:
        after = [one.native_id for one in job.after if one.native_id]
        found: dict[str, Any] = {}
        if self.executor == "slurm":
            if job.array is not None:
                found["slurm.array"] = str(job.array)
            if after:
                found |= {"slurm.dependency": f"afterok:{':'.join(after)}", "slurm.kill-on-invalid-dep": "yes"}
        elif self.executor == "pbs":
            if job.array is not None:
                found["pbs.J"] = str(job.array)
            if after:
                found["pbs.W"] = f"depend=afterok:{':'.join(after)}"
        return found


@dataclass(slots=True)
class _Seen:
    """What has been seen of jobs that have not ended."""

    last: dict[Member, NativeState] = field(default_factory=dict)  # what the scheduler has said, when it answered last
    end_since: dict[Member, float] = field(default_factory=dict)  # when an end was noticed first

    def forget(self, member: Member) -> None:
        self.last.pop(member, None)
        self.end_since.pop(member, None)


class _Look:
    """One job while it is looked at: what the scheduler shows of each member, and of which the accounting is to be asked.

    While the scheduler does not answer, a record ends a job that was seen to run as the run of that record, and no other.
    """

    def __init__(
        self,
        handle: JobHandle,
        known: Native,
        fault: OrbitError | None,
        patient: bool,
        seen: _Seen,
    ) -> None:
        self._handle = handle
        self._fault = fault
        self._patient = patient
        self._seen = seen
        self._files = JobFiles(Path(handle.metadata["directory"]))
        text = handle.metadata.get("array")
        members: list[int | None] = list(Array.parse(text).indices) if text else [None]
        self._shown = {member: self._said(member, known) for member in members}
        self._records = {member: self._read_record(member) for member, shown in self._shown.items()}

    def _said(self, member: int | None, known: Native) -> NativeState | None:
        at = (self._handle.job_id, member)
        said = known.get(self._native_id(member))
        if said is not None:
            self._seen.last[at] = said
        return said if self._fault is None else self._seen.last.get(at)

    def _read_record(self, member: int | None) -> ExitRecord | None:
        shown = self._shown[member]
        if shown is not None and shown.state in WAITING:  # what there is, an earlier run has written
            return None
        record = self._files.read_record(member)
        return record if record is not None and is_of_this_run(record, shown) else None

    def _native_id(self, member: int | None) -> str:
        native_id = self._handle.native_id or ""
        return native_id if member is None else f"{native_id.partition('[')[0]}_{member}"

    @property
    def doubtful(self) -> list[str]:
        """Ids of those that the scheduler does not show as alive, and that have not written their end."""
        return [
            self._native_id(member)
            for member, shown in self._shown.items()
            if not self._has_written(member) and (shown is None or shown.has_ended)
        ]

    def result(self, accounted: Native) -> JobStatusResult | OrbitError:
        """The status of the whole. The scheduler's error where nothing else tells."""
        if self._fault is not None and not all(self._tells_by_itself(member) for member in self._shown):
            return self._fault
        verdicts = {member: self._judged(member, accounted.get(self._native_id(member))) for member in self._shown}
        is_over = all(verdict.status.is_finished for verdict in verdicts.values())
        return together(self._handle, verdicts, cancel_reason=self._files.cancel_reason() if is_over else None)

    def _has_written(self, member: int | None) -> bool:
        record = self._records.get(member)
        return record is not None and record.exit_code is not None

    def _tells_by_itself(self, member: int | None) -> bool:
        return self._has_written(member) and self._shown[member] is not None and not self._may_come_again(member)

    def _may_come_again(self, member: int | None) -> bool:
        record, shown = self._records.get(member), self._shown[member]
        if record is None or shown is None or self._files.cancel_reason() is not None:
            return False
        return may_come_again(record, shown, time.time())

    def _judged(self, member: int | None, accounted: NativeState | None) -> Verdict:
        record, shown = self._records.get(member), self._shown[member]
        if self._has_written(member):
            if shown is None or shown.has_ended or (not self._may_come_again(member) and self._has_waited(member)):
                return self._end(member, accounted)
            return alive(record, shown, JobStatus.RUNNING)
        if shown is not None and not shown.has_ended:
            self._seen.end_since.pop((self._handle.job_id, member), None)
            return alive(record, shown)
        if shown is None and accounted is None and self._is_new():
            return alive(record, None, JobStatus.RUNNING if record is not None else JobStatus.PENDING)
        if not self._has_waited(member):
            return alive(record, shown or accounted, JobStatus.RUNNING)
        self._records[member] = self._read_record(member)  # it may have come meanwhile
        return self._end(member, accounted)

    def _end(self, member: int | None, accounted: NativeState | None) -> Verdict:
        self._seen.forget((self._handle.job_id, member))
        cancel_asked = self._files.cancel_reason() is not None
        return ended(self._records.get(member), accounted, self._shown[member], cancel_asked=cancel_asked)

    def _has_waited(self, member: int | None) -> bool:
        """Whether enough time has gone since the end was noticed; for one who asks only once, since it was written."""
        if not self._patient:
            record = self._records.get(member)
            return record is None or record.ended is None or time.time() - record.ended >= SETTLE_S
        now = time.monotonic()
        return now - self._seen.end_since.setdefault((self._handle.job_id, member), now) >= SETTLE_S

    def _is_new(self) -> bool:
        return time.time() - self._handle.submitted_at.timestamp() < LAG_S


def _merged(defaults: Any, given: Any) -> Any:
    """What is given, else the default, field by field."""
    unset = {name: getattr(defaults, name) for name in type(given).model_fields if name not in given.model_fields_set}
    return given.model_copy(update=unset)


def _output(spec: JobSpec, files: JobFiles) -> tuple[Path, Path]:
    """Where the job writes; a relative path is one in its directory."""
    directory = Path(spec.directory) if spec.directory else Path.cwd()
    stdout = directory / spec.stdout_path if spec.stdout_path else files.stdout
    return stdout, directory / spec.stderr_path if spec.stderr_path else files.stderr

"""What is said of a job: its handle, its status, what a dry run shows, and what is wrong with one.

Clients and endpoints share these, and handles go through files and messages as JSON. Nothing here runs a job, and no
scheduler's package is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from orbit_psij.models import JobSpec
from orbit_zmq.errors import InvalidArgument, OrbitError

__all__ = [
    "Array",
    "Issue",
    "JobDryRun",
    "JobHandle",
    "JobSpec",
    "JobStatus",
    "JobStatusResult",
    "JobValidationError",
]

JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")
MOST_MEMBERS = 10_000


class JobStatus(StrEnum):
    """Where a job is.

    pending: it waits to be started.  running: its command runs, or is being cleared away.  successful: it ended with exit
    code 0.  failed: it ended otherwise, or was never started.  cancelled: somebody asked for its end.  finished_unknown: it has
    ended, and nobody can say how.
    """

    PENDING = "pending"
    RUNNING = "running"
    SUCCESSFUL = "successful"
    FAILED = "failed"
    CANCELLED = "cancelled"
    FINISHED_UNKNOWN = "finished_unknown"

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


class Model(BaseModel):
    """Fields that a newer release has added are passed over."""

    model_config = ConfigDict(extra="ignore")


class JobHandle(Model):
    """What is needed to ask for a job, in this process or in another."""

    job_id: JobId  # ours: no other job ever has it
    backend: str  # the runner
    submitted_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    metadata: dict[str, Any] = {}
    endpoint: str | None = None  # None: it was submitted without one
    target: str | None = None
    native_id: str | None = None  # the scheduler's; None: the scheduler has not got it (yet)

    def __str__(self) -> str:
        where = "".join(
            f" {name}={value}" for name, value in (("endpoint", self.endpoint), ("native_id", self.native_id)) if value
        )
        return f"{self.backend} {self.job_id} submitted_at={self.submitted_at:%Y-%m-%dT%H:%M:%SZ}{where}"


class JobStatusResult(JobHandle):
    """A handle with what is known of its job now; docs/jobs.md lists what `detail` may hold."""

    status: JobStatus
    detail: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"{super().__str__()} status={self.status}"

    @classmethod
    def of(cls, handle: JobHandle, status: JobStatus, **detail: Any) -> JobStatusResult:
        """The handle's job is there; what is None or empty is left out of the detail."""
        known = {name: value for name, value in detail.items() if value not in (None, "", {}, [])}
        facts = {name: getattr(handle, name) for name in JobHandle.model_fields}
        return cls(**facts, status=status, detail=known)


class Issue(Model):
    """One thing that is wrong with a job or a runner. A `warning` does not keep a job from being submitted."""

    kind: str  # a word for programs, such as missing_executable
    msg: str
    ctx: dict[str, Any] | None = None
    severity: str = "error"


def warned(handle: JobHandle, issues: Sequence[Issue]) -> JobHandle:
    """The handle with the texts of these among its metadata, so that nothing is passed over without a word."""
    if not issues:
        return handle
    said = [*handle.metadata.get("warnings", ()), *(issue.msg for issue in issues)]
    return handle.model_copy(update={"metadata": {**handle.metadata, "warnings": said}})


class JobDryRun(Model):
    """What would have been submitted. `script` is, byte for byte, what submit hands over for the same job id."""

    command: str  # that hands it over, for display
    details: dict[str, str] = {}
    script: str = ""
    files: dict[str, str] = {}  # path -> content of what else is written
    issues: list[Issue] = []
    job_id: str = ""


class JobValidationError(InvalidArgument):
    """A job, or a runner, cannot work as it is; nothing has been done. `issues` says what is wrong."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = list(issues)
        super().__init__(
            "; ".join(issue.msg for issue in self.issues),
            details={"issues": [issue.model_dump() for issue in self.issues]},
        )


def validation_error_of(error: OrbitError) -> JobValidationError | None:
    """The same that an endpoint has raised; None for any other error."""
    issues = error.details.get("issues")
    if not isinstance(error, InvalidArgument) or not isinstance(issues, list) or not issues:
        return None
    return JobValidationError(Issue.model_validate(issue) for issue in issues)


class Array(Model):
    """The members of a job that is one of many, by their indices, and how many may run at once."""

    indices: list[int]
    limit: int | None = None

    @classmethod
    def parse(cls, text: str) -> Array:
        """`0-9`, `1,3,5-7`, `0-98:2`, each with `%4` for at most four at once; InvalidArgument for anything else."""
        members, percent, limit = text.partition("%")
        found: set[int] = set()
        for part in members.split(","):
            found |= set(_range_of(part.strip(), text))
            if len(found) > MOST_MEMBERS:
                raise InvalidArgument(f"array {text!r} has more than {MOST_MEMBERS} members", hint="Submit several.")
        if percent and not (limit.isdigit() and int(limit) > 0):
            raise _no_array(text)
        return cls(indices=sorted(found), limit=int(limit) if percent else None)

    def __str__(self) -> str:
        """As schedulers write it: `0-3,7%2`."""
        runs: list[list[int]] = []
        for index in self.indices:
            if runs and runs[-1][1] == index - 1:
                runs[-1][1] = index
            else:
                runs.append([index, index])
        text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
        return text + (f"%{self.limit}" if self.limit else "")


def _range_of(part: str, text: str) -> range:
    matched = RANGE.fullmatch(part)
    if matched is None:
        raise _no_array(text)
    first, last, step = (int(group) if group else None for group in matched.groups())
    if first is None or (last is not None and last < first) or step == 0:
        raise _no_array(text)
    end = first if last is None else last
    if end - first > MOST_MEMBERS * (step or 1):
        raise InvalidArgument(f"array {text!r} has more than {MOST_MEMBERS} members", hint="Submit several.")
    return range(first, end + 1, step or 1)


def _no_array(text: str) -> InvalidArgument:
    return InvalidArgument(f"{text!r} is no array of members", hint="Write 0-9, or 1,3,5-7, or 0-99%4 for four at once.")


def status_of_all(statuses: Sequence[JobStatus]) -> JobStatus:
    """What many together are: not finished before all are, and no better than the worst of them."""
    found = set(statuses)
    if any(not status.is_finished for status in found):
        return JobStatus.PENDING if found == {JobStatus.PENDING} else JobStatus.RUNNING
    worst = (JobStatus.FAILED, JobStatus.FINISHED_UNKNOWN, JobStatus.CANCELLED)
    return next((status for status in worst if status in found), JobStatus.SUCCESSFUL)

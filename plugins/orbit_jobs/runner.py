"""JobRunner: the base of whatever runs jobs, and how one is found and made by its name.

A runner checks a job before it does anything, also for a dry run, and a dry run goes the same way as a submission up to its
last step. What it answers is enough for another process to ask on. A third party's runner is found by the entry points
`orbit_zmq.job_runners`. Everything here blocks; it knows nothing of plugins, sessions and clients.
"""

from __future__ import annotations

import difflib
import secrets
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from orbit_jobs.models import Array, Issue, JobDryRun, JobHandle, JobSpec, JobStatusResult, JobValidationError, warned
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, OrbitError, Unsupported

GROUP = "orbit_zmq.job_runners"
OWN = {"shell": "orbit_jobs.shell:ShellRunner", "batch": "orbit_jobs.batch:BatchRunner"}
EXECUTORS = ("slurm", "pbs", "pbs_classic", "lsf", "cobalt")  # each is a name for `batch` with that executor
KEYS = ("runner", "module", "name")


class RunnerNotFound(NotFound, ModuleNotFoundError):
    """There is no runner of that name, or its module does not import."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a runner is handed: one job, or the members of an array."""

    spec: JobSpec
    job_id: str = field(default_factory=lambda: new_job_id())
    array: Array | None = None
    after: tuple[JobHandle, ...] = ()  # jobs that have to succeed first; only for a runner that says it takes them

    @property
    def command(self) -> list[str]:
        """The words of the command."""
        return [self.spec.executable, *self.spec.arguments]

    @classmethod
    def of(cls, given: Job | JobSpec | Mapping[str, Any] | Sequence[str]) -> Job:
        """A job of what is at hand: a job, a spec, its fields, or the words of a command."""
        if isinstance(given, Job):
            return given
        if isinstance(given, str) or not given:
            raise InvalidArgument("A job is given as its fields or as the words of a command.", hint='Write ["sleep", "1"].')
        if isinstance(given, Sequence):
            given = {"executable": given[0], "arguments": list(given[1:])}
        return cls(JobSpec.of(given))


class JobRunner(BaseModel):
    """Runs jobs in one way. Fields of a subclass are its options.

    A subclass has `_submit` and `_status`, may have `_cancel`, and says by `_submit_validate` and `_status_validate` what is
    wrong; None or [] is nothing. Their errors are OrbitErrors.
    """

    model_config = ConfigDict(extra="forbid")

    poll_s: ClassVar[float] = 1.0  # between two looks at unfinished jobs
    takes_arrays: ClassVar[bool] = False
    secrets: ClassVar[frozenset[str]] = frozenset()  # options that are not kept with a handle
    _name: str = PrivateAttr("")

    @property
    def backend(self) -> str:
        """What handles name it by; another process builds it from that."""
        return self._name or f"{type(self).__module__}:{type(self).__qualname__}"

    def submit(self, job: Job | JobSpec | Mapping[str, Any] | Sequence[str], *, dry_run: bool = False) -> JobHandle | JobDryRun:
        """Hand a job over, or show what would be handed over. JobValidationError before anything is done.

        What is passed over of a job is among the `issues` of a dry run, and in the handle's `metadata` as `warnings`.
        """
        wanted = Job.of(job)
        issues = list(self._submit_validate(wanted) or ())
        if wanted.array is not None and not self.takes_arrays:
            issues.append(Issue(kind="array_unsupported", msg=f"The runner {self.backend} takes no arrays."))
        if errors := [issue for issue in issues if issue.severity == "error"]:
            raise JobValidationError(errors)
        answer = self._submit(wanted, dry_run=dry_run)
        if isinstance(answer, JobDryRun):
            return answer.model_copy(update={"issues": [*answer.issues, *issues], "job_id": wanted.job_id})
        return warned(answer, issues)

    def status(self, handle: JobHandle) -> JobStatusResult:
        """Where a job is. JobValidationError where the runner cannot tell, other errors where it fails to."""
        if issues := list(self._status_validate(handle) or ()):
            raise JobValidationError(issues)
        return self._status(handle)

    def status_many(self, handles: Sequence[JobHandle]) -> list[JobStatusResult | OrbitError]:
        """The same for many, in their order, with as few questions as can be; asked again and again by one who follows jobs.

        Where nobody can say at the moment it is the error.
        """
        return [self._status_or_error(handle) for handle in handles]

    def wait(self, handle: JobHandle, timeout: float | None = None) -> JobStatusResult:
        """Ask until the job has ended. DeadlineExceeded after `timeout` seconds."""
        ends_at = None if timeout is None else time.monotonic() + timeout
        while not (found := self.status(handle)).status.is_finished:
            if ends_at is not None and time.monotonic() > ends_at:
                raise DeadlineExceeded(f"The job {handle.job_id} has not ended within {timeout:g} s; it goes on.")
            time.sleep(self.poll_s)
        return found

    def cancel(self, handle: JobHandle, reason: str = "") -> None:
        """Ask for a job's end; one that has ended stays as it is."""
        self._cancel(handle, reason)

    def recover(self, job: Job) -> JobHandle | None:
        """The handle of a job that was handed over by somebody who ended in the middle of that; None where it never arrived."""
        return None

    def takes_after(self, after: Sequence[JobHandle]) -> bool:
        """Whether it can leave it to the scheduler to wait for these."""
        return False

    def handle(self, job: Job, native_id: str | None = None, **metadata: Any) -> JobHandle:
        """The handle of a job that this runner has taken; what is in `metadata` goes wherever the handle goes."""
        options = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.secrets))
        facts = {"name": job.spec.name, "array": str(job.array) if job.array else None, "runner": options, **metadata}
        known = {name: value for name, value in facts.items() if value not in (None, {})}
        return JobHandle(job_id=job.job_id, backend=self.backend, native_id=native_id, metadata=known)

    def _status_or_error(self, handle: JobHandle) -> JobStatusResult | OrbitError:
        try:
            return self.status(handle)
        except OrbitError as error:
            return error

    # What a subclass has

    @abstractmethod
    def _submit(self, job: Job, *, dry_run: bool) -> JobHandle | JobDryRun:
        """Prepare all of it, and leave out only the last step for a dry run."""

    @abstractmethod
    def _status(self, handle: JobHandle) -> JobStatusResult:
        """Where the job is."""

    def _submit_validate(self, job: Job) -> Iterable[Issue] | None:
        """What is wrong with the job."""
        return None

    def _status_validate(self, handle: JobHandle) -> Iterable[Issue] | None:
        """Why the runner cannot tell of that job."""
        return None

    def _cancel(self, handle: JobHandle, reason: str) -> None:
        raise Unsupported(f"The runner {self.backend} cannot cancel jobs.")


def build(config: Mapping[str, Any] | JobRunner | str) -> JobRunner:
    """The runner that `config` describes: its name, or a map with one of `runner` (a name), `module` ("package.module:Class")
    and `name` (a target of the settings), and with its options.

    InvalidArgument where none of these is there or an option is wrong, RunnerNotFound where there is no such runner; it is a
    ModuleNotFoundError, too.
    """
    if isinstance(config, JobRunner):
        return config
    options = {"runner": config} if isinstance(config, str) else dict(config)
    given = [key for key in KEYS if options.get(key)]
    if len(given) != 1:
        raise InvalidArgument(
            f"A runner is described by one of runner, module and name; given: {', '.join(given) or 'none of them'}",
            hint='Write {"runner": "slurm"}; orbit_jobs.runner.runner_names() lists what there is.',
        )
    (key,) = given
    value = str(options.pop(key))
    for other in KEYS:
        options.pop(other, None)
    if key == "name":
        return build({**_target(value), **options})
    kind, more = _class_of_module(value) if key == "module" else _class_of(value)
    try:
        made = kind(**{**more, **options})
    except ValidationError as error:
        raise _bad_option(value, kind, error) from None
    made._name = value
    return made


def runner_names() -> list[str]:
    """The runners that there are."""
    return sorted({*OWN, *EXECUTORS, *_installed()})


def status(handle: JobHandle) -> JobStatusResult:
    """Where a job is, asked in any process that can see what its runner can see."""
    return runner_of(handle).status(handle)


def cancel(handle: JobHandle, reason: str = "") -> None:
    """Ask for a job's end, likewise."""
    runner_of(handle).cancel(handle, reason)


def runner_of(handle: JobHandle) -> JobRunner:
    """A runner like the one that has taken the job."""
    options = handle.metadata.get("runner")
    key = "module" if ":" in handle.backend else "runner"
    return build({key: handle.backend, **(options if isinstance(options, dict) else {})})


def new_job_id() -> str:
    """An id that no other job has."""
    return f"job.{secrets.token_hex(8)}"


def _installed() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def _class_of(name: str) -> tuple[type[JobRunner], dict[str, Any]]:
    """The class of a name, and what the name says of its options. A package's own runner counts before ours."""
    found = _installed().get(name) or OWN.get("shell" if name == "local" else name)
    if found is None and name in EXECUTORS:
        return _class_of_module(OWN["batch"])[0], {"executor": name}
    if found is None:
        nearest = difflib.get_close_matches(name, runner_names(), n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(runner_names())}."
        raise RunnerNotFound(f"There is no runner {name!r}.", hint=hint)
    return _class_of_module(found)[0], {}


def _class_of_module(target: str) -> tuple[type[JobRunner], dict[str, Any]]:
    module_name, _, name = target.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise RunnerNotFound(f"The runner {target} does not import: {error}.", hint="Is its package installed?") from error
    classes = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, JobRunner)]
    found = getattr(module, name, None) if name else next((one for one in classes if one.__module__ == module_name), None)
    if not isinstance(found, type) or not issubclass(found, JobRunner):
        raise RunnerNotFound(f"{target} is no JobRunner.", hint="Write package.module:Class.")
    return found, {}


def _target(name: str) -> dict[str, Any]:
    from orbit_jobs.targets import configured_targets  # reads the settings

    targets = configured_targets()
    if name not in targets:
        raise RunnerNotFound(
            f"There is no target {name!r} in the settings.", hint=f"There are: {', '.join(targets) or 'none'}."
        )
    return dict(targets[name])


def _bad_option(name: str, kind: type[JobRunner], error: ValidationError) -> InvalidArgument:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    option = ".".join(str(step) for step in fault["loc"])
    if fault["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(option, kind.model_fields, n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes: {', '.join(kind.model_fields) or 'nothing'}."
        return InvalidArgument(f"The runner {name} has no option {option!r}.", hint=hint)
    return InvalidArgument(f"The runner {name}: {option}: {fault['msg']}")

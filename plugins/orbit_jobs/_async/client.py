"""AsyncJobsClient: jobs as handles and results. It must not import what runs them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from orbit_jobs.models import JobDryRun, JobHandle, JobSpec, JobStatus, JobStatusResult, validation_error_of
from orbit_zmq.client._async.plugin import AsyncPluginClient
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, OrbitError

POLL_S = 60.0  # one wait for jobs to end; the endpoint answers the moment they have
FOLLOW_S = 20.0  # one wait for output

Job = JobHandle | str


class AsyncJobsClient(AsyncPluginClient):
    """The jobs of this user at an endpoint. They outlive the session, the client, and the endpoint's process."""

    async def submit(
        self,
        job: JobSpec | Mapping[str, Any] | Sequence[str],
        *,
        dry_run: bool = False,
        target: str | None = None,
        key: str | None = None,
        after: Sequence[Job] = (),
        array: str | None = None,
    ) -> JobHandle | JobDryRun:
        """Submit a job (its fields, or the words of a command), or show what would be submitted.

        Under a `key` it is submitted once, however often this is called. `after` are jobs that have to succeed first; `array`
        makes members of it, such as `0-9` or `0-99%4`. JobValidationError says what is wrong, before anything is done.
        """
        given = {"spec": _plain(job)} if not isinstance(job, Sequence) else {"command": list(job)}
        ids = [_id_of(one) for one in after]
        try:
            answer = await self.call("submit", **given, dry_run=dry_run, target=target, key=key, after=ids or None, array=array)
        except OrbitError as error:
            raise validation_error_of(error) or error from None
        return (JobDryRun if dry_run else JobHandle).model_validate(answer)

    async def status(self, job: Job) -> JobStatusResult:
        """Where a job is, as far as the endpoint knows it now."""
        return JobStatusResult.model_validate(await self.call("status", job_id=_id_of(job)))

    async def wait(self, job: Job, timeout: float | None = None) -> JobStatusResult:
        """Wait until a job has ended. DeadlineExceeded after `timeout` seconds; the job goes on."""
        (found,) = await self.wait_all([job], timeout)
        return found

    async def wait_all(self, jobs: Sequence[Job], timeout: float | None = None) -> list[JobStatusResult]:
        """Wait until all of these have ended, in their order. DeadlineExceeded after `timeout` seconds; the jobs go on."""
        ids = [_id_of(job) for job in jobs]
        ends_at = None if timeout is None else time.monotonic() + timeout
        while True:
            wait_s = POLL_S if ends_at is None else max(0.0, min(POLL_S, ends_at - time.monotonic()))
            answer = await self.call("wait", job_ids=ids, wait_s=wait_s, deadline_s=wait_s + 30)
            if answer["done"]:
                return [JobStatusResult.model_validate(one) for one in answer["jobs"]]
            if ends_at is not None and time.monotonic() >= ends_at:
                left = [one["job_id"] for one in answer["jobs"] if not JobStatus(one["status"]).is_finished]
                said = f"{len(left)} of {len(ids)} jobs have not ended within {timeout:g} s, such as {left[0]}."
                raise DeadlineExceeded(said, hint="They go on; wait again, or cancel them.")

    async def cancel(self, job: Job, reason: str = "") -> JobStatusResult:
        """Ask for a job's end; one that has ended stays as it is."""
        return JobStatusResult.model_validate(await self.call("cancel", job_id=_id_of(job), reason=reason))

    async def logs(self, job: Job, *, member: int | None = None) -> tuple[bytes, bytes]:
        """All that a job has written so far: its standard output and its standard error."""
        out, err = bytearray(), bytearray()
        while True:
            found = await self._read(job, len(out), len(err), member, wait_s=0.0)
            out += found["stdout"]
            err += found["stderr"]
            if not found["stdout"] and not found["stderr"]:
                return bytes(out), bytes(err)

    async def follow(self, job: Job, *, member: int | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """What a job writes, as pairs of `stdout` or `stderr` and bytes, until it has ended."""
        out = err = 0
        while True:
            found = await self._read(job, out, err, member, wait_s=FOLLOW_S)
            out, err = found["stdout_offset"], found["stderr_offset"]
            for name in ("stdout", "stderr"):
                if found[name]:
                    yield name, found[name]
            if found["ended"]:
                return

    async def list(
        self, status: Sequence[JobStatus | str] | None = None, *, target: str | None = None, limit: int = 1_000
    ) -> list[JobStatusResult]:
        """The jobs of this user, of any session, the newest first."""
        wanted = None if status is None else [JobStatus(one).value for one in status]
        answer = await self.call("list", status=wanted, target=target, limit=limit)
        return [JobStatusResult.model_validate(one) for one in answer["jobs"]]

    async def forget(self, job: Job) -> None:
        """Take away what is known of a job that has ended. Conflict before it has."""
        await self.call("forget", job_id=_id_of(job))

    async def targets(self) -> dict[str, Any]:
        """Where jobs may go: `{targets: [{name, runner, usable, reason}], default}`. Needs no session."""
        answer: dict[str, Any] = await self._client.call(self.endpoint, self.plugin, "targets")
        return answer

    async def _read(self, job: Job, out: int, err: int, member: int | None, *, wait_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = await self.call(
            "logs",
            job_id=_id_of(job),
            stdout_offset=out,
            stderr_offset=err,
            member=member,
            wait_s=wait_s,
            deadline_s=wait_s + 30,
        )
        return answer


def _id_of(job: Job) -> str:
    if isinstance(job, str):
        return job
    if not isinstance(job, JobHandle):
        raise InvalidArgument(f"{job!r} is no job", hint="Give a handle, as `submit` answers one, or a job's id.")
    return job.job_id


def _plain(job: JobSpec | Mapping[str, Any]) -> dict[str, Any]:
    return job.model_dump(mode="json", exclude_unset=True) if isinstance(job, JobSpec) else dict(job)

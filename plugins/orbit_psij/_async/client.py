"""AsyncPSIJClient: the operations of psij as typed methods, and outputs that are followed. It must not import PSI/J."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from orbit_psij.models import FINAL, JobSpec, check_mode
from orbit_zmq.client._async.plugin import AsyncPluginClient

WAIT_S = 60.0  # of one question that waits for an end, or for more output
Job = dict[str, Any]


class AsyncPSIJClient(AsyncPluginClient):
    """Jobs of an endpoint's batch system. They belong to their user: closing this ends none of them."""

    async def submit_job(self, job_spec: Mapping[str, Any] | JobSpec, executor: str = "local") -> dict[str, Any]:
        """Submit a job: `{"job_id": ..., "native_id": ...}`, and `warnings` where something of it will be passed over.

        InvalidArgument names what is wrong with it; SchedulerFailed says what the scheduler has against it; OutcomeUnknown
        names the job where the scheduler did not answer in time.
        """
        answer: dict[str, Any] = await self.call("submit_job", job_spec=_fields(job_spec), executor=executor)
        return answer

    async def submit_tunneled(
        self, job_spec: Mapping[str, Any] | JobSpec, executor: str = "local", tunnel: str = "none"
    ) -> dict[str, Any]:
        """Submit a job that starts an endpoint: `{"job_id": ..., "native_id": ..., "endpoint_name": ...}`.

        Its name is in the job's arguments (`-n`). `tunnel` is "none", "forward" (the node logs in to the endpoint's host by
        ssh) or "reverse" (the other way); anything else is InvalidArgument, a ValueError, before anything is sent.
        """
        check_mode(tunnel)
        answer: dict[str, Any] = await self.call(
            "submit_tunneled", job_spec=_fields(job_spec), executor=executor, tunnel=tunnel
        )
        return answer

    async def start_worker(
        self, job_spec: Mapping[str, Any] | JobSpec, executor: str = "local", tunnel: str = "auto"
    ) -> dict[str, Any]:
        """As `submit_tunneled`; with "auto" it takes what has worked with this executor before, else what the job finds."""
        if tunnel != "auto":
            check_mode(tunnel)
        answer: dict[str, Any] = await self.call("start_worker", job_spec=_fields(job_spec), executor=executor, tunnel=tunnel)
        return answer

    async def tunnel_status(self, endpoint_name: str) -> dict[str, Any]:
        """`{endpoint_name, status, port, pid, ssh_host, since, reason, hint}`; the status is no_tunnel, pending, active,
        reconnecting, failed or done. Needs no session."""
        answer: dict[str, Any] = await self._client.call(
            self.endpoint, self.plugin, "tunnel_status", {"endpoint_name": endpoint_name}
        )
        return answer

    async def preview_job(self, job_spec: Mapping[str, Any] | JobSpec, executor: str = "local") -> dict[str, Any]:
        """What would be handed to the scheduler: `{"script": ..., "warnings": [...]}`."""
        answer: dict[str, Any] = await self.call("preview_job", job_spec=_fields(job_spec), executor=executor)
        return answer

    async def get_job_status(self, job_id: str, stdout_offset: int = 0, stderr_offset: int = 0) -> Job:
        """What is known of a job, and what it has printed from these offsets on, at most 1 MiB of each.

        `stdout_offset` and `stderr_offset` of the answer are those to go on from.
        """
        answer: Job = await self.call("get_job_status", job_id=job_id, stdout_offset=stdout_offset, stderr_offset=stderr_offset)
        return answer

    async def wait_job(self, job_id: str, timeout: float | None = None) -> Job:
        """What is known of a job once it has ended, or after `timeout` seconds; its `state` says which."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left_s = WAIT_S if until is None else min(WAIT_S, max(0.0, until - time.monotonic()))
            job: Job = await self.call("wait_job", job_id=job_id, wait_s=left_s)
            if job["state"] in FINAL or left_s <= 0:
                return job

    async def read_output(self, job_id: str, stream: str = "stdout", offset: int = 0, wait_s: float = 0.0) -> dict[str, Any]:
        """The bytes of an output from an offset on, at most 1 MiB: `{"data": ..., "offset": ..., "ended": ...}`."""
        answer: dict[str, Any] = await self.call("read_output", job_id=job_id, stream=stream, offset=offset, wait_s=wait_s)
        return answer

    async def follow_output(self, job_id: str, stream: str = "stdout", offset: int = 0) -> AsyncIterator[bytes]:
        """An output as it is written, in parts, until the job has ended; byte for byte what is in its file."""
        while True:
            part = await self.read_output(job_id, stream, offset, wait_s=WAIT_S)
            if part["data"]:
                yield part["data"]
            offset = part["offset"]
            if part["ended"]:
                return

    async def list_jobs(self, all_sessions: bool = False) -> dict[str, list[Job]]:
        """The jobs of this session, or of all sessions of this user, closed ones too: `{"jobs": [...]}`."""
        answer: dict[str, list[Job]] = await self.call("list_jobs", all_sessions=all_sessions)
        return answer

    async def cancel_job(self, job_id: str) -> dict[str, str]:
        """Have a job ended: `{"job_id": ..., "status": "canceled"}`. One that has ended stays as it is."""
        answer: dict[str, str] = await self.call("cancel_job", job_id=job_id)
        return answer

    async def cancel_all(self) -> int:
        """Have all jobs of this session ended that have not; how many those are."""
        return int((await self.call("cancel_all"))["canceled"])

    async def executors(self) -> dict[str, Any]:
        """What PSI/J has, and why one cannot be used there: `{"executors": [...], "default": ...}`. Needs no session."""
        answer: dict[str, Any] = await self._client.call(self.endpoint, self.plugin, "executors")
        return answer

    async def close(self, cancel: bool = False) -> None:
        """Close the session; its jobs go on, unless they are to be canceled."""
        if cancel and self.sid:
            await self.cancel_all()
        await super().close()


def _fields(job_spec: Mapping[str, Any] | JobSpec) -> dict[str, Any]:
    """The job as it travels; the endpoint checks it."""
    return job_spec.model_dump(exclude_unset=True) if isinstance(job_spec, JobSpec) else dict(job_spec)

"""AsyncQueueInfoClient: the operations of queue_info as typed methods. It must not ask a scheduler itself."""

from __future__ import annotations

from typing import Any

from orbit_zmq.client._async.plugin import AsyncPluginClient
from orbit_zmq.errors import NotFound


class AsyncQueueInfoClient(AsyncPluginClient):
    """Queues, jobs and allocations of the batch system of an endpoint.

    `user` is None for the endpoint's own, `*` for everybody, or a name; `force` wants what is not kept.
    """

    async def get_info(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """The queues that a user may use: `{"queues": {name: ...}}`."""
        answer: dict[str, Any] = await self.call("get_info", user=user, force=force)
        return answer

    async def list_jobs(self, queue: str, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """The jobs of a user in one queue: `{"jobs": [...]}`."""
        answer: dict[str, Any] = await self.call("list_jobs", queue=queue, user=user, force=force)
        return answer

    async def list_all_jobs(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """The jobs of a user in all queues: `{"jobs": [...]}`."""
        answer: dict[str, Any] = await self.call("list_all_jobs", user=user, force=force)
        return answer

    async def list_allocations(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """What a user may charge: `{"allocations": [...]}`; empty where the batch system keeps no accounts."""
        answer: dict[str, Any] = await self.call("list_allocations", user=user, force=force)
        return answer

    async def list_reservations(self, force: bool = False) -> dict[str, Any]:
        """Nodes that are kept for somebody, or for maintenance: `{"reservations": [...]}`."""
        answer: dict[str, Any] = await self.call("list_reservations", force=force)
        return answer

    async def list_finished_jobs(
        self, since: float | None = None, limit: int = 100, user: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Jobs that have ended since then (seconds since 1970; by default a day ago), the newest first: `{"jobs": [...]}`."""
        answer: dict[str, Any] = await self.call("list_finished_jobs", since=since, limit=limit, user=user, force=force)
        return answer

    async def list_array_jobs(self, job_id: str | int, force: bool = False) -> dict[str, Any]:
        """Every member of an array, those that wait together among them: `{"jobs": [...]}`."""
        answer: dict[str, Any] = await self.call("list_array_jobs", job_id=job_id, force=force)
        return answer

    async def cancel_job(self, job_id: str | int) -> dict[str, str]:
        """End a job: `{"job_id": ..., "status": "canceled"}`. NotFound, NotPermitted or SchedulerFailed where it cannot be."""
        answer: dict[str, str] = await self.call("cancel_job", job_id=job_id)
        return answer

    async def hold_job(self, job_id: str | int) -> dict[str, str]:
        """Keep a waiting job from being started: `{"job_id": ..., "status": "held"}`."""
        answer: dict[str, str] = await self.call("hold_job", job_id=job_id)
        return answer

    async def release_job(self, job_id: str | int) -> dict[str, str]:
        """Let a held job be started: `{"job_id": ..., "status": "released"}`."""
        answer: dict[str, str] = await self.call("release_job", job_id=job_id)
        return answer

    async def backend(self) -> str:
        """slurm, pbs, lsf, flux or none; needs no session."""
        return str((await self._client.call(self.endpoint, self.plugin, "backend"))["backend"])

    async def is_enabled(self) -> bool:
        """Whether the endpoint's batch system tells of its queues; False where it has no such plugin. Needs no session."""
        try:
            answer = await self._client.call(self.endpoint, self.plugin, "is_enabled")
        except NotFound:
            return False
        return bool(answer["available"])

    async def job_allocation(self) -> dict[str, Any] | None:
        """The job that the endpoint itself runs in, None outside of one; needs no session.

        `job_id`, `partition`, `n_nodes`, `nodelist`, `cpus_per_node`, `gpus_per_node`, `account`, `job_name`, and `runtime`:
        the time limit in seconds, None for none. SchedulerFailed names what is missing.
        """
        allocation: dict[str, Any] | None = (await self._client.call(self.endpoint, self.plugin, "job_allocation"))[
            "allocation"
        ]
        return allocation

    async def nodelist(self) -> list[str]:
        """The hosts of that job, in the scheduler's order; empty outside of one. Needs no session."""
        return list((await self._client.call(self.endpoint, self.plugin, "nodelist"))["nodelist"])

    async def job_nodes(self, native_id: str | int) -> list[str]:
        """The hosts of a running job, in the scheduler's order; empty where it has none (yet). Needs no session."""
        answer = await self._client.call(self.endpoint, self.plugin, "job_nodes", {"native_id": native_id})
        return list(answer["nodelist"])

"""The endpoint's side: what the batch system tells, and a few words to it. One backend is shared by all sessions.

A scheduler's command may take a minute, so it runs in a thread of the plugin's own, never in those of other plugins; this
module must not run one itself.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from orbit_queue_info.explaining import explained, is_native_id, job_of
from orbit_queue_info.queue_info import MOST_FINISHED, QueueInfo, make_queue_info
from orbit_queue_info.ui_config import UI_CONFIG
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.batch.threads import Threads
from orbit_zmq.errors import InvalidArgument, OrbitError, Unsupported
from orbit_zmq.plugin import Caller, Explanation, Host, Plugin, PluginSession, operation
from orbit_zmq.plugin.operation import declare

JobId = Annotated[str | int, Field(description="as the scheduler prints it")]
User = Annotated[str | None, Field(pattern=r"^(\*|[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?)$")]
QueueName = Annotated[str, Field(min_length=1, max_length=255)]
Epoch = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=1, le=MOST_FINISHED)]

DEADLINE_S = 120.0  # two commands that each take their minute


class QueueInfoSession(PluginSession):
    """A user's view of the batch system. The backend is the plugin's and is not closed with the session."""

    def __init__(self, sid: str, backend: QueueInfo, threads: Threads) -> None:
        super().__init__(sid)
        self._backend = backend
        self._ask, self._run = threads.ask, threads.run

    @operation(effect="read", deadline_s=DEADLINE_S)
    async def get_info(self, user: User = None, force: bool = False) -> dict[str, Any]:
        """`{queues: {name: ...}}` that a user may use: None for the endpoint's, `*` for all queues."""
        kept = None if force else self._backend.kept_info(user)
        return kept if kept is not None else await self._ask(self._backend.get_info, user, force)

    @operation(effect="read", deadline_s=DEADLINE_S, path="list_jobs/{sid}/{queue}")
    async def list_jobs(self, queue: QueueName, user: User = None, force: bool = False) -> dict[str, Any]:
        """`{jobs: [...]}` of a user in one queue: None for the endpoint's user, `*` for everybody."""
        return await self._ask(self._backend.list_jobs, queue, user, force)

    @operation(effect="read", deadline_s=DEADLINE_S)
    async def list_all_jobs(self, user: User = None, force: bool = False) -> dict[str, Any]:
        """`{jobs: [...]}` of a user in all queues: None for the endpoint's user, `*` for everybody."""
        return await self._ask(self._backend.list_all_jobs, user, force)

    @operation(effect="read", deadline_s=DEADLINE_S)
    async def list_allocations(self, user: User = None, force: bool = False) -> dict[str, Any]:
        """`{allocations: [...]}`: what a user may charge; empty where the batch system keeps no accounts."""
        return await self._ask(self._backend.list_allocations, user, force)

    @operation(effect="read", deadline_s=DEADLINE_S)
    async def list_reservations(self, force: bool = False) -> dict[str, Any]:
        """`{reservations: [...]}`: nodes that are kept for somebody, or for maintenance."""
        return await self._ask(self._backend.list_reservations, force)

    @operation(effect="read", deadline_s=DEADLINE_S)
    async def list_finished_jobs(
        self, since: Epoch | None = None, limit: Limit = 100, user: User = None, force: bool = False
    ) -> dict[str, Any]:
        """`{jobs: [...]}` that have ended since then (seconds since 1970; by default a day ago), the newest first."""
        return await self._ask(self._backend.list_finished_jobs, since, limit, user, force)

    @operation(effect="read", deadline_s=DEADLINE_S, path="list_array_jobs/{sid}/{job_id}")
    async def list_array_jobs(self, job_id: JobId, force: bool = False) -> dict[str, Any]:
        """`{jobs: [...]}`: every member of an array, those that wait together among them."""
        return await self._ask(self._backend.list_array_jobs, str(job_id), force)

    @operation(effect="run", path="cancel/{sid}/{job_id}")
    async def cancel_job(self, job_id: JobId) -> dict[str, str]:
        """End a job: `{job_id, status: "canceled"}`. NotFound, NotPermitted or SchedulerFailed where it cannot be."""
        await self._run(self._backend.batch.cancel, job_id)
        return {"job_id": str(job_id), "status": "canceled"}

    @operation(effect="run", idempotent=True, path="hold/{sid}/{job_id}")
    async def hold_job(self, job_id: JobId) -> dict[str, str]:
        """Keep a waiting job from being started: `{job_id, status: "held"}`."""
        await self._run(self._backend.batch.hold, job_id)
        return {"job_id": str(job_id), "status": "held"}

    @operation(effect="run", idempotent=True, path="release/{sid}/{job_id}")
    async def release_job(self, job_id: JobId) -> dict[str, str]:
        """Let a held job be started: `{job_id, status: "released"}`."""
        await self._run(self._backend.batch.release, job_id)
        return {"job_id": str(job_id), "status": "released"}


class QueueInfoPlugin(Plugin):
    """Queues, jobs and allocations of the batch system, as the scheduler tells them."""

    plugin_name = "queue_info"
    session_class = QueueInfoSession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = UI_CONFIG

    def __init__(self, host: Host, instance_name: str | None = None, conf: str | None = None) -> None:
        """`conf` is the scheduler's configuration file of another cluster than this machine's."""
        super().__init__(host, instance_name)
        if conf is not None and not Path(conf).exists():
            raise InvalidArgument(f"conf is {conf}, and there is no such file", hint="Name the scheduler's configuration file.")
        self.queue_info = make_queue_info(conf_path=conf)
        self._threads = Threads()
        self.queue_info.start_prefetch()

    def create_session(self, sid: str) -> QueueInfoSession:
        return QueueInfoSession(sid, self.queue_info, self._threads)

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        """Why a job of the endpoint's user is not further, by the scheduler's own id."""
        if not is_native_id(item):
            return None
        job = await self._threads.ask(self._find_job, item)
        return None if job is None else explained(item, job, time.time())

    def _find_job(self, item: str) -> dict[str, Any] | None:
        """Among those that have not ended, then among those of the last day."""
        found = job_of(item, self.queue_info.list_all_jobs()["jobs"])
        if found is None:
            with suppress(Unsupported):
                found = job_of(item, self.queue_info.list_finished_jobs(limit=MOST_FINISHED)["jobs"])
        return found

    @operation(effect="read")
    async def backend(self) -> dict[str, str]:
        """`{backend}`: slurm, pbs, lsf, flux or none."""
        return {"backend": self.queue_info.batch.name.partition("-")[0]}

    @declare(effect="read", deadline_s=DEADLINE_S, name="is_enabled")
    async def check_enabled(self) -> dict[str, Any]:
        """`{available, backend, reason}`: whether the batch system tells of its queues, and why not."""
        name = self.queue_info.batch.name
        if name == "none":
            return {"available": False, "backend": name, "reason": "there is no batch system on this machine"}
        try:
            await self._threads.ask(self.queue_info.get_info)
        except OrbitError as error:
            return {"available": False, "backend": name, "reason": error.message}
        return {"available": True, "backend": name, "reason": ""}

    @operation(effect="read")
    async def job_allocation(self) -> dict[str, Any]:
        """`{allocation}`: the job that the endpoint runs in, None outside of one. SchedulerFailed names what is missing."""
        return {"allocation": await self._threads.ask(detect_batch_system().job_allocation)}

    @operation(effect="read")
    async def nodelist(self) -> dict[str, list[str]]:
        """`{nodelist}`: the hosts of that job, in the scheduler's order; empty outside of one."""
        return {"nodelist": await self._threads.ask(detect_batch_system().nodelist)}

    @operation(effect="read", path="job_nodes/{native_id}")
    async def job_nodes(self, native_id: JobId) -> dict[str, list[str]]:
        """`{nodelist}`: the hosts of a running job, in the scheduler's order; empty where it has none (yet)."""
        return {"nodelist": await self._threads.ask(self.queue_info.batch.job_nodes, str(native_id))}

"""The endpoint's side: jobs are submitted, followed, canceled and read here. They belong to their user, not to a session.

Whatever blocks runs in threads of the plugin's own; this module must not run a command itself.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from orbit_psij.children import AUTO, Children
from orbit_psij.following import Following
from orbit_psij.jobs import Job, new_job
from orbit_psij.models import JobSpec, check_mode
from orbit_psij.output import PORTION_BYTES, read_part, read_text
from orbit_psij.rendering import job_name
from orbit_psij.schedulers import cancel, list_executors
from orbit_psij.submission import Submission
from orbit_psij.ui_config import UI_CONFIG
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.batch.threads import Threads
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, NotPermitted, OrbitError, OutcomeUnknown
from orbit_zmq.log import get_logger
from orbit_zmq.plugin import Caller, Explanation, Host, Plugin, PluginSession, operation
from orbit_zmq.why import Phase

if find_spec("psij") is None:
    raise ImportError('PSI/J is not installed; run: pip install "orbit-zmq[psij]"')

log = get_logger(__name__)

EndpointName = Annotated[str, Field(min_length=1, max_length=200)]
JobId = Annotated[str, Field(min_length=1, max_length=64)]
Offset = Annotated[int, Field(ge=0, le=1 << 60)]
Portion = Annotated[int, Field(ge=1024, le=PORTION_BYTES)]
WaitSeconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Stream = Literal["stdout", "stderr"]

POLL_INTERVAL_S = 5.0
SUBMIT_S = 120.0  # a controller under load; the command itself gives up after a minute
LONGEST_WAIT_S = 3630.0
LOOK_S = 0.2  # between two looks at a file that somebody waits for
PHASES: dict[str, Phase] = {"NEW": "waiting", "QUEUED": "waiting", "ACTIVE": "running"}


class PSIJSession(PluginSession):
    """A user's access to their jobs. Closing it ends none of them."""

    def __init__(self, sid: str, plugin: PSIJPlugin) -> None:
        super().__init__(sid)
        self._plugin = plugin
        self._following = plugin.following
        self._threads = plugin.threads

    @operation(effect="run", deadline_s=SUBMIT_S, path="submit/{sid}")
    async def submit_job(self, job_spec: JobSpec, executor: str = "local") -> dict[str, Any]:
        """Submit a job: `{job_id, native_id}`, and `warnings` where something of it will be passed over.

        InvalidArgument names what is wrong with it, SchedulerFailed says what the scheduler has against it.
        """
        answer: dict[str, Any] = await self._plugin.beside(self.submit_as(str(uuid.uuid4()), job_spec, executor))
        return answer

    @operation(effect="run", deadline_s=SUBMIT_S, path="submit_tunneled/{sid}")
    async def submit_tunneled(self, job_spec: JobSpec, executor: str = "local", tunnel: Any = "none") -> dict[str, Any]:
        """Submit a job that starts an endpoint, `{job_id, native_id, endpoint_name}`, with a key of its own and a tunnel.

        `tunnel` is `none` where the job's node reaches the broker, `forward` where it may log in to this host by ssh, and
        `reverse` where this host may log in to it. The job's arguments have to name the endpoint (`-n`), below the name of
        this one. Conflict while another job of that name is under way.
        """
        check_mode(tunnel)
        return await self._start_child(job_spec, executor, tunnel)

    @operation(effect="run", deadline_s=SUBMIT_S, path="start_worker/{sid}")
    async def start_worker(self, job_spec: JobSpec, executor: str = "local", tunnel: str = AUTO) -> dict[str, Any]:
        """The same, where `tunnel` may be `auto`, too: what has worked with this executor before, else what the job finds."""
        return await self._start_child(job_spec, executor, tunnel)

    async def _start_child(self, job_spec: JobSpec, executor: str, tunnel: object) -> dict[str, Any]:
        starting = self._plugin.children.start(self, job_spec, executor, tunnel)
        answer: dict[str, Any] = await self._plugin.beside(starting)
        return answer

    @operation(effect="read", method="POST", path="preview/{sid}")
    async def preview_job(self, job_spec: JobSpec, executor: str = "local") -> dict[str, Any]:
        """The script that would be handed over, under an id of its own: `{script, warnings}`. Nothing is written."""
        submission = await self._threads.run(Submission.of, str(uuid.uuid4()), executor, job_spec)
        return {"script": await self._threads.run(submission.script), "warnings": submission.warnings}

    @operation(effect="read", path="status/{sid}/{job_id}")
    async def get_job_status(self, job_id: JobId, stdout_offset: Offset = 0, stderr_offset: Offset = 0) -> dict[str, Any]:
        """What is known of a job, and what it has printed from these offsets on, at most 1 MiB of each.

        `stdout_offset` and `stderr_offset` of the answer go on from there. A character is given when all of it is there.
        """
        job = await self._job(job_id)
        shown = job.shown()  # before the files are read, so that nothing comes after a final state
        for name, offset in (("stdout", stdout_offset), ("stderr", stderr_offset)):
            path = Path(shown[f"{name}_path"])
            text, after, size = "", offset, 0
            with suppress(NotPermitted):  # `read_output` says it; the state can be had
                text, after, size = await self._threads.run(read_text, path, offset, job.is_final)
            shown |= {name: text, f"{name}_offset": after, f"{name}_size": size}
        return shown

    @operation(effect="read", waits=True, deadline_s=LONGEST_WAIT_S, path="wait/{sid}/{job_id}")
    async def wait_job(self, job_id: JobId, wait_s: WaitSeconds = 0.0) -> dict[str, Any]:
        """What is known of a job when it has ended, or after `wait_s` seconds, without its output."""
        job = await self._job(job_id)
        await self._following.ended(job, wait_s)
        return job.shown()

    @operation(effect="read", waits=True, deadline_s=LONGEST_WAIT_S, path="output/{sid}/{job_id}")
    async def read_output(
        self,
        job_id: JobId,
        stream: Stream = "stdout",
        offset: Offset = 0,
        max_bytes: Portion = PORTION_BYTES,
        wait_s: WaitSeconds = 0.0,
    ) -> dict[str, Any]:
        """The bytes of an output from an offset on: `{data, offset, ended}`, where `ended` says that no more will come.

        Answers when there are any, when the job has ended, or after `wait_s` seconds.
        """
        job = await self._job(job_id)
        path = Path(job.stdout_path if stream == "stdout" else job.stderr_path)
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            is_final = job.is_final
            data, after, size = await self._threads.run(read_part, path, offset, max_bytes)
            left_s = until - asyncio.get_running_loop().time()
            if data or is_final or left_s <= 0:
                return {"data": data, "offset": after, "ended": is_final and after >= size}
            await asyncio.sleep(min(LOOK_S, left_s))

    @operation(effect="read")
    async def list_jobs(self, all_sessions: bool = False) -> dict[str, Any]:
        """`{jobs: [...]}` of this session, or of all sessions of its user, closed ones too; the newest last."""
        await self._following.ready()
        jobs = (job for job in self._following.all() if job.owner == self.owner)
        return {"jobs": [job.shown() for job in jobs if all_sessions or job.session == self.sid]}

    @operation(effect="run", idempotent=True, deadline_s=SUBMIT_S, path="cancel/{sid}/{job_id}")
    async def cancel_job(self, job_id: JobId) -> dict[str, str]:
        """Have a job ended: `{job_id, status: "canceled"}`; its state says when it has. One that has ended stays as it is."""
        job = await self._job(job_id)
        await self._plugin.beside(self._plugin.cancel(job))
        return {"job_id": job.job_id, "status": "canceled"}

    @operation(effect="run", idempotent=True, deadline_s=SUBMIT_S)
    async def cancel_all(self) -> dict[str, int]:
        """Have all jobs of this session ended that have not: `{canceled: n}`."""
        return {"canceled": (await self.cancel_work("canceled"))["requested"]}

    async def cancel_work(self, reason: str) -> dict[str, int]:
        jobs = self._unfinished()
        done = await asyncio.gather(*(self._plugin.beside(self._plugin.cancel(job)) for job in jobs), return_exceptions=True)
        failed = [error for error in done if isinstance(error, BaseException)]
        for error in failed:
            log.warning("job-not-canceled", session=self.sid, reason=str(error))
        return {"canceled": 0, "requested": len(jobs) - len(failed), "unstoppable": len(failed)}

    def unfinished_tasks(self) -> int:
        return len(self._unfinished())

    def tasks_by_state(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for job in self._following.all():
            if job.session == self.sid:
                counts[job.state] = counts.get(job.state, 0) + 1
        return counts

    def _unfinished(self) -> list[Job]:
        return [job for job in self._following.all() if job.session == self.sid and not job.is_final]

    async def _job(self, job_id: str) -> Job:
        await self._following.ready()
        job = self._following.get(job_id)
        if job is None or job.owner != self.owner:
            raise NotFound(f"There is no job {job_id!r} of yours here.", hint="Jobs are forgotten a week after their end.")
        return job

    async def submit_as(self, job_id: str, job_spec: JobSpec, executor: str) -> dict[str, Any]:
        """Submit a job under an id of ours: `{job_id, native_id}`, and `warnings`."""
        await self._following.ready()
        submission = await self._threads.run(Submission.of, job_id, executor, job_spec)
        spec = submission.spec
        name = job_name(executor, spec)
        job = new_job(submission.job_id, spec, executor, self.owner, self.sid, name, time.time())
        await self._following.add(job)
        try:
            native_id = await self._threads.run(submission.hand_over)
        except DeadlineExceeded as error:
            self._following.look_again(job)
            raise OutcomeUnknown(
                f"{error.message}, so nobody knows yet whether the job {job.job_id} was submitted.",
                hint="Ask for its state in a minute: it is looked for.",
            ) from None
        except (OrbitError, OSError):
            self._following.drop(job)
            raise
        self._following.submitted(job, native_id)
        answer = {"job_id": job.job_id, "native_id": native_id}
        fault = self._following.store_fault
        not_kept = [f"the endpoint keeps nothing at present ({fault}), and forgets this job when it ends"] if fault else []
        warnings = [*submission.warnings, *not_kept]
        return answer | ({"warnings": warnings} if warnings else {})


class PSIJPlugin(Plugin):
    """Batch jobs through PSI/J, on any scheduler that it knows and on this machine itself."""

    plugin_name = "psij"
    session_class = PSIJSession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = UI_CONFIG

    def __init__(self, host: Host, instance_name: str | None = None, poll_interval: float = POLL_INTERVAL_S) -> None:
        """`poll_interval` is the longest time in seconds between two questions to a scheduler."""
        super().__init__(host, instance_name)
        if not 1 <= poll_interval <= 3600:
            raise InvalidArgument(f"poll_interval is {poll_interval}, not a number of seconds from 1 to 3600")
        self.threads = Threads()
        self.following = Following(self.threads, self._tell, poll_interval)
        self.children = Children(self.following, self.threads)
        self._working: set[asyncio.Task[Any]] = set()
        self._sessions: weakref.WeakSet[PSIJSession] = weakref.WeakSet()

    def create_session(self, sid: str) -> PSIJSession:
        session = PSIJSession(sid, self)
        self._sessions.add(session)
        return session

    async def while_served(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.following.run(self.store))
            await self.children.resume(self.store, lambda: self.client, self.cancel)

    @operation(effect="read", path="tunnel_status/{endpoint_name}")
    async def tunnel_status(self, endpoint_name: EndpointName, caller: Caller) -> dict[str, Any]:
        """How the tunnel of a child is: `{endpoint_name, status, port, pid, ssh_host, since, reason, hint}`.

        `status` is no_tunnel, pending, active, reconnecting, failed, with the `reason`, or done.
        """
        return self.children.status(endpoint_name, caller.user)

    @operation(effect="read")
    async def workers(self, caller: Caller) -> dict[str, Any]:
        """`{workers: [...]}`: the endpoints of the caller that jobs of this one have started, as `tunnel_status` has them."""
        return {"workers": self.children.all_of(caller.user)}

    async def cancel(self, job: Job) -> None:
        """Have a job ended."""
        if job.is_final:
            return
        if job.native_id is None:
            raise NotFound(f"The scheduler has told no id of the job {job.job_id} yet.", hint="Ask again in a minute.")
        job.cancel_asked = True
        with suppress(NotFound):  # it has ended meanwhile, and its state will say how
            await self.threads.run(cancel, job.executor, job.native_id)
        self.following.look_again(job)

    @operation(effect="read", deadline_s=60)
    async def executors(self) -> dict[str, Any]:
        """`{executors: [{name, available, reason, launchers}], default}`: what PSI/J has, and why one cannot be used here."""
        found = await self.threads.ask(list_executors)
        available = [one["name"] for one in found if one["available"]]
        wanted = (await self.threads.ask(detect_batch_system)).psij_executor
        return {"executors": found, "default": wanted if wanted in available else "local"}

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        child = self.children.get(item)
        job = self.following.get(child.job_id if child is not None else item)
        if job is None or (job.owner != caller.user and not caller.is_admin):
            return None
        phase = PHASES.get(job.state, "ended")
        fault = self.following.faults.get(job.executor, "")
        reason = f"{job.executor} does not answer: {fault}" if fault and phase != "ended" else _sentence(job)
        if child is not None and child.reason:
            reason = f"{reason} Its tunnel is {child.status}: {child.reason}"
        facts = {name: value for name, value in job.shown().items() if name in ("executor", "exit_code", "signal", "node_list")}
        native_id = "" if job.executor == "local" else job.native_id or ""
        return Explanation(kind="job", state=job.state, phase=phase, reason=reason, native_id=native_id, facts=facts)

    async def beside(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let it go on to its end though the caller goes away: a job that a scheduler has must be known here."""
        task = asyncio.ensure_future(work)
        self._working.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone

    def _tell(self, job: Job) -> None:
        """Once: by the session that submitted it, or for all of its user where that is closed."""
        session = self._open_session(job)
        if session is not None:
            session.notify("job_status", job.change())
        else:
            self.send_notification("job_status", job.change(), user=job.owner)

    def _open_session(self, job: Job) -> PSIJSession | None:
        sessions = (session for session in self._sessions if session.is_active)
        return next((one for one in sessions if one.sid == job.session and one.owner == job.owner), None)


def _sentence(job: Job) -> str:
    if job.state == "NEW":
        return "It is being submitted."
    if job.is_final:
        return job.message or f"It has ended with exit code {job.exit_code}."
    where = f" ({job.raw_state}{f', {job.message}' if job.message else ''})"
    return f"It {'waits in the queue' if job.state == 'QUEUED' else 'runs'}{where if job.raw_state else ''}."

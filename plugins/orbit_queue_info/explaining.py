"""Why a job of the batch system is not further, in words: what the hook `why` of the plugin answers. Sentences alone; it must
not ask a scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from orbit_zmq.batch.reasons import slurm_meaning
from orbit_zmq.units import duration_text
from orbit_zmq.why import Explanation, Phase, SchedulerPart

Job = dict[str, Any]

PHASES: dict[str, Phase] = {
    "PENDING": "waiting", "HELD": "waiting", "RUNNING": "running",
    "DONE": "ended", "FAILED": "ended", "CANCELLED": "ended", "UNKNOWN": "unknown",
}  # fmt: skip


def is_native_id(item: str) -> bool:
    """Whether a batch system whose lists are read may call a job so: 4711, 12_3, 123.server, 12[]."""
    return item[:1].isdigit()


def job_of(item: str, jobs: Iterable[Job]) -> Job | None:
    """The job of that id, or the member of an array: 12_3."""
    return next((job for job in jobs if item in (job["job_id"], _member_of(job))), None)


def _member_of(job: Job) -> str | None:
    array, task = job.get("array_job_id"), job.get("array_task_id")
    return None if array is None or task is None else f"{array}_{task}"


def explained(item: str, job: Job, now: float) -> Explanation:
    """A job in the words of all plugins."""
    part = SchedulerPart(
        state=job["state"],
        reason=_reason(job, now),
        native_id=item,
        raw_state=job["raw_state"],
        raw_reason=job["reason"] or "",
        queue=job["partition"],
        place=job["queue_position"],
        estimated_start=job["estimated_start"],
        time_limit_s=job["time_limit"] if isinstance(job["time_limit"], (int, float)) else None,
        nodes=job["nodes"],
        node_list=job["node_list"],
    )
    return Explanation(
        kind="job", state=part.state, phase=PHASES[part.state], reason=part.reason, native_id=item, scheduler=part
    )


def _reason(job: Job, now: float) -> str:
    where = f" in {job['partition']}" if job["partition"] else ""
    phase = PHASES[job["state"]]
    if phase == "waiting":
        return f"It waits{where}{_because(job)}{_place(job)}{_start(job, now)}."
    if phase == "running":
        on = f" on {job['node_list']}" if job["node_list"] else ""
        for_s = f", for {duration_text(job['time_used'])} by now" if job["time_used"] is not None else ""
        return f"It runs{where}{on}{for_s}."
    if phase == "ended":
        said = [job["raw_state"], *([job["reason"]] if job["reason"] else [])]
        code = f", exit code {job['exit_code']}" if job["exit_code"] else ""
        return f"It has ended: {', '.join(said)}{code}."
    return f"The batch system says {job['raw_state'] or 'nothing'} of it."


def _because(job: Job) -> str:
    reason = job["reason"]
    if not reason or reason == "None":
        return ", and the batch system does not say why"
    meaning = slurm_meaning(reason)
    return f": {meaning} ({reason})" if meaning else f": {reason}"


def _place(job: Job) -> str:
    return f"; it is number {job['queue_position']} there" if job["queue_position"] else ""


def _start(job: Job, now: float) -> str:
    start = job["estimated_start"]
    if not start:
        return ""
    at = datetime.fromtimestamp(start).strftime("%Y-%m-%dT%H:%M")
    return f"; it may start at {at}" + (f", in {duration_text(start - now)}" if start > now else "")

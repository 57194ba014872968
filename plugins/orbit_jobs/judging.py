"""What is told of a job, from its record, the accounting and the scheduler: while it lives, and once it has ended.

Members of an array are judged one by one and put together. How an end is read from all that is known of it is the matter of
`orbit_zmq.batch.outcome`; nothing here asks anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orbit_jobs.models import JobHandle, JobStatus, JobStatusResult, status_of_all
from orbit_zmq.batch.exit_record import ExitRecord
from orbit_zmq.batch.outcome import NativeState, outcome_of, text_of_exit
from orbit_zmq.batch.states import State

# Of a scheduler's word, in the one set that all schedulers share. HELD waits until somebody releases it.
STATUS_OF_STATE: dict[State, JobStatus] = {
    "PENDING": JobStatus.PENDING,
    "HELD": JobStatus.PENDING,
    "RUNNING": JobStatus.RUNNING,
    "DONE": JobStatus.SUCCESSFUL,
    "FAILED": JobStatus.FAILED,
    "CANCELLED": JobStatus.CANCELLED,
    "UNKNOWN": JobStatus.PENDING,  # it is there; what it does is said by its record alone
}
# Of PSI/J's states.
STATUS_OF_PSIJ: dict[str, JobStatus] = {
    "NEW": JobStatus.PENDING,
    "QUEUED": JobStatus.PENDING,
    "STAGE_IN": JobStatus.RUNNING,
    "ACTIVE": JobStatus.RUNNING,
    "STAGE_OUT": JobStatus.RUNNING,
    "CLEANUP": JobStatus.RUNNING,
    "COMPLETED": JobStatus.SUCCESSFUL,
    "FAILED": JobStatus.FAILED,
    "CANCELED": JobStatus.CANCELLED,
}
MAY_COME_AGAIN = " Whether it is started again the scheduler has not said yet."
OF_MEMBERS = ("exit_code", "signal", "reason", "raw_state", "source", "started", "ended", "node_list")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where one job, or one member, is."""

    status: JobStatus
    detail: Mapping[str, Any] = field(default_factory=dict)


def ended(
    record: ExitRecord | None,
    accounting: NativeState | None,
    scheduler: NativeState | None,
    *,
    cancel_asked: bool,
) -> Verdict:
    """A job of which it is known that it has ended."""
    found = outcome_of(record, accounting, scheduler, cancel_asked=cancel_asked)
    facts = facts_of(record, accounting or scheduler)
    said = {"exit_code": found.exit_code, "signal": found.signal, "reason": found.reason, "source": found.source}
    return Verdict(JobStatus(found.end), {**facts, **said})


def alive(record: ExitRecord | None, scheduler: NativeState | None, status: JobStatus | None = None) -> Verdict:
    """A job that has not ended."""
    if status is None:
        status = STATUS_OF_STATE[scheduler.state] if scheduler is not None else JobStatus.PENDING
        if record is not None and scheduler is not None and scheduler.state == "UNKNOWN":
            status = JobStatus.RUNNING
    reason = scheduler.reason if scheduler is not None and status is JobStatus.PENDING else None
    if status is JobStatus.RUNNING and record is not None and record.signal is not None:
        reason = text_of_exit(record.exit_code or 0, record.signal) + MAY_COME_AGAIN
    return Verdict(status, {**facts_of(record, scheduler), "reason": reason, "ended": None})


def facts_of(record: ExitRecord | None, said: NativeState | None) -> dict[str, Any]:
    """What is known beside the status; the job's own times come first."""
    found: dict[str, Any] = {}
    if said is not None:
        found = {"raw_state": said.raw_state, "queue": said.queue, "node_list": said.node_list}
        found |= {
            "started": said.started,
            "ended": said.ended,
            "estimated_start": said.estimated_start,
            "restarts": said.restarts or None,
        }
    if record is not None:
        found |= {"started": record.started, "node_list": found.get("node_list") or record.host}
        found["ended"] = record.ended or found.get("ended")
    return found


def together(handle: JobHandle, verdicts: Mapping[int | None, Verdict], **more: Any) -> JobStatusResult:
    """The status of a job of the verdicts on its members; one that is no array has the only member None."""
    if None in verdicts:
        only = verdicts[None]
        return JobStatusResult.of(handle, only.status, **only.detail, **more)
    status = status_of_all([one.status for one in verdicts.values()])
    members = {str(index): _member(one) for index, one in verdicts.items()}
    worst = next((one for one in verdicts.values() if one.status is status), None)
    detail: dict[str, Any] = {"members": members, "counts": _counts(verdicts)}
    if worst is not None and (status.is_finished or status is JobStatus.PENDING):
        detail |= {name: worst.detail.get(name) for name in ("exit_code", "signal", "reason", "raw_state", "source")}
    starts = [one.detail["started"] for one in verdicts.values() if one.detail.get("started")]
    ends = [one.detail["ended"] for one in verdicts.values() if one.detail.get("ended")]
    detail |= {"started": min(starts, default=None), "ended": max(ends, default=None) if status.is_finished else None}
    return JobStatusResult.of(handle, status, **detail, **more)


def _member(verdict: Verdict) -> dict[str, Any]:
    facts = {name: verdict.detail.get(name) for name in OF_MEMBERS}
    return {"status": verdict.status.value, **{name: value for name, value in facts.items() if value not in (None, "")}}


def _counts(verdicts: Mapping[int | None, Verdict]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in verdicts.values():
        found[one.status.value] = found.get(one.status.value, 0) + 1
    return found

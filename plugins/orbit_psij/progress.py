"""What has become of a job, from what its scheduler says and what it has written itself: rules without a clock and without I/O.

A job that nobody speaks of has not succeeded. Its own record counts before the scheduler's word, and both before silence.
"""

from __future__ import annotations

from dataclasses import dataclass

from orbit_psij.models import State
from orbit_zmq.batch.exit_record import ExitRecord
from orbit_zmq.batch.outcome import NativeState, Outcome, is_of_this_run, may_come_again, outcome_of
from orbit_zmq.batch.states import State as NativeWord

SOON_S = 1.0  # between two questions while something changes
CALM_S = 2.0  # while nothing does: a change is known within three seconds
CALM_AFTER_S = 30.0
SHARE = 10.0  # a question that takes long is asked the less often: a tenth of the time at most
RECORD_S = 2.0  # a record may be seen later than the scheduler's word, as on NFS
SILENCE_S = 10.0  # a scheduler may not know a job for a moment
LEFT_BEHIND_S = 3.0  # a job that has written its end is not running, though its node cannot say so
NEVER_S = 60.0  # a job that no scheduler has told an id of, and that nobody knows, was never submitted

OF_NATIVE: dict[NativeWord, State] = {"PENDING": "QUEUED", "HELD": "QUEUED", "RUNNING": "ACTIVE"}
OF_END: dict[str, State] = {
    "successful": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELED", "finished_unknown": "FAILED",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a job in one round. `silent_for_s`: since when its scheduler does not know it, `ended_for_s`: since when
    the scheduler says that it has ended."""

    said: NativeState | None
    record: ExitRecord | None
    is_running: bool = False  # by its record: its process is there, on this machine
    accounting: NativeState | None = None
    silent_for_s: float = 0.0
    silence_s: float = SILENCE_S  # that is taken for an end
    ended_for_s: float = 0.0
    cancel_asked: bool = False


def interval_s(took_s: float, quiet_for_s: float, longest_s: float) -> float:
    """How long to wait before the next question."""
    wanted = SOON_S if quiet_for_s < CALM_AFTER_S else CALM_S
    return min(max(wanted, SHARE * took_s), max(longest_s, SOON_S))


def state_of(seen: Seen) -> State | None:
    """QUEUED or ACTIVE; None where the scheduler does not say either."""
    return OF_NATIVE.get(seen.said.state) if seen.said is not None else None


def wants_accounting(seen: Seen) -> bool:
    """Whether the accounting is to be asked: the scheduler knows nothing, or not how the job has ended."""
    if _record_ended(seen):
        return False
    said = seen.said
    return said is None or (said.state == "FAILED" and said.exit_code is None)


def end_of(seen: Seen, now: float) -> Outcome | None:
    """How the job has ended; None where it has not, or that is not certain yet."""
    said = seen.said
    if said is not None and not said.has_ended:
        return _left_behind(seen, said, now)
    has_record = _record_ended(seen)
    if said is None and not has_record and not _is_over_by_silence(seen):
        return None
    if said is not None and not has_record and said.state != "CANCELLED" and seen.ended_for_s < RECORD_S:
        return None
    return outcome_of(seen.record, seen.accounting, said, cancel_asked=seen.cancel_asked)


def _is_over_by_silence(seen: Seen) -> bool:
    if seen.is_running:
        return False
    if seen.accounting is not None:
        return seen.accounting.has_ended
    return seen.silent_for_s >= seen.silence_s


def _left_behind(seen: Seen, said: NativeState, now: float) -> Outcome | None:
    """The job has written its end, and whoever runs its node does not tell the scheduler."""
    record = seen.record
    if record is None or record.ended is None or said.state != "RUNNING" or not _record_ended(seen):
        return None
    if now - record.ended < LEFT_BEHIND_S or (may_come_again(record, said, now) and not seen.cancel_asked):
        return None
    return outcome_of(record, seen.accounting, None, cancel_asked=seen.cancel_asked)


def _record_ended(seen: Seen) -> bool:
    """Whether the job has written the end of the run that its scheduler speaks of."""
    return seen.record is not None and seen.record.exit_code is not None and is_of_this_run(seen.record, seen.said)

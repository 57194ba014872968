"""How a job has ended, from all that is known of it. Pure: it asks nobody, and it never guesses.

What the job has written itself counts first, then the scheduler's accounting, then what the scheduler remembers. Where
none of these says how a job has ended, the outcome is that it is not known; it is never taken for success.
"""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass, replace
from typing import Literal

from orbit_zmq.batch.exit_record import ExitRecord
from orbit_zmq.batch.states import ENDED, WAITING, State

End = Literal["successful", "failed", "cancelled", "finished_unknown"]
Source = Literal["record", "accounting", "scheduler", "none"]

EXIT_TEXTS = {126: ": the command cannot be executed", 127: ": there is no such command"}  # as shells say it
ENDED_EARLY = ("CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED")  # a shell may end well though what it ran was ended
SIGNALED = 128  # and the number of the signal
COUNTED_S = 2.0  # after a run's end: until then its scheduler has counted a start that is to follow
CLOCKS_S = 1.0  # by which a node's clock may be behind that of the scheduler
ENDED_BY_THE_SCHEDULER = ("TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE")


@dataclass(frozen=True, slots=True)
class NativeState:
    """What a scheduler says of one job, or of one member of an array. Times are seconds since 1970; None is not known."""

    state: State
    raw_state: str = ""
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    started: float | None = None
    ended: float | None = None
    node_list: str | None = None
    queue: str | None = None
    estimated_start: float | None = None
    restarts: int | None = None  # how often it was started again

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job has ended; `reason` is a sentence or the scheduler's word, empty where there is nothing to say."""

    end: End
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    source: Source = "none"


def outcome_of(
    record: ExitRecord | None,
    accounting: NativeState | None,
    scheduler: NativeState | None,
    *,
    cancel_asked: bool = False,
) -> Outcome:
    """The outcome of a job of which it is known that it has ended."""
    if record is not None and not is_of_this_run(record, scheduler):
        record = None
    said = next((one for one in (accounting, scheduler) if one is not None and one.has_ended), None)
    if record is not None and record.exit_code is not None:
        return _by_record(record, said, cancel_asked)
    if said is None and cancel_asked:
        return Outcome("cancelled", reason="It was cancelled; how it ended is not recorded.")
    if said is None:
        reason = "It has ended; neither its own record, nor the accounting, nor the scheduler says how."
        return Outcome("finished_unknown", reason=reason)
    return _by_scheduler(said, "accounting" if said is accounting else "scheduler", cancel_asked)


def is_of_this_run(record: ExitRecord, said: NativeState | None) -> bool:
    """Whether a record can be of the run that the scheduler speaks of. A job that was started again has an older one."""
    if said is None:
        return True
    if said.state in WAITING:
        return False
    if said.restarts is not None and record.restarts is not None and record.restarts < said.restarts:
        return False
    return said.has_ended or said.started is None or record.ended is None or record.ended + CLOCKS_S >= said.started


def may_come_again(record: ExitRecord, said: NativeState | None, now: float) -> bool:
    """Whether a job whose run has written its end may be started again, as nobody but the scheduler knows; `now` since 1970.

    That ends by a signal what it starts again. One that counts its starts has counted already where it clears a job away, and
    says so before the signal: what it calls running some seconds later has ended by itself.
    """
    if record.signal is None:
        return False
    if said is None or said.restarts is None or record.restarts is None:
        return True
    return said.raw_state != "COMPLETING" and (record.ended is None or now - record.ended < COUNTED_S)


def _by_record(record: ExitRecord, said: NativeState | None, cancel_asked: bool) -> Outcome:
    """The exit code is the job's own word; why it ended so may be the scheduler's doing."""
    found = Outcome("failed", record.exit_code, record.signal, record.problem, "record")
    raw = _word(said)
    if record.exit_code == 0 and raw not in ENDED_EARLY:
        return replace(found, end="successful")
    if raw.startswith("CANCELLED") or (said is not None and said.state == "CANCELLED" and raw != "DEADLINE"):
        return replace(found, end="cancelled", reason=reason_of(said))
    if raw in ENDED_BY_THE_SCHEDULER:
        return replace(found, reason=reason_of(said))
    if cancel_asked and record.signal is not None:
        return replace(found, end="cancelled", reason="It was cancelled.")
    return replace(found, reason=record.problem or text_of_exit(record.exit_code or 0, record.signal))


def _by_scheduler(said: NativeState, source: Source, cancel_asked: bool) -> Outcome:
    found = Outcome("failed", _code_of_failure(said), said.signal, reason_of(said), source)
    if _word(said) == "DEADLINE":
        return found
    if said.state == "CANCELLED" or (cancel_asked and said.signal is not None):
        return replace(found, end="cancelled")
    if said.state == "DONE":
        return replace(found, end="successful", exit_code=said.exit_code, reason="")
    return found


def _code_of_failure(said: NativeState) -> int | None:
    """As a shell says it. The 0 that schedulers print of jobs that never ran, or were ended, is nobody's exit code."""
    return said.exit_code or (said.signal and SIGNALED + said.signal) or None


def reason_of(said: NativeState | None) -> str:
    """The scheduler's reason in its own words; its word for the state where it gives none."""
    if said is None:
        return ""
    return said.reason if said.reason and said.reason != "None" else said.raw_state


def text_of_exit(exit_code: int, signal: int | None) -> str:
    """What an exit code says to people."""
    if signal is None:
        return f"It ended with exit code {exit_code}{EXIT_TEXTS.get(exit_code, '')}."
    try:
        return f"It was ended by {signals.Signals(signal).name}."
    except ValueError:
        return f"It was ended by signal {signal}."


def _word(said: NativeState | None) -> str:
    return (said.raw_state.upper().split() or [""])[0].rstrip("+") if said is not None else ""

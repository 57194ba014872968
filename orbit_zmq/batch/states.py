"""The states of a job: one set of words for all schedulers, and what each scheduler's own words mean in it. Data alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# PENDING: waits to be started.  HELD: would wait for ever, until somebody releases or resumes it.  RUNNING: has its nodes.
# DONE, FAILED, CANCELLED: has ended.  UNKNOWN: the scheduler does not know it, or says a word that we do not know.
State = Literal["PENDING", "RUNNING", "DONE", "FAILED", "CANCELLED", "HELD", "UNKNOWN"]
ENDED: frozenset[State] = frozenset(("DONE", "FAILED", "CANCELLED"))
WAITING: frozenset[State] = frozenset(("PENDING", "HELD"))

SLURM: dict[str, State] = {
    "PENDING": "PENDING", "CONFIGURING": "PENDING", "REQUEUED": "PENDING", "REQUEUE_FED": "PENDING",
    "RUNNING": "RUNNING", "COMPLETING": "RUNNING", "RESIZING": "RUNNING", "SIGNALING": "RUNNING", "STAGE_OUT": "RUNNING",
    "COMPLETED": "DONE",
    "FAILED": "FAILED", "TIMEOUT": "FAILED", "NODE_FAIL": "FAILED", "PREEMPTED": "FAILED", "BOOT_FAIL": "FAILED",
    "OUT_OF_MEMORY": "FAILED", "LAUNCH_FAILED": "FAILED", "RECONFIG_FAIL": "FAILED",
    "CANCELLED": "CANCELLED", "DEADLINE": "CANCELLED", "REVOKED": "CANCELLED",
    "SUSPENDED": "HELD", "STOPPED": "HELD", "REQUEUE_HOLD": "HELD", "RESV_DEL_HOLD": "HELD", "SPECIAL_EXIT": "HELD",
}  # fmt: skip
# Of several words that Slurm gives for one job, squeue shows the first of these; they pass.
SLURM_PASSING = (
    "COMPLETING", "STAGE_OUT", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED",
    "REVOKED", "RESV_DEL_HOLD", "SIGNALING",
)  # fmt: skip
SLURM_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")  # has no nodes, or no longer
SLURM_HELD_REASONS = ("JobHeldUser", "JobHeldAdmin")
SLURM_END_REASONS = (  # the other reasons are why a job waited, which an ended one keeps
    "NonZeroExitCode", "RaisedSignal", "TimeLimit", "InactiveLimit", "OutOfMemory", "NodeDown", "NodeFail", "BootFail",
    "FailBootNode", "JobLaunchFailure", "LaunchFailed", "SystemFailure", "DeadLine",
)  # fmt: skip
SLURM_REASON_OF = {"TIMEOUT": "TimeLimit", "OUT_OF_MEMORY": "OutOfMemory", "NODE_FAIL": "NodeDown", "DEADLINE": "DeadLine"}

PBS: dict[str, State] = {
    "Q": "PENDING", "W": "PENDING", "T": "PENDING",
    "R": "RUNNING", "E": "RUNNING", "B": "RUNNING",
    "H": "HELD", "S": "HELD", "U": "HELD", "M": "HELD",
    "F": "DONE", "X": "DONE", "C": "DONE",
}  # fmt: skip
PBS_DELETED, PBS_FAILED = "91", "93"  # substates of a job that has ended; it has no letter of its own for either

LSF: dict[str, State] = {
    "PEND": "PENDING", "WAIT": "PENDING", "PROV": "PENDING", "FWD_PEND": "PENDING",
    "RUN": "RUNNING",
    "DONE": "DONE", "POST_DONE": "DONE", "EXIT": "FAILED", "POST_ERR": "FAILED",
    "PSUSP": "HELD", "USUSP": "HELD", "SSUSP": "HELD",
    "UNKWN": "UNKNOWN", "ZOMBI": "FAILED",
}  # fmt: skip

FLUX: dict[str, State] = {
    "NEW": "PENDING", "DEPEND": "PENDING", "PRIORITY": "PENDING", "SCHED": "PENDING",
    "RUN": "RUNNING", "CLEANUP": "RUNNING",
    "COMPLETED": "DONE", "FAILED": "FAILED", "TIMEOUT": "FAILED", "CANCELED": "CANCELLED",
}  # fmt: skip


def slurm_state(raw: str, reason: str = "") -> State:
    """What a word of Slurm means; `CANCELLED by 1000` and `RUNNING+` are words of sacct."""
    words = raw.upper().split()
    state = SLURM.get(words[0].rstrip("+"), "UNKNOWN") if words else "UNKNOWN"
    return "HELD" if state == "PENDING" and reason in SLURM_HELD_REASONS else state


def slurm_reason(raw: str, reason: str | None, exit_code: int | None = None) -> str | None:
    """Why a job waits, or how one has ended that has failed; an old reason to wait is none."""
    state = slurm_state(raw, reason or "")
    if state in WAITING or state == "UNKNOWN" or (reason or "").partition(":")[0] in SLURM_END_REASONS:
        return reason
    word = (raw.upper().split() or [""])[0].rstrip("+")
    return SLURM_REASON_OF.get(word) or ("NonZeroExitCode" if state == "FAILED" and exit_code else None)


def slurm_word(words: Sequence[str]) -> str:
    """The one word that squeue would show."""
    known = [word.upper() for word in words]
    return next((word for word in SLURM_PASSING if word in known), known[0] if known else "")


def pbs_state(letter: str, exit_status: int | None, substate: str = "") -> State:
    """What a letter of PBS means, with what it says of the end."""
    state = PBS.get(letter, "UNKNOWN")
    if state != "DONE":
        return state
    if substate == PBS_DELETED:
        return "CANCELLED"
    return "FAILED" if exit_status or substate == PBS_FAILED else "DONE"

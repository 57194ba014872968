"""What schedulers print of jobs, as text in and states out; it runs no command.

Lines of another kind are passed over, and a value that cannot be read is not known: a scheduler prints what it likes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from orbit_zmq.batch.outcome import NativeState
from orbit_zmq.batch.pbs import epoch_of, parse_records
from orbit_zmq.batch.quantities import number_of
from orbit_zmq.batch.states import ENDED, LSF, SLURM_WAITING, State, pbs_state, slurm_reason, slurm_state

States = dict[str, NativeState]

BETWEEN = "\x1f"
SQUEUE = (
    "JobArrayID",
    "State",
    "Reason",
    "StartTime",
    "EndTime",
    "Partition",
    "NodeList",
    "exit_code",
    "Comment",
    "RestartCnt",
)
WIDTH = 250
SACCT = ("JobID", "State", "ExitCode", "Reason", "Start", "End", "Partition", "NodeList")
NOTHING = ("", "(null)", "N/A", "None", "Unknown", "NONE", "n/a", "None assigned")
BJOBS = ("jobid", "jobindex", "stat", "exit_code", "exit_reason", "pend_reason", "queue", "start_time", "finish_time")
OF_PSIJ: dict[str, State] = {
    "QUEUED": "PENDING", "ACTIVE": "RUNNING", "COMPLETED": "DONE", "FAILED": "FAILED", "CANCELED": "CANCELLED",
}  # fmt: skip


def squeue_format() -> str:
    """The option of squeue for the fields of SQUEUE."""
    return "--Format=" + ",".join(f"{name}:{WIDTH}{BETWEEN}" for name in SQUEUE)


def squeue_states(printed: str) -> tuple[States, dict[str, str]]:
    """What squeue says of each job or member of an array, and the comments, by id."""
    states: States = {}
    comments: dict[str, str] = {}
    for row in _rows(printed, SQUEUE):
        raw, reason = row["State"], _said(row["Reason"])
        waits = raw in SLURM_WAITING
        began, ended = _moment(row["StartTime"]), _moment(row["EndTime"])
        state = slurm_state(raw, reason or "")
        code, by_signal = _slurm_exit(row["exit_code"])
        has_ended, nodes = state in ENDED, _said(row["NodeList"])
        states[row["JobArrayID"]] = NativeState(
            state,
            raw,
            exit_code=code if has_ended else None,
            signal=by_signal if has_ended else None,
            reason=slurm_reason(raw, reason, code),
            started=began if nodes and not waits else None,  # one that never ran has its end for a beginning
            ended=ended if has_ended else None,
            node_list=nodes,
            queue=_said(row["Partition"]),
            estimated_start=began if waits else None,
            restarts=number_of(row["RestartCnt"]),
        )
        if comment := _said(row["Comment"]):
            comments[row["JobArrayID"]] = comment
    return states, comments


def sacct_states(printed: str) -> States:
    """What the accounting of Slurm says."""
    states: States = {}
    for row in _rows(printed, SACCT):
        raw = row["State"]
        code, _, by_signal = row["ExitCode"].partition(":")
        exit_code, nodes = number_of(code), _said(row["NodeList"])
        states[row["JobID"]] = NativeState(
            slurm_state(raw),
            raw,
            exit_code=exit_code,
            signal=number_of(by_signal) or None,
            reason=slurm_reason(raw, _said(row["Reason"]), exit_code),
            started=_moment(row["Start"]) if nodes else None,
            ended=_moment(row["End"]),
            node_list=nodes,
            queue=_said(row["Partition"]),
        )
    return states


def qstat_states(printed: str) -> States:
    """What `qstat -x -f` says, as JSON or as text."""
    try:
        jobs = json.loads(printed).get("Jobs", {})
    except (ValueError, AttributeError, RecursionError):
        jobs = parse_records(printed)
    return {job_id: _of_pbs(job if isinstance(job, Mapping) else {}) for job_id, job in jobs.items() if isinstance(job_id, str)}


def bjobs_states(printed: str) -> States:
    """What `bjobs -json` says with the fields of BJOBS."""
    try:
        records = json.loads(printed).get("RECORDS", [])
    except (ValueError, AttributeError, RecursionError):
        return {}
    states: States = {}
    for record in records if isinstance(records, list) else []:
        if not isinstance(record, Mapping) or "ERROR" in record or not record.get("JOBID"):
            continue
        raw, index = str(record.get("STAT", "")), str(record.get("JOBINDEX", "0"))
        code = number_of(str(record.get("EXIT_CODE", "")))
        state = LSF.get(raw, "UNKNOWN")
        states[str(record["JOBID"]) + (f"_{index}" if index not in ("", "0") else "")] = NativeState(
            state,
            raw,
            exit_code=0 if state == "DONE" else code,
            reason=_said(str(record.get("EXIT_REASON") or record.get("PEND_REASON") or "")),
            queue=_said(str(record.get("QUEUE", ""))),
        )
    return states


def psij_states(found: Mapping[str, Any]) -> States:
    """What one of PSI/J's own executors has read."""
    return {
        native_id: NativeState(
            OF_PSIJ.get(status.state.name, "UNKNOWN"), status.state.name, status.exit_code, reason=status.message
        )
        for native_id, status in found.items()
    }


def _of_pbs(job: Mapping[str, Any]) -> NativeState:
    exit_status = number_of(str(job.get("Exit_status", "")))
    raw = str(job.get("job_state", ""))
    state = pbs_state(raw, exit_status, str(job.get("substate", "")))
    by_signal = exit_status - 256 if exit_status is not None and 256 < exit_status <= 320 else None
    hosts = str(job.get("exec_host", "")) or None
    return NativeState(
        state,
        raw,
        exit_code=128 + by_signal if by_signal else exit_status,
        signal=by_signal,
        reason=_said(str(job.get("comment", ""))),
        started=epoch_of(str(job.get("stime", ""))),
        ended=epoch_of(str(job.get("obittime", ""))),
        node_list=hosts,
        queue=_said(str(job.get("queue", ""))),
    )


def _rows(printed: str, names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for line in printed.splitlines():
        fields = [field.strip() for field in line.split(BETWEEN)]
        if fields and not fields[-1]:
            fields.pop()
        fields += [""] * (len(names) - len(fields) if len(fields) >= len(names) - 1 else 0)
        if len(fields) == len(names) and fields[0][:1].isdigit():
            yield dict(zip(names, fields, strict=True))


def _slurm_exit(printed: str) -> tuple[int | None, int | None]:
    """The exit code and the signal in what squeue prints: the status of `wait`, or `3:0` with the signal after the code."""
    code, between, by_signal = printed.partition(":")
    status = number_of(code)
    if between or status is None:
        return status, number_of(by_signal) or None
    ended_by = status & 0x7F or None
    return (128 + ended_by if ended_by else status >> 8 & 0xFF), ended_by


def _said(value: str) -> str | None:
    return None if value in NOTHING else value


def _moment(value: str) -> float | None:
    seconds = number_of(value)
    return float(seconds) if seconds and seconds > 0 else None

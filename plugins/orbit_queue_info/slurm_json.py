"""What Slurm's commands print with `--json`: values in, records out.

The shapes differ by version, and the values themselves say which one it is. A plain number became a map of
`{set, infinite, number}` in 23.02, a state a list and an exit code a map in 23.11, and `sinfo` lists groups of nodes for
each partition where 22.05 listed nodes. A value of an unexpected kind is not known; only an output without its list is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orbit_queue_info.models import Job, Queue
from orbit_queue_info.slurm_files import output_file
from orbit_zmq.batch.quantities import UNLIMITED, Limit, bytes_of, gpus_of, number_of
from orbit_zmq.batch.states import ENDED, SLURM_WAITING, slurm_reason, slurm_state, slurm_word
from orbit_zmq.errors import SchedulerFailed

MIB = 1 << 20
MOST = 1 << 53  # what is larger is one of Slurm's own words for "no value"
UNAVAILABLE = frozenset((
    "DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "MAINT", "MAINTENANCE", "FUTURE",
    "NOT_RESPONDING", "REBOOT_ISSUED", "REBOOT", "INVALID_REG", "UNKNOWN", "ERROR",
))  # fmt: skip
ASLEEP = frozenset(("POWERED_DOWN", "POWER_DOWN", "POWERING_DOWN"))


@dataclass(slots=True)
class NodeGroup:
    """Nodes of a kind and state, and the partitions that they are in."""

    partitions: list[str]
    total: int = 1
    idle: int = 0
    available: int = 0
    cpus: int | None = None
    mem_bytes: int | None = None
    gpus: dict[str, int] = field(default_factory=dict)
    features: list[str] = field(default_factory=list)
    queue: Queue | None = None  # what the output says of the partition itself


def parse_json(text: str, command: str) -> dict[str, Any]:
    """The map that a command printed; SchedulerFailed where it is none, or no JSON, or says of an error and nothing else.

    A command that does not reach slurmctld may end with exit code 0 and an empty list.
    """
    try:
        value = json.loads(text, strict=False)  # a job's name may have a line break in it
    except (ValueError, RecursionError) as error:
        raise SchedulerFailed(f"{command} printed what is no JSON: {str(error)[:200]}", transient=False) from None
    if not isinstance(value, dict):
        raise SchedulerFailed(f"{command} printed a {type(value).__name__} where a map was expected", transient=False)
    found = [listed for name, listed in value.items() if name not in ("errors", "warnings") and isinstance(listed, list)]
    if value.get("errors") and not any(found):
        raise SchedulerFailed(f"{command} failed: {_said_of(value['errors'])}", hint="Is the scheduler's controller running?")
    return value


def _said_of(errors: Any) -> str:
    """What Slurm says of its errors, such as `[{"error_number": 1, "error": ..., "description": ...}]`."""
    listed = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    said = [text(one.get("error")) or text(one.get("description")) for one in listed]
    return "; ".join(dict.fromkeys(one for one in said if one))[:500] or "it does not say why"


def node_groups(answer: dict[str, Any]) -> list[NodeGroup]:
    """What `sinfo --json` says of nodes, as 22.05 or as later releases print it. SchedulerFailed where it says nothing."""
    entries = answer.get("sinfo")
    if isinstance(entries, list):
        return [_group_of_entry(entry) for entry in entries if isinstance(entry, dict)]
    nodes = answer.get("nodes")
    if isinstance(nodes, list):
        return [_group_of_node(node) for node in nodes if isinstance(node, dict)]
    raise SchedulerFailed("sinfo printed neither nodes nor partitions", transient=False)


def jobs_of(answer: dict[str, Any], now: float) -> list[Job]:
    """The jobs in what `squeue --json` says. SchedulerFailed where there is no list of them."""
    jobs = answer.get("jobs")
    if not isinstance(jobs, list):
        raise SchedulerFailed("squeue printed no list of jobs", transient=False)
    return [_job_of(job, now) for job in jobs if isinstance(job, dict) and number(job.get("job_id")) is not None]


def number(value: Any) -> int | None:
    """A whole number, be it in a map of {set, infinite, number}."""
    if isinstance(value, dict):
        return number(value.get("number")) if value.get("set", True) is True and value.get("infinite") is not True else None
    if isinstance(value, str):
        return number_of(value)
    if isinstance(value, float):
        value = int(value) if abs(value) < MOST else None
    return value if type(value) is int and abs(value) < MOST else None


def limit(value: Any, factor: int = 1) -> Limit:
    """The same, where there may be none: null as 22.05 prints it, or infinite."""
    if value is None or (isinstance(value, dict) and value.get("infinite") is True):
        return UNLIMITED
    found = number(value)
    return None if found is None else found * factor


def text(value: Any) -> str | None:
    """Text that says something."""
    return value if isinstance(value, str) and value not in ("", "(null)", "N/A") else None


def words(value: Any) -> list[str]:
    """A list of words, or the words of a text with commas."""
    if isinstance(value, str):
        return [word for word in value.split(",") if word]
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def within(value: Any, *keys: str) -> Any:
    """What lies that deep in maps, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def is_available(states: Sequence[str]) -> bool:
    """Whether a node of these states takes jobs; one that sleeps to save power does, for it is woken for them."""
    named = {state.upper().rstrip("*$~#!%@^-+") for state in states}
    return not named & UNAVAILABLE and (not named & ASLEEP or "IDLE" in named)


def _group_of_entry(entry: dict[str, Any]) -> NodeGroup:
    """One entry of 23.02 and later: nodes of a kind and state in one partition."""
    states = words(within(entry, "node", "state"))
    total = number(within(entry, "nodes", "total")) or 0
    available = is_available(states)
    partition = within(entry, "partition")
    name = text(within(partition, "name"))
    return NodeGroup(
        partitions=[name] if name else [],
        total=total,
        idle=number(within(entry, "nodes", "idle")) or 0 if available and "RESERVED" not in states else 0,
        available=total if available else 0,
        cpus=number(within(entry, "cpus", "maximum")),
        mem_bytes=_mib(number(within(entry, "memory", "maximum"))),
        gpus=gpus_of(text(within(entry, "gres", "total")) or ""),
        features=words(within(entry, "features", "total")),
        queue=_queue_of(name, partition) if name else None,
    )


def _queue_of(name: str, partition: Any) -> Queue:
    states = words(within(partition, "partition", "state")) or words(within(partition, "state"))
    return Queue(
        name=name,
        state=states[0].upper() if states else "UNKNOWN",
        time_limit=_limit_within(partition, "maximums", "time", factor=60),
        default_time_limit=_limit_within(partition, "defaults", "time", factor=60),
        min_nodes=number(within(partition, "minimums", "nodes")),
        max_nodes=_limit_within(partition, "maximums", "nodes"),
        max_cpus_per_node=_limit_within(partition, "maximums", "cpus_per_node"),
        qos=text(within(partition, "qos", "assigned")),
        accounts=words(within(partition, "accounts", "allowed")) or None,
        groups=words(within(partition, "groups", "allowed")) or None,
        nodes_total=number(within(partition, "nodes", "total")),
    )


def _limit_within(value: Any, part: str, key: str, factor: int = 1) -> Limit:
    found = within(value, part, key)
    return limit(found, factor) if found is not None else None


def _group_of_node(node: dict[str, Any]) -> NodeGroup:
    """One node of 22.05, or of `scontrol show nodes --json`."""
    states = [*words(node.get("state")), *words(node.get("state_flags"))]
    upper = [state.upper() for state in states]
    available = is_available(states)
    return NodeGroup(
        partitions=words(node.get("partitions")),
        idle=int(available and "IDLE" in upper and "RESERVED" not in upper),
        available=int(available),
        cpus=number(node.get("cpus")),
        mem_bytes=_mib(number(node.get("real_memory"))),
        gpus=gpus_of(text(node.get("gres")) or ""),
        features=words(node.get("features")),
    )


def _job_of(job: dict[str, Any], now: float) -> Job:
    raw = slurm_word(words(job.get("job_state")))
    reason = text(job.get("state_reason"))
    state = slurm_state(raw, reason or "")
    began, ended = _moment(job.get("start_time")), _moment(job.get("end_time"))
    waits = raw in SLURM_WAITING
    code, by_signal = _exit_of(job.get("exit_code")) if state in ENDED else (None, None)
    tres_req, tres_alloc = text(job.get("tres_req_str")), text(job.get("tres_alloc_str"))
    nodes = number(job.get("node_count"))
    array = number(job.get("array_job_id"))
    std_out, std_err = _files_of(job, array)
    return Job(
        job_id=str(number(job["job_id"])),
        job_name=text(job.get("name")),
        user=text(job.get("user_name")),
        partition=text(job.get("partition")),
        state=state,
        raw_state=raw,
        reason=text(job.get("state_description")) or slurm_reason(raw, reason if reason != "None" else None, code),
        nodes=nodes,
        cpus=number(job.get("cpus")) or _in_tres(tres_req, "cpu"),
        gpus=gpus_in_tres(tres_alloc or tres_req, text(job.get("tres_per_node")), nodes),
        mem_bytes=_memory_in(tres_alloc) or _memory_in(tres_req),
        time_limit=limit(job["time_limit"], 60) if "time_limit" in job else None,
        time_used=_time_used(job, raw, began, ended, now),
        submit_time=_moment(job.get("submit_time")),
        eligible_time=_moment(job.get("eligible_time")),
        start_time=None if waits else began,
        end_time=None if waits else ended,
        estimated_start=began if waits else None,
        priority=number(job.get("priority")),
        account=text(job.get("account")),
        qos=text(job.get("qos")),
        node_list=text(job.get("nodes")) or text(within(job, "job_resources", "nodes")),
        features=text(job.get("features")),
        reservation=text(job.get("resv_name")),
        dependency=text(job.get("dependency")),
        work_dir=text(job.get("current_working_directory")),
        command=text(job.get("command")),
        std_out=std_out,
        std_err=std_err,
        exit_code=code,
        exit_signal=by_signal,
        array_job_id=str(array) if array else None,
        array_task_id=number(job.get("array_task_id")) if array else None,
        array_tasks=text(job.get("array_task_string")),
        tres_req=tres_req,
        tres_alloc=tres_alloc,
        restart_cnt=number(job.get("restart_cnt")),
    )  # fmt: skip


def _files_of(job: dict[str, Any], array: int | None) -> tuple[str | None, str | None]:
    """Where a batch job writes; without a name of their own, errors go where the output goes. Others write to a terminal."""
    job_id, task, work_dir = number(job["job_id"]), number(job.get("array_task_id")), text(job.get("current_working_directory"))
    given, for_errors = text(job.get("standard_output")), text(job.get("standard_error"))
    if job.get("batch_flag") is not True:
        return given, for_errors or given
    known = {
        "j": str(job_id),
        "J": str(job_id),
        "A": str(array or job_id),
        "x": text(job.get("name")),
        "u": text(job.get("user_name")),
    }
    if array:
        known["a"] = None if task is None else str(task)
    std_out = text(job.get("stdout_expanded")) or output_file(given, work_dir, known)
    return std_out, text(job.get("stderr_expanded")) or output_file(for_errors or given, work_dir, known)


def _moment(value: Any) -> float | None:
    seconds = number(value)
    return float(seconds) if seconds and seconds > 0 else None


def _time_used(job: dict[str, Any], raw: str, began: float | None, ended: float | None, now: float) -> int | None:
    """How long it has run, without the time in which it was suspended."""
    suspended, before = number(job.get("suspend_time")) or 0, number(job.get("pre_sus_time")) or 0
    if began is None or raw in ("PENDING", "CONFIGURING"):
        return 0
    if raw == "SUSPENDED":
        return before
    until = (
        now
        if raw in ("RUNNING", "COMPLETING", "RESIZING", "STOPPED", "SIGNALING") and not _has_ended(raw, ended, now)
        else ended
    )
    if until is None:
        return None
    return max(0, int(before + until - suspended if suspended else until - began))


def _has_ended(raw: str, ended: float | None, now: float) -> bool:
    """A job that completes has its end behind it."""
    return raw == "COMPLETING" and ended is not None and ended <= now


def _exit_of(value: Any) -> tuple[int | None, int | None]:
    """Exit code and signal: in a map since 23.11, before that as wait(2) gives them."""
    if isinstance(value, dict) and ("return_code" in value or "signal" in value):
        by = number(within(value, "signal", "id")) if isinstance(within(value, "signal", "id"), dict) else None
        return number(value.get("return_code")), by or number(within(value, "signal", "signal_id")) or None
    status = number(value)
    return (None, None) if status is None or status < 0 else (status >> 8, status & 0x7F or None)


def gpus_in_tres(tres: str | None, per_node: str | None, nodes: int | None) -> int | None:
    """How many GPUs a job has: from its TRES, which has a total beside the types, else from what it asks for on each node."""
    parts = [part.partition("=") for part in (tres or "").split(",")]
    found = {name: count for name, _, count in parts if name == "gres/gpu" or name.startswith("gres/gpu:")}
    if "gres/gpu" in found:
        return number_of(found["gres/gpu"])
    if found:
        return sum(number_of(count) or 0 for count in found.values())
    each = sum(gpus_of(per_node or "").values())
    return each * nodes if each and nodes else None


def _memory_in(tres: str | None) -> int | None:
    for part in (tres or "").split(","):
        if part.startswith("mem="):
            return bytes_of(part[4:], "M")
    return None


def _in_tres(tres: str | None, name: str) -> int | None:
    return next((number_of(part[len(name) + 1 :]) for part in (tres or "").split(",") if part.startswith(f"{name}=")), None)


def _mib(value: int | None) -> int | None:
    return value * MIB if value else None

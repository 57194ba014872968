"""What is told of queues, jobs, allocations and reservations: one shape for all schedulers.

Durations are in seconds, points in time in seconds since 1970, sizes in bytes. None is not known, "unlimited" is no limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from orbit_zmq.batch.quantities import Limit
from orbit_zmq.batch.states import State


@dataclass(slots=True, kw_only=True)
class Queue:
    """A queue, or partition. Figures of a node are those of its largest node."""

    name: str
    state: str = "UNKNOWN"  # UP, DOWN, DRAIN (takes jobs no more), INACTIVE (takes jobs, starts none)
    default: bool | None = None  # where a job goes that names no queue
    hidden: bool | None = None
    time_limit: Limit = None
    default_time_limit: Limit = None
    min_time_limit: Limit = None
    nodes_total: int | None = None
    nodes_available: int | None = None  # not down, drained, or kept for maintenance
    nodes_idle: int | None = None
    min_nodes: int | None = None  # of a job
    max_nodes: Limit = None
    cpus_per_node: int | None = None
    mem_per_node_bytes: int | None = None
    gpus_per_node: int | None = None
    gpu_types: dict[str, int] = field(default_factory=dict)  # type -> of a node; "gpu" where the type is not said
    features: list[str] = field(default_factory=list)
    max_jobs_per_user: Limit = None
    max_cpus_per_node: Limit = None
    max_mem_per_node_bytes: Limit = None
    qos: str | None = None
    accounts: list[str] | None = None  # that may use it; None: all
    groups: list[str] | None = None
    jobs_running: int | None = None
    jobs_pending: int | None = None


@dataclass(slots=True, kw_only=True)
class Job:
    """A job, or the part of an array that waits together."""

    job_id: str
    job_name: str | None = None
    user: str | None = None
    partition: str | None = None
    state: State = "UNKNOWN"
    raw_state: str = ""  # the scheduler's own word
    reason: str | None = None  # why it waits, or how it ended
    nodes: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    mem_bytes: int | None = None
    time_limit: Limit = None
    time_used: int | None = None
    submit_time: float | None = None
    eligible_time: float | None = None
    start_time: float | None = None
    end_time: float | None = None  # of a running job: at the latest
    estimated_start: float | None = None  # of a waiting job
    queue_position: int | None = None  # of a waiting job in its partition, by priority; 1 is next
    priority: int | None = None
    account: str | None = None
    qos: str | None = None
    node_list: str | None = None  # as the scheduler writes it
    features: str | None = None
    reservation: str | None = None
    dependency: str | None = None
    work_dir: str | None = None
    command: str | None = None
    std_out: str | None = None
    std_err: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    array_job_id: str | None = None
    array_task_id: int | None = None
    array_tasks: str | None = None  # those that wait together, such as 3-9%2
    tres_req: str | None = None
    tres_alloc: str | None = None
    restart_cnt: int | None = None


@dataclass(slots=True, kw_only=True)
class Allocation:
    """What a user may use: an association of Slurm, or a project with its balance."""

    account: str
    user: str | None = None
    partition: str | None = None  # None: every partition
    cluster: str | None = None
    fairshare: int | None = None
    qos: list[str] = field(default_factory=list)
    default_qos: str | None = None
    max_jobs: Limit = None
    max_submit: Limit = None
    max_wall: Limit = None
    max_tres: str | None = None
    grp_tres: str | None = None
    allocated_node_hours: float | None = None
    used_node_hours: float | None = None
    remaining_node_hours: float | None = None
    start_date: str | None = None
    end_date: str | None = None
    resource: str | None = None


@dataclass(slots=True, kw_only=True)
class Reservation:
    """Nodes that are kept for somebody, or for maintenance."""

    name: str
    state: str | None = None
    start_time: float | None = None
    end_time: float | None = None
    partition: str | None = None
    nodes: int | None = None
    node_list: str | None = None
    flags: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)


def shown(record: Queue | Job | Allocation | Reservation) -> dict[str, Any]:
    """The record as it travels."""
    return {one.name: getattr(record, one.name) for one in fields(record)}

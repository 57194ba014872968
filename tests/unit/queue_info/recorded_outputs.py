"""The recorded outputs of schedulers, and what reads each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orbit_queue_info import slurm_json, slurm_text
from orbit_queue_info.pbs import job_of, queue_of, records_of_json
from orbit_zmq.batch.pbs import Records, parse_records

PLACE = Path(__file__).parent / "recorded"
NOW = 1795245600.0


def text(name: str) -> str:
    return (PLACE / name).read_text()


def slurm_nodes(said: str) -> Any:
    return slurm_json.node_groups(slurm_json.parse_json(said, "sinfo"))


def slurm_jobs(said: str) -> Any:
    return slurm_json.jobs_of(slurm_json.parse_json(said, "squeue"), NOW)


def pbs_jobs(records: Records) -> Any:
    return [job_of(name, facts) for name, facts in records.items()]


def pbs_queues(records: Records) -> Any:
    return [queue_of(name, facts, [facts], None) for name, facts in records.items()]


READERS: dict[str, Callable[[str], Any]] = {
    **{f"slurm-{version}/sinfo.json": slurm_nodes for version in ("22.05", "23.02", "23.11", "24.11", "25.05")},
    **{f"slurm-{version}/squeue.json": slurm_jobs for version in ("22.05", "23.02", "23.11", "24.11", "25.05")},
    "slurm-22.05/partitions.txt": slurm_text.partitions,
    "slurm-22.05/nodes.txt": slurm_text.nodes,
    "slurm-22.05/reservations.txt": slurm_text.reservations,
    "slurm-22.05/squeue.txt": slurm_text.jobs,
    "slurm-22.05/accounting.txt": slurm_text.finished_jobs,
    "slurm-22.05/associations.txt": slurm_text.associations,
    "pbs/jobs.json": lambda said: pbs_jobs(records_of_json(said, "Jobs")),
    "pbs/queues.json": lambda said: pbs_queues(records_of_json(said, "Queue")),
    "pbs/nodes.json": lambda said: pbs_queues(records_of_json(said, "nodes")),
    "pbs/jobs.txt": lambda said: pbs_jobs(parse_records(said)),
    "pbs/queues.txt": lambda said: pbs_queues(parse_records(said)),
    "pbs/nodes.txt": lambda said: pbs_queues(parse_records(said)),
    "pbs/server.txt": parse_records,
}

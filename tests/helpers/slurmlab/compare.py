"""Compares what an endpoint's `queue_info` tells with what Slurm's commands print, field by field.

`python -m slurmlab.compare [--url URL] ENDPOINT`, with SLURM_CONF as the endpoint has it. Each command is asked before and
after the endpoint, and a field may have either value: estimates and clocks go on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from slurmlab import printed
from slurmlab.printed import Either, Record, Run

CLOCK_S = 3  # between the two commands that a job's time is read from
NOT_PRINTED = {
    "queues": {"min_time_limit", "max_jobs_per_user", "jobs_running", "jobs_pending"},
    "jobs": set[str](),
    "finished": {"gpus", "mem_bytes", "features", "dependency", "command", "std_out", "std_err", "array_tasks", "restart_cnt",
                 "estimated_start", "queue_position"},
    "allocations": {"allocated_node_hours", "used_node_hours", "remaining_node_hours", "start_date", "end_date", "resource"},
    "reservations": set[str](),
}  # fmt: skip


def differences(run: Run, plugin: Any) -> list[str]:
    """Every field that differs, as a sentence. `plugin` is a client of queue_info, `run` answers what a command prints."""
    everybody = {"user": "*", "force": True}
    return [
        *_compared(
            "queues", lambda: printed.queues(run), lambda: list(plugin.get_info(**everybody)["queues"].values()), "name"
        ),
        *_compared("jobs", lambda: printed.jobs(run), lambda: plugin.list_all_jobs(**everybody)["jobs"], "job_id"),
        *_compared(
            "finished",
            lambda: printed.finished_jobs(run),
            lambda: plugin.list_finished_jobs(limit=10_000, **everybody)["jobs"],
            "job_id",
        ),
        *_compared(
            "allocations",
            lambda: {_place(one): one for one in printed.allocations(run)},
            lambda: plugin.list_allocations(**everybody)["allocations"],
            "place",
        ),
        *_compared(
            "reservations",
            lambda: printed.reservations(run),
            lambda: plugin.list_reservations(force=True)["reservations"],
            "name",
        ),
    ]


def _compared(
    what: str, slurm: Callable[[], dict[str, Record]], endpoint: Callable[[], list[Record]], key: str
) -> Iterable[str]:
    before, told, after = slurm(), endpoint(), slurm()
    found = {str(_place(one) if key == "place" else one[key]): one for one in told}
    if not before:
        yield f"{what}: there is nothing to compare"
    for name in sorted({*before, *found}):
        if name not in found or name not in before or name not in after:
            yield f"{what} {name}: told {name in found}, printed {name in before} and {name in after}"
            continue
        fields = {*before[name], *found[name]} - NOT_PRINTED[what]
        for field in sorted(fields):
            expected = [known.get(field, "no such field") for known in (before[name], after[name])]
            if not _is_one_of(field, found[name].get(field, "no such field"), expected):
                yield f"{what} {name}: {field} is {found[name].get(field)!r}, printed {' then '.join(map(repr, expected))}"
    if len(found) != len(told):
        yield f"{what}: {len(told) - len(found)} are told twice"


def _is_one_of(field: str, value: Any, expected: list[Any]) -> bool:
    if field == "time_used" and isinstance(value, int) and all(isinstance(one, int) for one in expected):
        return bool(min(expected) - CLOCK_S <= value <= max(expected) + CLOCK_S)
    if field in ("tres_req", "tres_alloc"):  # the order is up to the command
        value, expected = printed.tres(value or ""), [printed.tres(one or "") for one in expected]
    return any(value in one if isinstance(one, Either) else value == one for one in expected)


def _place(allocation: Record) -> str:
    return f"{allocation['account']}/{allocation['user']}/{allocation['partition']}"


def run_here(*command: str, more: dict[str, str] | None = None) -> str:
    environment = {**os.environ, **(more or {})}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout


def main() -> int:
    from orbit_zmq import Client

    parser = argparse.ArgumentParser(prog="slurmlab.compare")
    parser.add_argument("endpoint")
    parser.add_argument("--url")
    options = parser.parse_args()
    with Client(url=options.url) as client:
        found = differences(run_here, client.get_plugin(options.endpoint, "queue_info"))
    print("\n".join(found) or "Everything is as printed.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

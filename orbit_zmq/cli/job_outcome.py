"""How jobs end, for commands that wait for them: asked by long polls that outlast a restart of broker or endpoint, and told by
an exit code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orbit_zmq.cli.job_output import row_of
from orbit_zmq.cli.places import SESSION, Item

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.patience import Patience
    from orbit_zmq.errors import OrbitError

ENDED = ("successful", "failed", "cancelled", "finished_unknown")
FAILED, CANCELLED, TIME_LIMIT, UNKNOWN = 1, 123, 124, 125  # 124 as of timeout(1); jobs of their own seldom end with these
TIME_LIMIT_WORDS = ("timeout", "timelimit")  # of Slurm, as its state or its reason
SIGNALED = 128  # and the number of the signal, as shells say it
POLL_S = 60.0
GRACE_S = 15.0  # of a wait, for the way there and back


def has_ended(job: Item) -> bool:
    return job.get("status") in ENDED


def exit_code_of(job: Item) -> int:
    """What a command that has waited for a job ends with; 0 for one that was successful."""
    status, detail = job.get("status"), job.get("detail") or {}
    if status == "successful":
        return 0
    if status == "cancelled":
        return CANCELLED
    if status != "failed":
        return UNKNOWN
    if any(str(detail.get(key)).lower().replace(" ", "") in TIME_LIMIT_WORDS for key in ("raw_state", "reason")):
        return TIME_LIMIT
    return _code_in(detail) or _code_of_members(detail) or FAILED


def _code_in(facts: Item) -> int:
    """Of one job or member that failed: its own exit code, or that of its signal; 0 where neither is known."""
    code, signal = facts.get("exit_code"), facts.get("signal")
    if isinstance(signal, int) and signal > 0:
        return SIGNALED + signal
    return code if isinstance(code, int) and code > 0 else 0


def _code_of_members(detail: Item) -> int:
    members = detail.get("members")
    found = members.values() if isinstance(members, dict) else ()
    return next((code for member in found if isinstance(member, dict) and (code := _code_in(member))), 0)


def wait_for_jobs(client: Client, jobs: Sequence[Item], timeout_s: float | None) -> list[Item]:
    """The same jobs once all have ended, as they are then; DeadlineExceeded where the time is over before."""
    ends_at = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    ended: dict[str, Item] = {}
    for place in dict.fromkeys((job["endpoint"], job["plugin"]) for job in jobs):
        ids = [job["job_id"] for job in jobs if (job["endpoint"], job["plugin"]) == place]
        for job in _wait_at(client, place, ids, ends_at, timeout_s):
            ended[job["job_id"]] = row_of(job, *place)
    return [ended[job["job_id"]] for job in jobs]


def _wait_at(client: Client, place: tuple[str, str], ids: list[str], ends_at: float, timeout_s: float | None) -> Sequence[Item]:
    from orbit_zmq.client.patience import Patience
    from orbit_zmq.errors import DeadlineExceeded, OrbitError

    patience = Patience(place[0])
    while True:
        wait_s = max(0.0, min(POLL_S, ends_at - time.monotonic()))
        try:
            arguments = {"job_ids": ids, "wait_s": wait_s}
            said = client.call(*place, "wait", arguments, session=SESSION, deadline_s=wait_s + GRACE_S)
            patience.on_answer()
            if said["done"]:
                return list(said["jobs"])
            left = [job["job_id"] for job in said["jobs"] if not has_ended(job)]
        except OrbitError as error:
            left = ids
            pause_s = pause_after(client, patience, error)
            time.sleep(max(0.0, min(pause_s, ends_at - time.monotonic())))
        if time.monotonic() >= ends_at:
            raise DeadlineExceeded(
                f"{len(left)} of {len(ids)} jobs have not ended within {timeout_s:g} s: {', '.join(left[:5])}",
                hint="They go on. Wait longer with --timeout.",
            )


def pause_after(client: Client, patience: Patience, error: OrbitError) -> float:
    """How long to pause where somebody is away who may come back; else the error is raised."""
    from orbit_zmq.errors import NotFound

    if isinstance(error, NotFound) and "endpoint" not in error.details and "known" not in error.details:
        raise error  # the endpoint answers, and does not know the job
    return patience.on_failure(error, time.monotonic(), broker_is_there=client.is_connected)

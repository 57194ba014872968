"""BatchSystem: what all batch systems are asked for, and the answers of a machine that has none.

One class for each scheduler says which commands and variables these are. A call blocks for as long as the scheduler takes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orbit_zmq.batch.changes import jobs_changed
from orbit_zmq.batch.commands import JOB_S, ask, checked_job_id
from orbit_zmq.batch.states import State
from orbit_zmq.errors import SchedulerFailed, Unsupported

Name = Literal["slurm", "pbs", "pbs-aurora", "lsf", "flux", "none"]


@dataclass(frozen=True, slots=True)
class BatchSystem:
    """The batch system of this machine, or of the cluster that `conf` describes.

    `job_id` is that of the allocation that this process runs in, `present` names all that answer on this machine.
    """

    name: Name = "none"
    psij_executor: str = "local"
    job_id: str | None = None
    present: tuple[Name, ...] = ()
    conf: str | None = None

    @property
    def in_allocation(self) -> bool:
        """Whether this process runs in a job."""
        return self.job_id is not None

    def of_cluster(self, conf: str | None) -> BatchSystem:
        """The same scheduler, asked for the cluster of another configuration file."""
        return replace(self, conf=conf) if conf else self

    def job_allocation(self) -> dict[str, Any] | None:
        """The job that this process runs in; None outside of one.

        `job_id`, `partition`, `n_nodes`, `nodelist` (as the scheduler writes it), `cpus_per_node`, `gpus_per_node`, `account`,
        `job_name`, and `runtime`: the time limit in seconds, None for none. A fact that the scheduler does not give is
        None; SchedulerFailed names what is missing where it is one of job_id, n_nodes, nodelist and runtime.
        """
        return None if self.job_id is None else self._allocation(os.environ, self.job_id)

    def nodelist(self) -> list[str]:
        """The hosts of that job, in the scheduler's order; empty outside of one, or where the scheduler does not tell."""
        return [] if self.job_id is None else list(dict.fromkeys(self._hosts(os.environ)))

    def job_state(self, job_id: str | int) -> State:
        """PENDING, RUNNING, DONE, FAILED, CANCELLED, HELD, or UNKNOWN for a job that the scheduler does not know (any more)."""
        return self._state(checked_job_id(job_id))

    def cancel(self, job_id: str | int) -> None:
        """End a job. NotFound where the scheduler does not know it, NotPermitted where it is another user's."""
        self._change(self._cancel_words(checked_job_id(job_id)))

    def hold(self, job_id: str | int) -> None:
        """Keep a waiting job from being started. Errors are those of `cancel`."""
        self._change(self._hold_words(checked_job_id(job_id)))

    def release(self, job_id: str | int) -> None:
        """Let a held job be started. Errors are those of `cancel`."""
        self._change(self._release_words(checked_job_id(job_id)))

    def estimated_start(self, job_id: str | int) -> float | None:
        """When the scheduler expects to start a waiting job, in seconds since 1970; None where it does not say."""
        return self._start(checked_job_id(job_id))

    def job_nodes(self, job_id: str | int) -> list[str]:
        """The hosts of a running job, in the scheduler's order; empty where it has none (yet)."""
        return list(dict.fromkeys(self._hosts_of(checked_job_id(job_id))))

    def environment(self) -> dict[str, str]:
        """What the scheduler's commands need in their environment."""
        return {}

    def _ask(self, words: Sequence[str]) -> str:
        return ask(words, environment=self.environment(), timeout_s=JOB_S)

    def _change(self, words: Sequence[str]) -> None:
        try:
            self._tell(words)
        finally:
            jobs_changed()  # one that failed may have done something

    def _tell(self, words: Sequence[str]) -> None:
        self._ask(words)

    # What a scheduler's class answers

    def _allocation(self, variables: Mapping[str, str], job_id: str) -> dict[str, Any]:
        raise self._missing("jobs")

    def _hosts(self, variables: Mapping[str, str]) -> list[str]:
        return []

    def _state(self, job_id: str) -> State:
        raise self._missing("jobs")

    def _start(self, job_id: str) -> float | None:
        return None

    def _hosts_of(self, job_id: str) -> list[str]:
        raise self._missing("jobs")

    def _cancel_words(self, job_id: str) -> Sequence[str]:
        raise self._missing("jobs to cancel")

    def _hold_words(self, job_id: str) -> Sequence[str]:
        raise self._missing("jobs to hold")

    def _release_words(self, job_id: str) -> Sequence[str]:
        raise self._missing("jobs to release")

    def _missing(self, what: str) -> Unsupported:
        return Unsupported(f"There is no batch system here, so there are no {what}.", hint="Ask an endpoint on a login node.")


def allocation(job_id: str, scheduler: str, **facts: Any) -> dict[str, Any]:
    """The summary of an allocation; SchedulerFailed names what the scheduler has left out of it.

    A fact is its value, or for those that must be there a pair of the value and of where it was looked for.
    """
    wanted = ("n_nodes", "nodelist")
    gone = [f"{name} ({facts[name][1]})" for name in wanted if not facts[name][0]]
    if gone:
        raise SchedulerFailed(
            f"The allocation {job_id} of {scheduler} cannot be summarised: {', '.join(gone)} is not there.",
            hint="Was the endpoint started within the job, with the job's environment?",
            transient=False,
        )
    plain = {name: value[0] if name in wanted else value for name, value in facts.items()}
    order = ("partition", "n_nodes", "nodelist", "cpus_per_node", "gpus_per_node", "account", "job_name", "runtime")
    return {"job_id": job_id} | {name: plain[name] for name in order}

"""Slurm: the words for one job, and the variables of an allocation. Lists of jobs and queues are the plugin queue_info's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orbit_zmq.batch.commands import JOB_S, Answer, refusal, run
from orbit_zmq.batch.quantities import UNLIMITED, expand_hosts, gpus_of, number_of, seconds_of
from orbit_zmq.batch.states import State, slurm_state
from orbit_zmq.batch.system import BatchSystem, allocation
from orbit_zmq.errors import NotFound, OrbitError, SchedulerFailed


@dataclass(frozen=True, slots=True)
class SlurmBatch(BatchSystem):
    """Slurm; `conf` is a slurm.conf."""

    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": self.conf} if self.conf else {}

    def _allocation(self, variables: Mapping[str, str], job_id: str) -> dict[str, Any]:
        n_nodes = variables.get("SLURM_NNODES") or variables.get("SLURM_JOB_NUM_NODES") or ""
        return allocation(
            job_id,
            "Slurm",
            partition=variables.get("SLURM_JOB_PARTITION"),
            n_nodes=(number_of(n_nodes), "SLURM_NNODES, SLURM_JOB_NUM_NODES"),
            nodelist=(variables.get("SLURM_JOB_NODELIST"), "SLURM_JOB_NODELIST"),
            cpus_per_node=number_of(variables.get("SLURM_CPUS_ON_NODE", "")),
            gpus_per_node=gpus_in(variables.get("SLURM_GPUS_ON_NODE") or variables.get("SLURM_GPUS_PER_NODE") or ""),
            account=variables.get("SLURM_JOB_ACCOUNT"),
            job_name=variables.get("SLURM_JOB_NAME"),
            runtime=self._time_limit(job_id),
        )

    def _time_limit(self, job_id: str) -> int | None:
        said = self._ask(["squeue", "--noheader", f"--job={job_id}", "--format=%l"]).split()
        limit = seconds_of(said[0]) if said else None
        if limit is None:
            raise SchedulerFailed(f"The allocation {job_id} of Slurm cannot be summarised: squeue tells no time limit of it.")
        return None if limit == UNLIMITED else limit

    def _hosts(self, variables: Mapping[str, str]) -> list[str]:
        return expand_hosts(variables.get("SLURM_JOB_NODELIST", ""))

    def _state(self, job_id: str) -> State:
        try:
            said = self._ask(["squeue", "--noheader", "--states=all", f"--job={job_id}", "--format=%T|%r"])
        except NotFound:
            said = ""
        for line in said.splitlines():
            word, _, reason = line.strip().partition("|")
            return slurm_state(word, reason)
        return self._state_in_accounting(job_id)

    def _state_in_accounting(self, job_id: str) -> State:
        """A cluster without accounting has forgotten its old jobs."""
        try:
            said = self._ask(["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job_id}", "--format=State"])
        except OrbitError:
            return "UNKNOWN"
        return slurm_state(said.splitlines()[0]) if said.strip() else "UNKNOWN"

    def _start(self, job_id: str) -> float | None:
        said = self._ask(["squeue", "--noheader", "--states=PENDING", f"--job={job_id}", "--format=%S"]).split()
        seconds = number_of(said[0]) if said else None
        return float(seconds) if seconds else None

    def _hosts_of(self, job_id: str) -> list[str]:
        try:
            said = self._ask(["squeue", "--noheader", f"--job={job_id}", "--format=%N"])
        except NotFound:
            return []
        return expand_hosts(",".join(said.split()))

    def _tell(self, words: Sequence[str]) -> None:
        answer: Answer = run(words, environment=self.environment(), timeout_s=JOB_S)
        # scancel ends with 0 for a job that there is not, and says so with --verbose alone.
        if answer.exit_code or "Invalid job id" in answer.complaint:
            raise refusal(words[0], answer)

    def _cancel_words(self, job_id: str) -> Sequence[str]:
        return ["scancel", "--verbose", job_id]

    def _hold_words(self, job_id: str) -> Sequence[str]:
        return ["scontrol", "hold", job_id]

    def _release_words(self, job_id: str) -> Sequence[str]:
        return ["scontrol", "release", job_id]


def gpus_in(text: str) -> int | None:
    """`4`, `a100:4`, or several of these; None where nothing is said."""
    if not text:
        return None
    return sum(gpus_of(",".join(f"gpu:{part}" for part in text.split(","))).values())

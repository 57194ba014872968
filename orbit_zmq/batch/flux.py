"""Flux: the words for one job, and what an instance of Flux says of itself. Within a job of Flux, all of it is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orbit_zmq.batch.quantities import expand_hosts, number_of
from orbit_zmq.batch.states import FLUX, State
from orbit_zmq.batch.system import BatchSystem, allocation
from orbit_zmq.errors import NotFound, OrbitError


@dataclass(frozen=True, slots=True)
class FluxBatch(BatchSystem):
    """Flux; `conf` is the URI of an instance."""

    def environment(self) -> dict[str, str]:
        return {"FLUX_URI": self.conf} if self.conf else {}

    def _allocation(self, variables: Mapping[str, str], job_id: str) -> dict[str, Any]:
        hostlist = self._hostlist()
        cores = number_of(self._total("{ncores}"))
        gpus, nodes = number_of(self._total("{ngpus}")), len(expand_hosts(hostlist))
        return allocation(
            job_id,
            "Flux",
            partition=None,
            n_nodes=(nodes, "flux getattr hostlist"),
            nodelist=(hostlist, "flux getattr hostlist"),
            cpus_per_node=cores // nodes if cores and nodes else None,
            gpus_per_node=gpus // nodes if gpus is not None and nodes else None,
            account=None,
            job_name=variables.get("FLUX_JOB_NAME"),
            runtime=self._time_limit(),
        )

    def _hosts(self, variables: Mapping[str, str]) -> list[str]:
        try:
            return expand_hosts(self._hostlist())
        except OrbitError:
            return []

    def _hostlist(self) -> str:
        return self._ask(["flux", "getattr", "hostlist"]).strip()

    def _total(self, field: str) -> str:
        return self._ask(["flux", "resource", "list", "--no-header", "--states=all", f"--format={field}"]).strip()

    def _time_limit(self) -> int | None:
        left = self._ask(["flux", "job", "timeleft"]).strip()
        return number_of(left)

    def _state(self, job_id: str) -> State:
        try:
            said = self._ask(["flux", "jobs", "--no-header", "--format={status}", job_id]).split()
        except NotFound:
            return "UNKNOWN"
        return FLUX.get(said[0], "UNKNOWN") if said else "UNKNOWN"

    def _start(self, job_id: str) -> float | None:
        said = self._ask(["flux", "jobs", "--no-header", "--format={annotations.sched.t_estimate}", job_id]).strip()
        whole = number_of(said.partition(".")[0])
        return float(whole) if whole else None

    def _hosts_of(self, job_id: str) -> list[str]:
        try:
            return expand_hosts(self._ask(["flux", "jobs", "--no-header", "--format={nodelist}", job_id]).strip())
        except NotFound:
            return []

    def _cancel_words(self, job_id: str) -> Sequence[str]:
        return ["flux", "cancel", job_id]

    def _hold_words(self, job_id: str) -> Sequence[str]:
        return ["flux", "job", "urgency", job_id, "hold"]

    def _release_words(self, job_id: str) -> Sequence[str]:
        return ["flux", "job", "urgency", job_id, "default"]

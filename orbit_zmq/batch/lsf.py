"""IBM Spectrum LSF: the words for one job, and the variables of an allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orbit_zmq.batch.quantities import number_of
from orbit_zmq.batch.states import LSF, State
from orbit_zmq.batch.system import BatchSystem, allocation
from orbit_zmq.errors import NotFound


@dataclass(frozen=True, slots=True)
class LSFBatch(BatchSystem):
    """LSF; `conf` is the directory of an lsf.conf."""

    def environment(self) -> dict[str, str]:
        return {"LSF_ENVDIR": self.conf} if self.conf else {}

    def _allocation(self, variables: Mapping[str, str], job_id: str) -> dict[str, Any]:
        hosts = _slots(variables)
        minutes = self._ask(["bjobs", "-noheader", "-o", "runtimelimit", job_id]).strip()
        return allocation(
            job_id,
            "LSF",
            partition=variables.get("LSB_QUEUE"),
            n_nodes=(len(hosts), "LSB_MCPU_HOSTS"),
            nodelist=(",".join(hosts), "LSB_MCPU_HOSTS"),
            cpus_per_node=max(hosts.values(), default=None),
            gpus_per_node=None,
            account=variables.get("LSB_PROJECT_NAME"),
            job_name=variables.get("LSB_JOBNAME"),
            runtime=_seconds(minutes),
        )

    def _hosts(self, variables: Mapping[str, str]) -> list[str]:
        return list(_slots(variables))

    def _state(self, job_id: str) -> State:
        try:
            said = self._ask(["bjobs", "-noheader", "-o", "stat", job_id]).split()
        except NotFound:
            return "UNKNOWN"
        return LSF.get(said[0], "UNKNOWN") if said else "UNKNOWN"

    def _hosts_of(self, job_id: str) -> list[str]:
        try:
            said = self._ask(["bjobs", "-noheader", "-o", "exec_host", job_id]).strip()
        except NotFound:
            return []
        return [part.rpartition("*")[2] for part in said.split(":") if part not in ("", "-")]

    def _cancel_words(self, job_id: str) -> Sequence[str]:
        return ["bkill", job_id]

    def _hold_words(self, job_id: str) -> Sequence[str]:
        return ["bstop", job_id]

    def _release_words(self, job_id: str) -> Sequence[str]:
        return ["bresume", job_id]


def _slots(variables: Mapping[str, str]) -> dict[str, int]:
    """Hosts and their slots in `host1 40 host2 40`."""
    words = variables.get("LSB_MCPU_HOSTS", "").split()
    return {host: number_of(count) or 0 for host, count in zip(words[::2], words[1::2], strict=False)}


def _seconds(text: str) -> int | None:
    """`30.0` or `30.0/host`: minutes; `-` for none."""
    minutes = text.partition("/")[0].strip()
    return int(float(minutes) * 60) if minutes.replace(".", "", 1).isdecimal() else None

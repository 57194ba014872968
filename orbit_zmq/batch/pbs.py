"""PBS Professional and OpenPBS: the words for one job, the variables of an allocation, and what `qstat -f` prints.

Aurora is PBS with file systems that a job has to name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit_zmq.batch.quantities import clock_seconds_of, number_of
from orbit_zmq.batch.states import State, pbs_state
from orbit_zmq.batch.system import BatchSystem, allocation
from orbit_zmq.errors import NotFound, SchedulerFailed

Records = dict[str, dict[str, str]]

HEAD = re.compile(r"(?:Job Id|Queue|Server|Resv ID):\s*(\S+)\s*$")
ATTRIBUTE = re.compile(r"(\s+)([A-Za-z_][\w.]*) = (.*)$")
NAME = re.compile(r"\S+$")


@dataclass(frozen=True, slots=True)
class PBSBatch(BatchSystem):
    """PBS; `conf` is a pbs.conf."""

    def environment(self) -> dict[str, str]:
        return {"PBS_CONF_FILE": self.conf} if self.conf else {}

    def _allocation(self, variables: Mapping[str, str], job_id: str) -> dict[str, Any]:
        hosts = list(dict.fromkeys(self._hosts(variables)))
        job = self._job(job_id)
        walltime = job.get("Resource_List.walltime")
        if not job:
            raise SchedulerFailed(f"The allocation {job_id} of PBS cannot be summarised: qstat does not tell of it.")
        return allocation(
            job_id,
            "PBS",
            partition=variables.get("PBS_QUEUE") or job.get("queue"),
            n_nodes=(len(hosts), "the file of PBS_NODEFILE"),
            nodelist=(",".join(hosts), "the file of PBS_NODEFILE"),
            cpus_per_node=_each(job.get("Resource_List.ncpus"), len(hosts)),
            gpus_per_node=_each(job.get("Resource_List.ngpus"), len(hosts)),
            account=variables.get("PBS_ACCOUNT") or job.get("Account_Name") or job.get("project"),
            job_name=variables.get("PBS_JOBNAME") or job.get("Job_Name"),
            runtime=_seconds(walltime) if walltime else None,
        )

    def _hosts(self, variables: Mapping[str, str]) -> list[str]:
        try:
            return Path(variables["PBS_NODEFILE"]).read_text(errors="replace").split()
        except (KeyError, OSError):
            return []

    def _job(self, job_id: str) -> dict[str, str]:
        try:
            return next(iter(parse_records(self._ask(["qstat", "-x", "-f", job_id])).values()), {})
        except NotFound:
            return {}

    def _state(self, job_id: str) -> State:
        job = self._job(job_id)
        return pbs_state(job.get("job_state", ""), number_of(job.get("Exit_status", "")), job.get("substate", ""))

    def _start(self, job_id: str) -> float | None:
        said = self._job(job_id).get("estimated.start_time", "")
        seconds = number_of(said)
        return float(seconds) if seconds else epoch_of(said)

    def _hosts_of(self, job_id: str) -> list[str]:
        return hosts_in(self._job(job_id).get("exec_host", ""))

    def _cancel_words(self, job_id: str) -> Sequence[str]:
        return ["qdel", job_id]

    def _hold_words(self, job_id: str) -> Sequence[str]:
        return ["qhold", job_id]

    def _release_words(self, job_id: str) -> Sequence[str]:
        return ["qrls", job_id]


def parse_records(text: str) -> Records:
    """What `qstat -f`, `qstat -Qf` and `pbsnodes -a` print: the attributes of each job, queue or node, by its id.

    A line that is indented deeper than the attributes goes on with the value before it, without a space between.
    """
    found: Records = {}
    record: dict[str, str] = {}
    key, indent = "", 0
    for line in text.splitlines():
        head = HEAD.match(line) or (NAME.match(line) if line[:1] not in ("", " ", "\t") else None)
        if head is not None:
            record = found.setdefault(head.group(head.lastindex or 0), {})
            key = ""
            continue
        matched = ATTRIBUTE.match(line)
        if matched and (not key or len(matched[1].expandtabs()) <= indent):
            indent, key = len(matched[1].expandtabs()), matched[2]
            record[key] = matched[3]
        elif key and line.strip():
            record[key] += line.strip()
    return found


def hosts_in(exec_host: str) -> list[str]:
    """The hosts in `n1/0*64+n2/0*64`, each once."""
    return list(dict.fromkeys(part.partition("/")[0].strip("( ") for part in exec_host.split("+") if part))


def epoch_of(text: str) -> float | None:
    """Seconds since 1970 of `Tue Nov  3 09:13:20 2026`, in the time zone of this machine."""
    import time  # the only use of it

    try:
        return time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    except (ValueError, OverflowError):
        return None


def _seconds(text: str) -> int | None:
    limit = clock_seconds_of(text)
    return limit if isinstance(limit, int) else None


def _each(total: str | None, nodes: int) -> int | None:
    count = number_of(total) if total else None
    return count // nodes if count is not None and nodes else None

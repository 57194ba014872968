"""QueueInfoPBSPro: asks the commands of PBS Professional and OpenPBS, as JSON where that works, else as text.

Both are brought into one form, the attributes of `qstat -f` by their dotted names, so that one reading serves both. Some sites
print JSON that is none; from the first such answer on, text is asked for.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from orbit_queue_info.models import Allocation, Job, Queue
from orbit_queue_info.queue_info import QueueInfo
from orbit_queue_info.slurm_text import places_of
from orbit_zmq.batch import BatchSystem
from orbit_zmq.batch.commands import ask, checked_job_id
from orbit_zmq.batch.pbs import PBSBatch, Records, epoch_of, hosts_in, parse_records
from orbit_zmq.batch.quantities import UNLIMITED, Limit, bytes_of, clock_seconds_of, number_of
from orbit_zmq.batch.states import ENDED, pbs_state
from orbit_zmq.errors import InvalidArgument, SchedulerFailed, TooLarge

UNAVAILABLE = ("down", "offline", "unknown", "stale", "initializing", "maintenance", "sleep", "provisioning")
DEEPEST = 4  # maps within maps in the JSON
PER_USER = re.compile(r"\[?u:PBS_GENERIC=(\d+)\]?")


class QueueInfoPBSPro(QueueInfo):
    """PBS Professional and OpenPBS."""

    backend_name: ClassVar[str] = "pbs"

    def __init__(self, *, batch: BatchSystem | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(batch or PBSBatch("pbs", "pbs"), clock=clock)
        self._takes_json = True

    def _collect_info(self, user: str | None) -> Iterable[Queue]:
        default = self._records(["qstat", "-Bf"], "Server")
        named = next((server.get("default_queue") for server in default.values()), None)
        nodes = list(self._records(["pbsnodes", "-a"], "nodes").values())
        queues = self._records(["qstat", "-Qf"], "Queue")
        return [
            queue_of(name, facts, nodes, name == named if named else None)
            for name, facts in queues.items()
            if user is None or may_use(facts, user, groups_of(user))
        ]

    def _collect_jobs(self, user: str | None) -> Iterable[Job]:
        jobs = [job_of(name, facts) for name, facts in self._records(["qstat", "-f"], "Jobs").items()]
        places = places_of(
            [(job.job_id, job.partition or "", (job.priority or 0) + 2048) for job in jobs if job.state == "PENDING"]
        )
        for job in jobs:
            job.queue_position = places.get((job.job_id, job.partition or "")) if job.state == "PENDING" else None
        return [job for job in jobs if user is None or job.user == user]

    def _collect_allocations(self, user: str | None) -> Iterable[Allocation]:
        return ()  # PBS keeps no accounts

    def _collect_finished(self, user: str | None, since: float, limit: int) -> Iterable[Job]:
        jobs = [job_of(name, facts) for name, facts in self._records(["qstat", "-x", "-f"], "Jobs").items()]
        ended = [job for job in jobs if job.state in ENDED and (job.end_time or 0) >= since and user in (None, job.user)]
        return sorted(ended, key=lambda job: -(job.end_time or 0))[:limit]

    def _collect_array(self, job_id: str) -> Iterable[Job]:
        words = ["qstat", "-t", "-f", checked_job_id(job_id)]
        jobs = [job_of(name, facts) for name, facts in self._records(words, "Jobs").items()]
        return [job for job in jobs if job.array_task_id is not None]

    def _records(self, words: Sequence[str], part: str) -> Records:
        """What a command says, by JSON or text."""
        if self._takes_json:
            try:
                return records_of_json(self._ask([words[0], *words[1:2], "-F", "json", *words[2:]]), part)
            except (InvalidArgument, TooLarge):
                pass
            except SchedulerFailed as error:
                if not any(
                    sign in error.message.lower() for sign in ("usage", "invalid option", "illegal option", "unrecognized")
                ):
                    raise
            self._takes_json = False
        return parse_records(self._ask(words))

    def _ask(self, words: Sequence[str]) -> str:
        return ask(words, environment=self.batch.environment())


def records_of_json(text: str, part: str) -> Records:
    """The attributes of each job, queue or node in what `-F json` prints; InvalidArgument where it is no JSON."""
    if not text.strip():
        return {}
    try:
        answer = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"no JSON: {str(error)[:200]}") from None
    if not isinstance(answer, dict):
        raise InvalidArgument(f"a {type(answer).__name__}, not a map")
    entries = answer.get(part, {})
    if not isinstance(entries, dict):
        raise InvalidArgument(f"{part} is a {type(entries).__name__}, not a map")
    return {name: _flat(facts) for name, facts in entries.items() if isinstance(facts, dict)}


def queue_of(name: str, facts: dict[str, str], nodes: Sequence[dict[str, str]], default: bool | None) -> Queue:
    """One queue. PBS does not say which nodes are a queue's, unless they are tied to it; others are the whole machine's."""
    own = [node for node in nodes if node.get("queue") == name] or [node for node in nodes if "queue" not in node]
    available = [node for node in own if not any(word in node.get("state", "") for word in UNAVAILABLE)]
    counts = dict(part.partition(":")[::2] for part in facts.get("state_count", "").replace("\t", "").split())
    enabled, started = facts.get("enabled", "").lower(), facts.get("started", "").lower()
    known = enabled and started
    state = {("true", "true"): "UP", ("true", "false"): "INACTIVE", ("false", "true"): "DRAIN"}.get((enabled, started), "DOWN")
    gpus = _largest(own, "resources_available.ngpus")
    per_user = PER_USER.search(facts.get("max_run", "")) or PER_USER.search(facts.get("max_queued", ""))
    return Queue(
        name=name,
        state=state if known else "UNKNOWN",
        default=default,
        time_limit=_limit(facts, "resources_max.walltime"),
        default_time_limit=_limit(facts, "resources_default.walltime", None),
        min_time_limit=_limit(facts, "resources_min.walltime", None),
        nodes_total=len(own) if nodes else None,
        nodes_available=len(available) if nodes else None,
        nodes_idle=sum(node.get("state", "").split(",")[0] == "free" and not node.get("jobs") for node in available)
        if nodes
        else None,
        min_nodes=number_of(facts.get("resources_min.nodect", "")),
        max_nodes=number_of(facts["resources_max.nodect"]) if "resources_max.nodect" in facts else UNLIMITED,
        cpus_per_node=_largest(own, "resources_available.ncpus"),
        mem_per_node_bytes=max(
            (size for node in own if (size := bytes_of(node.get("resources_available.mem", "")))), default=None
        ),
        gpus_per_node=gpus,
        gpu_types={"gpu": gpus} if gpus else {},
        max_jobs_per_user=number_of(per_user[1]) if per_user else None,
        groups=_acl(facts, "group") or None,
        jobs_running=number_of(counts.get("Running", "")),
        jobs_pending=number_of(counts.get("Queued", "")),
    )


def job_of(name: str, facts: dict[str, str]) -> Job:
    """One job, by the attributes of `qstat -f`."""
    letter, status = facts.get("job_state", ""), number_of(facts.get("Exit_status", ""))
    state = pbs_state(letter, status, facts.get("substate", ""))
    began, hosts = _moment(facts.get("stime")), hosts_in(facts.get("exec_host", ""))
    variables = dict(part.partition("=")[::2] for part in facts.get("Variable_List", "").split(","))
    used = clock_seconds_of(facts.get("resources_used.walltime", ""))
    array, task = _array_of(name)
    ended = state in ENDED
    return Job(
        job_id=name.partition(".")[0],
        job_name=facts.get("Job_Name"),
        user=facts["Job_Owner"].partition("@")[0] if facts.get("Job_Owner") else None,
        partition=facts.get("queue"),
        state=state,
        raw_state=letter,
        reason=facts.get("comment"),
        nodes=number_of(facts.get("Resource_List.nodect", "")),
        cpus=number_of(facts.get("Resource_List.ncpus", "")),
        gpus=number_of(facts.get("Resource_List.ngpus", "")),
        mem_bytes=bytes_of(facts.get("Resource_List.mem", "")),
        time_limit=_limit(facts, "Resource_List.walltime", None),
        time_used=used if isinstance(used, int) else None if began else 0,
        submit_time=_moment(facts.get("qtime")) or _moment(facts.get("ctime")),
        eligible_time=_moment(facts.get("etime")),
        start_time=began,
        end_time=_moment(facts.get("obittime")) or _moment(facts.get("mtime")) if ended else None,
        estimated_start=_moment(facts.get("estimated.start_time")) if state == "PENDING" else None,
        priority=number_of(facts.get("Priority", "")),
        account=facts.get("Account_Name") or facts.get("project"),
        node_list=",".join(hosts) or None,
        reservation=facts.get("reserve_ID"),
        dependency=facts.get("depend"),
        work_dir=variables.get("PBS_O_WORKDIR") or facts.get("Variable_List.PBS_O_WORKDIR"),
        command=facts.get("executable") or facts.get("Submit_arguments"),
        std_out=facts.get("Output_Path"),
        std_err=facts.get("Error_Path"),
        exit_code=(status if 0 <= status < 256 else None) if ended and status is not None else None,
        exit_signal=status - 256 if ended and status is not None and 256 < status < 512 else None,
        array_job_id=array,
        array_task_id=task,
        array_tasks=facts.get("array_indices_remaining") or facts.get("array_indices_submitted"),
        tres_req=facts.get("Resource_List.select"),
        restart_cnt=max(0, (number_of(facts.get("run_count", "")) or 0) - 1) if "run_count" in facts else None,
    )


def may_use(facts: dict[str, str], user: str, groups: Sequence[str]) -> bool:
    """Whether the lists of users and of groups of a queue, where it has them, let a user in; `-name` keeps one out."""
    names = {"user": [user], "group": list(groups)}
    return all(
        any(entry in own for entry in _acl(facts, kind)) and not any(f"-{name}" in _acl(facts, kind) for name in own)
        for kind, own in names.items()
        if facts.get(f"acl_{kind}_enable", "").lower() == "true"
    )


def groups_of(user: str) -> list[str]:
    """The groups of a user; none where the machine does not know the user."""
    try:
        entry = pwd.getpwnam(user)
        return [grp.getgrgid(number).gr_name for number in os.getgrouplist(user, entry.pw_gid)]
    except (KeyError, OSError):
        return []


def _acl(facts: dict[str, str], kind: str) -> list[str]:
    """The names in a list, without hosts and the sign for those that are let in."""
    if facts.get(f"acl_{kind}_enable", "").lower() != "true":
        return []
    return [entry.strip().partition("@")[0].removeprefix("+") for entry in facts.get(f"acl_{kind}s", "").split(",")]


def _flat(facts: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, str]:
    """Maps within maps by dotted names, as the text has them; all values as text."""
    found: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            if depth < DEEPEST:
                found |= _flat(value, f"{prefix}{key}.", depth + 1)
        elif isinstance(value, list):
            found[prefix + key] = ",".join(str(item) for item in value)
        elif value is not None:
            found[prefix + key] = str(value)
    return found


def _limit(facts: dict[str, str], key: str, without: Limit = UNLIMITED) -> Limit:
    return clock_seconds_of(facts[key]) if key in facts else without


def _largest(nodes: Sequence[dict[str, str]], key: str) -> int | None:
    return max((count for node in nodes if (count := number_of(node.get(key, ""))) is not None), default=None)


def _moment(text: str | None) -> float | None:
    """A date as PBS prints it, or seconds since 1970."""
    seconds = number_of(text or "")
    return float(seconds) if seconds and seconds > 0 else epoch_of(text or "")


def _array_of(name: str) -> tuple[str | None, int | None]:
    """`1234[7].host` is the task 7 of the array 1234[]."""
    matched = re.match(r"(\d+)\[(\d*)\]", name)
    if matched is None:
        return None, None
    return f"{matched[1]}[]", number_of(matched[2])

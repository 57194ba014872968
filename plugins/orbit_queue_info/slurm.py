"""QueueInfoSlurm: asks Slurm's commands, as JSON where they speak it, as text where they do not, and makes records of it.

An accounting database is not needed: without one there are no allocations, every queue is shown, and the jobs that have ended
are those that the controller still remembers. What the output means is the matter of `slurm_json` and `slurm_text`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from orbit_queue_info import slurm_json, slurm_text
from orbit_queue_info.models import Allocation, Job, Queue, Reservation
from orbit_queue_info.queue_info import QueueInfo, is_user
from orbit_queue_info.slurm_json import NodeGroup
from orbit_zmq.batch import BatchSystem
from orbit_zmq.batch.commands import Answer, ask, checked_job_id, refusal, run
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.batch.states import ENDED
from orbit_zmq.errors import DeadlineExceeded, NotFound, NotPermitted, OrbitError, SchedulerFailed, TooLarge
from orbit_zmq.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")

ACCOUNTING_S = 10.0  # a database that is down lets its clients wait
NO_JSON = ("unrecognized option", "invalid option", "unknown option", "json", "serializer", "data_parser", "openapi")
ENDED_STATES = "BF,CA,CD,DL,F,NF,OOM,PR,TO"


class QueueInfoSlurm(QueueInfo):
    """Slurm from 20.11 on; `slurm_conf` names the slurm.conf of another cluster than this machine's."""

    backend_name: ClassVar[str] = "slurm"

    def __init__(
        self,
        slurm_conf: str | None = None,
        *,
        batch: BatchSystem | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__((batch or SlurmBatch("slurm", "slurm")).of_cluster(slurm_conf), clock=clock)
        self._without_json: set[str] = set()  # commands that do not speak it here
        self._accounting_fault = ""  # what has been logged

    @staticmethod
    def get_job_nodes(native_id: str | int, env: Mapping[str, str] | None = None) -> list[str]:
        """The hosts of a running job, in Slurm's order; empty where there is none, or Slurm does not tell.

        `env` may name another cluster by its SLURM_CONF. InvalidArgument for what is no id.
        """
        try:
            return SlurmBatch("slurm", "slurm", conf=(env or {}).get("SLURM_CONF")).job_nodes(native_id)
        except (SchedulerFailed, DeadlineExceeded, NotPermitted):
            return []

    def list_allocations(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """The same; empty while there is no accounting, which is kept for no longer than another error."""
        try:
            return super().list_allocations(user, force)
        except (SchedulerFailed, DeadlineExceeded) as error:
            self._say_without_accounting(error)
            return {"allocations": []}

    def _collect_info(self, user: str | None) -> Iterable[Queue]:
        groups = self._either("sinfo", ["--json", "--all"], slurm_json.node_groups, self._nodes_as_text)
        queues = self._partitions() or {group.queue.name: group.queue for group in groups if group.queue is not None}
        visible = self._visible(user)
        return [
            with_nodes(queue, [group for group in groups if name in group.partitions])
            for name, queue in queues.items()
            if visible is None or name in visible
        ]

    def _collect_jobs(self, user: str | None) -> Iterable[Job]:
        of_user = [f"--user={user}"] if user is not None else []
        # Releases before 23.11 ignore all options beside --json.
        words = ["--json", "--all", "--states=all", *of_user]
        jobs = self._either(
            "squeue", words, lambda answer: slurm_json.jobs_of(answer, time.time()), lambda: self._jobs_as_text(of_user)
        )
        places = self._places(jobs, user)
        return [with_place(job, places) for job in jobs if user is None or job.user == user]

    def _collect_allocations(self, user: str | None) -> Iterable[Allocation]:
        fields = ",".join(slurm_text.ASSOCIATION)
        words = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "associations", f"format={fields}"]
        printed = self._ask([*words, *([f"users={user}"] if user is not None else [])], ACCOUNTING_S)
        return [found for found in slurm_text.associations(printed) if found.user is not None]

    def _collect_reservations(self) -> Iterable[Reservation]:
        return slurm_text.reservations(self._ask(["scontrol", "show", "reservation", "--oneliner"]))

    def _collect_finished(self, user: str | None, since: float, limit: int) -> Iterable[Job]:
        words = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", f"--delimiter={slurm_text.BETWEEN}"]
        words += [f"--format={','.join(slurm_text.SACCT)}", f"--state={ENDED_STATES}", "--endtime=now"]
        words += [f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(since))}"]
        words += [f"--user={user}"] if user is not None else ["--allusers"]
        try:
            jobs = slurm_text.finished_jobs(self._ask(words))
        except (SchedulerFailed, DeadlineExceeded) as error:
            self._say_without_accounting(error)
            jobs = list(self._collect_jobs(user))
        ended = [job for job in jobs if job.state in ENDED and (job.end_time or 0) >= since]
        return sorted(ended, key=lambda job: -(job.end_time or 0))[:limit]

    def _collect_array(self, job_id: str) -> Iterable[Job]:
        return self._jobs_as_text(["--array", f"--job={checked_job_id(job_id)}"])

    def _partitions(self) -> dict[str, Queue]:
        printed = self._ask(["scontrol", "show", "partition", "--all", "--oneliner"])
        return {queue.name: queue for queue in slurm_text.partitions(printed)}

    def _nodes_as_text(self) -> list[NodeGroup]:
        return slurm_text.nodes(self._ask(["scontrol", "show", "node", "--all", "--oneliner"]))

    def _jobs_as_text(self, options: Sequence[str]) -> list[Job]:
        words = ["squeue", "--noheader", "--all", "--states=all", slurm_text.squeue_format(slurm_text.SQUEUE), *options]
        return slurm_text.jobs(self._ask(words))

    def _places(self, jobs: Sequence[Job], user: str | None) -> dict[tuple[str, str], int]:
        """Who waits before whom; with the jobs of one user alone, the others' have to be asked for."""
        waiting = [job for job in jobs if job.state == "PENDING"]
        if not waiting:
            return {}
        if user is None or any(job.user != user for job in jobs):
            return slurm_text.places_of([(job.job_id, job.partition or "", job.priority or 0) for job in waiting])
        words = ["squeue", "--noheader", "--all", "--states=PENDING", slurm_text.squeue_format(slurm_text.PLACES)]
        return slurm_text.places(self._ask(words))

    def _visible(self, user: str | None) -> set[str] | None:
        """The partitions that a user's associations name; None for all: one names none, or nothing is known."""
        if user is None:
            return None
        associations = self.list_allocations(user)["allocations"]
        if not associations and not is_user(user):
            raise NotFound(f"There is no user {user!r}.", hint="Name a user (--user) that the machine has, or * for everybody.")
        named = {association["partition"] for association in associations}
        return named if associations and None not in named else None

    def _either(
        self, command: str, options: Sequence[str], parse: Callable[[dict[str, Any]], T], as_text: Callable[[], T]
    ) -> T:
        """What a command says as JSON; as text where it does not speak JSON, or prints more of it than fits."""
        if command in self._without_json:
            return as_text()
        try:
            answer = self._run([command, *options])
        except TooLarge:
            return as_text()
        try:
            if answer.exit_code and not answer.text.lstrip().startswith("{"):
                raise refusal(command, answer)
            return parse(slurm_json.parse_json(answer.text, command))
        except SchedulerFailed as error:
            if answer.exit_code and not any(word in answer.complaint.lower() for word in NO_JSON):
                raise
            log.info("no-json-of-slurm", command=command, reason=error.message)
            if answer.exit_code:  # else one job with odd words in it has spoilt this one answer
                self._without_json.add(command)
            return as_text()

    def _run(self, words: Sequence[str]) -> Answer:
        return run(words, environment=self.batch.environment())

    def _ask(self, words: Sequence[str], timeout_s: float | None = None) -> str:
        environment = self.batch.environment()
        return ask(words, environment=environment, timeout_s=timeout_s) if timeout_s else ask(words, environment=environment)

    def _say_without_accounting(self, error: OrbitError) -> None:
        if error.message != self._accounting_fault:
            self._accounting_fault = error.message
            log.info("no-accounting-of-slurm", reason=error.message)


def with_nodes(queue: Queue, groups: Sequence[NodeGroup]) -> Queue:
    """A queue with what its nodes are and do."""
    kinds: dict[str, int] = {}
    for group in groups:
        for kind, count in group.gpus.items():
            kinds[kind] = max(kinds.get(kind, 0), count)
    return replace(
        queue,
        nodes_total=sum(group.total for group in groups) if groups else queue.nodes_total,
        nodes_available=sum(group.available for group in groups),
        nodes_idle=sum(group.idle for group in groups),
        cpus_per_node=max((group.cpus for group in groups if group.cpus is not None), default=None),
        mem_per_node_bytes=max((group.mem_bytes for group in groups if group.mem_bytes is not None), default=None),
        gpus_per_node=max((sum(group.gpus.values()) for group in groups), default=None),
        gpu_types=kinds,
        features=list(dict.fromkeys(feature for group in groups for feature in group.features)),
    )


def with_place(job: Job, places: Mapping[tuple[str, str], int]) -> Job:
    """A waiting job with its place, the best of those in its partitions."""
    if job.state == "PENDING":
        found = [places[key] for partition in (job.partition or "").split(",") if (key := (job.job_id, partition)) in places]
        job.queue_position = min(found, default=None)
    return job

"""QueueInfo: the base of a backend, and what all backends share: what was found out is kept, and asked for once at a time.

A backend answers `_collect_info`, `_collect_jobs` and `_collect_allocations`; a third party's is found by the entry points
`orbit_zmq.queue_info`, under the name of its batch system, and made with `batch=`. Everything here blocks, so it belongs into
a thread.
"""

from __future__ import annotations

import getpass
import pwd
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar

from orbit_queue_info.cache import Cache
from orbit_queue_info.models import Allocation, Job, Queue, Reservation, shown
from orbit_zmq.batch import BatchSystem, detect_batch_system, on_jobs_changed
from orbit_zmq.batch.detection import of_conf
from orbit_zmq.errors import InvalidArgument, OrbitError, SchedulerFailed, Unsupported
from orbit_zmq.log import get_logger

log = get_logger(__name__)

GROUP = "orbit_zmq.queue_info"
OWN = {
    "slurm": "orbit_queue_info.slurm:QueueInfoSlurm",
    "pbs": "orbit_queue_info.pbs:QueueInfoPBSPro",
    "pbs-aurora": "orbit_queue_info.pbs:QueueInfoPBSPro",
}
EVERYBODY = "*"
TTL_S = {"info": 60.0, "jobs": 10.0, "allocations": 600.0, "reservations": 60.0, "finished": 30.0, "array": 10.0}
MOST_FINISHED = 10_000


class QueueInfo(ABC):
    """Queues, jobs and allocations of one batch system, or of one cluster of several. For any thread.

    `user` is None for the user of this process, `*` for everybody, or a name; `force` wants an answer that
    is not kept; one that is being found out will do.
    What goes wrong is an OrbitError: SchedulerFailed, DeadlineExceeded, NotFound, NotPermitted, TooLarge or Unsupported.
    """

    backend_name: ClassVar[str] = "none"

    def __init__(self, batch: BatchSystem | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.batch = batch or BatchSystem()
        self._cache = Cache(clock)
        on_jobs_changed(self.jobs_changed)

    @abstractmethod
    def _collect_info(self, user: str | None) -> Iterable[Queue]:
        """The queues that a user may use, all of them where it is None or nothing is known of the user's rights."""

    @abstractmethod
    def _collect_jobs(self, user: str | None) -> Iterable[Job]:
        """The jobs of a user, of everybody where it is None."""

    @abstractmethod
    def _collect_allocations(self, user: str | None) -> Iterable[Allocation]:
        """The allocations of a user, of everybody where it is None."""

    def _collect_reservations(self) -> Iterable[Reservation]:
        raise self._lacks("reservations")

    def _collect_finished(self, user: str | None, since: float, limit: int) -> Iterable[Job]:
        raise self._lacks("accounting of finished jobs")

    def _collect_array(self, job_id: str) -> Iterable[Job]:
        raise self._lacks("members of arrays")

    def start_prefetch(self) -> None:
        """Find out queues and allocations in the background, both at once, so that the first question is answered faster."""
        for what in (self.get_info, self.list_allocations):
            threading.Thread(target=_quietly, args=(what,), name=f"queue-info-{what.__name__}", daemon=True).start()

    def get_info(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """`{"queues": {name: ...}}`, sorted by name."""
        return _queues(self._kept("info", user, self._collect_info, force))

    def kept_info(self, user: str | None = None) -> dict[str, Any] | None:
        """The same where it is kept, else None: for an event loop, as it never blocks."""
        kept = self._cache.kept(f"info:{_name(user)}")
        return None if kept is None else _queues(kept)

    def list_jobs(self, queue: str, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """`{"jobs": [...]}` of one queue."""
        return {"jobs": [job for job in self._jobs(user, force) if queue in str(job["partition"]).split(",")]}

    def list_all_jobs(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """`{"jobs": [...]}` of all queues."""
        return {"jobs": self._jobs(user, force)}

    def list_allocations(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """`{"allocations": [...]}`; empty where the batch system keeps no accounts."""
        return {"allocations": self._kept("allocations", user, self._collect_allocations, force)}

    def list_reservations(self, force: bool = False) -> dict[str, Any]:
        """`{"reservations": [...]}`."""
        return {"reservations": self._kept("reservations", EVERYBODY, lambda _: self._collect_reservations(), force)}

    def list_finished_jobs(
        self, since: float | None = None, limit: int = 100, user: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """`{"jobs": [...]}` from the accounting: those that ended since then (by default of the last day), the newest first."""
        if not 1 <= limit <= MOST_FINISHED:
            raise InvalidArgument(f"limit is {limit}, not a number from 1 to {MOST_FINISHED}")
        begin = time.time() - 86_400 if since is None else since
        key = f"finished:{'' if since is None else since}:{limit}"
        return {"jobs": self._kept(key, user, lambda who: self._collect_finished(who, begin, limit), force)}

    def list_array_jobs(self, job_id: str, force: bool = False) -> dict[str, Any]:
        """`{"jobs": [...]}`: every member of an array, also those that wait together."""
        return {"jobs": self._kept(f"array:{job_id}", EVERYBODY, lambda _: self._collect_array(job_id), force)}

    def jobs_changed(self) -> None:
        """Forget what is kept of jobs: one has just been submitted, or changed."""
        self._cache.forget("jobs:", "finished:", "array:", "info:")

    def _jobs(self, user: str | None, force: bool) -> list[dict[str, Any]]:
        return self._kept("jobs", user, self._collect_jobs, force)

    def _kept(
        self, kind: str, user: str | None, collect: Callable[[str | None], Iterable[Any]], force: bool
    ) -> list[dict[str, Any]]:
        name = _name(user)
        who = None if name == EVERYBODY else name

        def answer() -> list[dict[str, Any]]:
            return [shown(record) for record in collect(who)]

        kept: list[dict[str, Any]] = self._cache.get(f"{kind}:{name}", TTL_S[kind.partition(":")[0]], answer, force=force)
        return kept

    def _lacks(self, what: str) -> Unsupported:
        return Unsupported(f"The backend {self.backend_name} of queue_info has no {what}.", hint="Other backends may have.")


class QueueInfoNone(QueueInfo):
    """No batch system: no queues, no jobs, no allocations."""

    def _collect_info(self, user: str | None) -> Iterable[Queue]:
        return ()

    def _collect_jobs(self, user: str | None) -> Iterable[Job]:
        return ()

    def _collect_allocations(self, user: str | None) -> Iterable[Allocation]:
        return ()

    def _collect_reservations(self) -> Iterable[Reservation]:
        return ()


class QueueInfoUnsupported(QueueInfo):
    """A batch system whose lists cannot be read yet: one job can be asked for, canceled, held and released."""

    def _collect_info(self, user: str | None) -> Iterable[Queue]:
        raise self._not_yet()

    def _collect_jobs(self, user: str | None) -> Iterable[Job]:
        raise self._not_yet()

    def _collect_allocations(self, user: str | None) -> Iterable[Allocation]:
        raise self._not_yet()

    def _not_yet(self) -> Unsupported:
        return Unsupported(
            f"The plugin queue_info does not read the lists of {self.batch.name} yet.",
            hint=f"A package may bring a backend under the entry point {GROUP}.",
        )


def make_queue_info(batch: BatchSystem | None = None, conf_path: str | None = None) -> QueueInfo:
    """The backend for a batch system, by default this machine's; `conf_path` is the configuration file of another cluster.

    A package's own backend counts before ours. SchedulerFailed names one that cannot be made.
    """
    system = detect_batch_system() if batch is None else batch
    if conf_path:
        system = of_conf(system, conf_path)
    points = {point.name: point.value for point in entry_points(group=GROUP)}
    target = points.get(system.name) or OWN.get(system.name)
    if target is None:
        return QueueInfoNone(system) if system.name == "none" else QueueInfoUnsupported(system)
    module, _, name = target.partition(":")
    try:
        made = getattr(import_module(module), name)(batch=system)
    except Exception as error:
        raise SchedulerFailed(
            f"The backend {target} for {system.name} cannot be made: {type(error).__name__}: {error}", transient=False
        ) from error
    if not isinstance(made, QueueInfo):
        raise SchedulerFailed(f"The backend {target} for {system.name} is no QueueInfo.", transient=False)
    return made


def _queues(queues: list[dict[str, Any]]) -> dict[str, Any]:
    return {"queues": {queue["name"]: queue for queue in sorted(queues, key=lambda queue: str(queue["name"]))}}


def _name(user: str | None) -> str:
    return current_user() if user is None else user


@cache
def current_user() -> str:
    """The user of this process; its number where that has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        import os  # only here

        return str(os.getuid())


def is_user(name: str) -> bool:
    """Whether this machine has a user of that name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return name == current_user()
    return True


def _quietly(what: Callable[[], object]) -> None:
    try:
        what()
    except OrbitError as error:
        log.info("queue-info-not-there-yet", what=what.__name__, reason=error.message)

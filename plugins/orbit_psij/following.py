"""Following: all jobs that were submitted here, until a week after their end, and what becomes of them.

One task for each executor asks for all of its jobs at once, more often while something changes. Jobs outlive sessions and the
endpoint's process: they are kept in the plugin's store and found again from there, those among them whose submission was
cut off. It tells of every change of a job's state, of the last one once. What blocks runs in threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from orbit_psij.jobs import KEPT, RECORD, SCRIPT, Job, folder_of, job_of, remove_folder
from orbit_psij.models import FINAL
from orbit_psij.progress import (
    NEVER_S,
    OF_END,
    RECORD_S,
    SILENCE_S,
    Seen,
    end_of,
    interval_s,
    state_of,
    wants_accounting,
)
from orbit_psij.schedulers import LOCAL
from orbit_psij.states import accounting, asked, find_by_comment
from orbit_zmq.batch.exit_record import ExitRecord, is_running, read_record, started_ticks
from orbit_zmq.batch.outcome import NativeState, Outcome
from orbit_zmq.batch.threads import Threads
from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.store import SessionStore

log = get_logger(__name__)

RETAINED_S = 7 * 86_400.0  # after its end a job is forgotten, with its output
PRUNE_S = 3_600.0
LOCAL_S = 0.2  # between two looks at the processes of this machine
LOCAL_SHARE_S = 0.002  # and so much for each of them


@dataclass(slots=True)
class _Since:
    """When something was first seen of a job, in seconds of the monotonic clock."""

    silent: float | None = None
    ended: float | None = None


class Following:
    """The jobs of one plugin instance. All but the constructor is for the endpoint's loop."""

    def __init__(self, threads: Threads, tell: Callable[[Job], None], longest_s: float) -> None:
        self._threads = threads
        self._tell = tell
        self._longest_s = longest_s
        self._store = SessionStore()
        self._jobs: dict[str, Job] = {}
        self._since: dict[str, _Since] = {}
        self._wake: dict[str, asyncio.Event] = {}
        self._ended: dict[str, asyncio.Event] = {}  # of jobs that somebody waits for
        self._changed_at = time.monotonic()
        self._faults: dict[str, str] = {}
        self._group: asyncio.TaskGroup | None = None
        self._restored = asyncio.Event()

    @property
    def faults(self) -> dict[str, str]:
        """Which schedulers do not answer at present, and what they say."""
        return {executor: said for executor, said in self._faults.items() if said}

    @property
    def store_fault(self) -> str:
        """Why jobs are not written down at present; empty while all is well."""
        return self._store.fault

    async def run(self, store: SessionStore) -> None:
        """Follow until canceled."""
        self._store = store
        for kept in (await self._threads.run(store.items, KEPT)).values():
            job = job_of(kept)
            if job is not None:
                self._jobs.setdefault(job.job_id, job)
        self._restored.set()
        async with asyncio.TaskGroup() as group:
            self._group = group
            for executor in {job.executor for job in self._jobs.values() if not job.is_final}:
                self._begin(executor)
            while True:
                await self._prune(time.time())
                await asyncio.sleep(PRUNE_S)

    async def ready(self) -> None:
        """Return once the jobs of an earlier process are known."""
        await self._restored.wait()

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """The newest last."""
        return list(self._jobs.values())

    async def add(self, job: Job) -> None:
        """A job that is about to be submitted; it is on disk when this returns, so that it cannot be lost."""
        self._jobs[job.job_id] = job
        self._store.keep(KEPT + job.job_id, job.kept())
        await self._store.flush()

    def drop(self, job: Job) -> None:
        """It was never submitted after all, or is to be forgotten."""
        self._jobs.pop(job.job_id, None)
        self._since.pop(job.job_id, None)
        self._store.drop(KEPT + job.job_id)

    def submitted(self, job: Job, native_id: str) -> None:
        """The scheduler has taken it."""
        job.native_id = native_id
        self._settle(job, "QUEUED", "PENDING" if job.executor != LOCAL else "")
        self.look_again(job)

    def look_again(self, job: Job) -> None:
        """Something has been done to a job: do not wait for the next round."""
        self._store.keep(KEPT + job.job_id, job.kept())
        self._changed_at = time.monotonic()
        self._begin(job.executor)
        self._wake[job.executor].set()

    def explain(self, job: Job, reason: str) -> None:
        """Why it ends, or has ended, where that is known here better than by its scheduler."""
        if job.end_reason != reason:
            job.end_reason = reason
            job.message = reason if job.is_final else job.message
            self._store.keep(KEPT + job.job_id, job.kept())

    async def ended(self, job: Job, wait_s: float) -> None:
        """Return when the job has ended, or after so long."""
        if not job.is_final:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.setdefault(job.job_id, asyncio.Event()).wait(), wait_s)

    def _begin(self, executor: str) -> None:
        if executor not in self._wake and self._group is not None:
            self._wake[executor] = asyncio.Event()
            self._group.create_task(self._follow(executor))

    async def _follow(self, executor: str) -> None:
        wake = self._wake[executor]
        while True:
            wake.clear()
            open_jobs = [job for job in self._jobs.values() if job.executor == executor and not job.is_final]
            if not open_jobs:
                await wake.wait()
                continue
            took_s = 0.0
            try:
                took_s = await self._round(executor, open_jobs)
            except Exception:  # of one round; without the next ones no job would ever end
                log.exception("jobs-not-followed", executor=executor, jobs=len(open_jobs))
            if executor == LOCAL:
                wait_s = LOCAL_S + LOCAL_SHARE_S * len(open_jobs)
            else:
                wait_s = interval_s(took_s, time.monotonic() - self._changed_at, self._longest_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), wait_s)

    async def _round(self, executor: str, open_jobs: Sequence[Job]) -> float:
        """Ask once for these jobs; how many seconds that took."""
        ids = tuple(sorted(job.native_id for job in open_jobs if job.native_id))
        took_s = 0.0
        try:
            answered = await self._threads.ask(asked, executor, ids)
            states, took_s = answered.states, answered.took_s
            await self._find_lost(executor, [job for job in open_jobs if job.native_id is None])
            self._say_fault(executor, "")
        except OrbitError as error:
            self._say_fault(executor, error.message)
            states = {job.native_id: said for job in open_jobs if job.native_id and (said := _as_last_seen(job)) is not None}
            open_jobs = [job for job in open_jobs if job.native_id in states]
        asked_for = [job for job in open_jobs if job.native_id in ids]
        seen = await self._look(executor, asked_for, states)
        for job in asked_for:
            self._apply(job, seen[job.job_id])
        return took_s

    def _say_fault(self, executor: str, said: str) -> None:
        if self._faults.get(executor, "") != said:
            log.warning("scheduler-does-not-answer" if said else "scheduler-answers-again", executor=executor, reason=said)
        self._faults[executor] = said

    async def _look(self, executor: str, jobs: Sequence[Job], states: dict[str, NativeState]) -> dict[str, Seen]:
        """What is seen of each: the scheduler's word, the job's own record, and the accounting of those that need it."""
        said = {job.job_id: states.get(job.native_id or "") for job in jobs}
        wanted = tuple(job.job_id for job in jobs if (one := said[job.job_id]) is None or one.state != "PENDING")
        records = await self._threads.run(_records_of, wanted, executor == LOCAL) if wanted else {}
        seen = {job.job_id: self._seen(job, said[job.job_id], records.get(job.job_id, (None, False))) for job in jobs}
        unclear = {job.job_id: job.native_id for job in jobs if job.native_id and wants_accounting(seen[job.job_id])}
        if unclear and executor != LOCAL:
            told = await self._threads.ask(accounting, executor, tuple(sorted(unclear.values())))
            for job_id, native_id in unclear.items():
                seen[job_id] = replace(seen[job_id], accounting=told.get(native_id))
        return seen

    def _seen(self, job: Job, said: NativeState | None, found: tuple[ExitRecord | None, bool]) -> Seen:
        now = time.monotonic()
        since = self._since.setdefault(job.job_id, _Since())
        since.silent = None if said is not None else since.silent or now
        since.ended = None if said is None or not said.has_ended else since.ended or now
        return Seen(
            said,
            *found,
            silent_for_s=0.0 if since.silent is None else now - since.silent,
            silence_s=RECORD_S if job.executor == LOCAL else SILENCE_S,
            ended_for_s=0.0 if since.ended is None else now - since.ended,
            cancel_asked=job.cancel_asked,
        )

    def _apply(self, job: Job, seen: Seen) -> None:
        if job.is_final:  # meanwhile
            return
        said = seen.said
        if said is not None:
            job.started_at = said.started or job.started_at
            job.node_list = said.node_list or job.node_list
            job.estimated_start = said.estimated_start
            if not said.has_ended:
                job.raw_state, job.message = said.raw_state, said.reason or ""
                job.restarts = said.restarts
        if seen.record is not None:
            job.started_at = job.started_at or seen.record.started
        outcome = end_of(seen, time.time())
        state = state_of(seen)
        if outcome is not None:
            self._end(job, outcome, seen)
        elif state is not None and state != job.state:
            self._settle(job, state, job.raw_state)

    def _end(self, job: Job, outcome: Outcome, seen: Seen) -> None:
        job.exit_code, job.signal, job.source = outcome.exit_code, outcome.signal, outcome.source
        job.message = job.end_reason or outcome.reason
        last = seen.accounting if seen.said is None or not seen.said.has_ended else seen.said
        raw_state = last.raw_state if last is not None else "" if outcome.source == "record" else "UNKNOWN"
        by_record = seen.record.ended if seen.record is not None else None
        job.ended_at = by_record or (last.ended if last is not None else None) or time.time()
        self._since.pop(job.job_id, None)
        self._settle(job, OF_END[outcome.end], raw_state or job.raw_state)

    def _settle(self, job: Job, state: Any, raw_state: str) -> None:
        """The one place where the state of a job changes, and where that is told."""
        job.state, job.raw_state, job.changed_at = state, raw_state, time.time()
        self._store.keep(KEPT + job.job_id, job.kept())
        self._changed_at = time.monotonic()
        if state in FINAL:
            with suppress(OSError):
                (job.folder / SCRIPT).unlink(missing_ok=True)  # the job's environment is in it
            if (event := self._ended.pop(job.job_id, None)) is not None:
                event.set()
        self._tell(job)

    async def _find_lost(self, executor: str, lost: Sequence[Job]) -> None:
        """Jobs whose submission has not told an id: the process was killed, or the scheduler did not answer in time."""
        if not lost:
            return
        told = await self._threads.ask(find_by_comment, executor)
        records = await self._threads.run(_records_of, tuple(job.job_id for job in lost), False)
        for job in lost:
            native_id = told.get(job.job_id) or _id_in(records[job.job_id][0], executor)
            if job.is_final or job.native_id is not None:
                continue
            if native_id:
                self.submitted(job, native_id)
            elif time.time() - job.submitted_at > NEVER_S:
                job.message, job.source, job.ended_at = "It was never submitted.", "none", time.time()
                self._settle(job, "FAILED", "")

    async def _prune(self, now: float) -> None:
        old = [job for job in self._jobs.values() if job.is_final and now - (job.ended_at or now) > RETAINED_S]
        for job in old:
            self.drop(job)
            await self._threads.run(remove_folder, job.job_id)


def _records_of(job_ids: Iterable[str], look_for_processes: bool) -> dict[str, tuple[ExitRecord | None, bool]]:
    """The record of each, and whether its process is there."""
    found: dict[str, tuple[ExitRecord | None, bool]] = {}
    for job_id in job_ids:
        folder = folder_of(job_id)
        with suppress(OSError):
            os.listdir(folder)  # NFS remembers for long that a file is not there, unless its directory is read
        record = read_record(folder / RECORD)
        found[job_id] = record, look_for_processes and record is not None and is_running(record)
    return found


def _as_last_seen(job: Job) -> NativeState | None:
    """Of a job that runs while its scheduler does not answer: it may write its end itself."""
    if job.state != "ACTIVE":
        return None
    return NativeState("RUNNING", job.raw_state, started=job.started_at, restarts=job.restarts)


def _id_in(record: ExitRecord | None, executor: str) -> str:
    if record is None:
        return ""
    if executor != LOCAL:
        return record.native_id
    return f"{record.pid}.{record.pid_started or started_ticks(record.pid)}"

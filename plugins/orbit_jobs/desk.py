"""The desk: takes jobs, hands them to their runners, follows them to their end, and says so.

It runs for as long as the plugin is served, whether anybody is connected or not. What a job waits for is left to the scheduler
where that can wait for it; else the job is held here. It asks runners in threads, and never holds up the loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from orbit_jobs.book import Book, Entry, fingerprint_of
from orbit_jobs.files import JobFiles, default_root
from orbit_jobs.models import Array, Issue, JobDryRun, JobHandle, JobSpec, JobStatus, JobStatusResult, warned
from orbit_jobs.places import Places
from orbit_jobs.runner import Job, JobRunner, new_job_id
from orbit_zmq.batch.threads import Threads
from orbit_zmq.errors import Busy, Conflict, DeadlineExceeded, InternalError, OrbitError
from orbit_zmq.files import write_private
from orbit_zmq.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")

MOST_UNFINISHED = 20_000  # jobs of all users; each is looked at again and again
PRUNE_S = 600.0
RECOVER_S = 60.0  # a scheduler that took a job without an answer shows it within that
RECOVER_PAUSE_S = 2.0
ACTIVE_S = 20.0  # after a change the next one may be near
WHILE_RUNNING, WHILE_PENDING = 2, 5  # times as long between two looks; an end is shown within 5 s
NEVER_ARRIVED = "It was being handed over when that was interrupted, and the scheduler does not show it."


class Desk:
    """The jobs of one endpoint. `tell` is called for each change of a status."""

    def __init__(self, endpoint: str, places: Places, book: Book, tell: Callable[[Entry], None], keep_s: float) -> None:
        self.endpoint = endpoint
        self.places = places
        self.book = book
        self._tell = tell
        self._keep_s = keep_s
        self._looking, self._handing = Threads(), Threads()  # a scheduler that is slow to take jobs does not blind us
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._looked_at: dict[str, float] = {}  # backend and target -> when its jobs were looked at last
        self._under_way: set[str] = set()
        self._seen: dict[str, int] = {}  # likewise -> how many there were
        self._active_at: dict[str, float] = {}  # likewise -> when one came or changed last
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Take up what an earlier process has left, and follow all jobs until canceled."""
        self.book.take(await asyncio.to_thread(self.book.read))
        async with asyncio.TaskGroup() as group:
            self._group = group
            for entry in self.book.of_stage("handing"):
                group.create_task(self._recover(entry))
            group.create_task(self._prune_always())
            self._ready.set()
            while True:
                self._release_held()
                self._changed.clear()
                pause_s = self._look_at_all()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause_s)

    async def ready(self) -> None:
        """Return once what was kept is known."""
        await self._ready.wait()

    async def submit(
        self,
        user: str,
        spec: JobSpec,
        *,
        target: str | None = None,
        job_id: str | None = None,
        after: Sequence[str] = (),
        array: Array | None = None,
        dry_run: bool = False,
    ) -> JobHandle | JobDryRun:
        """Take a job, or show what it would be. The same job under an id that is there is that job, another one a Conflict."""
        await self.ready()
        place, runner = await self._call(self.places.find, target)
        earlier = [self.book.find(one, user) for one in dict.fromkeys(after)]
        handles = tuple(entry.handle for entry in earlier if entry.stage == "handed")
        natively = all(entry.stage == "handed" or entry.status is JobStatus.SUCCESSFUL for entry in earlier)
        is_held = not (natively and (not handles or runner.takes_after(handles)))
        job = Job(spec, job_id or new_job_id(), array, () if is_held else handles)
        if dry_run:
            return await self._shown(runner, job, earlier, is_held)
        prints = fingerprint_of(spec, target, [entry.job_id for entry in earlier], array)
        if (known := self.book.get(job.job_id)) is not None:
            return await self._known(known, user, prints)
        entry = self._enter(user, runner, place, job, earlier, prints, is_held)
        if is_held:
            await self._hold(entry, runner, job)
        else:
            self._begin(self._hand_over(entry, runner, job))
            await entry.handed.wait()
            if isinstance(entry.refused, OrbitError):
                raise entry.refused
        return entry.handle

    async def cancel(self, entry: Entry, reason: str) -> JobStatusResult:
        """Ask for a job's end; one that has ended stays as it is."""
        if entry.stage == "handing":
            await entry.handed.wait()
        if entry.stage == "held":
            entry.cancel_reason = reason
            self._end(entry, JobStatus.CANCELLED, reason="It was cancelled before it was handed over.")
        elif entry.stage == "handing":  # it is being looked for, and canceled once it is found
            entry.cancel_reason = reason
            self.book.keep(entry)
        elif entry.stage == "handed":
            await self._cancel_native(entry, reason)
        return entry.result()

    async def _cancel_native(self, entry: Entry, reason: str) -> None:
        await self._call(self.places.runner_of(entry.handle).cancel, entry.handle, reason, threads=self._handing)
        entry.cancel_reason = reason
        if entry.stage == "handed":
            self.book.keep(entry)
        self._looked_at.clear()
        self._active_at.clear()
        self._seen.clear()
        self._changed.set()

    async def forget(self, entry: Entry) -> None:
        """Take away all that is known of a job that has ended, its output among it."""
        if entry.stage != "ended":
            raise Conflict(f"The job {entry.job_id} has not ended.", hint="Cancel it first, or wait for it.")
        self.book.drop(entry)
        await asyncio.to_thread(_remove_files, entry.handle)
        await self.book.flush()

    # Handing over

    def _enter(
        self, user: str, runner: JobRunner, place: str, job: Job, earlier: list[Entry], prints: str, is_held: bool
    ) -> Entry:
        """The one place where a job enters the book."""
        if len(self.book.of_stage("held", "handing", "handed")) >= MOST_UNFINISHED:
            raise Busy(f"{MOST_UNFINISHED} jobs of endpoint {self.endpoint} have not ended.", hint="Wait for some of them.")
        metadata = {name: one for name, one in (("name", job.spec.name), ("array", str(job.array or ""))) if one}
        handle = JobHandle(job_id=job.job_id, backend=runner.backend, endpoint=self.endpoint, target=place, metadata=metadata)
        after = [entry.job_id for entry in earlier]
        entry = Entry(user, handle, "held" if is_held else "handing", prints, after=after)
        self.book.keep(entry)
        return entry

    async def _known(self, entry: Entry, user: str, prints: str) -> JobHandle:
        if entry.user != user or entry.fingerprint != prints:
            raise Conflict(
                f"Another job was submitted as {entry.job_id}.", hint="Choose another key for another job, or forget that one."
            )
        if entry.stage == "handing":
            await entry.handed.wait()
        if entry.refused is not None:
            raise entry.refused
        return entry.handle

    async def _shown(self, runner: JobRunner, job: Job, earlier: list[Entry], is_held: bool) -> JobDryRun:
        shown = await self._call(lambda: runner.submit(job, dry_run=True))
        if not isinstance(shown, JobDryRun):
            raise InternalError(f"The runner {runner.backend} has submitted a job on a dry run: {shown}.")
        if is_held:
            shown.details["held_for"] = ", ".join(entry.job_id for entry in earlier if entry.status is not JobStatus.SUCCESSFUL)
        return shown

    async def _hold(self, entry: Entry, runner: JobRunner, job: Job) -> None:
        """Keep a job here until others have ended; what is wrong with it is said now."""
        try:
            shown = await self._shown(runner, job, [], False)
            await asyncio.to_thread(_write_held, job)
        except OrbitError:
            self.book.drop(entry)
            await asyncio.to_thread(_own_files(entry.job_id).remove)
            raise
        entry.handle = warned(entry.handle, shown.issues)
        self.book.keep(entry)
        await self.book.flush()
        entry.handle = warned(entry.handle, self._not_kept())
        self._notice(entry)

    async def _hand_over(self, entry: Entry, runner: JobRunner, job: Job, *, was_held: bool = False) -> None:
        """Ends with the job handed over, ended, or out of the book and `refused`."""
        try:
            await asyncio.to_thread(_write_held, job)
            await self.book.flush()
            handle = await self._call(lambda: runner.submit(job), threads=self._handing)
            if not isinstance(handle, JobHandle):
                raise InternalError(f"The runner {runner.backend} has not submitted the job; it showed what it would do.")
        except DeadlineExceeded as error:  # it may have been taken all the same
            log.warning("job-handed-over-without-answer", job_id=entry.job_id, reason=error.message)
            entry.problem = error.message
            self._begin(self._recover(entry))
            entry.handed.set()
            return
        except OrbitError as error:
            if was_held:
                self._end(entry, JobStatus.FAILED, reason=error.message)
            else:
                entry.refused = error
                self.book.drop(entry)
                await asyncio.to_thread(JobFiles(default_root() / entry.job_id).remove)
            entry.handed.set()
            return
        await self._on_handed(entry, handle)

    async def _on_handed(self, entry: Entry, handle: JobHandle) -> None:
        facts = {"endpoint": self.endpoint, "target": entry.handle.target, "submitted_at": entry.handle.submitted_at}
        entry.handle = warned(handle.model_copy(update=facts), self._not_kept())
        entry.stage, entry.problem = "handed", ""
        self.book.keep(entry)
        await self.book.flush()
        await asyncio.to_thread(_forget_held, entry.job_id)
        entry.handed.set()
        self._notice(entry)
        if entry.cancel_reason is not None:
            await self._cancel_native(entry, entry.cancel_reason)

    def _not_kept(self) -> list[Issue]:
        if not self.book.fault:
            return []
        said = f"The endpoint keeps nothing at present ({self.book.fault}), and forgets this job when it ends."
        return [Issue(kind="not_kept", msg=said, severity="warning")]

    async def _recover(self, entry: Entry) -> None:
        """Find a job again of which it is not known whether it was handed over."""
        ends_at = time.monotonic() + RECOVER_S
        while entry.stage == "handing":
            try:
                job = await asyncio.to_thread(_read_held, entry)
                handle = await self._call(self.places.runner_of(entry.handle).recover, job)
            except OrbitError as error:
                entry.problem, handle = error.message, None
            if handle is not None:
                await self._on_handed(entry, handle)
            elif time.monotonic() > ends_at:
                self._end(entry, JobStatus.FINISHED_UNKNOWN, reason=NEVER_ARRIVED, source="none")
                entry.handed.set()
            else:
                await asyncio.sleep(RECOVER_PAUSE_S)

    def _release_held(self) -> None:
        """Hand over what has waited for long enough, and end what waits in vain."""
        for entry in self.book.of_stage("held"):
            earlier = {one: self.book.get(one) for one in entry.after}
            in_vain = [one for one, other in earlier.items() if other is None or _is_in_vain(other)]
            if in_vain:
                self._end(entry, JobStatus.CANCELLED, reason=self._why_in_vain(in_vain))
            elif all(other is not None and other.status is JobStatus.SUCCESSFUL for other in earlier.values()):
                entry.stage = "handing"
                self.book.keep(entry)
                self._begin(self._hand_over_held(entry))

    async def _hand_over_held(self, entry: Entry) -> None:
        try:
            job = await asyncio.to_thread(_read_held, entry)
            runner = self.places.runner_of(entry.handle)
        except OrbitError as error:
            self._end(entry, JobStatus.FAILED, reason=error.message)
            return
        await self._hand_over(entry, runner, job, was_held=True)

    def _why_in_vain(self, job_ids: Sequence[str]) -> str:
        said = []
        for job_id in job_ids:
            other = self.book.get(job_id)
            said.append(f"{job_id}, which is {other.status if other is not None else 'forgotten'}")
        return f"It was to run after {' and '.join(said)}."

    # Following

    def _look_at_all(self) -> float | None:
        """Look at the jobs of each runner whose turn it is; the seconds until the next turn, None where there is nothing."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.book.of_stage("handed"):
            groups.setdefault(f"{entry.handle.backend} {entry.handle.target}", []).append(entry)
        now, pause_s = time.monotonic(), None
        for name, entries in groups.items():
            poll_s = self.places.poll_s(entries[0].handle) * self._patience_with(name, entries, now)
            left_s = self._looked_at.get(name, float("-inf")) + poll_s - now
            if left_s <= 0 and name not in self._under_way:
                self._looked_at[name] = now
                self._under_way.add(name)
                self._begin(self._look_at(name, entries))
                left_s = poll_s
            pause_s = min(max(left_s, 0.05), pause_s or poll_s)
        return pause_s

    def _patience_with(self, name: str, entries: list[Entry], now: float) -> int:
        """How many times longer than a runner's own time is waited for the next look: the longer where little happens."""
        if len(entries) > self._seen.get(name, 0):
            self._active_at[name] = now  # there are new ones
        self._seen[name] = len(entries)
        if now - self._active_at[name] < ACTIVE_S:
            return 1
        return WHILE_RUNNING if any(entry.status is JobStatus.RUNNING for entry in entries) else WHILE_PENDING

    async def _look_at(self, name: str, entries: list[Entry]) -> None:
        try:
            runner = self.places.runner_of(entries[0].handle)
            found = await self._call(runner.status_many, [entry.handle for entry in entries], threads=self._looking)
        except OrbitError as error:
            found = [error] * len(entries)
        finally:
            self._under_way.discard(name)
        for entry, one in zip(entries, found, strict=True):
            before = (entry.status, entry.detail.get("raw_state"))
            if entry.stage == "handed":
                self._on_look(entry, one)
            if (entry.status, entry.detail.get("raw_state")) != before:
                self._active_at[name] = time.monotonic()

    def _on_look(self, entry: Entry, found: JobStatusResult | OrbitError) -> None:
        if isinstance(found, OrbitError):
            if entry.problem != found.message:
                log.warning("job-not-seen", job_id=entry.job_id, reason=found.message)
            entry.problem = found.message
            return
        entry.problem = ""
        if found.status.is_finished:
            detail = dict(found.detail)
            in_vain = [one for one in entry.after if (other := self.book.get(one)) is not None and _is_in_vain(other)]
            if found.status is JobStatus.CANCELLED and entry.cancel_reason is None and in_vain:
                detail["reason"] = self._why_in_vain(in_vain)
            self._end(entry, found.status, **detail)
            return
        has_changed = found.status is not entry.status
        entry.status, entry.detail = found.status, found.detail
        if has_changed:
            self.book.keep(entry)
            self._tell(entry)

    def _end(self, entry: Entry, status: JobStatus, **detail: Any) -> None:
        """The one place where a job ends."""
        entry.stage, entry.status, entry.detail = "ended", status, {**detail, "after": entry.after} if entry.after else detail
        entry.ended_at, entry.problem = time.time(), ""
        self.book.keep(entry)
        entry.over.set()
        entry.handed.set()
        self._begin(self._clear_up(entry))

    async def _clear_up(self, entry: Entry) -> None:
        await self.book.flush()  # what has been told is known after a restart, too
        self._notice(entry)
        await asyncio.to_thread(_forget_scripts, entry.handle)

    def _notice(self, entry: Entry) -> None:
        self._tell(entry)
        self._changed.set()

    async def _prune_always(self) -> None:
        while True:
            for entry in self.book.expired(self._keep_s):
                await self.forget(entry)
            await asyncio.sleep(PRUNE_S)

    def _begin(self, work: Any) -> None:
        """Do something beside; it lets nothing but bugs out."""
        assert self._group is not None  # `ready` has been waited for
        self._group.create_task(self._guarded(work))

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:  # one job's fault is not the next one's
            log.exception("job-work-failed")

    async def _call(self, function: Callable[..., T], *arguments: Any, threads: Threads | None = None) -> T:
        """What a runner answers; what it raises beside our errors is its author's fault, and becomes one."""
        try:
            return await (threads or self._looking).run(function, *arguments)
        except OrbitError:
            raise
        except Exception as error:  # the plugin call: a third party's runner
            raise InternalError(f"The runner failed: {type(error).__name__}: {error}") from error


def _is_in_vain(other: Entry) -> bool:
    return other.stage == "ended" and other.status is not JobStatus.SUCCESSFUL


def _own_files(job_id: str) -> JobFiles:
    return JobFiles(default_root() / job_id)


def _write_held(job: Job) -> None:
    """What the job is to be, its environment among it, where only this user reads it."""
    files = _own_files(job.job_id)
    files.make()
    handles = [one.model_dump(mode="json") for one in job.after]
    content = {"spec": job.spec.model_dump(mode="json"), "array": str(job.array) if job.array else None, "after": handles}
    write_private(files.held, json.dumps(content))


def _read_held(entry: Entry) -> Job:
    try:
        content = json.loads(_own_files(entry.job_id).held.read_text())
        after = tuple(JobHandle.model_validate(one) for one in content["after"])
        array = Array.parse(content["array"]) if content["array"] else None
        return Job(JobSpec.of(content["spec"]), entry.job_id, array, after)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InternalError(f"What the job {entry.job_id} was to be is lost: {error}") from error


def _forget_held(job_id: str) -> None:
    with suppress(OSError):
        _own_files(job_id).held.unlink()


def _directories(handle: JobHandle) -> list[JobFiles]:
    found = [_own_files(handle.job_id)]
    if said := handle.metadata.get("directory"):
        found.append(JobFiles(Path(said)))
    return found


def _forget_scripts(handle: JobHandle) -> None:
    for files in _directories(handle):
        files.forget_script()


def _remove_files(handle: JobHandle) -> None:
    for files in _directories(handle):
        if files.directory.name == handle.job_id:
            files.remove()

"""The tasks and results of one session, shared by the engine's thread and the endpoint's loop.

Everything that is remembered is behind one lock, held for short slices. `fetch` answers at once when there is anything,
else as soon as the first result arrives: results that come in a burst wake the loop once. In a lasting session a result is
kept by the journal before it can be fetched, and beyond some size it is on disk alone. This module must not run, decode or
cancel tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from orbit_rhapsody.codec import FINAL_STATES, RUNNING, Acknowledgement, Portion, full_record
from orbit_rhapsody.counters import Counters
from orbit_rhapsody.journal import Journal, KeptResult, Record
from orbit_rhapsody.output import OutputLines
from orbit_rhapsody.preparation import PackedTask
from orbit_rhapsody.records import expired_record
from orbit_rhapsody.rules import CONSUMER_AWAY_S, KEPT_S, RETENTION_S, ResultLog, Spilled, TaskEntry, TaskTable
from orbit_rhapsody.sleepers import Sleepers
from orbit_rhapsody.spool import Spool
from orbit_zmq.errors import Conflict, InternalError, InvalidArgument, SessionClosed

MAX_PORTION_BYTES = 16 << 20
MAX_WAIT_S = 60.0
UNFETCHED_BYTES = 256 << 20  # results that wait in memory; past it no further task is started until some are fetched
RESULT_BYTES = 640  # of a result and its task in memory, beside its record
SPILL_BYTES = 64 << 20  # the same of a lasting session, whose results are on disk as well
SNAPSHOT_BYTES = 16 << 20  # past it, a snapshot names finished tasks without their results
ADMIT_SLICE = 256  # tasks admitted under one hold of the lock, so that a fetch does not wait for a whole batch


class Results:
    """Table and log of one session; `fetch` belongs to the endpoint's loop, everything else to any thread."""

    def __init__(self, log: ResultLog | None = None, journal: Journal | None = None, retention_s: float = RETENTION_S) -> None:
        if log is None:
            log = ResultLog(retention_s=retention_s, consumer_away_s=CONSUMER_AWAY_S if journal is None else KEPT_S)
        self._log = log
        self._journal = journal
        self._being_kept: dict[str, int] = {}  # tasks that have ended, until that is on disk, with the size of their records
        self._being_kept_bytes = 0
        self.counters = Counters()
        self.spool = Spool(journal)  # what is too large for a message
        self.lines = OutputLines()  # of programs, while they run
        self.on_room: Callable[[], None] = lambda: None  # told when `has_room` is so again; from any thread
        self._was_full = False
        self._tasks = TaskTable()
        self._lock = threading.Lock()
        self._fetching = Sleepers()
        self._closed = False

    def admit(self, tasks: Sequence[PackedTask], wall_time: float) -> tuple[list[PackedTask], Acknowledgement]:
        """The tasks that are new, and the answer for those that are not."""
        new, answer = list[PackedTask](), Acknowledgement()
        for start in range(0, len(tasks), ADMIT_SLICE):
            with self._lock:
                known = self._tasks.admit_all(tasks[start : start + ADMIT_SLICE], wall_time, new)
                for index, entry, is_same in known:
                    if is_same:
                        answer.known[start + index] = entry.state
                    else:
                        answer.refused[start + index] = Conflict(
                            f"the uid {tasks[start + index].uid!r} belongs to another task of this session",
                            hint="Use another uid, or leave it out and one will be given.",
                        )
        return new, answer

    def state_of(self, uid: str) -> str | None:
        with self._lock:
            entry = self._tasks.get(uid)
            return entry.state if entry is not None else None

    def started(self, uids: Iterable[str]) -> None:
        with self._lock:
            for uid in uids:
                self._tasks.move(uid, RUNNING)

    def resume(self, kept: Sequence[KeptResult], cursors: dict[str, int]) -> None:
        """Go on from the results and cursors that a journal had; their tasks follow by `readmit`."""
        now, wall_now = time.monotonic(), time.time()
        found = [(one.number, one.uid, one.size_bytes, max(0.0, wall_now - one.at)) for one in kept]
        with self._lock:
            self._log.resume(found, cursors, now)

    def readmit(self, task: PackedTask, submitted: float, ended: KeptResult | None) -> bool:
        """Take a task of a journal in again, with its result if there is one; False for a uid that is there."""
        with self._lock:
            is_new = self._tasks.admit(task.uid, task.content, submitted) is None
            if is_new and ended is not None:
                self._tasks.move(task.uid, ended.state, ended.number)
            return is_new

    def finished(self, records: Sequence[Record]) -> None:
        """Take in (uid, final state, packed record). Of a task that ended twice the first end counts."""
        if self._journal is None:
            self._take_in(records)
            return
        fresh = []
        with self._lock:
            for uid, state, record in records:
                entry = self._tasks.get(uid)
                if entry is not None and entry.state not in FINAL_STATES and uid not in self._being_kept:
                    self._being_kept[uid] = len(record)
                    self._being_kept_bytes += len(record)
                    fresh.append((uid, state, record))
            self._journal.results(fresh)
        self._journal.when_kept(lambda: self._take_in(fresh))

    def _take_in(self, records: Sequence[Record]) -> None:
        with self._lock:
            tasks, log = self._tasks, self._log
            for uid, state, record in records:
                if tasks.move(uid, state, log.last + 1):
                    log.append(uid, record)
            if self._journal is not None:
                self._being_kept_bytes -= sum(self._being_kept.pop(uid, 0) for uid, _, _ in records)
                self._log.note_age(len(self._log) + self._log.oldest - 1, time.monotonic())
                if not self._journal.fault:
                    self._log.spill(SPILL_BYTES)
            self._forget(time.monotonic())
        self._fetching.wake_soon()

    def _forget(self, now: float) -> None:
        first = self._log.oldest
        self._forgotten(first, self._log.forget(now))

    def _forgotten(self, first: int, uids: list[str]) -> None:
        for uid in uids:
            self._tasks.forget(uid)
        self.spool.drop(uids)
        self.lines.drop(uids)
        if self._journal is not None and uids:
            self._journal.forget(range(first, self._log.oldest), uids)

    def expire(self) -> int:
        """Give up results that were kept for the longest time or take too much room; how many. To be called now and then."""
        with self._lock:
            if self._journal is None:
                return 0
            first = self._log.oldest
            expired = self._log.expire(time.monotonic(), is_over_limit=self._journal.is_over_limit)
            self._forgotten(first, expired)
            return len(expired)

    def has_room(self) -> bool:
        """Whether further results find a place in memory; `on_room` tells when they do again."""
        with self._lock:
            has_room = self._has_room()
            self._was_full = not has_room
            return has_room

    @property
    def is_full(self) -> bool:
        """The same for those who only want to know: nobody is told later that there is room again."""
        with self._lock:
            return not self._has_room()

    def _has_room(self) -> bool:
        held_bytes = self._log.unfetched_bytes + self._being_kept_bytes + RESULT_BYTES * self._log.unfetched
        return held_bytes < UNFETCHED_BYTES

    async def fetch(self, consumer: str, after: int | None, max_bytes: int, wait_s: float) -> Portion:
        """The results after number `after`; waits for the first one at most `wait_s` when there is none yet.

        None stands for where the consumer has got to before.
        """
        deadline = time.monotonic() + min(max(wait_s, 0.0), MAX_WAIT_S)
        max_bytes = min(max(max_bytes, 1), MAX_PORTION_BYTES)
        while True:
            with self._lock:
                if self._closed:
                    raise SessionClosed("the session was closed while its results were waited for")
                portion = self._read(consumer, after, max_bytes)
                left_s = deadline - time.monotonic()
                if portion.records or left_s <= 0:
                    break
                waiter = self._fetching.join()
            await self._fetching.woken(waiter, left_s)
        if any(isinstance(record, Spilled) for record in portion.records):
            return await asyncio.to_thread(self._filled, portion)
        return portion

    async def progress(self, wait_s: float) -> None:
        """Wait until results come in; at most so long."""
        await self._fetching.woken(self._fetching.join(), wait_s)

    def _read(self, consumer: str, after: int | None, max_bytes: int) -> Portion:
        now, before = time.monotonic(), self._log.cursor_of(consumer)
        after = before if after is None else after
        portion = self._log.read(consumer, after, max_bytes, now)
        if self._journal is not None and after > before:
            self._journal.cursor(consumer, after)
        self._forget(now)
        if self._was_full and self._has_room():
            self._was_full = False
            self.on_room()
        return portion

    def _filled(self, portion: Portion) -> Portion:
        records = [self._from_disk(record) if isinstance(record, Spilled) else record for record in portion.records]
        return Portion(portion.first, portion.after, portion.more, records)

    def _from_disk(self, spilled: Spilled) -> bytes:
        """The record of a result that is on disk; one that cannot be read is an error of that task alone."""
        try:
            record = self._journal.record(spilled.number) if self._journal is not None else None
        except InternalError:
            record = None
        return expired_record(spilled.uid) if record is None else record

    def unfetched(self, consumer: str) -> tuple[int, list[str]]:
        """How far a consumer has got, and the tasks whose results it has not read."""
        with self._lock:
            after = self._log.cursor_of(consumer)
            return after, [uid for uid, entry in self._tasks if entry.number == 0 or entry.number > after]

    def from_now(self, consumer: str) -> int:
        """Have a consumer go on behind the newest result, as if it had read all before; answers that one's number."""
        with self._lock:
            return self._read(consumer, self._log.last, 1).after

    def leave(self, consumer: str) -> None:
        """A consumer reads no more."""
        with self._lock:
            self._log.leave(consumer, time.monotonic())
            if self._journal is not None:
                self._journal.drop_cursor(consumer)

    async def describe(self, uid: str) -> dict[str, Any] | None:
        """Everything that is known of one task, or None."""
        with self._lock:
            entry = self._tasks.get(uid)
            if entry is None:
                return None
            record = self._log.record(entry.number) if entry.number else None
        if isinstance(record, Spilled):
            record = await asyncio.to_thread(self._from_disk, record)
        described: dict[str, Any] = _summary(uid, entry) if record is None else full_record(record)
        return described

    def close(self) -> None:
        """End the fetches that wait, and drop what is apart; called on their loop."""
        self._closed = True
        self.spool.close()
        self._fetching.wake()

    def forget(self) -> None:
        """Let go of all tasks and results, once nothing runs any more: Python's collector would come by much later."""
        with self._lock:
            self._tasks, self._log = TaskTable(), ResultLog()
            self._being_kept.clear()

    def snapshot(self, uids: Iterable[str]) -> list[dict[str, Any]]:
        """What is known of these tasks now; those that are unknown are left out."""
        with self._lock:
            found = [(uid, entry) for uid in uids if (entry := self._tasks.get(uid)) is not None]
            return self._described(found)

    def list_tasks(self, state: str | None, after: str, limit: int) -> list[dict[str, Any]]:
        """At most `limit` tasks in the order of their submission, those after the uid `after`, without results."""
        with self._lock:
            if after and self._tasks.get(after) is None:
                raise InvalidArgument(f"list_tasks after {after!r}, which is not a task of this session (any more)")
            entries = iter(self._tasks)
            if after:
                for uid, _ in entries:
                    if uid == after:
                        break
            chosen = ((uid, entry) for uid, entry in entries if state is None or entry.state == state)
            return [_summary(uid, entry) for uid, entry in islice(chosen, limit)]

    def _described(self, found: list[tuple[str, TaskEntry]]) -> list[dict[str, Any]]:
        described, left = [], SNAPSHOT_BYTES
        for uid, entry in found:
            record = self._log.record(entry.number) if entry.number else None
            if record is None:
                described.append(_summary(uid, entry))
            elif isinstance(record, Spilled) or (len(record) > left and described):
                described.append(_summary(uid, entry) | {"partial": True})
            else:
                left -= len(record)
                described.append(full_record(record))
        return described

    def statistics(self) -> dict[str, Any]:
        with self._lock:
            return {
                "states": dict(self._tasks.counts),
                "tasks_held": len(self._tasks),
                "results_held": len(self._log),
                "result_bytes": self._log.held_bytes,
                "unfetched_bytes": self._log.unfetched_bytes,
                "spooled_bytes": self.spool.held_bytes,
                "store_fault": self._journal.fault if self._journal is not None else "",
                "consumers": self._log.consumers,
                **self.counters.facts(),
            }


def _summary(uid: str, entry: TaskEntry) -> dict[str, Any]:
    return {"uid": uid, "state": entry.state, "times": {"submitted": entry.submitted}}

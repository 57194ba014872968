"""The tasks and results of one session, shared by the engine's thread and the endpoint's loop.

Everything that is remembered is behind one lock, held for short slices. `fetch` answers at once when there is anything,
else as soon as the first result arrives: results that come in a burst wake the loop once. This module must not run,
decode or cancel tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import msgpack

from orbit_rhapsody.codec import FINAL_STATES, RUNNING, Acknowledgement, Portion
from orbit_rhapsody.rules import ResultLog, TaskEntry, TaskTable
from orbit_zmq.errors import Conflict, InvalidArgument, SessionClosed

MAX_PORTION_BYTES = 16 << 20
MAX_WAIT_S = 60.0
SNAPSHOT_BYTES = 16 << 20  # past it, a snapshot names finished tasks without their results
ADMIT_SLICE = 256  # tasks admitted under one hold of the lock, so that a fetch does not wait for a whole batch


class Results:
    """Table and log of one session; `fetch` belongs to the endpoint's loop, everything else to any thread."""

    def __init__(self, log: ResultLog | None = None) -> None:
        self._log = ResultLog() if log is None else log
        self._tasks = TaskTable()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._waking = False
        self._closed = False

    def admit(
        self, tasks: Sequence[tuple[str, int, bytes]], wall_time: float
    ) -> tuple[list[tuple[str, int, bytes]], Acknowledgement]:
        """The tasks that are new, and the answer for those that are not."""
        new, answer = [], Acknowledgement()
        for start in range(0, len(tasks), ADMIT_SLICE):
            with self._lock:
                for index, task in enumerate(islice(tasks, start, start + ADMIT_SLICE), start):
                    uid, kind, packed = task
                    content = hash((kind, packed))
                    known = self._tasks.admit(uid, content, wall_time)
                    if known is None:
                        new.append(task)
                    elif known.content == content:
                        answer.known[index] = known.state
                    else:
                        answer.refused[index] = Conflict(
                            f"the uid {uid!r} belongs to another task of this session",
                            hint="Use another uid, or leave it out and one will be given.",
                        )
        return new, answer

    def started(self, uids: Iterable[str]) -> None:
        with self._lock:
            for uid in uids:
                self._tasks.move(uid, RUNNING)

    def finished(self, records: Iterable[tuple[str, str, bytes]]) -> None:
        """Take in (uid, final state, packed record). Of a task that ended twice the first end counts."""
        with self._lock:
            for uid, state, record in records:
                entry = self._tasks.get(uid)
                if entry is not None and entry.state not in FINAL_STATES:
                    self._tasks.move(uid, state, self._log.append(uid, record))
            self._forget(time.monotonic())
            wake = bool(self._waiting) and not self._waking
            self._waking = self._waking or wake
        if wake and self._loop is not None:
            with suppress(RuntimeError):  # the endpoint's loop has been closed: nobody waits
                self._loop.call_soon_threadsafe(self._wake)

    def _forget(self, now: float) -> None:
        for uid in self._log.forget(now):
            self._tasks.forget(uid)

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
            waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def fetch(self, consumer: str, after: int, max_bytes: int, wait_s: float) -> Portion:
        """The results after number `after`; waits for the first one at most `wait_s` when there is none yet."""
        loop = self._loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(wait_s, 0.0), MAX_WAIT_S)
        max_bytes = min(max(max_bytes, 1), MAX_PORTION_BYTES)
        while True:
            with self._lock:
                if self._closed:
                    raise SessionClosed("the session was closed while its results were waited for")
                now = time.monotonic()
                portion = self._log.read(consumer, after, max_bytes, now)
                self._forget(now)
                left_s = deadline - loop.time()
                if portion.records or left_s <= 0:
                    return portion
                waiter: asyncio.Future[None] = loop.create_future()
                self._waiting.add(waiter)
            try:
                async with asyncio.timeout(left_s):
                    await waiter
            except TimeoutError:
                pass
            finally:
                with self._lock:
                    self._waiting.discard(waiter)

    def close(self) -> None:
        """End the fetches that wait; called on their loop."""
        self._closed = True
        self._wake()

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
            elif len(record) > left and described:
                described.append(_summary(uid, entry) | {"partial": True})
            else:
                left -= len(record)
                described.append(msgpack.unpackb(record))
        return described

    def statistics(self) -> dict[str, Any]:
        with self._lock:
            return {
                "states": dict(self._tasks.counts),
                "submitted": self._tasks.submitted_total,
                "tasks_held": len(self._tasks),
                "results_held": len(self._log),
                "result_bytes": self._log.held_bytes,
                "consumers": self._log.consumers,
            }


def _summary(uid: str, entry: TaskEntry) -> dict[str, Any]:
    return {"uid": uid, "state": entry.state, "times": {"submitted": entry.submitted}}

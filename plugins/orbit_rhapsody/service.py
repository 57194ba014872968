"""The endpoint's side: a session is an engine with its results; the operations hand batches in and portions out.

A session that lasts has a journal beside them, and goes on from it after the endpoint was started anew.

No task passes through a model here: a batch is looked at as a whole, and each task when its turn comes. This module must
not run tasks or block the endpoint's loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from orbit_rhapsody.backends import (
    absent_backends,
    available_backends,
    chosen_backends,
    chosen_options,
    preload_rhapsody,
)
from orbit_rhapsody.codec import FINAL_STATES, RUNNING, SUBMITTED, Acknowledgement, Portion, Reader, decode_batch
from orbit_rhapsody.engine import Engine
from orbit_rhapsody.explaining import ended_task, open_task, ready_session, starting_session
from orbit_rhapsody.journal import Journal
from orbit_rhapsody.news import News
from orbit_rhapsody.preparation import Batch, Functions, PackedTask
from orbit_rhapsody.restoring import restore
from orbit_rhapsody.results import MAX_PORTION_BYTES, MAX_WAIT_S, Results
from orbit_rhapsody.rules import DEFAULT_RETENTION_S, KEPT_S, RETENTION_S
from orbit_rhapsody.spool import remove_leftovers
from orbit_rhapsody.ui_config import UI_CONFIG
from orbit_zmq.errors import Busy, InvalidArgument, NotFound, SessionClosed
from orbit_zmq.log import get_logger
from orbit_zmq.paths import state_dir
from orbit_zmq.plugin import Explanation, Host, Plugin, PluginSession, Raw, operation

log = get_logger(__name__)

DEFAULT = "default"  # the session that each user has at each plugin
INLINE_BYTES = 32 << 10  # a smaller batch is taken in faster than a thread is woken
MAX_UIDS = 10_000  # in one question about tasks
QUEUED_BYTES = 32 << 20  # of tasks that wait for their turn, as they are in memory; past it the next batch waits
ROOM_S = 5.0  # how long a batch waits for room before it is `busy`
LOOK_S = 0.1  # how long that sleeps at a stretch
LINGER_S = 0.005  # a result that comes within it saves the client a round trip
LINGER_BYTES = 4 << 10  # of a batch whose answer may wait so long
NOT_BEGUN_S = 1.0  # how often it is looked whether a program begins whose output somebody waits for
CANCEL_S = 60.0  # a process has some seconds after each of three signals
EXPIRE_S = 600.0  # how often results are looked through that nobody fetches

Consumer = Annotated[str, Field(min_length=1, max_length=64)]
WaitSeconds = Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
PortionBytes = Annotated[int, Field(ge=1, le=MAX_PORTION_BYTES)]
BatchWindow = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BackendOptions = dict[str, dict[str, Any]]  # what each is made with, in its own words
RetentionSeconds = Annotated[float, Field(ge=0, le=KEPT_S, allow_inf_nan=False)]
InitTimeout = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ArgumentsName = Annotated[str, Field(min_length=1, max_length=64)]
Uids = Annotated[list[str], Field(max_length=MAX_UIDS)]
State = Literal["SUBMITTED", "RUNNING", "DONE", "FAILED", "CANCELED"]
OnUnknown = Literal["fail", "rerun"]
ResultsAs = Literal["inline", "reference"]
Reason = Annotated[str, Field(max_length=1_000)]


class RhapsodySession(PluginSession):
    """Tasks of one user on one or more Rhapsody backends."""

    free_arguments = frozenset({"init_timeout_s"})

    def __init__(
        self,
        sid: str,
        backends: list[str] | None = None,
        allow_pickled_tasks: bool = True,
        notify_batch_window: BatchWindow | None = None,
        notify_batch_size: Annotated[int, Field(ge=1)] | None = None,
        on_unknown: OnUnknown = "fail",
        init_timeout_s: InitTimeout = 120.0,
        results: ResultsAs = "inline",
        retention_s: RetentionSeconds | None = None,
        backend_options: BackendOptions | None = None,
    ) -> None:
        super().__init__(sid)
        self.results = results  # whether large return values come with the results, or references to them
        self.init_timeout_s = init_timeout_s  # in which all backends have to be there
        self.on_unknown = on_unknown  # what becomes of tasks that had been started when the endpoint ended
        self.backends = chosen_backends(backends)
        self.backend_options = chosen_options(backend_options, self.backends)
        self.allow_pickled_tasks = allow_pickled_tasks  # narrows what the endpoint allows, and never widens it
        self.notify_batch_window = notify_batch_window  # upper bounds for events; fetching needs neither
        self.notify_batch_size = notify_batch_size
        usual_s = DEFAULT_RETENTION_S if sid == DEFAULT else RETENTION_S
        self.retention_s = usual_s if retention_s is None else retention_s  # of results that everybody has fetched
        self._functions = Functions()
        self._journal: Journal | None = None
        self._start_over()

    def _start_over(self) -> None:
        starting = self._journal.starting if self._journal is not None else None
        news = News(self.notify_packed, longest_wait_s=self.notify_batch_window, most_tasks=self.notify_batch_size)
        self._results = Results(journal=self._journal, retention_s=self.retention_s)
        self._engine = Engine(self.backends, self._results, news, starting, self.backend_options)

    async def initialize(self) -> None:
        """Start the backends; Dragon takes many seconds. A lasting session goes on from its journal."""
        if not self.store.is_kept:
            await self._engine.start(self.init_timeout_s, self._output_directory)
            return
        self._journal = Journal(self.store)
        self._start_over()
        await self._engine.start(self.init_timeout_s, self._output_directory)
        tasks = await asyncio.to_thread(
            restore,
            self._results,
            self._journal,
            self._functions,
            allow_pickled=self._takes_pickles,
            wanted=self.results,
        )
        self._engine.submit(tasks)
        self.spawn(self._expire())

    @property
    def _output_directory(self) -> Path:
        """Where tasks with `capture_stdio` leave their output; it stays there."""
        return state_dir() / "rhapsody-output" / self.owner / self.sid

    @property
    def _takes_pickles(self) -> bool:
        return self.allow_pickled_tasks and self.host.takes_pickles

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            expired = self._results.expire()
            if expired:
                log.warning("results-expired", session=self.sid, results=expired)

    @operation(effect="run", idempotent=True, deadline_s=120)
    async def submit(self, batch: Raw) -> Raw:
        """Take a batch of tasks in. The answer lists by position what was known already and what was refused.

        A uid that comes again with the same task is answered from memory, so a batch may be sent twice. `busy` where more
        tasks or results wait than there is room for. In a lasting session the batch is on disk when this answers. A batch that
        names its `reader` gets results with the answer, as `fetch` gives them: those that are there, and of a small batch those
        that come within moments where the last task did.
        """
        self.check_takes_work()
        await self._wait_for_room()
        if self._engine.is_over:
            raise SessionClosed("the engine of the session has ended")
        if len(batch) <= INLINE_BYTES:
            answer, reader, tasks = self._accept(batch)
            if tasks:  # once this call waits: the engine's thread cannot run before this one is idle
                asyncio.get_running_loop().call_soon(self._hand_over, tasks)
        else:
            answer, reader = await asyncio.to_thread(self._accept_and_hand_over, batch)
        if self._journal is not None:
            await self._journal.flush()
        if reader is not None:
            with suppress(InvalidArgument, Busy):  # the same fetch by itself will say so
                answer.portion = await self._results.fetch(*reader, wait_s=self._linger_s(len(batch)))
        return self._encoded(answer, answer.portion)

    def _encoded(self, answer: Acknowledgement | Portion, portion: Portion | None) -> Raw:
        began = time.perf_counter()
        body = Raw(answer.encode())
        if portion is not None:
            self._results.counters.add("fetched", len(portion.records), bytes_out=len(body))
            self._results.counters.spent("fetch", len(portion.records), time.perf_counter() - began)
        return body

    async def _wait_for_room(self) -> None:
        """The client sends the next batch as soon as this one is answered: that must not fill the memory."""
        deadline = time.monotonic() + ROOM_S
        while self._engine.queued_bytes > QUEUED_BYTES and self._results.has_room() and time.monotonic() < deadline:
            await self._results.progress(LOOK_S)
        if self._engine.queued_bytes > QUEUED_BYTES:
            raise Busy(f"{self._engine.queued_bytes} bytes of tasks wait for their turn in session {self.sid}")
        if not self._results.has_room():
            raise Busy(f"too many results of session {self.sid} wait to be fetched", hint="Fetch results, then submit more.")

    def _linger_s(self, size_bytes: int) -> float:
        """How long the answer to a batch waits for its first result: not at all, unless that is expected at once."""
        return LINGER_S if size_bytes <= LINGER_BYTES and self._engine.latest_s < LINGER_S else 0.0

    def _accept_and_hand_over(self, body: bytes) -> tuple[Acknowledgement, Reader | None]:
        """In a thread, which goes on where its call is canceled: what it has admitted is to run all the same."""
        answer, reader, tasks = self._accept(body)
        self._hand_over(tasks)
        return answer, reader

    def _accept(self, body: bytes) -> tuple[Acknowledgement, Reader | None, list[PackedTask]]:
        """Admit a batch. The tasks are those that are to be handed to the engine, which a journal does by itself."""
        began, submitted = time.perf_counter(), time.time()
        received = decode_batch(body)
        batch = Batch(
            received,
            self._functions,
            submitted=submitted,
            allow_pickled=self._takes_pickles,
            spool=self._results.spool,
            results=self.results,
        )
        tasks, answer = self._results.admit(batch.tasks_of(received), submitted)
        if self._journal is None:  # where there is one, each batch has to have all that it needs
            answer.kept = self._functions.kept.keep(received.functions)
        self._results.counters.add("submitted", len(tasks), bytes_in=len(body))
        self._results.counters.spent("accept", len(tasks), time.perf_counter() - began)
        if self._journal is None or not tasks:
            return answer, received.reader, tasks
        self._journal.batch(body, submitted, received.on_unknown or self.on_unknown, [task.uid for task in tasks])
        self._journal.when_kept(lambda: self._hand_over(tasks))
        return answer, received.reader, []

    def _hand_over(self, tasks: list[PackedTask]) -> None:
        with suppress(SessionClosed):  # they end with the session, or are on disk and are found again with it
            self._engine.submit(tasks)

    @operation(effect="read", deadline_s=MAX_WAIT_S + 30, waits=True)
    async def fetch(
        self, consumer: Consumer, after: int | None = 0, max_bytes: PortionBytes = 1 << 20, wait_s: WaitSeconds = 0.0
    ) -> Raw:
        """The results after number `after`, in the order in which they came; all up to there are acknowledged.

        None stands for where this consumer has got to before. Answers at once when there is any result, else when the first
        one comes, at the latest after `wait_s`.
        """
        portion = await self._results.fetch(consumer, after, max_bytes, wait_s)
        return self._encoded(portion, portion)

    @operation(effect="read")
    async def unfetched(self, consumer: Consumer) -> dict[str, Any]:
        """Where a consumer goes on: `after`, and the `uids` of all tasks whose results it has not read."""
        after, uids = self._results.unfetched(consumer)
        return {"after": after, "uids": uids}

    @operation(effect="read", method="POST")
    async def from_now(self, consumer: Consumer) -> int:
        """Let a consumer go on behind the newest result, as if it had read all before; the number to fetch after."""
        return self._results.from_now(consumer)

    @operation(effect="read", method="POST")
    async def leave(self, consumer: Consumer) -> None:
        """A consumer reads no more: no result is kept for it."""
        self._results.leave(consumer)

    @operation(effect="read", method="POST")
    async def wait(self, uids: Uids, timeout: float | None = None) -> list[dict[str, Any]]:
        """What is known of these tasks now, without waiting. Unknown ones are left out; `timeout` has no effect."""
        return self._results.snapshot(uids)

    @operation(effect="read")
    async def list_tasks(
        self, state: State | None = None, after: str = "", limit: Annotated[int, Field(ge=1, le=MAX_UIDS)] = 1_000
    ) -> dict[str, Any]:
        """The tasks of the session in the order of their submission, without results; go on after the last uid."""
        return {"tasks": self._results.list_tasks(state, after, limit)}

    @operation(effect="read", path="task/{sid}/{uid}")
    async def task(self, uid: str) -> dict[str, Any]:
        """Everything that is known of one task."""
        found = await self._results.describe(uid)
        if found is None:
            raise _unknown(uid)
        return found

    @operation(effect="read", path="value/{sid}/{uid}")
    async def value(self, uid: str) -> AsyncIterator[bytes]:
        """The return value of a task whose result has a `return_ref` in its place, because it is too large for a message."""
        async for chunk in self._results.spool.read(uid):
            yield chunk

    @operation(effect="read", path="output/{sid}/{uid}", deadline_s=MAX_WAIT_S + 30, waits=True)
    async def output(
        self, uid: str, after: Annotated[int, Field(ge=0)] = 0, max_bytes: PortionBytes = 1 << 20, wait_s: WaitSeconds = 0.0
    ) -> dict[str, Any]:
        """The lines after number `after` that a task with `stream_output` has written; waits for the first one.

        `{lines: [[number, stream, text]], after, cut, ended}`: `after` is what to ask with next, `cut` the number of lines that
        there was no room for, and `ended` says that no more will come.
        """
        state, lines = self._results.state_of(uid), self._results.lines
        if state is None:
            raise _unknown(uid)
        if state == SUBMITTED and uid not in lines:
            await lines.read(uid, after, max_bytes, min(wait_s, NOT_BEGUN_S))  # it may end without having begun
            wait_s = 0.0
        elif uid not in lines and (state == RUNNING or await self._was_started(uid)):
            raise _not_streamed(uid)
        found = await lines.read(uid, after, max_bytes, wait_s if uid in lines else 0.0)
        return found or {"lines": [], "after": after, "cut": 0, "ended": state not in (SUBMITTED, RUNNING)}

    async def _was_started(self, uid: str) -> bool:
        found = await self._results.describe(uid)
        return found is not None and found["times"].get("started") is not None

    @operation(effect="run", deadline_s=3_600)
    async def upload(self, name: ArgumentsName, data: AsyncIterator[bytes]) -> int:
        """Arguments that are too large for a batch, before the batch that names them under `apart`; how many bytes came."""
        return await self._results.spool.take(name, data)

    @operation(effect="run", idempotent=True)
    async def discard(self, uids: Uids) -> None:
        """The large values of these tasks are not wanted any more."""
        await asyncio.to_thread(self._results.spool.discard, uids)
        if self._journal is not None:  # what was answered holds after a crash, too
            await self._journal.flush()

    @operation(effect="run", idempotent=True, path="cancel/{sid}/{uid}", deadline_s=CANCEL_S)
    async def cancel(self, uid: str, reason: Reason = "") -> dict[str, Any]:
        """End a task: its processes are gone when this answers. One that had ended before keeps its state.

        `{uid, status, canceled, requested, unstoppable}`, the last three as in `cancel_all`. `reason` is in the task's result.
        """
        answer = await self._engine.cancel(uid, reason)
        found = self._results.snapshot((uid,))
        if not found:
            raise _unknown(uid)
        status = "canceled" if answer["canceled"] else str(found[0]["state"]).lower()
        return {"uid": uid, "status": status, **answer}

    @operation(effect="run", idempotent=True, deadline_s=CANCEL_S)
    async def cancel_all(self, reason: Reason = "", begun: bool = True) -> dict[str, int]:
        """End all tasks: how many were `requested` to end, and how many have: `canceled`; without `begun`, those that wait.

        `unstoppable` counts functions that run on in their thread, though their task is canceled, for a thread cannot be ended.
        """
        return await self._engine.cancel_all(reason, begun=begun)

    async def cancel_work(self, reason: str) -> dict[str, int]:
        return await self._engine.cancel_all(reason)

    @operation(effect="read")
    async def statistics(self) -> dict[str, Any]:
        """Tasks by state and by backend, rates, time spent by stage, events, bytes, and what is held in memory.

        It costs the same however many tasks there were.
        """
        return self._results.statistics() | self._engine.statistics()

    async def why(self, item: str) -> Explanation | None:
        """Why a task, or the session itself, is not further."""
        if item == self.sid:
            return self._why_session()
        state = self._results.state_of(item)
        if state is not None and state not in FINAL_STATES:
            place = await self._engine.place(item)
            return open_task(state, place, self._results.statistics()["unfetched_bytes"])
        record = await self._results.describe(item) if state is not None else None
        return ended_task(record) if record is not None else None

    def _why_session(self) -> Explanation:
        if self._engine.being_started:
            return starting_session(self._engine.being_started, self.init_timeout_s)
        counts = self._results.statistics() | self._engine.statistics()
        return ready_session(counts, self._engine.queued_bytes, QUEUED_BYTES, has_room=not self._results.is_full)

    def unfinished_tasks(self) -> int:
        states = self._results.statistics()["states"]
        return int(states[SUBMITTED] + states[RUNNING])

    def tasks_by_state(self) -> dict[str, int]:
        return dict(self._results.statistics()["states"])

    async def close(self) -> dict[str, Any]:
        """End all tasks and the backends."""
        self._results.close()
        await self._engine.close()
        if self._engine.is_over:
            self._results.forget()
        return await super().close()


class RhapsodyPlugin(Plugin):
    """Runs tasks where the endpoint runs."""

    plugin_name = "rhapsody"
    session_class = RhapsodySession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = UI_CONFIG

    def __init__(self, host: Host, instance_name: str | None = None) -> None:
        super().__init__(host, instance_name)
        threading.Thread(target=remove_leftovers, name="rhapsody-leftovers", daemon=True).start()

    @classmethod
    def preload(cls) -> None:
        preload_rhapsody()

    @operation(effect="read")
    async def backends(self) -> dict[str, Any]:
        """Rhapsody's backends: those `available` here, the `default`, and the `absent` ones: `{backend, reason, install}`."""
        absent = await asyncio.to_thread(absent_backends)
        return {
            "available": available_backends(),
            "default": chosen_backends(None),
            "absent": [{"backend": name, "reason": why, "install": how} for name, (why, how) in absent.items()],
        }


def _not_streamed(uid: str) -> InvalidArgument:
    return InvalidArgument(f"the output of task {uid} is not streamed", hint="Submit it with stream_output=True.")


def _unknown(uid: str) -> NotFound:
    return NotFound(
        f"no task {uid!r} in this session",
        hint="It was never submitted, or it ended and everybody fetched its result some time ago.",
    )

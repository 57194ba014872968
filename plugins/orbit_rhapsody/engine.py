"""The engine: drives Rhapsody's backends directly, on a thread with a loop of its own.

Tasks wait here, still packed, until there is room for them in their backend; what a backend finishes is turned into a
record at once and let go, in here and in the backend. Nothing that a task does can block the endpoint's loop. This
module must not know consumers, cursors or the wire; what happens to tasks it tells its `Results`.
"""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from orbit_rhapsody.backends import start_backend
from orbit_rhapsody.codec import CANCELED, DONE, EXECUTABLE, FAILED, FUNCTION, RUNNING
from orbit_rhapsody.drivers import Driver
from orbit_rhapsody.invocation import Outcome, keep_apart
from orbit_rhapsody.news import News, brief
from orbit_rhapsody.preparation import PackedTask
from orbit_rhapsody.records import failed_task, finished_task
from orbit_rhapsody.results import Results
from orbit_rhapsody.values import describe
from orbit_rhapsody.workers import GRACE_S, KILL_GRACE_S, ProcessLoop, end_process, listen_to_output, written_by
from orbit_zmq.errors import DeadlineExceeded, InternalError, OrbitError, SessionClosed
from orbit_zmq.log import get_logger

log = get_logger(__name__)
Answer = TypeVar("Answer")

SLICE = 16  # tasks handed over between two turns of the loop, to begin with: starting a process takes a ms
LARGEST_SLICE = 1_024
TURN_S = 0.01  # a turn that takes longer halves the slice, one that takes less than half as long doubles it
MAX_EXECUTABLES = 1_024
FUNCTIONS_IN_FLIGHT = 4_096  # a backend keeps a task object for each; the rest waits packed
TASK_BYTES = 512  # of a packed task in memory, beside what it brings
CLOSE_S = 10.0  # after it the thread is left to itself
CLOSE_GRACE_S = 0.25  # the same when all ends: an endpoint that stops waits two seconds for its sessions
BACKEND_CLOSE_S = 5.0  # of a Dask cluster with its workers


def executables_in_flight() -> int:
    """How many child processes at once: Rhapsody would start all at once and run out of file descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return MAX_EXECUTABLES
    return max(4, min(MAX_EXECUTABLES, soft // 4))  # two pipes each, and some more while it is being started


@dataclass(slots=True)
class _Flight:
    """A task that its backend has."""

    backend: _Backend
    kind: int
    task: dict[str, Any]
    times: dict[str, Any]
    reason: str = ""  # why it is canceled
    ended: asyncio.Task[None] | None = None  # while the processes of a canceled task are being ended

    def has_begun(self) -> bool:
        return self.backend.driver.has_begun(self.task, self.times["started"] is not None)


@dataclass(slots=True)
class _Backend:
    name: str
    driver: Driver
    states: dict[Any, str]  # its words for the final states
    held: dict[str, Any]  # the tasks that it remembers
    counts: dict[str, int] = field(default_factory=lambda: {DONE: 0, FAILED: 0, CANCELED: 0})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task is that has not ended. The counts are of those that it waits behind and beside."""

    kind: int
    backend: str = ""  # that has it; empty while it waits here
    is_running: bool = False
    is_being_ended: bool = False
    ahead: int | None = None
    running: int | None = None
    limit: int | None = None  # how many may run at once
    has_room: bool = True  # for results


class Engine:
    """Backends of one session on their thread. The coroutines are called from another loop."""

    def __init__(
        self,
        backends: Sequence[str],
        results: Results,
        news: News | None = None,
        starting: Callable[[Sequence[str]], Awaitable[bool]] | None = None,  # asked before tasks start whether they may
        options: Mapping[str, Mapping[str, Any]] | None = None,  # of the backends
    ) -> None:
        self._names = list(backends)
        self._options = options or {}
        self._being_started = ""
        self._output_directory: Path | None = None
        self._results = results
        self._news = news
        self._starting = starting
        self._about_to_start: dict[str, PackedTask] = {}  # neither queued nor in flight
        self._telling = False  # a batch of news will be told soon
        self._backends: dict[str, _Backend] = {}
        self._queued: tuple[OrderedDict[str, PackedTask], ...] = (OrderedDict(), OrderedDict())
        self.queued_bytes = 0  # of the tasks that wait here
        self.latest_s = 0.0  # how long the last task took that has ended, from its arrival on
        self._flying = [0, 0]
        self._slices = [SLICE, SLICE]
        self._limits = (FUNCTIONS_IN_FLIGHT, executables_in_flight())
        self._flights: dict[str, _Flight] = {}
        self._started: list[str] = []
        self._finished: list[tuple[str, str, bytes]] = []
        self._flushing = False
        self._loop: ProcessLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._over = False  # the thread has come to its end
        self._closed: Callable[[BaseException | None], None] = lambda error: None
        self._grace_s = GRACE_S
        self._stop = asyncio.Event()
        self._arrived = asyncio.Event()

    async def start(self, timeout_s: float | None = None, output_directory: Path | None = None) -> None:
        """Start the backends; raises what kept one of them from starting, DeadlineExceeded where one takes too long.

        `output_directory` is where the output goes of tasks with `capture_stdio`; the present one if there is none.
        """
        self._output_directory = output_directory
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tell = _thread_safe(ready)
        self._thread = threading.Thread(target=self._run, args=(tell,), name="orbit-rhapsody-engine", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(timeout_s):
                await ready
        except TimeoutError as error:
            if isinstance(error, OrbitError):
                raise
            self._closing = True  # it ends by itself once the backend is there after all
            name = self._being_started
            raise DeadlineExceeded(
                f"the Rhapsody backend {name!r} was still starting after {timeout_s:g} s",
                hint="Give it longer with init_timeout; the endpoint's log may say what it waits for.",
                details={"backend": name, "stage": "starting"},
            ) from None

    def submit(self, tasks: Iterable[PackedTask]) -> None:
        """Queue tasks that have been admitted; from any thread."""
        self._tell(self._enqueue, tasks)

    async def cancel(self, uid: str, reason: str = "") -> dict[str, int]:
        """End a task that is still to end; its processes are gone when this returns. From any loop.

        Answers, as `cancel_all` does for all: how many were asked to end, how many have, and of how many the function runs on
        in its thread, though the task is canceled, for a thread cannot be ended.
        """
        return await self._ask(self._cancel(uid, reason))

    async def cancel_all(self, reason: str = "", *, begun: bool = True) -> dict[str, int]:
        """End all tasks, or those that have not begun; `{canceled, requested, unstoppable}`."""
        return await self._ask(self._cancel_all(reason, begun=begun))

    async def close(self) -> None:
        """End everything within CLOSE_S, whatever the tasks do."""
        self._closing = True
        self._grace_s = CLOSE_GRACE_S
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = _thread_safe(ended)
        if self._thread is None or self._over:
            return
        if self._loop is not None:
            with suppress(SessionClosed):
                self._tell(self._stop.set)
        try:
            async with asyncio.timeout(CLOSE_S):
                await ended
        except TimeoutError:
            log.warning("engine-left-behind", after_s=CLOSE_S, backends=self._names)

    @property
    def is_over(self) -> bool:
        """Whether nothing runs here any more."""
        return self._thread is None or self._over

    @property
    def being_started(self) -> str:
        """The backend that is being started, or will be first; empty once all are there."""
        return "" if self._loop is not None else self._being_started or self._names[0]

    async def place(self, uid: str) -> Place | None:
        """Where a task is; None where it has ended, or is on its way. From any loop."""
        return await self._ask(self._place(uid))

    def statistics(self) -> dict[str, Any]:
        """Counts of this moment; from any thread."""
        return {
            "queued": sum(map(len, self._queued)),
            "in_flight": sum(self._flying),
            "backends": {name: dict(backend.counts) for name, backend in self._backends.items()},
            "events": self._news.told if self._news is not None else {},
        }

    # From here on everything runs on the engine's thread.

    def _run(self, ready: Callable[[BaseException | None], None]) -> None:
        try:
            with asyncio.Runner(loop_factory=ProcessLoop) as runner:
                runner.run(self._main(ready))
        except Exception:
            log.exception("engine-failed", backends=self._names)
        finally:
            ready(SessionClosed("the session was closed while its backends were being started"))
            self._over = True
            self._closed(None)

    async def _main(self, ready: Callable[[BaseException | None], None]) -> None:
        try:
            for name in self._names:
                if not self._closing:
                    await self._start_backend(name)
        except OrbitError as error:
            await self._shut_down()
            ready(error)
            return
        loop = asyncio.get_running_loop()
        self._loop = loop if isinstance(loop, ProcessLoop) else None
        self._results.on_room = lambda: self._tell(self._arrived.set)
        ready(None)
        if self._closing:
            self._stop.set()
        try:
            async with asyncio.TaskGroup() as self._group:
                feeder = self._group.create_task(self._feed())
                await self._stop.wait()
                feeder.cancel()
                await self._shut_down()
        finally:
            self._abandon()

    async def _start_backend(self, name: str) -> None:
        self._being_started = name
        driver = await start_backend(name, self._output_directory, self._options.get(name))
        driver.listen(self._on_state)
        self._backends[name] = _Backend(name, driver, driver.states, driver.held)

    async def _shut_down(self) -> None:
        await self._cancel_all("the session was closed")
        for backend in self._backends.values():
            try:
                async with asyncio.timeout(BACKEND_CLOSE_S):
                    await backend.driver.shutdown()
            except Exception as error:  # noqa: BLE001 - the next one has to be ended all the same
                log.warning("backend-shutdown-failed", backend=backend.name, error=describe(error))

    def _enqueue(self, tasks: Iterable[PackedTask]) -> None:
        for task in tasks:
            self._queued[task.part.kind][task.uid] = task
            self.queued_bytes += len(task.packed) + TASK_BYTES
        self._arrived.set()

    async def _feed(self) -> None:
        while True:
            await self._arrived.wait()
            began = time.perf_counter()
            functions, executables = self._take(FUNCTION), self._take(EXECUTABLE)
            taken = functions + executables
            if not taken:
                self._arrived.clear()
                continue
            if self._starting is not None:
                self._about_to_start = {task.uid: task for task in taken}
                if not await self._starting(list(self._about_to_start)):
                    return  # the session is being closed, and nothing starts any more
                taken = list(self._about_to_start.values())  # those that nobody has canceled meanwhile
                self._about_to_start = {}
            await self._hand_over_all(taken)
            await asyncio.sleep(0)
            self._fit_slices((len(functions), len(executables)), time.perf_counter() - began)

    async def _hand_over_all(self, taken: list[PackedTask]) -> None:
        began = time.perf_counter()
        prepared, is_prepared = self._prepare(taken), time.perf_counter()
        for backend, tasks in prepared.items():
            await self._hand_over(self._backends[backend], tasks)
        self._results.counters.spent("prepare", len(taken), is_prepared - began)
        self._results.counters.spent("hand_over", len(taken), time.perf_counter() - is_prepared)

    def _fit_slices(self, taken: tuple[int, int], took_s: float) -> None:
        """Hand over as many at once as the loop bears: others wait for their turn meanwhile."""
        for kind, count in enumerate(taken):
            if took_s > TURN_S and count:
                self._slices[kind] = max(SLICE, self._slices[kind] // 2)
            elif took_s < TURN_S / 2 and count == self._slices[kind]:
                self._slices[kind] = min(LARGEST_SLICE, count * 2)

    def _take(self, kind: int) -> list[PackedTask]:
        queue = self._queued[kind]
        count = min(len(queue), self._slices[kind], self._limits[kind] - self._flying[kind])
        if count <= 0:
            return []
        self._flush()  # what has ended takes its room before more begins
        if not self._results.has_room():  # who fetches results makes room, and wakes the feeder
            return []
        taken = [queue.popitem(last=False)[1] for _ in range(count)]
        self.queued_bytes -= sum(len(task.packed) for task in taken) + TASK_BYTES * count
        return taken

    def _prepare(self, packed: list[PackedTask]) -> dict[str, list[dict[str, Any]]]:
        """The tasks as their backends want them, by backend. One that cannot be prepared fails alone."""
        prepared: dict[str, list[dict[str, Any]]] = {}
        for item in packed:
            times: dict[str, Any] = {"submitted": item.part.batch.submitted, "started": None, "finished": None}
            try:
                name, task = item.part.batch.prepare(item, self._names)
            except OrbitError as error:
                times["finished"] = time.time()
                self._finish(item.uid, *failed_task(item.uid, error, times))
                continue
            prepared.setdefault(name, []).append(task)
            self._flights[item.uid] = _Flight(self._backends[name], item.part.kind, task, times)
            self._flying[item.part.kind] += 1
        return prepared

    async def _hand_over(self, backend: _Backend, tasks: list[dict[str, Any]]) -> None:
        uids = [task["uid"] for task in tasks]
        try:
            await backend.driver.submit_tasks(tasks)
        except Exception as error:  # noqa: BLE001 - a backend comes from another package
            refusal = InternalError(f"the backend {backend.name!r} refused the task: {describe(error)}")
            for uid in uids:
                if uid in self._flights and uid not in backend.held:
                    self._land(uid, FAILED, "", {"exception": refusal})

    def _on_state(self, task: dict[str, Any], raw_state: Any) -> None:
        """The backend's callback."""
        uid = task["uid"]
        flight = self._flights.get(uid)
        if flight is None or flight.ended is not None:
            return
        state = flight.backend.states.get(raw_state)
        future = task.get("future")
        if state is None:
            flight.times["started"] = time.time()
            self._started.append(uid)
            if self._news is not None:
                self._news.add(brief(uid, RUNNING), time.perf_counter())
            if "stream_output" in flight.task:
                self._results.lines.begin(uid)
                listen_to_output.set(partial(self._results.lines.add, uid))  # this is the task that starts the process
            self._flush_soon()
        elif flight.kind == EXECUTABLE and isinstance(future, asyncio.Task):
            self._land_executable(uid, flight, state, str(raw_state), future)
        else:
            self._land(uid, state, str(raw_state), task)

    def _land_executable(self, uid: str, flight: _Flight, state: str, raw_state: str, future: asyncio.Task[Any]) -> None:
        """The same for a child process: a canceled task ends when its process is gone."""
        if state == CANCELED:
            flight.ended = self._group.create_task(self._land_when_gone(uid, raw_state, future))
            return
        self._forget_process(future)
        self._land(uid, state, raw_state, flight.task)

    async def _land_when_gone(self, uid: str, raw_state: str, future: asyncio.Task[Any]) -> None:
        await asyncio.wait((future,), timeout=KILL_GRACE_S)  # it may be starting the process this very moment
        process = self._forget_process(future)
        if process is not None:
            await end_process(process, self._grace_s)
        outcome = {"exit_code": process.returncode, **written_by(process)} if process is not None else {}
        self._land(uid, CANCELED, raw_state, outcome)

    def _forget_process(self, future: asyncio.Task[Any]) -> asyncio.subprocess.Process | None:
        return self._loop.processes.pop(future, None) if self._loop is not None else None

    def _land(self, uid: str, state: str, raw_state: str, outcome: dict[str, Any]) -> None:
        """A task has ended: make its record and let go of everything else."""
        flight = self._flights.pop(uid)
        self._flying[flight.kind] -= 1
        flight.times["finished"] = now = time.time()
        self.latest_s = now - flight.times["submitted"]
        if "overdue" in flight.task and state == CANCELED:
            state, outcome = FAILED, {**outcome, "exception": flight.task["overdue"]}
        if flight.reason and state == CANCELED:
            outcome = {**outcome, "reason": flight.reason}
        flight.backend.held.pop(uid, None)  # the concurrent backend would keep it for ever
        value = outcome.get("return_value")
        if isinstance(value, Outcome) and value.large is not None:  # it comes from another process
            keep_apart(value, partial(self._results.spool.put, uid))
        if "stream_output" in flight.task:
            self._results.lines.end(uid)
        state, record, brief = finished_task(uid, state, raw_state, outcome, flight.times)
        if "exception" in flight.task:
            del flight.task["exception"]  # its traceback refers to the task
        flight.backend.counts[state] += 1
        self._finish(uid, state, record, brief)
        if self._queued[flight.kind] and not self._arrived.is_set():
            self._arrived.set()

    def _finish(self, uid: str, state: str, record: bytes, brief: bytes) -> None:
        self._finished.append((uid, state, record))
        if self._news is not None:
            self._news.add(brief, time.perf_counter())
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Tell the results once per turn of the loop, however many tasks changed in it, and at its end: that wakes the
        endpoint's loop, which cannot run before this thread is idle."""
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        started, self._started = self._started, []
        finished, self._finished = self._finished, []
        if started:
            self._results.started(started)
        if finished:
            began = time.perf_counter()
            self._results.finished(finished)
            self._results.counters.add("finished", len(finished))
            self._results.counters.spent("keep", len(finished), time.perf_counter() - began)
        if self._news is not None and not self._telling:
            self._tell_news(self._news)

    def _tell_news(self, news: News) -> None:
        """Tell a batch when it is time for one, and come back for the rest."""
        self._telling = False
        due_s = news.due_in(time.perf_counter())
        if due_s == 0.0:
            news.tell(time.perf_counter)
            due_s = news.due_in(time.perf_counter())
        if due_s is not None and self._loop is not None:
            self._telling = True
            self._loop.call_later(due_s, self._tell_news, news)

    async def _place(self, uid: str) -> Place | None:
        for kind, queue in enumerate(self._queued):
            if uid in queue:
                running, limit, is_full = self._flying[kind], self._limits[kind], self._results.is_full
                return Place(kind, ahead=list(queue).index(uid), running=running, limit=limit, has_room=not is_full)
        flight = self._flights.get(uid)
        if flight is None:
            return None
        backend, waiting = flight.backend, flight.backend.driver.waiting(uid)
        if waiting is not None:
            return Place(flight.kind, backend.name, ahead=waiting.ahead, running=waiting.running, limit=waiting.limit)
        has_begun, is_being_ended = flight.times["started"] is not None, flight.ended is not None
        return Place(flight.kind, backend.name, is_running=has_begun, is_being_ended=is_being_ended)

    async def _cancel(self, uid: str, reason: str) -> dict[str, int]:
        if self._cancel_waiting(uid, reason):
            self._flush()
            return {"canceled": 1, "requested": 1, "unstoppable": 0}
        flight = self._flights.get(uid)
        if flight is None:
            return {"canceled": 0, "requested": 0, "unstoppable": 0}
        runs_on = await self._cancel_flight(uid, flight, reason)
        return {"canceled": int(uid not in self._flights), "requested": 1, "unstoppable": int(runs_on)}

    def _cancel_waiting(self, uid: str, reason: str) -> bool:
        """Cancel a task that has not been started, if it is one."""
        for queue in (*self._queued, self._about_to_start):
            if uid in queue:
                task = queue.pop(uid)
                self.queued_bytes -= len(task.packed) + TASK_BYTES if queue is not self._about_to_start else 0
                self._drop(task, reason)
                return True
        return False

    async def _cancel_flight(self, uid: str, flight: _Flight, reason: str) -> bool:
        """Whether what it ran goes on nevertheless."""
        runs_on = False
        if flight.ended is None:
            flight.reason = reason
            try:
                runs_on = await flight.backend.driver.cancel_task(uid)
            except Exception as error:
                raise InternalError(f"the backend {flight.backend.name!r} cannot cancel: {describe(error)}") from error
        if flight.ended is not None:
            await asyncio.shield(flight.ended)
        self._flush()
        return runs_on

    def _drop(self, packed: PackedTask, reason: str) -> None:
        times = {"submitted": packed.part.batch.submitted, "started": None, "finished": time.time()}
        self._finish(packed.uid, *finished_task(packed.uid, CANCELED, CANCELED, {"reason": reason}, times))

    async def _cancel_all(self, reason: str, *, begun: bool = True) -> dict[str, int]:
        waiting = [uid for queue in (*self._queued, self._about_to_start) for uid in queue]
        for uid in waiting:
            self._cancel_waiting(uid, reason)
        flying = [uid for uid, flight in self._flights.items() if begun or not flight.has_begun()]
        ended = await asyncio.gather(*(self._cancel(uid, reason) for uid in flying), return_exceptions=True)
        answers = [answer for answer in ended if isinstance(answer, dict)]
        self._flush()
        return {
            "canceled": len(waiting) + sum(answer["canceled"] for answer in answers),
            "requested": len(waiting) + len(flying),
            "unstoppable": sum(answer["unstoppable"] for answer in answers),
        }

    def _abandon(self) -> None:
        """The loop ends: what has not come back by now never will."""
        error = {"exception": InternalError("the engine ended before the task did"), "exit_code": None}
        for uid in list(self._flights):
            self._land(uid, FAILED, "", error)
        self._flush()
        if self._news is not None:
            self._news.tell(time.perf_counter, everything=True)

    # The two ways in from other threads.

    def _tell(self, call: Callable[..., object], *arguments: Any) -> None:
        if self._loop is None:
            raise SessionClosed("the engine of the session does not run")
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError as error:  # the loop is closed
            raise SessionClosed("the engine of the session has ended") from error

    async def _ask(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        if self._loop is None or self._closing:
            coroutine.close()
            raise SessionClosed("the session is being closed")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))


def _thread_safe(future: asyncio.Future[None]) -> Callable[[BaseException | None], None]:
    """A function that settles a future of the present loop from another thread."""
    loop = asyncio.get_running_loop()

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def tell(error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    return tell

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
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orbit_rhapsody.backends import start_backend
from orbit_rhapsody.codec import CANCELED, DONE, EXECUTABLE, FAILED, FUNCTION
from orbit_rhapsody.invocation import Invocation
from orbit_rhapsody.news import News
from orbit_rhapsody.preparation import PackedTask
from orbit_rhapsody.records import failed_task, finished_task, with_value_apart
from orbit_rhapsody.results import Results
from orbit_rhapsody.values import describe
from orbit_rhapsody.workers import GRACE_S, KILL_GRACE_S, ProcessLoop, end_process
from orbit_zmq.errors import InternalError, OrbitError, SessionClosed
from orbit_zmq.log import get_logger

log = get_logger(__name__)
Answer = TypeVar("Answer")

SLICES = (256, 16)  # functions and executables handed over between two turns of the loop: starting a process takes a ms
MAX_EXECUTABLES = 1_024
FUNCTIONS_IN_FLIGHT = 4_096  # a backend keeps a task object for each; the rest waits packed
CLOSE_S = 10.0  # after it the thread is left to itself
CLOSE_GRACE_S = 0.25  # the same when all ends: an endpoint that stops waits two seconds for its sessions
BACKEND_CLOSE_S = 1.0


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


@dataclass(slots=True)
class _Backend:
    name: str
    driver: Any
    states: dict[Any, str]  # its words for the final states
    held: dict[str, Any]  # the tasks that it remembers
    counts: dict[str, int] = field(default_factory=lambda: {DONE: 0, FAILED: 0, CANCELED: 0})


class Engine:
    """Backends of one session on their thread. The coroutines are called from another loop."""

    def __init__(
        self,
        backends: Sequence[str],
        results: Results,
        news: News | None = None,
        starting: Callable[[Sequence[str]], Awaitable[bool]] | None = None,  # asked before tasks start whether they may
    ) -> None:
        self._names = list(backends)
        self._results = results
        self._news = news
        self._starting = starting
        self._about_to_start: dict[str, PackedTask] = {}  # neither queued nor in flight
        self._telling = False  # a batch of news will be told soon
        self._backends: dict[str, _Backend] = {}
        self._queued: tuple[OrderedDict[str, PackedTask], ...] = (OrderedDict(), OrderedDict())
        self.queued_bytes = 0  # of the tasks that wait here, packed
        self._flying = [0, 0]
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

    async def start(self) -> None:
        """Start the backends; raises what kept one of them from starting."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tell = _thread_safe(ready)
        self._thread = threading.Thread(target=self._run, args=(tell,), name="orbit-rhapsody-engine", daemon=True)
        self._thread.start()
        await ready

    def submit(self, tasks: Iterable[PackedTask]) -> None:
        """Queue tasks that have been admitted; from any thread."""
        self._tell(self._enqueue, tasks)

    async def cancel(self, uid: str, reason: str = "") -> dict[str, int]:
        """End a task that is still to end; its processes are gone when this returns. From any loop.

        Answers, as `cancel_all` does for all: how many were asked to end, how many have, and of how many the function runs on
        in its thread, though the task is canceled, for a thread cannot be ended.
        """
        return await self._ask(self._cancel(uid, reason))

    async def cancel_all(self, reason: str = "") -> dict[str, int]:
        """End all tasks; `{canceled, requested, unstoppable}`."""
        return await self._ask(self._cancel_all(reason))

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

    def statistics(self) -> dict[str, Any]:
        """Counts of this moment; from any thread."""
        return {
            "queued": sum(map(len, self._queued)),
            "in_flight": sum(self._flying),
            "backends": {name: dict(backend.counts) for name, backend in self._backends.items()},
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
        driver = await start_backend(name)
        driver.register_callback(self._on_state)
        words = driver.get_task_states_map().terminal_states
        states = dict(zip(words, (DONE, FAILED, CANCELED), strict=True))
        self._backends[name] = _Backend(name, driver, states, getattr(driver, "tasks", {}))

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
            self._queued[task.kind][task.uid] = task
            self.queued_bytes += len(task.packed)
        self._arrived.set()

    async def _feed(self) -> None:
        while True:
            await self._arrived.wait()
            taken = self._take(FUNCTION) + self._take(EXECUTABLE)
            if not taken:
                self._arrived.clear()
                continue
            if self._starting is not None:
                self._about_to_start = {task.uid: task for task in taken}
                if not await self._starting(list(self._about_to_start)):
                    return  # the session is being closed, and nothing starts any more
                taken = list(self._about_to_start.values())  # those that nobody has canceled meanwhile
                self._about_to_start = {}
            for backend, tasks in self._prepare(taken).items():
                await self._hand_over(self._backends[backend], tasks)
            await asyncio.sleep(0)

    def _take(self, kind: int) -> list[PackedTask]:
        queue = self._queued[kind]
        count = min(len(queue), SLICES[kind], self._limits[kind] - self._flying[kind])
        if count <= 0:
            return []
        self._flush()  # what has ended takes its room before more begins
        if not self._results.has_room():  # who fetches results makes room, and wakes the feeder
            return []
        taken = [queue.popitem(last=False)[1] for _ in range(count)]
        self.queued_bytes -= sum(len(task.packed) for task in taken)
        return taken

    def _prepare(self, packed: list[PackedTask]) -> dict[str, list[dict[str, Any]]]:
        """The tasks as their backends want them, by backend. One that cannot be prepared fails alone."""
        prepared: dict[str, list[dict[str, Any]]] = {}
        for item in packed:
            times: dict[str, Any] = {"submitted": item.batch.submitted, "started": None, "finished": None}
            try:
                name, task = item.batch.prepare(item, self._names)
            except OrbitError as error:
                times["finished"] = time.time()
                self._finish(item.uid, *failed_task(item.uid, error, times))
                continue
            prepared.setdefault(name, []).append(task)
            self._flights[item.uid] = _Flight(self._backends[name], item.kind, task, times)
            self._flying[item.kind] += 1
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
        self._land(uid, CANCELED, raw_state, {"exit_code": process.returncode if process is not None else None})

    def _forget_process(self, future: asyncio.Task[Any]) -> asyncio.subprocess.Process | None:
        return self._loop.processes.pop(future, None) if self._loop is not None else None

    def _land(self, uid: str, state: str, raw_state: str, outcome: dict[str, Any]) -> None:
        """A task has ended: make its record and let go of everything else."""
        flight = self._flights.pop(uid)
        self._flying[flight.kind] -= 1
        flight.times["finished"] = time.time()
        if flight.reason and state == CANCELED:
            outcome = {**outcome, "reason": flight.reason}
        flight.backend.held.pop(uid, None)  # the concurrent backend would keep it for ever
        outcome = with_value_apart(uid, outcome, self._results.spool)
        state, record, brief = finished_task(uid, state, raw_state, outcome, flight.times)
        flight.task.pop("exception", None)  # its traceback refers to the task
        flight.backend.counts[state] += 1
        self._finish(uid, state, record, brief)
        if self._queued[flight.kind]:
            self._arrived.set()

    def _finish(self, uid: str, state: str, record: bytes, brief: bytes) -> None:
        self._finished.append((uid, state, record))
        if self._news is not None:
            self._news.add(brief)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Tell the results once per turn of the loop, however many tasks changed in it."""
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
            self._results.finished(finished)
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

    async def _cancel(self, uid: str, reason: str) -> dict[str, int]:
        if self._cancel_waiting(uid, reason):
            self._flush()
            return {"canceled": 1, "requested": 1, "unstoppable": 0}
        flight = self._flights.get(uid)
        if flight is None:
            return {"canceled": 0, "requested": 0, "unstoppable": 0}
        runs_on = _runs_in_a_thread(flight.task)
        await self._cancel_flight(uid, flight, reason)
        return {"canceled": int(uid not in self._flights), "requested": 1, "unstoppable": int(runs_on)}

    def _cancel_waiting(self, uid: str, reason: str) -> bool:
        """Cancel a task that has not been started, if it is one."""
        for queue in (*self._queued, self._about_to_start):
            if uid in queue:
                task = queue.pop(uid)
                self.queued_bytes -= len(task.packed) if queue is not self._about_to_start else 0
                self._drop(task, reason)
                return True
        return False

    async def _cancel_flight(self, uid: str, flight: _Flight, reason: str) -> None:
        if flight.ended is None:
            flight.reason = reason
            try:
                await flight.backend.driver.cancel_task(uid)
            except Exception as error:
                raise InternalError(f"the backend {flight.backend.name!r} cannot cancel: {describe(error)}") from error
        if flight.ended is not None:
            await asyncio.shield(flight.ended)
        self._flush()

    def _drop(self, packed: PackedTask, reason: str) -> None:
        times = {"submitted": packed.batch.submitted, "started": None, "finished": time.time()}
        self._finish(packed.uid, *finished_task(packed.uid, CANCELED, CANCELED, {"reason": reason}, times))

    async def _cancel_all(self, reason: str) -> dict[str, int]:
        waiting = [uid for queue in (*self._queued, self._about_to_start) for uid in queue]
        for uid in waiting:
            self._cancel_waiting(uid, reason)
        flying = list(self._flights)
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


def _runs_in_a_thread(task: dict[str, Any]) -> bool:
    function = task.get("function")
    return isinstance(function, Invocation) and function.running

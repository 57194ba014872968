"""One kind of driver for each Rhapsody backend: all are told to start, cancel and end, and tell states, in one way.

A backend may call back from a thread of its own, end a task it was asked to cancel only later, or word an outcome in its
own way; all of that is settled here. This module must not know queues, records or sessions.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from orbit_rhapsody.codec import CANCELED, DONE, FAILED
from orbit_rhapsody.invocation import Invocation, TaskFailed
from orbit_rhapsody.programs import Ended, end_programs, run_program
from orbit_rhapsody.turns import Turns
from orbit_rhapsody.values import describe
from orbit_rhapsody.workers import DaemonThreads
from orbit_zmq.errors import DeadlineExceeded, InternalError, InvalidArgument
from orbit_zmq.paths import state_dir

OnState = Callable[[dict[str, Any], Any], None]

CANCEL_WAIT_S = 15.0  # for a backend to end a task that it was asked to cancel
PROCESS_STARTS = Turns()  # among all sessions of this process
PILOT_MINUTES = 7 * 24 * 60  # Rhapsody's own half an hour would end a session that goes on


class Waiting(NamedTuple):
    """How a task stands that its backend has and does not run yet."""

    ahead: int
    running: int
    limit: int


class Driver:
    """A started backend. Everything is called, and calls back, on the engine's loop."""

    def __init__(self, name: str, backend: Any, output_directory: Path | None = None) -> None:
        self.name = name
        self.backend = backend
        if output_directory is not None:
            backend._work_dir = str(output_directory)  # as Rhapsody's Session says it
        words = backend.get_task_states_map()
        self.states = {words.DONE: DONE, words.FAILED: FAILED, words.CANCELED: CANCELED}
        self.running, self.canceled = words.RUNNING, words.CANCELED
        self.held: dict[str, Any] = getattr(backend, "tasks", {})  # the tasks that the backend remembers
        self._loop = asyncio.get_running_loop()

    @classmethod
    def arguments(cls, options: dict[str, Any]) -> dict[str, Any]:
        """What the backend is made with; InvalidArgument for options that it does not have."""
        if options:
            raise InvalidArgument(f"the backend has no option {', '.join(options)}", details={"field": "backend_options"})
        return {}

    def listen(self, on_state: OnState) -> None:
        """Have the states of all tasks told."""
        self.backend.register_callback(on_state)

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> None:
        await self.backend.submit_tasks(tasks)

    def has_begun(self, task: Mapping[str, Any], is_told: bool) -> bool:
        """Whether a task is being run; `is_told` says that the backend has called it running."""
        return is_told

    async def cancel_task(self, uid: str) -> bool:
        """End a task; whether what it runs goes on nevertheless, though its task is canceled."""
        await self.backend.cancel_task(uid)
        return False

    def waiting(self, uid: str) -> Waiting | None:
        """How a task stands that waits in here for its turn; None for one that does not, or where nobody can tell."""
        return None

    async def shutdown(self) -> None:
        await self.backend.shutdown()


class ConcurrentDriver(Driver):
    """Functions in threads, executables as child processes of this process."""

    def __init__(self, name: str, backend: Any, output_directory: Path | None = None) -> None:
        super().__init__(name, backend, output_directory)
        self._on_state: OnState = lambda task, raw_state: None
        self._awaiting_turn: dict[str, dict[str, Any]] = {}  # the backend does not know them yet

    def listen(self, on_state: OnState) -> None:
        self._on_state = on_state
        super().listen(on_state)

    @classmethod
    def arguments(cls, options: dict[str, Any]) -> dict[str, Any]:
        threads = options.pop("threads", None)
        if threads is not None and (type(threads) is not int or threads < 1):
            raise InvalidArgument(f"threads is a number from 1 on, not {threads!r}", details={"field": "backend_options"})
        return {**super().arguments(options), "executor": DaemonThreads(threads)}

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> None:
        if any("capture_stdio" in task for task in tasks):
            os.makedirs(self.backend._work_dir, mode=0o700, exist_ok=True)
        if any("executable" in task for task in tasks):
            self._awaiting_turn = {task["uid"]: task for task in tasks}
            async with PROCESS_STARTS.turn():
                tasks, self._awaiting_turn = list(self._awaiting_turn.values()), {}  # those that nobody has canceled meanwhile
                await self.backend.submit_tasks(tasks)
                await asyncio.sleep(0)  # now they start
        else:
            await self.backend.submit_tasks(tasks)
        for task in tasks:
            if "timeout" in task:  # the backend has none; an executable starts at once
                timer = self._loop.call_later(task["timeout"], self._end_overdue, task)
                task["future"].add_done_callback(lambda _, timer=timer: timer.cancel())

    def has_begun(self, task: Mapping[str, Any], is_told: bool) -> bool:
        function = task.get("function")  # it is called running while it waits for a thread
        return function.has_begun if isinstance(function, Invocation) else is_told

    def _end_overdue(self, task: dict[str, Any]) -> None:
        task["overdue"] = overdue(task)
        self._ending = self._loop.create_task(self.backend.cancel_task(task["uid"]))

    async def cancel_task(self, uid: str) -> bool:
        if uid in self._awaiting_turn:
            self._on_state(self._awaiting_turn.pop(uid), self.canceled)
            return False
        function = self.held.get(uid, {}).get("function")
        runs_on = isinstance(function, Invocation) and function.running
        await self.backend.cancel_task(uid)
        return runs_on

    def waiting(self, uid: str) -> Waiting | None:
        """Functions wait for a thread, in the order in which they came."""
        calls = {known: task["function"].running for known, task in self.held.items() if _is_call(task)}
        if calls.get(uid, True):
            return None
        ahead = sum(not is_running for is_running in islice(calls.values(), list(calls).index(uid)))
        return Waiting(ahead, sum(calls.values()), self.backend.executor.size)


def _is_call(task: Mapping[str, Any]) -> bool:
    return isinstance(task.get("function"), Invocation)


class AwaitedDriver(Driver):
    """Of a backend that ends a task some time after it was asked to, maybe from another thread."""

    def __init__(self, name: str, backend: Any, output_directory: Path | None = None) -> None:
        super().__init__(name, backend, output_directory)
        self._thread = threading.get_ident()
        self._on_state: OnState = lambda task, raw_state: None
        self._tasks: dict[str, dict[str, Any]] = {}
        self._canceled: dict[str, asyncio.Event] = {}

    def listen(self, on_state: OnState) -> None:
        self._on_state = on_state
        self.backend.register_callback(self._called_back)

    def _called_back(self, task: Any, raw_state: Any) -> None:
        uid = task["uid"] if isinstance(task, Mapping) else task.uid
        if raw_state != self.running and raw_state not in self.states:
            return
        if threading.get_ident() == self._thread:
            self._tell(uid, raw_state)
            return
        with suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(self._tell, uid, raw_state)

    def _tell(self, uid: str, raw_state: Any) -> None:
        task = self._tasks.get(uid) if raw_state == self.running else self._tasks.pop(uid, None)
        if task is None:
            return
        if raw_state in self.states:
            raw_state = self._settled(task, raw_state)
            if uid in self._canceled:
                self._canceled.pop(uid).set()
            elif self.states[raw_state] == CANCELED and "timeout" in task:
                task["overdue"] = overdue(task)
        self._on_state(task, raw_state)

    def _settled(self, task: dict[str, Any], raw_state: Any) -> Any:
        """Word the outcome as all drivers do; the final state."""
        return raw_state

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> None:
        self._tasks.update((task["uid"], task) for task in tasks)
        try:
            await self.backend.submit_tasks(tasks)
        except BaseException:
            for uid in [task["uid"] for task in tasks if task["uid"] not in self.held]:
                self._tasks.pop(uid, None)
            raise
        for uid in [task["uid"] for task in tasks if task["uid"] in self._canceled]:
            await self._cancel(uid)  # asked for before the backend knew the task

    async def cancel_task(self, uid: str) -> bool:
        if uid not in self._tasks:
            return False
        ended = self._canceled.setdefault(uid, asyncio.Event())
        runs_on = await self._cancel(uid)
        with suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_WAIT_S):
                await ended.wait()
        return runs_on

    async def _cancel(self, uid: str) -> bool:
        await self.backend.cancel_task(uid)
        return False


class DaskDriver(AwaitedDriver):
    """Dask workers: one for each core of this machine, or the cluster of an `address` or of DASK_SCHEDULER_ADDRESS.

    Workers of this machine get one task at a time, so that one that ends its worker takes no other along: Dask would give each
    of them a share of all that waits. An executable is a coroutine of our own in the worker, which can be ended there with
    its children.
    """

    def __init__(self, name: str, backend: Any, output_directory: Path | None = None) -> None:
        super().__init__(name, backend, output_directory)
        cluster = backend._client.cluster
        self._mark = secrets.token_hex(4)
        self._room = cluster.scheduler.total_nthreads if cluster is not None else sys.maxsize
        self._waiting: dict[str, dict[str, Any]] = {}
        self._submitting: set[asyncio.Task[None]] = set()
        self._to_end: list[str] = []
        self._ending: asyncio.Task[set[str]] | None = None

    @classmethod
    def arguments(cls, options: dict[str, Any]) -> dict[str, Any]:
        resources: dict[str, Any] = {"set_as_default": False}
        if "address" not in options and importlib.import_module("dask.config").get("scheduler-address", None) is None:
            # Without TLS everybody on this machine could run code as this user; the dashboard would show them what runs.
            resources |= {"security": True, "dashboard_address": None, "threads_per_worker": 1}
        return {"resources": resources | options}

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            uid = task["uid"]
            options = task["task_backend_specific_kwargs"]  # of all tasks that say the same
            task["task_backend_specific_kwargs"] = {**options, "key": self._key_of(uid)}
            if "executable" in task:
                program = {key: task.pop(key) for key in ("executable", "arguments")} | task.pop("program", {})
                if "capture_stdio" in task:
                    program |= {"directory": self.backend._work_dir, "uid": uid}
                task.update(function=run_program, args=(self._key_of(uid), program), kwargs={})
            self._tasks[task["uid"]] = self._waiting[task["uid"]] = task
        self._fill()

    def _key_of(self, uid: str) -> str:
        """Of a task, for Dask: other sessions may have the same uids on the same cluster, where a key is one task for all."""
        return f"{uid}.{self._mark}"

    def _fill(self) -> None:
        """Give Dask as many tasks as it has room for."""
        count = min(len(self._waiting), self._room - (len(self._tasks) - len(self._waiting)))
        if count > 0:
            batch = [self._waiting.pop(uid) for uid in list(islice(self._waiting, count))]
            submitting = self._loop.create_task(self._submit(batch))
            self._submitting.add(submitting)
            submitting.add_done_callback(self._submitting.discard)

    def waiting(self, uid: str) -> Waiting | None:
        if uid not in self._waiting:
            return None
        return Waiting(list(self._waiting).index(uid), len(self._tasks) - len(self._waiting), self._room)

    async def _submit(self, batch: list[dict[str, Any]]) -> None:
        try:
            await self.backend.submit_tasks(batch)
        except Exception as error:  # noqa: BLE001 - another package's
            for task in batch:
                if task["uid"] not in self.held:
                    task["exception"] = InternalError(f"the backend 'dask' refused the task: {describe(error)}")
                    self._tell(task["uid"], "FAILED")

    def _tell(self, uid: str, raw_state: Any) -> None:
        super()._tell(uid, raw_state)
        self._fill()

    def _settled(self, task: dict[str, Any], raw_state: Any) -> Any:
        ended = task.get("return_value")
        if isinstance(ended, Ended):
            task.update(stdout=ended.stdout, stderr=ended.stderr, exit_code=ended.exit_code, return_value=None)
            if ended.is_overdue:
                task["exception"] = overdue(task)
            return "DONE" if ended.exit_code == 0 and not ended.is_overdue else "FAILED"
        return raw_state

    async def _cancel(self, uid: str) -> bool:
        """First at the scheduler, so that nothing starts any more, then in the worker."""
        if self._waiting.pop(uid, None) is not None:
            self._tell(uid, "CANCELED")
            return False
        await self.backend.cancel_task(uid)
        self._to_end.append(self._key_of(uid))
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())
        return self._key_of(uid) in await asyncio.shield(self._ending)

    async def _end(self) -> set[str]:
        """End programs in their workers, all that were named in one turn of the loop; the functions that run."""
        await asyncio.sleep(0)
        keys, self._to_end, self._ending = self._to_end, [], None
        client = self.backend._client  # Rhapsody has no way to ask the workers
        answers = await client.run(end_programs, keys, on_error="return")
        return {key for answer in answers.values() if isinstance(answer, list) for key in answer}


class DragonDriver(AwaitedDriver):
    """Dragon's Batch, in a process that the dragon launcher has started."""

    @classmethod
    def arguments(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {"batch_kwargs": options}

    def _settled(self, task: dict[str, Any], raw_state: Any) -> Any:
        error, value = task.get("exception"), task.get("return_value")
        if "executable" in task:
            codes = error.code if isinstance(error, SystemExit) else value
            task["exit_code"] = _worst(codes if isinstance(codes, list) else [codes])
        if "timeout" in task and isinstance(error, TaskFailed) and error.finished - error.started >= task["timeout"]:
            task["exception"] = overdue(task)  # Dragon raises something in its thread, which may be within an import
        return raw_state

    async def _cancel(self, uid: str) -> bool:
        with suppress(ValueError):  # it has just ended
            await self.backend.cancel_task(uid)
        return False


def _worst(codes: list[Any]) -> int | None:
    numbers = [code for code in codes if isinstance(code, int)]
    return max(numbers, key=abs) if numbers else None


class PilotDriver(AwaitedDriver):
    """RADICAL-Pilot, with a pilot on this machine."""

    @classmethod
    def arguments(cls, options: dict[str, Any]) -> dict[str, Any]:
        _show_environment()
        # Without exit_on_error=False a pilot that fails ends this whole process.
        pilot = {"resource": "local.localhost", "runtime": PILOT_MINUTES, "exit_on_error": False, "cores": os.cpu_count() or 1}
        return {"resources": pilot | options}

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> None:
        """One task that cannot be described would keep all others from being submitted."""
        describable = [task for task in tasks if self._is_describable(task)]
        try:
            await super().submit_tasks(describable)
        except BaseException:
            for task in describable:
                self.held.pop(task["uid"], None)
            raise

    def _is_describable(self, task: dict[str, Any]) -> bool:
        description = importlib.import_module("radical.pilot").TaskDescription
        try:
            description(from_dict=task["task_backend_specific_kwargs"] | {"executable": task["executable"]}).verify()
        except Exception as error:  # noqa: BLE001 - another package's checks
            task["exception"] = InvalidArgument(f"RADICAL-Pilot does not take the task: {describe(error)}")
            self._loop.call_soon(self._on_state, task, "FAILED")
            return False
        task["function"] = None  # looked at by the backend
        return True

    async def shutdown(self) -> None:
        records = Path(self.backend.session.path)
        await super().shutdown()
        if records.parent == state_dir() / "radical-pilot":
            await asyncio.to_thread(shutil.rmtree, records, ignore_errors=True)

    def _settled(self, task: dict[str, Any], raw_state: Any) -> Any:
        error = task.get("exception")
        if isinstance(error, str):
            task["exception"] = RuntimeError(error) if task.get("exit_code") is None else None
        elif self.states[raw_state] == FAILED and task.get("exit_code") is None:
            task["exception"] = InternalError("the pilot failed, and the task with it", details={"backend": self.name})
        return raw_state


def _show_environment() -> None:
    """RADICAL-Pilot starts programs of its own by name, here and in the pilot: they lie beside this Python."""
    if shutil.which("radical-pilot-bridge") is None:
        os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if sys.prefix != sys.base_prefix:
        os.environ.setdefault("VIRTUAL_ENV", sys.prefix)
    for variable in ("RADICAL_PILOT_SESSION_BASE", "RADICAL_PILOT_BASE"):  # else it writes where this process was started
        os.environ.setdefault(variable, str(state_dir() / "radical-pilot"))


def overdue(task: Mapping[str, Any]) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the task ran longer than its timeout of {task['timeout']:g} s",
        hint="Give the task a longer `timeout`, or none.",
        details={"field": "timeout"},
    )

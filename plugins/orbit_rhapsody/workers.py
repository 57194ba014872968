"""Where tasks really run: threads that never keep a process alive, and child processes that can be ended for sure.

Rhapsody's concurrent backend takes any executor and starts executables through the running loop; both hooks are used
here, so that nothing of Rhapsody has to be patched. This module must not know tasks, sessions or results.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, TypeVarTuple

from orbit_rhapsody.output import Tail, kept_bytes

GRACE_S = 2.0  # after SIGINT and again after SIGTERM: time for an mpirun to end its ranks
READ_BYTES = 64 << 10
LISTEN_BYTES = 8 << 10  # told at once: of the shortest lines as many as there is room for
BEHIND_S = 0.01  # who listens is asked again so soon
KILL_GRACE_S = 5.0  # a killed process that is not gone by then is stuck in the kernel; nothing more can be done


class _Work(Future[Any]):
    """A function in the queue or in a thread; cancelling it while it runs gives its thread up."""

    def __init__(self, threads: DaemonThreads, call: Callable[[], Any]) -> None:
        super().__init__()
        self.call = call
        self.given_up = False
        self._threads = threads

    def cancel(self) -> bool:
        if super().cancel():
            return True
        if self.running() and not self.given_up:
            self.given_up = True
            self._threads.replace_one()
        return False


class DaemonThreads(Executor):
    """A pool of daemon threads; one whose function was cancelled in vain is replaced until the function returns."""

    def __init__(self, max_threads: int | None = None) -> None:
        self._max_threads = max_threads or min(32, (os.cpu_count() or 1) + 4)  # as ThreadPoolExecutor has it
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0  # threads without work, less the work in the queue, which they are about to take
        self._given_up = 0
        self._closed = False

    @property
    def size(self) -> int:
        """How many functions run at once."""
        return self._max_threads

    @property
    def given_up(self) -> int:
        """How many threads are held by functions that were cancelled and run on."""
        return self._given_up

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        work = _Work(self, lambda: fn(*args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("the threads have been shut down")
            self._queue.put(work)
            self._free -= 1
            self._grow()
        return work

    def _grow(self) -> None:
        if self._free < 0 and self._threads < self._max_threads + self._given_up:
            self._threads += 1
            self._free += 1
            threading.Thread(target=self._run, name="orbit-rhapsody-worker", daemon=True).start()

    def replace_one(self) -> None:
        with self._lock:
            self._given_up += 1
            if not self._closed:
                self._grow()

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            if work is None or not self._perform(work):
                break
            del work  # it holds on to arguments, which may be large
            with self._lock:
                self._free += 1
        with self._lock:
            self._threads -= 1

    def _perform(self, work: _Work) -> bool:
        """Run one function; False when the thread has been replaced meanwhile and has to end."""
        if not work.set_running_or_notify_cancel():
            return True
        try:
            result = work.call()
        except BaseException as error:  # noqa: BLE001 - in concurrent.futures: all goes to the waiter
            work.set_exception(error)
        else:
            work.set_result(result)
        if not work.given_up:
            return True
        with self._lock:
            self._given_up -= 1
            return self._threads <= self._max_threads + self._given_up

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads as they become free. Never waits: a function that hangs would hold up its whole process."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._queue.put(None)


Listen = Callable[[str, bytes], bool]  # told the stream and what was written to it; False: it is to be told again, soon
listen_to_output: ContextVar[Listen | None] = ContextVar("listen_to_output", default=None)  # of the task that starts a process


class _Awaited(asyncio.Future[Any]):
    """What a coroutine waits for while a function waits for its thread, or runs."""

    def __init__(self, work: Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._work: Future[Any] | None = work  # until it has ended: each would hold on to the other, and to the arguments

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        if self._work is not None:
            self.get_loop().call_soon(self._work.cancel)  # after those that are canceled with it: a free thread would begin one
        return True

    def settle(self) -> None:
        """The function has ended."""
        work, self._work = self._work, None
        if self.done() or work is None:
            return
        error = work.exception()
        if error is None:
            self.set_result(work.result())
        else:
            self.set_exception(error)


class ProcessLoop(asyncio.SelectorEventLoop):
    """An event loop that knows which of its tasks started which child process, each in a process group of its own.

    Who reads `processes` takes out of it what has ended. Of functions in threads it is told once for all that have ended since
    it looked last: to be woken costs more than a short function.
    """

    def __init__(self) -> None:
        super().__init__()
        _watch_children_without_threads()
        self.processes: dict[asyncio.Task[Any], asyncio.subprocess.Process] = {}
        self._ended: deque[_Awaited] = deque()
        self._is_woken = False

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # as it is called
        if not isinstance(executor, DaemonThreads):
            return super().run_in_executor(executor, func, *args)
        work = executor.submit(func, *args)
        awaited = _Awaited(work, self)
        work.add_done_callback(lambda _: self._note_ended(awaited))
        return awaited

    def _note_ended(self, awaited: _Awaited) -> None:
        """In the thread of the function."""
        self._ended.append(awaited)
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.call_soon_threadsafe(self._settle_ended)

    def _settle_ended(self) -> None:
        self._is_woken = False
        for _ in range(len(self._ended)):
            self._ended.popleft().settle()

    async def subprocess_exec(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return self._tracked(*await super().subprocess_exec(protocol_factory, *args, **_own_group(kwargs)))

    async def subprocess_shell(self, protocol_factory: Any, cmd: Any, **kwargs: Any) -> Any:
        return self._tracked(*await super().subprocess_shell(protocol_factory, cmd, **_own_group(kwargs)))

    def _tracked(self, transport: Any, protocol: Any) -> Any:
        task = asyncio.current_task(self)
        if task is not None:
            protocol.stdout = _Output.around(protocol.stdout, "stdout", self)
            protocol.stderr = _Output.around(protocol.stderr, "stderr", self)
            self.processes[task] = asyncio.subprocess.Process(transport, protocol, self)
        return transport, protocol


class _Output:
    """What a process writes: it is passed on to who listens, and the end of it is kept, as UTF-8 whatever it is.

    The backend asks for all of it at once, and would fail a task whose output it cannot decode.
    """

    def __init__(self, stream: asyncio.StreamReader, name: str, loop: ProcessLoop) -> None:
        self._stream = stream
        self._name = name
        self._loop = loop
        self._listen = listen_to_output.get()
        self.tail = Tail()

    @classmethod
    def around(cls, stream: asyncio.StreamReader | None, name: str, loop: ProcessLoop) -> _Output | None:
        return None if stream is None else cls(stream, name, loop)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self) -> bytes:
        while block := await self._stream.read(READ_BYTES):
            self.tail.add(block, kept_bytes(len(self._loop.processes)))
            for start in range(0, len(block) if self._listen is not None else 0, LISTEN_BYTES):
                piece = block[start : start + LISTEN_BYTES]
                while self._listen is not None and not self._listen(self._name, piece):  # noqa: ASYNC110 - a thread reads
                    await asyncio.sleep(BEHIND_S)  # meanwhile the program waits in its pipe
        return self.tail.text().encode()


def written_by(process: asyncio.subprocess.Process) -> dict[str, str]:
    """What a process has written so far, as far as it is kept."""
    streams: dict[str, Any] = {"stdout": process.stdout, "stderr": process.stderr}
    return {name: stream.tail.text() for name, stream in streams.items() if isinstance(stream, _Output)}


if sys.version_info < (3, 12):  # from there on asyncio does so itself
    _Ts = TypeVarTuple("_Ts")

    class _ChildWatcher(asyncio.AbstractChildWatcher):
        """Tells a loop that a child has ended by a file descriptor. asyncio's own would start a thread for each child."""

        def add_child_handler(self, pid: int, callback: Callable[[int, int, *_Ts], object], *args: *_Ts) -> None:
            loop, descriptor = asyncio.get_running_loop(), os.pidfd_open(pid)
            loop.add_reader(descriptor, self._ended, loop, descriptor, pid, lambda code: callback(pid, code, *args))

        def _ended(self, loop: asyncio.AbstractEventLoop, descriptor: int, pid: int, tell: Callable[[int], object]) -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            try:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            except ChildProcessError:  # somebody else has asked for it
                code = 255
            tell(code)

        def remove_child_handler(self, pid: int) -> bool:
            return False

        def attach_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
            pass

        def is_active(self) -> bool:
            return True

        def close(self) -> None:
            pass

        def __enter__(self) -> _ChildWatcher:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def _watch_children_without_threads() -> None:
        """For all loops of this process; where the kernel has no pidfds all stays as it is."""
        with suppress(OSError, AttributeError):
            os.close(os.pidfd_open(os.getpid()))
            asyncio.set_child_watcher(_ChildWatcher())

else:

    def _watch_children_without_threads() -> None:
        pass


def _own_group(kwargs: dict[str, Any]) -> dict[str, Any]:
    stdin = kwargs.get("stdin")
    return kwargs | {"start_new_session": True, "stdin": asyncio.subprocess.DEVNULL if stdin is None else stdin}


async def end_process(process: asyncio.subprocess.Process, grace_s: float = GRACE_S) -> bool:
    """End a process and its group: SIGINT, SIGTERM, then SIGKILL. False if it is still there after that."""
    for number, wait_s in ((signal.SIGINT, grace_s), (signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_GRACE_S)):
        _signal_group(process, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await process.wait()
                _signal_group(process, signal.SIGKILL)  # what the leader left behind
                return True
    return process.returncode is not None  # it may have ended in the very moment


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

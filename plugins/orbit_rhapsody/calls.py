"""Calls of functions as tasks of one session: collected, sent in batches under credit, settled as their results come.

What both executors have in common. Whoever asks for a call never waits; while a batch is on its way, the calls that are asked
for gather, and the next batch has them all. Each call ends once: it is settled, or was withdrawn before. This module must not
know what kind of future waits for a call, or in which thread.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

from orbit_rhapsody._async.client import AsyncRhapsodyClient
from orbit_rhapsody.called import Initialized, InitializerFailed
from orbit_rhapsody.codec import CANCELED, FINAL_STATES
from orbit_rhapsody.handed_in import task_error
from orbit_zmq.client._async.client import AsyncClient
from orbit_zmq.errors import (
    BrokerUnreachable,
    EndpointLost,
    InvalidArgument,
    OrbitError,
    SessionClosed,
    SessionExpired,
)

PLUGIN = "rhapsody"
MOST_SENT = 16_384  # calls that have not ended, unless max_workers says fewer: enough to keep both sides busy
CANCELS_AT_ONCE = 64
_LOST = (BrokerUnreachable, EndpointLost, SessionClosed, SessionExpired)


class BrokenEndpoint(EndpointLost, BrokenExecutor):
    """The endpoint of an executor is lost, or its session is, or its initializer has failed: no call can end there any more."""


class Pending(Protocol):
    """The future of a call. `settle` and `settle_canceled` are called once at most, in the thread of the stream's loop."""

    uid: str

    def cancel(self) -> bool: ...
    def settle(self, value: Any, error: BaseException | None) -> None: ...
    def settle_canceled(self) -> None: ...


class _Call(NamedTuple):
    future: Pending
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class CallStream:
    """The calls of one executor, on the session that it has opened."""

    def __init__(self, max_workers: int | None, initializer: Callable[..., object] | None, initargs: Iterable[Any]) -> None:
        """InvalidArgument for what an executor cannot be made with."""
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers <= 0):
            raise InvalidArgument("max_workers must be greater than 0", hint="Or leave it out.")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._most_sent = max_workers or MOST_SENT
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._id = secrets.token_hex(8)
        self._process = os.getpid()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, _Call] = OrderedDict()
        self._sent: dict[str, Pending] = {}
        self._unwanted: list[str] = []  # withdrawn after they had been sent
        self._broken: BrokenEndpoint | None = None
        self._is_ending = False
        self._drops_waiting = False  # the calls that wait over there are to be canceled
        self._is_woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()  # there may be calls to send, or nothing may be left to do
        self._expecting = asyncio.Event()  # results
        self._withdrawing = asyncio.Event()
        self._sending = asyncio.Lock()  # held while a batch is on its way

    # From any thread.

    def add(self, future: Pending, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Have the function called; BrokenEndpoint, or RuntimeError after the end, where it cannot be any more."""
        if os.getpid() != self._process:  # nobody here would send it; and the lock may be held for ever
            raise BrokenEndpoint("this executor belongs to the parent process after a fork", hint="Make a new executor here.")
        with self._lock:
            if self._is_ending:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._broken is not None:
                raise _again(self._broken)
            future.uid = uid = f"call.{next(self._numbers)}"
            self._waiting[uid] = _Call(future, function, args, kwargs)
        self._wake()

    def withdraw(self, uid: str) -> bool:
        """Nobody waits for this call any more: it is not sent, or canceled over there. False where it has ended."""
        with self._lock:
            if self._waiting.pop(uid, None) is None:
                if self._sent.pop(uid, None) is None:
                    return False
                self._unwanted.append(uid)
        self._wake()
        return True

    def end(self, *, cancel: bool) -> None:
        """Take no more calls; `run` ends with the last one that is there.

        `cancel` withdraws those that have not begun; where there are `max_workers`, all count as begun that have a worker.
        """
        with self._lock:
            self._is_ending = True
            self._drops_waiting = cancel and self._max_workers is None  # else what has been sent has its worker
            free_workers = max(0, (self._max_workers or 0) - len(self._sent))
            left_over = [call.future for call in islice(self._waiting.values(), free_workers, None)] if cancel else []
        for future in left_over:
            future.cancel()
        self._wake()

    def cancel_all(self) -> None:
        """Cancel every call that has not ended."""
        with self._lock:
            futures = [*self._sent.values(), *(call.future for call in self._waiting.values())]
        for future in futures:
            future.cancel()

    def describe(self) -> str:
        """In a few words, for people."""
        with self._lock:
            calls = f"{len(self._waiting) + len(self._sent)} calls open"
            return f"shut down, {calls}" if self._is_ending else "lost" if self._broken is not None else calls

    def _wake(self) -> None:
        if not self._is_woken and self._loop is not None:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed, and nothing is left of the calls
                self._loop.call_soon_threadsafe(self._on_woken)

    # From here on everything runs on the loop.

    async def run(self, session: AsyncRhapsodyClient) -> None:
        """Send and settle until `end` has been called and no call is left, or the session is lost; then it is closed."""
        self._loop = asyncio.get_running_loop()
        lost: BaseException = SessionClosed(f"the executor's loop has ended with calls open on {session.endpoint}")
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(work(session)) for work in (self._settle_results, self._cancel_unwanted)]
                await self._send_calls(session)
                for other in others:
                    other.cancel()
        except* OrbitError as errors:
            lost = errors.exceptions[0]
        finally:
            self._break(session.endpoint, lost)
            await session.close()

    def _on_woken(self) -> None:
        self._is_woken = False
        self._changed.set()
        if self._unwanted or self._drops_waiting:
            self._withdrawing.set()

    async def _send_calls(self, session: AsyncRhapsodyClient) -> None:
        while not self._has_ended():
            if calls := self._take():
                async with self._sending:
                    await self._send(session, calls)
                continue
            await self._changed.wait()
            self._changed.clear()

    def _has_ended(self) -> bool:
        with self._lock:
            return self._broken is not None or (self._is_ending and not self._waiting and not self._sent)

    def _take(self) -> list[tuple[str, _Call]]:
        """As many calls as there is credit for; from now on they count as sent."""
        with self._lock:
            room = min(self._most_sent - len(self._sent), len(self._waiting))
            calls = [self._waiting.popitem(last=False) for _ in range(room)]
            self._sent.update((uid, call.future) for uid, call in calls)
        return calls

    async def _send(self, session: AsyncRhapsodyClient, calls: list[tuple[str, _Call]]) -> None:
        tasks = self._tasks_of(calls)
        calls.clear()  # what is sent is not held on to
        self._expecting.set()
        answers = await session.submit_tasks(tasks, results="inline")
        ended = [answer["uid"] for answer in answers if answer["state"] in FINAL_STATES and "exception" not in answer]
        if ended:  # the answer to a batch was lost, and tasks of it had ended when it was sent again
            self._settle(session, await session.wait_tasks(ended))
        self._expecting.set()

    def _tasks_of(self, calls: Iterable[tuple[str, _Call]]) -> list[dict[str, Any]]:
        if self._initializer is None:
            return [_task(uid, call, call.function) for uid, call in calls]
        wrapped: dict[int, Initialized] = {}  # by the identity of the function, so that each is pickled once
        tasks = []
        for uid, call in calls:
            function = wrapped.get(id(call.function))
            if function is None:
                function = wrapped[id(call.function)] = Initialized(call.function, self._id, self._initializer, self._initargs)
            tasks.append(_task(uid, call, function))
        return tasks

    async def _settle_results(self, session: AsyncRhapsodyClient) -> None:
        while True:
            await self._expecting.wait()
            self._expecting.clear()
            while results := await session.next_results():
                self._settle(session, results)

    def _settle(self, session: AsyncRhapsodyClient, results: list[dict[str, Any]]) -> None:
        with self._lock:
            futures = [self._sent.pop(result["uid"], None) for result in results]
        for future, result in zip(futures, results, strict=True):
            if future is None:
                continue  # it was withdrawn
            if result["state"] == CANCELED:
                future.settle_canceled()
                continue
            raised = result["exception"]
            error = raised if isinstance(raised, BaseException) else task_error(result)
            if isinstance(error, InitializerFailed) or (isinstance(error, _LOST) and not result["traceback"]):
                error = self._break(session.endpoint, error)
            future.settle(result["return_value"], error)
        results.clear()  # values belong to the futures alone
        self._changed.set()

    async def _cancel_unwanted(self, session: AsyncRhapsodyClient) -> None:
        while True:
            await self._withdrawing.wait()
            self._withdrawing.clear()
            async with self._sending:  # so that the endpoint has them
                with self._lock:
                    unwanted, self._unwanted = self._unwanted, []
            for start in range(0, len(unwanted), CANCELS_AT_ONCE):
                some = unwanted[start : start + CANCELS_AT_ONCE]
                await asyncio.gather(*(self._cancel(session, uid) for uid in some))
            if self._drops_waiting:
                self._drops_waiting = False
                with suppress(OrbitError):  # nobody is there: they end with the session
                    await session.cancel_all_tasks("the executor was shut down", begun=False)

    async def _cancel(self, session: AsyncRhapsodyClient, uid: str) -> None:
        with suppress(OrbitError):  # it has ended, or nobody is there: its result is not wanted in any case
            await session.cancel_task(uid)

    def _break(self, endpoint: str, why: BaseException) -> BrokenEndpoint:
        """Nothing will come any more: end all that is open, and refuse all that is asked for from now on."""
        with self._lock:
            if self._broken is None:
                self._broken = _broken_by(endpoint, why)
            broken = self._broken
            futures = [*self._sent.values(), *(call.future for call in self._waiting.values())]
            self._sent.clear()
            self._waiting.clear()
        for future in futures:
            future.settle(None, _again(broken))
        return _again(broken)


async def open_session(client: AsyncClient, endpoint: str, arguments: Mapping[str, Any]) -> AsyncRhapsodyClient:
    """The session of an executor. Raises what `get_plugin` raises."""
    session = await client.get_plugin(endpoint, PLUGIN, **arguments)
    if not isinstance(session, AsyncRhapsodyClient):
        raise InvalidArgument(f"{session.plugin} on endpoint {session.endpoint} calls no functions")
    session.submits_patiently = True
    return session


def chunks_of(arguments: Iterable[tuple[Any, ...]], size: int) -> Iterator[tuple[tuple[Any, ...], ...]]:
    """So many sets of arguments at a time; ValueError for a size that is none."""
    if size < 1:
        raise ValueError("chunksize must be >= 1.")
    left = iter(arguments)
    return iter(lambda: tuple(islice(left, size)), ())


def _task(uid: str, call: _Call, function: Callable[..., Any]) -> dict[str, Any]:
    task = {"uid": uid, "function": function, "args": call.args}
    return task if not call.kwargs else {**task, "kwargs": call.kwargs}


def _broken_by(endpoint: str, why: BaseException) -> BrokenEndpoint:
    said = why.message if isinstance(why, OrbitError) else str(why)
    what = (
        f"the initializer failed on endpoint {endpoint}"
        if isinstance(why, InitializerFailed)
        else f"endpoint {endpoint} is lost"
    )
    broken = BrokenEndpoint(f"{what}: {said}", hint="Make a new executor.", transient=False)
    broken.__cause__ = why
    return broken


def _again(broken: BrokenEndpoint) -> BrokenEndpoint:
    """One for each who meets it: a traceback belongs to one place."""
    copy = BrokenEndpoint(broken.message, hint=broken.hint, transient=False)
    copy.__cause__ = broken.__cause__
    return copy

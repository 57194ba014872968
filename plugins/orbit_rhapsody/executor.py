"""Executor: `concurrent.futures` on an endpoint, for programs that use a pool of threads or processes today.

A thread with a loop of its own sends the calls and settles their futures; what it does is in `calls`. Nobody who submits waits
for it. This module must not know how tasks are sent.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from orbit_rhapsody._async.client import AsyncRhapsodyClient
from orbit_rhapsody.called import call_each
from orbit_rhapsody.calls import BrokenEndpoint, CallStream, chunks_of, open_session
from orbit_zmq.client._async.client import ANYWHERE
from orbit_zmq.client._sync.client import Client
from orbit_zmq.client.beside import client_beside
from orbit_zmq.log import get_logger

__all__ = ["BrokenEndpoint", "CallFuture", "Executor"]

log = get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class CallFuture(Future[T]):
    """The future of a call on an endpoint. It counts as pending until it has ended.

    `cancel` always succeeds before that: a call that has not begun never runs. A function that has begun cannot be stopped; it
    runs on, and what it returns is dropped.
    """

    def __init__(self, stream: CallStream) -> None:
        super().__init__()
        self.uid = ""
        self._stream = stream

    def cancel(self) -> bool:
        """Withdraw the call; False where it has ended."""
        if not super().cancel():
            return False
        if self._stream.withdraw(self.uid):
            self.set_running_or_notify_cancel()
        return True

    def settle(self, value: T, error: BaseException | None) -> None:
        """It has ended; for the stream."""
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except InvalidStateError:  # somebody has canceled it this moment, and found it gone
            self.set_running_or_notify_cancel()
        except SystemExit:
            log.exception("callback-failed", call=self.uid)  # of one call; the others have to end, too

    def settle_canceled(self) -> None:
        """It was canceled over there; for the stream."""
        try:
            super().cancel()
        except SystemExit:
            log.exception("callback-failed", call=self.uid)
        self.set_running_or_notify_cancel()


class Executor(concurrent.futures.Executor):
    """Calls functions on an endpoint: a `concurrent.futures.Executor` over the plugin rhapsody.

    `endpoint` is a name; where it is left out the broker chooses one that has the plugin. `backends` are those that run the
    calls, the endpoint's default where they are left out. At most `max_workers` calls of this executor are under way at once;
    where it is left out the endpoint decides. `client` is used and left open; else one is made, as `orbit_zmq.Client()` is,
    and closed with the executor. `initializer(*initargs)` runs once in each process that runs calls, before the first of them.
    All else are arguments of the session, such as `init_timeout`.

    The session is opened at once: raises BrokerUnreachable, NotFound, Unsupported, NotPermitted, DeadlineExceeded.
    """

    def __init__(
        self,
        endpoint: str = ANYWHERE,
        *,
        max_workers: int | None = None,
        backends: Sequence[str] | None = None,
        client: Client | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **session: Any,
    ) -> None:
        self._stream = CallStream(max_workers, initializer, initargs)
        self._runner = _Runner(self._stream, client)
        self._runner.start(endpoint, {"backends": backends, **session})
        # One that is dropped ends once its calls have: nobody else can add to them.
        self._dropped = weakref.finalize(self, self._stream.end, cancel=False)
        self._dropped.atexit = False

    def __repr__(self) -> str:
        return f"<executor on endpoint {self.endpoint}: {self._stream.describe()}>"

    @property
    def endpoint(self) -> str:
        """The name of the endpoint."""
        return self._runner.opened.result().endpoint

    @property
    def sid(self) -> str:
        """The id of the session, by which its tasks are found on the command line."""
        return self._runner.opened.result().sid

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` called there. BrokenEndpoint where the endpoint is lost, RuntimeError after `shutdown`."""
        future: CallFuture[T] = CallFuture(self._stream)
        self._stream.add(future, fn, args, kwargs)
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """What `fn` returns for each set of arguments, in their order; all are submitted at once.

        `chunksize` sets of arguments make one task. TimeoutError where a value is missing after `timeout` seconds.
        """
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = chunks_of(zip(*iterables, strict=False), chunksize)
        return _each_of(super().map(partial(call_each, fn), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close the session once those that are there have ended.

        `wait`: until that is done. `cancel_futures` cancels the calls that have not begun.
        """
        self._stream.end(cancel=cancel_futures)
        if wait:
            self._runner.join()


class _Runner:
    """The thread of an executor, which it must not refer to: an executor that nobody has any more is to end."""

    def __init__(self, stream: CallStream, client: Client | None) -> None:
        self.opened: Future[AsyncRhapsodyClient] = Future()  # the session
        self._stream = stream
        self._client = client if client is not None else Client()
        self._owns_client = client is None
        self._thread = threading.Thread(target=self._run, name="orbit-executor", daemon=True)

    def start(self, endpoint: str, arguments: dict[str, Any]) -> None:
        """Open the session; raises what keeps it from being opened."""
        try:
            self._client.connect()
            self._endpoint, self._arguments = endpoint, arguments
            _RUNNING.add(self)
            _wait_at_exit()
            self._thread.start()
            self.opened.result()
        except BaseException:
            self._stream.end(cancel=True)
            self._close_client()
            raise

    def join(self) -> None:
        """Wait until the session is closed; does nothing in a callback, for which the session waits."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def end(self) -> None:
        """Wait for the calls that are there."""
        self._stream.end(cancel=False)
        self.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if not self.opened.done():
                self.opened.set_exception(error)  # raised where the executor is made
            else:
                log.exception("executor-failed", endpoint=self.opened.result().endpoint)
        finally:
            self._close_client()
            _RUNNING.discard(self)

    async def _serve(self) -> None:
        async with client_beside(self._client) as client:
            session = await open_session(client, self._endpoint, self._arguments)
            self.opened.set_result(session)
            await self._stream.run(session)

    def _close_client(self) -> None:
        if self._owns_client:
            self._client.close()


_RUNNING: set[_Runner] = set()


@cache
def _wait_at_exit() -> None:
    """As with other executors, a program does not end before its calls have.

    What was registered earlier ends later: the broker and the endpoint of `orbit_zmq.local`, say.
    """
    atexit.register(_end_all)


def _end_all() -> None:
    for runner in tuple(_RUNNING):
        runner.end()


def _each_of(chunks: Iterator[list[T]]) -> Iterator[T]:
    """The values of all chunks; none is held on to once it has been given."""
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()

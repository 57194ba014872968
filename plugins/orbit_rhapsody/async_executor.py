"""AsyncExecutor: the executor for programs on asyncio. Its futures are awaited, and canceling one reaches its call.

What it does is in `calls`, on the loop of the caller. This module must not know how tasks are sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from orbit_rhapsody._async.client import AsyncRhapsodyClient
from orbit_rhapsody.called import call_each
from orbit_rhapsody.calls import BrokenEndpoint, CallStream, chunks_of, open_session
from orbit_zmq.client._async.client import ANYWHERE, AsyncClient
from orbit_zmq.errors import InvalidArgument

__all__ = ["AsyncCallFuture", "AsyncExecutor", "BrokenEndpoint"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncCallFuture(asyncio.Future[T]):
    """The future of a call on an endpoint, to be awaited in its loop.

    Whoever is canceled while he awaits it cancels the call: one that has not begun never runs. A function that has begun cannot
    be stopped; it runs on, and what it returns is dropped.
    """

    def __init__(self, stream: CallStream) -> None:
        super().__init__()
        self.uid = ""
        self._stream = stream

    def cancel(self, msg: Any = None) -> bool:
        """Withdraw the call; False where it has ended."""
        if not super().cancel(msg):
            return False
        self._stream.withdraw(self.uid)
        return True

    def settle(self, value: T, error: BaseException | None) -> None:
        """It has ended; for the stream."""
        if self.done():
            return
        if isinstance(error, StopIteration):  # which no future of asyncio takes
            raised = RuntimeError(f"the function raised StopIteration({error.value!r})")
            raised.__cause__ = error
            error = raised
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)

    def settle_canceled(self) -> None:
        """It was canceled over there; for the stream."""
        super().cancel()


class AsyncExecutor:
    """Calls functions on an endpoint, from a program on asyncio: `async with AsyncExecutor("hpc1") as executor:`.

    The arguments are those of `Executor`; `client` is an AsyncClient of this loop. The session is opened by `async with` or
    `connect`, which raise BrokerUnreachable, NotFound, Unsupported, NotPermitted, DeadlineExceeded.
    """

    def __init__(
        self,
        endpoint: str = ANYWHERE,
        *,
        max_workers: int | None = None,
        backends: Sequence[str] | None = None,
        client: AsyncClient | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **session: Any,
    ) -> None:
        self.endpoint = endpoint
        self.sid = ""  # of the session, by which its tasks are found on the command line
        self._stream = CallStream(max_workers, initializer, initargs)
        self._client = client if client is not None else AsyncClient()
        self._owns_client = client is None
        self._arguments = {"backends": backends, **session}
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<executor on endpoint {self.endpoint}: {self._stream.describe()}>"

    async def __aenter__(self) -> AsyncExecutor:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `shutdown`; where the block was canceled, so are the calls that have not ended."""
        if isinstance(error, asyncio.CancelledError):
            self._stream.cancel_all()
        await self.shutdown()

    async def connect(self) -> None:
        """Open the session. A second time it does nothing."""
        if self._running is not None:
            return
        try:
            session = await open_session(self._client, self.endpoint, self._arguments)
        except BaseException:
            await self._close_client()
            raise
        self.endpoint, self.sid = session.endpoint, session.sid
        self._running = asyncio.get_running_loop().create_task(self._run(session))  # `shutdown` waits for it

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Have `fn(*args, **kwargs)` called there. BrokenEndpoint where the endpoint is lost, RuntimeError after `shutdown`."""
        if self._running is None:
            raise InvalidArgument("the executor is not connected", hint="Use it by `async with`, or call `connect` first.")
        future: AsyncCallFuture[T] = AsyncCallFuture(self._stream)
        self._stream.add(future, fn, args, kwargs)
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> AsyncIterator[T]:
        """What `fn` returns for each set of arguments, in their order, for `async for`; all are submitted at once.

        `chunksize` sets of arguments make one task. TimeoutError where a value is missing after `timeout` seconds. Calls whose
        values are not asked for any more are canceled.
        """
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        arguments = zip(*iterables, strict=False)
        if chunksize == 1:
            return _values_of(deque(self.submit(fn, *each) for each in arguments), deadline)
        each_of_chunk = partial(call_each, fn)
        return _each_of(
            _values_of(deque(self.submit(each_of_chunk, chunk) for chunk in chunks_of(arguments, chunksize)), deadline)
        )

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close the session once those that are there have ended.

        `wait`: until that is done. `cancel_futures` cancels the calls that have not begun.
        """
        self._stream.end(cancel=cancel_futures)
        if wait and self._running is not None:
            await asyncio.shield(self._running)

    async def _run(self, session: AsyncRhapsodyClient) -> None:
        try:
            await self._stream.run(session)
        finally:
            await self._close_client()

    async def _close_client(self) -> None:
        if self._owns_client:
            await self._client.close()


async def _values_of(futures: deque[asyncio.Future[T]], deadline: float | None) -> AsyncIterator[T]:
    """The values in order; what is not asked for any more is canceled."""
    try:
        while futures:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait((futures[0],))
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


async def _each_of(chunks: AsyncIterator[list[T]]) -> AsyncIterator[T]:
    async for chunk in chunks:
        for value in chunk:
            yield value

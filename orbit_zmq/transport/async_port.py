"""The port of coroutines: how a coroutine reaches the link, and waits for what comes back.

`Port` does the same for plain threads; what they have in common is said there.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from orbit_zmq.errors import Canceled, OrbitError
from orbit_zmq.rules.caller import OpenCall
from orbit_zmq.transport.asking import END, Answer, check_call, checked, deaf, feed, listening_of, reason_of, start
from orbit_zmq.transport.handover import Handover
from orbit_zmq.transport.link import Link
from orbit_zmq.transport.mailbox import AsyncMailbox
from orbit_zmq.wire.header import STREAM, Header

if TYPE_CHECKING:
    from orbit_zmq.transport.listener import Listening

CALLBACKS_S = 1.0  # for callbacks to end when an asyncio client is closed


def _settle(ready: asyncio.Future[None], error: OrbitError | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)


class _LoopWaiter:
    """A coroutine that waits for its call. Everything but the four `on_` methods happens in the loop's thread."""

    __slots__ = ("_handover", "chunks", "error", "future", "room")

    def __init__(self, handover: Handover, loop: asyncio.AbstractEventLoop) -> None:
        self._handover = handover
        self.future: asyncio.Future[Answer] = loop.create_future()
        self.error: Exception | None = None
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.room = asyncio.Event()

    def on_reply(self, body: bytes, flags: int) -> None:
        self._handover.put(self._reply, Answer(body, flags))

    def on_error(self, error: OrbitError) -> None:
        self._handover.put(self.fail, error)

    def on_stream(self, data: bytes, last: bool) -> None:
        self._handover.put(self._put, data, last)

    def on_room(self) -> None:
        self._handover.put(self.room.set)

    def _reply(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)
        self.room.set()

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        self.error = error
        if not self.future.done():
            self.future.set_exception(error)
        self.room.set()
        self.chunks.put_nowait(END)

    def _put(self, data: bytes, last: bool) -> None:
        if data:
            self.chunks.put_nowait(data)
        if last:
            self.chunks.put_nowait(END)


class AsyncPort:
    """Calls from coroutines of one loop, and events to them."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._handover: Handover | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # that give events to callbacks
        self._listening: dict[Listening, AsyncMailbox] = {}

    async def open(self, timeout_s: float) -> None:
        self._link.start()
        self._link.attach(asyncio.get_running_loop())
        await asyncio.to_thread(self._link.wait_until_up, timeout_s)

    async def end_subscriptions(self) -> None:
        """Hear nothing more; callbacks have a moment to end."""
        for listening, mailbox in tuple(self._listening.items()):
            self.unlisten(listening)
            mailbox.close()
        others = self._tasks - {asyncio.current_task()}  # a callback may close its client
        if others:
            _, late = await asyncio.wait(others, timeout=CALLBACKS_S)
            for task in late:
                task.cancel()

    async def close(self) -> None:
        await self.end_subscriptions()
        self._link.attach(None)
        await asyncio.to_thread(self._link.close)

    async def call(
        self, header: Header, body: bytes, flags: int, deadline_s: float, stream: AsyncIterable[bytes] | None = None
    ) -> tuple[Answer, AsyncIterator[bytes] | None]:
        """Send a request and wait for its reply; the second value is the stream that comes with it, if one does."""
        check_call(header, body, deadline_s, self._link.caller.limits.body_bytes)
        waiter = self._waiter()
        call = OpenCall(header, body, flags | (STREAM if stream is not None else 0), waiter, deadline_s)
        self._link.post(start, self._link, call)
        # Beside the call, so that neither a slow source nor an unread result holds up the other; it ends with the call.
        feeding = asyncio.ensure_future(self._feed_all(call, waiter, stream)) if stream is not None else None
        try:
            answer = await waiter.future
        except BaseException as error:
            if feeding is not None:
                feeding.cancel()
            self._link.post(self._link.caller.cancel, call, reason_of(error))
            if not waiter.future.cancel() and not waiter.future.cancelled():
                waiter.future.exception()  # it has been seen to
            raise
        if answer.flags & STREAM:
            return answer, self._chunks(call, waiter, feeding)
        if feeding is not None:
            feeding.cancel()
        return answer, None

    async def listen(self, timeout_s: float, **interest: Any) -> tuple[Listening, AsyncMailbox]:
        """Hear events from now on; returns when that is in force."""
        handover = self._handover_here()
        mailbox = AsyncMailbox(handover)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        listening = listening_of(mailbox, lambda error: handover.put(_settle, ready, error), interest)
        self._listening[listening] = mailbox
        self._link.listen(listening)
        try:
            async with asyncio.timeout(timeout_s):
                await ready
        except BaseException as error:
            self.unlisten(listening)
            if isinstance(error, TimeoutError):
                raise deaf(self._link) from None
            raise
        return listening, mailbox

    def unlisten(self, listening: Listening) -> None:
        """Hear them no more."""
        self._listening.pop(listening, None)
        self._link.unlisten(listening)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Run a coroutine beside the caller, until it ends or the port is closed."""
        task = asyncio.get_running_loop().create_task(function(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def call_back(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a callback, and wait for what it answers if that can be waited for. Canceled where it raises CancelledError."""
        try:
            result = function(*arguments)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Canceled("the callback was canceled, or what it waited for") from error

    def _waiter(self) -> _LoopWaiter:
        return _LoopWaiter(self._handover_here(), asyncio.get_running_loop())

    def _handover_here(self) -> Handover:
        loop = asyncio.get_running_loop()
        if self._handover is None:
            self._loop, self._handover = loop, Handover(loop, self._link.notify)
        elif loop is not self._loop:
            raise OrbitError("this client belongs to another event loop", hint="Make one client for each loop.")
        return self._handover

    async def _feed_all(self, call: OpenCall, waiter: _LoopWaiter, stream: AsyncIterable[bytes]) -> None:
        try:
            async for data in stream:
                piece = checked(data)
                await waiter.room.wait()
                waiter.room.clear()
                self._link.post(feed, self._link, call, piece, False)
            self._link.post(feed, self._link, call, b"", True)
        except Exception as error:  # noqa: BLE001 - raised where the call is awaited
            self._link.post(self._link.caller.cancel, call)
            waiter.fail(error)

    async def _chunks(self, call: OpenCall, waiter: _LoopWaiter, feeding: asyncio.Future[None] | None) -> AsyncIterator[bytes]:
        try:
            while data := await waiter.chunks.get():
                self._link.post(self._link.caller.consumed, call)
                yield data
            if waiter.error is not None:
                raise waiter.error
        finally:
            if feeding is not None:
                feeding.cancel()
            self._link.post(self._link.caller.cancel, call)

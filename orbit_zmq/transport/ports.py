"""Ports: how a caller's thread or coroutine reaches the link, and waits for what comes back.

`Port` blocks a thread, `AsyncPort` suspends a coroutine; everything above them is written once. Both leave deadlines to the
link, so that a wait ends exactly once, and tell it when the one who waits goes away.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from orbit_zmq.errors import BrokerUnreachable, Canceled, InvalidArgument, OrbitError, TooLarge
from orbit_zmq.rules.caller import OpenCall
from orbit_zmq.transport.handover import Handover
from orbit_zmq.transport.link import Link
from orbit_zmq.transport.mailbox import AsyncMailbox, Mailbox
from orbit_zmq.wire.header import STREAM, Header
from orbit_zmq.wire.limits import MAX_LEFT_S, NAME_CHARS

if TYPE_CHECKING:
    from orbit_zmq.transport.listener import Listening

CALLBACKS_S = 1.0  # for callbacks to end when an asyncio client is closed
LOOK_S = 0.2  # how long a thread waits before it looks again by itself
_END: Final = b""  # marks the end of a streamed result; chunks that are handed on are never empty


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: its body as bytes with the header's flags, and whether a stream of bytes follows."""

    body: bytes
    flags: int


def check_call(header: Header, body: bytes, deadline_s: float, limit_bytes: int) -> None:
    """Refuse at the door what could not be sent: InvalidArgument or TooLarge."""
    if deadline_s is True or not 0.001 <= deadline_s <= MAX_LEFT_S:  # also refuses nan
        raise InvalidArgument(f"deadline_s is {deadline_s!r}", hint=f"It is 0.001 to {MAX_LEFT_S:g} seconds.")
    names = (header.endpoint, header.plugin, header.session, header.operation)
    if not "".join(names).isascii() or max(map(len, names)) > NAME_CHARS:  # so that no header outgrows its limit
        raise InvalidArgument(f"names of endpoints, plugins, sessions and operations are {NAME_CHARS} ASCII letters at most")
    if len(body) > limit_bytes:
        raise TooLarge(f"the arguments of {header.operation} are {len(body)} bytes; the limit is {limit_bytes}")


def _listening(
    mailbox: Mailbox | AsyncMailbox, ready: Callable[[OrbitError | None], None], interest: Mapping[str, Any]
) -> Listening:
    from orbit_zmq.transport.listener import Listening  # loads cryptography, which who only calls does not need

    return Listening(mailbox.put, ready, **interest)


def _settle(ready: asyncio.Future[None], error: OrbitError | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)


def _deaf(link: Link) -> BrokerUnreachable:
    return BrokerUnreachable(
        f"the events of the broker at {link.place.address} cannot be heard",
        hint="They come over an address of their own, on TCP the next port; is it open?",
    )


def _start(link: Link, call: OpenCall) -> None:
    """In the link's thread."""
    try:
        if link.is_closed:
            raise link.refusal or Canceled("the client has been closed", hint="Make a new one.")
        link.caller.start(call, time.monotonic())
        if link.is_turned_away:
            link.retry_soon()  # the call ends when that is refused
    except OrbitError as error:
        call.waiter.on_error(error)


def _feed(link: Link, call: OpenCall, data: bytes, last: bool) -> None:
    link.caller.feed(call, data, last, time.monotonic())


def _abandon(link: Link, call: OpenCall, error: OrbitError) -> None:
    """Our own side cannot go on with a call."""
    link.caller.cancel(call)
    call.waiter.on_error(error)


def _checked(data: object) -> bytes:
    """A piece of a stream, or InvalidArgument."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidArgument(f"a stream of bytes yielded {type(data).__name__}")
    return bytes(data)


class _ThreadWaiter:
    """A thread that waits for its call."""

    __slots__ = ("_link", "_rest", "answer", "chunks", "ended", "error", "leads_in", "left", "room", "source_error")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._rest = threading.Lock()
        self._rest.acquire()
        self.leads_in = 0  # the thread that looks after the socket while it waits for this
        self.answer: Answer | None = None
        self.error: OrbitError | None = None
        self.source_error: BaseException | None = None  # what the stream that goes with the call has raised
        self.ended = False
        self.left = False  # nobody wants the rest of the result
        self.chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.room: threading.Event | None = None  # for a call with a stream

    def on_reply(self, body: bytes, flags: int) -> None:
        self.answer = Answer(body, flags)
        self._wake()

    def on_error(self, error: OrbitError) -> None:
        self.error = error
        self.chunks.put(_END)
        self.on_room()
        self._wake()

    def on_stream(self, data: bytes, last: bool) -> None:
        if data:
            self.chunks.put(data)
        if last:
            self.chunks.put(_END)

    def on_room(self) -> None:
        if self.room is not None:
            self.room.set()

    @property
    def is_over(self) -> bool:
        """Nothing more has to be sent for the call."""
        return self.left or self.error is not None or (self.answer is not None and not self.answer.flags & STREAM)

    def outcome(self) -> Answer:
        """What the call came to."""
        if self.answer is None:
            raise self.failure()
        return self.answer

    def failure(self) -> BaseException:
        """Why it failed."""
        return self.source_error or self.error or Canceled("the call was canceled")

    def rest(self, timeout_s: float) -> None:
        """Wait to be roused."""
        self._rest.acquire(timeout=timeout_s)

    def rouse(self) -> None:
        """Have whoever waits look again: from `rest`, or from the socket."""
        if self.leads_in and self.leads_in != threading.get_ident():
            self._link.keeper.rouse()
        elif not self.leads_in:
            with suppress(RuntimeError):  # it has been roused and not gone to rest since
                self._rest.release()

    def _wake(self) -> None:
        if not self.ended:
            self.ended = True
            self._link.notify(self.rouse)
            self.on_room()


class Port:
    """Calls from plain threads.

    Of the threads that wait, one leads: it looks after the socket for all, and hands that on when its own call has ended.
    That saves a call the change from the link's thread to its own. A rousing that goes astray costs LOOK_S, no more.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._has_lent = False
        self._leading = threading.Lock()
        self._followers: dict[_ThreadWaiter, None] = {}
        self._listening: dict[Listening, Mailbox] = {}

    def open(self, timeout_s: float) -> None:
        self._link.start()
        self._link.wait_until_up(timeout_s)
        if not self._has_lent:
            self._has_lent = True
            self._link.keeper.lend(+1)

    def end_subscriptions(self) -> None:
        """Hear nothing more."""
        for listening, mailbox in tuple(self._listening.items()):
            self.unlisten(listening)
            mailbox.close()

    def close(self) -> None:
        self.end_subscriptions()
        self._link.close()

    def listen(self, timeout_s: float, **interest: Any) -> tuple[Listening, Mailbox]:
        """Hear events from now on; returns when that is in force."""
        mailbox, settled = Mailbox(), threading.Event()
        errors: list[OrbitError] = []

        def ready(error: OrbitError | None) -> None:
            if error is not None:
                errors.append(error)
            settled.set()

        listening = _listening(mailbox, ready, interest)
        self._listening[listening] = mailbox
        self._link.listen(listening)
        if not settled.wait(timeout_s):
            errors.append(_deaf(self._link))
        if errors:
            self.unlisten(listening)
            raise errors[0]
        return listening, mailbox

    def unlisten(self, listening: Listening) -> None:
        """Hear them no more."""
        self._listening.pop(listening, None)
        self._link.unlisten(listening)

    def spawn(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function in a thread of its own."""
        threading.Thread(target=function, args=arguments, name="orbit-events", daemon=True).start()

    def settle(self, result: object) -> None:
        """What a callback has answered is of no interest."""

    def call(
        self, header: Header, body: bytes, flags: int, deadline_s: float, stream: Iterable[bytes] | None = None
    ) -> tuple[Answer, Iterator[bytes] | None]:
        """Send a request and wait for its reply; the second value is the stream that comes with it, if one does."""
        check_call(header, body, deadline_s, self._link.caller.limits.body_bytes)
        waiter = _ThreadWaiter(self._link)
        call = OpenCall(header, body, flags | (STREAM if stream is not None else 0), waiter, deadline_s)
        try:
            if stream is not None:
                waiter.room = threading.Event()
                self.lend(-1)  # nobody may wait while the chunks go
                threading.Thread(target=self._feed_all, args=(call, waiter, waiter.room, stream), daemon=True).start()
            self._link.post(_start, self._link, call)
            self._wait(waiter)
        except BaseException:
            waiter.left = True
            waiter.on_room()
            self._link.post(self._link.caller.cancel, call)
            raise
        answer = waiter.outcome()
        return answer, (_ChunkIterator(self, self._link, call, waiter) if answer.flags & STREAM else None)

    def lend(self, change: int) -> None:
        """Lend the socket to the threads that wait (+1), one of which has to know, or take it back (-1)."""
        self._link.keeper.lend(change)
        self._pass_on()

    def _wait(self, waiter: _ThreadWaiter) -> None:
        while not waiter.ended:
            if self._link.keeper.is_lent and self._leading.acquire(blocking=False):
                try:
                    self._lead(waiter)
                finally:
                    self._leading.release()
            else:
                self._follow(waiter)
        if not self._leading.locked():  # whoever led may have roused this thread to do so
            self._pass_on()

    def _lead(self, waiter: _ThreadWaiter) -> None:
        waiter.leads_in = threading.get_ident()
        try:
            while not waiter.ended and self._link.keeper.is_lent:
                self._link.keeper.look(LOOK_S)
        finally:
            waiter.leads_in = 0

    def _follow(self, waiter: _ThreadWaiter) -> None:
        self._followers[waiter] = None
        try:
            if self._leading.locked() or not self._link.keeper.is_lent:
                waiter.rest(LOOK_S)
        finally:
            del self._followers[waiter]

    def _pass_on(self) -> None:
        for follower in tuple(self._followers):
            if not follower.ended:
                follower.rouse()
                return

    def _feed_all(self, call: OpenCall, waiter: _ThreadWaiter, room: threading.Event, stream: Iterable[bytes]) -> None:
        """In a thread of its own, so that neither a slow source nor an unread result holds up the other."""
        try:
            for data in stream:
                piece = _checked(data)
                room.wait()
                if waiter.is_over:
                    return
                room.clear()
                self._link.post(_feed, self._link, call, piece, False)
            self._link.post(_feed, self._link, call, b"", True)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that made the call
            waiter.source_error = error
            self._link.post(_abandon, self._link, call, Canceled("the stream that goes with the call has failed"))
        finally:
            self.lend(+1)


class _ChunkIterator:
    """A streamed result, chunk by chunk. Leaving it early cancels the call."""

    def __init__(self, port: Port, link: Link, call: OpenCall, waiter: _ThreadWaiter) -> None:
        self._port, self._link, self._call, self._waiter = port, link, call, waiter
        self._is_open = True
        port.lend(-1)  # nobody waits for a call while the chunks come

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data = self._waiter.chunks.get()
        if data:
            self._link.post(self._link.caller.consumed, self._call)
            return data
        self.close()
        if self._waiter.error is not None:
            raise self._waiter.failure()
        raise StopIteration

    def close(self) -> None:
        """Take no more. Harmless after the end."""
        self._waiter.chunks.put(_END)
        if self._is_open:
            self._is_open = False
            self._waiter.left = True
            self._waiter.on_room()
            self._link.post(self._link.caller.cancel, self._call)
            self._port.lend(+1)

    def __enter__(self) -> _ChunkIterator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._link.is_closed:
            self.close()


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
        self.chunks.put_nowait(_END)

    def _put(self, data: bytes, last: bool) -> None:
        if data:
            self.chunks.put_nowait(data)
        if last:
            self.chunks.put_nowait(_END)


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
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CALLBACKS_S)
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
        self._link.post(_start, self._link, call)
        # Beside the call, so that neither a slow source nor an unread result holds up the other; it ends with the call.
        feeding = asyncio.ensure_future(self._feed_all(call, waiter, stream)) if stream is not None else None
        try:
            answer = await waiter.future
        except BaseException:
            if feeding is not None:
                feeding.cancel()
            self._link.post(self._link.caller.cancel, call)
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
        listening = _listening(mailbox, lambda error: handover.put(_settle, ready, error), interest)
        self._listening[listening] = mailbox
        self._link.listen(listening)
        try:
            async with asyncio.timeout(timeout_s):
                await ready
        except BaseException as error:
            self.unlisten(listening)
            if isinstance(error, TimeoutError):
                raise _deaf(self._link) from None
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

    async def settle(self, result: object) -> None:
        """Wait for what a callback has answered, if that is to be waited for."""
        if inspect.isawaitable(result):
            await result

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
                piece = _checked(data)
                await waiter.room.wait()
                waiter.room.clear()
                self._link.post(_feed, self._link, call, piece, False)
            self._link.post(_feed, self._link, call, b"", True)
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

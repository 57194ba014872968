"""The port of plain threads: how a thread reaches the link, and waits for what comes back.

Its twin for coroutines is `AsyncPort`; everything above them is written once. Both leave deadlines to the link, so that a
wait ends exactly once, and tell it when the one who waits goes away.
"""

from __future__ import annotations

import queue
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orbit_zmq.errors import Canceled, OrbitError
from orbit_zmq.rules.caller import OpenCall
from orbit_zmq.transport.asking import END, Answer, abandon, check_call, checked, deaf, feed, listening_of, reason_of, start
from orbit_zmq.transport.link import Link
from orbit_zmq.transport.mailbox import Mailbox
from orbit_zmq.wire.header import STREAM, Header

if TYPE_CHECKING:
    from orbit_zmq.transport.listener import Listening

LOOK_S = 0.2  # how long a thread waits before it looks again by itself


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
        self.chunks.put(END)
        self.on_room()
        self._wake()

    def on_stream(self, data: bytes, last: bool) -> None:
        if data:
            self.chunks.put(data)
        if last:
            self.chunks.put(END)

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

        listening = listening_of(mailbox, ready, interest)
        self._listening[listening] = mailbox
        self._link.listen(listening)
        if not settled.wait(timeout_s):
            errors.append(deaf(self._link))
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

    def call_back(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a callback; what it answers is of no interest. Canceled where it raises CancelledError."""
        try:
            function(*arguments)
        except CancelledError as error:
            raise Canceled("the callback was canceled, or what it waited for") from error

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
            self._link.post(start, self._link, call)
            self._wait(waiter)
        except BaseException as error:
            waiter.left = True
            waiter.on_room()
            self._link.post(self._link.caller.cancel, call, reason_of(error))
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
                piece = checked(data)
                room.wait()
                if waiter.is_over:
                    return
                room.clear()
                self._link.post(feed, self._link, call, piece, False)
            self._link.post(feed, self._link, call, b"", True)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that made the call
            waiter.source_error = error
            self._link.post(abandon, self._link, call, Canceled("the stream that goes with the call has failed"))
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
        self._waiter.chunks.put(END)
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

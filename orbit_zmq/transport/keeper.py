"""The keeper: one lock around a socket and its rules, and who looks after them.

Functions that other threads post run at once, in the thread that asks, when the lock is free, else soon in the keeper's own
thread: a lock is as good as a thread to libzmq, and saves a call two changes of thread. For the same reason the socket can
be attached to an asyncio loop, or lent to the threads that wait for calls; the keeper's thread then looks only now and
then, for the loop may be blocked and nobody may wait. Who waits is woken last, when the lock is free again. What the socket
is for, and what is due when, is not known here.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger

log = get_logger(__name__)

LENT_S = 0.2  # how often the thread looks at a socket that others look after
MOMENT_S = 0.001  # that a loop waits for the lock: to come back at once would keep its holder from the interpreter's own
Notice = Callable[[], object]


class Ward(Protocol):
    """What is kept. Everything here is called under the lock, and must not wait for anybody."""

    def has_arrived(self) -> bool:
        """Whether the socket has a message. Its descriptor tells of changes only, so this has to be asked."""

    def receive(self) -> bool:
        """Take what has arrived, up to a batch; harmless when nothing has. Whether there is more."""

    def work(self) -> None:
        """In the keeper's thread: what the time asks for, and everything else that is left to do."""

    def due_in(self) -> float:
        """How long there will be nothing to do (seconds)."""

    def is_overdue(self) -> bool:
        """Whether a posted function has made something due before the time that `due_in` said last."""

    def on_interrupt(self) -> None:
        """A posted function, or the receipt of a message, was cut short, by Ctrl-C perhaps."""


class Keeper:
    """The lock, the thread's sleep, and the ways to end it."""

    def __init__(self, ward: Ward) -> None:
        self._ward = ward
        self.lock = self._lock = threading.RLock()
        self._is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]  # as threading.Condition does
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._notices: list[Notice] = []
        self._asleep = False
        self._has_ended = False
        self._poll, self._leader_poll = select.poll(), select.poll()
        self._wake_in, self._wake_out = _pipe(self._poll)
        self._rouse_in, self._rouse_out = _pipe(self._leader_poll)
        self._descriptor = -1  # of the socket
        self._news = -1  # a copy of it, which lives until nobody waits on it any more
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lent = 0
        self._pid = os.getpid()

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call this under the lock, here and now or soon. In the order of asking for each thread.

        Raises OrbitError in a process that has forked.
        """
        if os.getpid() != self._pid:
            raise OrbitError("this connection belongs to the parent process after a fork", hint="Make a new client here.")
        notices: list[Notice] = []
        try:
            if self._inbox or self._is_owned() or not self._lock.acquire(blocking=False) or self._inbox:
                self.queue(function, *arguments)
            else:
                function(*arguments)
                notices = self._take_notices()
                if self._asleep and (self._ward.is_overdue() or self._ward.has_arrived()):
                    self.wake()
        except BaseException:
            self.queue(self._ward.on_interrupt)
            raise
        finally:
            if self._is_owned():
                self._lock.release()
        for notice in notices:
            notice()

    def queue(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the keeper's thread call this soon; when that has ended, it is called here."""
        self._inbox.append((function, arguments))
        if self._has_ended:
            self._run_rest()
        elif self._asleep:
            self.wake()

    def notify(self, notice: Notice) -> None:
        """Wake somebody by this once the lock is free. To be called by what runs under it."""
        self._notices.append(notice)

    def wake(self) -> None:
        """End the thread's sleep."""
        self._asleep = False
        with suppress(OSError):  # full: it is being woken; closed: nobody is left to wake
            self._wake_out.send(b"\0")

    def turn(self) -> None:
        """One round of the keeper's thread: all there is to do, then sleep."""
        with self._lock:
            if self._ward.has_arrived():
                self._ward.receive()
            self._run_inbox()
            self._ward.work()
            self._asleep = True
            timeout_s = 0.0 if self._inbox or self._ward.has_arrived() else self._ward.due_in()
            notices = self._take_notices()
        for notice in notices:
            notice()
        if self._loop is not None or self._lent > 0:
            timeout_s = min(timeout_s, LENT_S)
        for descriptor, _ in self._poll.poll(int(timeout_s * 1000 + 0.999)):
            if descriptor == self._wake_in.fileno():
                self._wake_in.recv(4096)
        self._asleep = False

    def end(self, last_words: Callable[[], None]) -> None:
        """Call this, run what was posted, and close everything. The last thing that the thread does."""
        with self._lock:
            last_words()
            self._has_ended = True
        self._run_rest()
        for end in (self._wake_in, self._wake_out, self._rouse_in, self._rouse_out):
            end.close()

    def _run_rest(self) -> None:
        with self._lock:
            self._run_inbox()
            notices = self._take_notices()
        for notice in notices:
            notice()

    # Who is woken by the socket

    def watch(self, descriptor: int) -> None:
        """Be woken by a new socket."""
        self._descriptor = descriptor
        self._watch()

    def unwatch(self) -> None:
        """Be woken by it no more; before it is closed."""
        self._unwatch()
        self._descriptor = -1

    def watch_aside(self, descriptor: int, is_watched: bool) -> None:
        """Have the keeper's thread woken by something else too."""
        if is_watched:
            self._poll.register(descriptor, select.POLLIN)
        else:
            self._poll.unregister(descriptor)

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let a loop look after the socket, or no loop any more. In the loop's thread."""
        with self._lock:
            self._unwatch()
            self._loop = loop
            self._watch()
        self.wake()

    @property
    def is_lent(self) -> bool:
        """Whether the threads that wait look after the socket, by `look`."""
        return self._lent > 0

    def lend(self, change: int) -> None:
        """Lend the socket (+1), or take it back (-1), for example while a stream is open and nobody waits for a call."""
        with self._lock:
            self._unwatch()
            self._lent += change
            self._watch()
        self.wake()
        self.rouse()

    def look(self, timeout_s: float) -> None:
        """Wait for news of a socket that is lent, and see to it. In one thread at a time."""
        for descriptor, _ in self._leader_poll.poll(int(timeout_s * 1000)):
            if descriptor == self._rouse_in.fileno():
                self._rouse_in.recv(4096)
        try:
            with self._lock:
                if self._ward.receive():
                    self.wake()
                notices = self._take_notices()
        except BaseException:
            self.queue(self._ward.on_interrupt)
            raise
        for notice in notices:
            notice()

    def rouse(self) -> None:
        """Have `look` return."""
        with suppress(OSError):
            self._rouse_out.send(b"\0")

    def _serve_loop(self) -> None:
        """In the loop's thread. When the lock is taken for longer than a moment, the loop comes back."""
        if os.getpid() != self._pid:
            _end_forked_loop()
        if not self._lock.acquire(timeout=MOMENT_S):
            return
        try:
            if self._ward.receive():
                self.wake()
            notices = self._take_notices()
        finally:
            self._lock.release()
        for notice in notices:
            notice()

    def _watch(self) -> None:
        if self._descriptor < 0:
            return
        self._news = os.dup(self._descriptor)
        if self._loop is not None:
            self._in_loop(self._loop.add_reader, self._news, self._serve_loop)
        elif self._lent > 0:
            self._leader_poll.register(self._news, select.POLLIN)
            self.rouse()
        else:
            self._poll.register(self._news, select.POLLIN)

    def _unwatch(self) -> None:
        news, self._news = self._news, -1
        if news < 0:
            return
        if self._loop is not None:
            self._in_loop(self._loop.remove_reader, news)
            self._in_loop(os.close, news)
            return
        (self._leader_poll if self._lent > 0 else self._poll).unregister(news)
        os.close(news)

    def _in_loop(self, function: Callable[..., object], *arguments: Any) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop was closed without a word
                self._loop.call_soon_threadsafe(function, *arguments)

    def _run_inbox(self) -> None:
        inbox = self._inbox
        for _ in range(len(inbox)):
            function, arguments = inbox.popleft()
            try:
                function(*arguments)
            except Exception:
                log.exception("posted-function-failed")
                self._ward.on_interrupt()

    def _take_notices(self) -> list[Notice]:
        notices, self._notices = self._notices, []
        return notices


def _end_forked_loop() -> None:
    """Code that forked in a loop and returned runs two loops on one connection; the copy can only do harm."""
    log.error("forked-loop-ended", pid=os.getpid(), hint="Start processes by subprocess, or by multiprocessing with spawn.")
    os._exit(1)


def _pipe(poll: select.poll) -> tuple[socket.socket, socket.socket]:
    """Two ends; a byte into the second ends a poll."""
    inner, outer = socket.socketpair()
    inner.setblocking(False)
    outer.setblocking(False)
    poll.register(inner.fileno(), select.POLLIN)
    return inner, outer

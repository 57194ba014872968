"""The link: a participant's socket, and the thread that looks after it.

The thread opens connections, says hello, hands what arrives to the rules, and keeps their time. Other threads reach both
only through `post`: under the lock that guards socket and rules the function runs at once, in the thread that asks; when
the lock is taken, in the link's own. A lock is as good as a thread to libzmq, and saves two changes of thread a call (a
third of its time). Who waits for something is woken last, when the lock is free again and the thread about to sleep, so
that the two do not fight for the interpreter. Nothing in here waits for anybody.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import socket as plain_sockets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import zmq

from orbit_zmq.errors import (
    AuthRequired,
    BrokerUnreachable,
    Canceled,
    InternalError,
    OrbitError,
    ProtocolError,
    ShuttingDown,
    Unsupported,
    error_from_body,
)
from orbit_zmq.log import get_logger
from orbit_zmq.place import Place
from orbit_zmq.rules.caller import Caller
from orbit_zmq.rules.connection import Connection, Effect, Event, State
from orbit_zmq.rules.outbox import CALLS, CONTROL, Outbox
from orbit_zmq.rules.server import Handler, Server
from orbit_zmq.transport.sockets import Sockets, close_monitored, descriptor_of, has_arrived
from orbit_zmq.wire.body import pack_body, unpack_body, unpack_map
from orbit_zmq.wire.header import FINAL, PROBE, Header, Kind, decode_header, encode_header
from orbit_zmq.wire.limits import PROTOCOL_VERSIONS, Intervals, Limits

BROKER_AWAY_S = 60.0  # calls wait so long for a broker to come back
SECOND_S = 1.0  # how often rare things are looked at
BATCH = 256  # messages taken from the socket before anything else gets its turn
QUEUE_MESSAGES = 1 << 20  # calls and credits bound what is queued here; these bounds are a backstop
QUEUE_BYTES = 1 << 30
FIRST_FRAME = int(zmq.DONTWAIT | zmq.SNDMORE)  # plain integers: pyzmq's flags cost a microsecond each time
LAST_FRAME = int(zmq.DONTWAIT)
LENT_S = 0.2  # how often the link looks at a socket that others look after: the loop may be blocked, nobody may wait
CLOSING_S = 1.0  # how long close waits for the thread
TRY_AGAIN = ("busy", "shutting-down", "broker-unreachable", "internal")  # refusals that may pass


class Party(Protocol):
    """What a link says of the one that it belongs to. Called from the link's thread; must not block."""

    def hello(self) -> dict[str, Any]: ...
    def catalogue(self) -> bytes: ...
    def pulse(self) -> dict[str, Any]: ...


class Link:
    """One participant's line to the broker."""

    def __init__(
        self,
        place: Place,
        party: Party,
        *,
        handler: Handler | None = None,
        on_change: Callable[[], None] = lambda: None,  # welcomed, or refused; in the link's thread
    ) -> None:
        now = time.monotonic()
        self.place = place
        self.incarnation = secrets.token_bytes(16)
        self.name = ""
        self.user = ""
        self.epoch = b""
        self.dropped = 0  # messages that were no messages
        self.caller = Caller(self._send, Limits())
        self.server = None if handler is None else Server(self._send, handler, Limits())
        self._party = party
        self._on_change = on_change
        self._connection = Connection(now)
        self._outbox: Outbox[tuple[bytes, bytes | memoryview]] = Outbox(QUEUE_MESSAGES, QUEUE_BYTES)
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._lock = threading.RLock()  # guards the socket and the rules; one that knows its owner, for Ctrl-C's sake
        self._is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]  # as threading.Condition does
        self._notices: list[Callable[[], object]] = []  # whom to wake once the lock is free
        self._asleep = False
        self._due_at = now  # when the rules have something to do
        self._has_monitor_news = False
        self._wake_in, self._wake_out = plain_sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._sockets = Sockets()
        self._dealer: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poll = select.poll()
        self._news = -1  # a descriptor of our own that is readable when the socket has news
        self._loop: asyncio.AbstractEventLoop | None = None  # that looks after the socket
        self._lent = 0  # above 0: the threads that wait for calls look after the socket
        self._leader_poll = select.poll()
        self._rouse_in, self._rouse_out = plain_sockets.socketpair()
        self._rouse_out.setblocking(False)
        self._leader_poll.register(self._rouse_in.fileno(), select.POLLIN)
        self._next_heartbeat = now
        self._next_second = now
        self._reason = "nothing answers"
        self._refusal: OrbitError | None = None
        self._settled = threading.Event()  # welcomed or refused at least once
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="orbit-link", daemon=True)

    # From other threads

    def start(self) -> None:
        self._thread.start()

    def wait_until_up(self, timeout_s: float) -> None:
        """Return once welcomed; the refusal, or BrokerUnreachable with what was seen so far."""
        self._settled.wait(timeout_s)
        if self._refusal is not None:
            raise self._refusal
        if self._connection.state is not State.UP:
            raise self._unreachable()

    @property
    def is_up(self) -> bool:
        return self._connection.state is State.UP

    @property
    def is_closed(self) -> bool:
        return self._connection.state in (State.CLOSED, State.REFUSED)

    @property
    def refusal(self) -> OrbitError | None:
        """Why the broker will not have this participant, if that is so."""
        return self._refusal

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call this under the lock: here and now, or soon in the link's thread. In the order of asking for each thread.

        Raises OrbitError in a process that has forked.
        """
        if os.getpid() != self._pid:
            raise OrbitError("this connection belongs to the parent process after a fork", hint="Make a new client here.")
        notices: list[Callable[[], object]] = []
        try:
            if self._inbox or self._is_owned() or not self._lock.acquire(blocking=False) or self._inbox:
                self._queue(function, arguments)
            else:
                function(*arguments)
                notices = self._take_notices()
                self._look_for_more()
        except BaseException:  # Ctrl-C may have cut a message in half: the next connection says everything again
            self._queue(self._handle, (Event.BROKEN, time.monotonic()))
            raise
        finally:
            if self._is_owned():
                self._lock.release()
        for notice in notices:
            notice()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a loop look after the socket, which saves each message a change of thread. To be called in the loop's thread.

        The link's own thread goes on to keep the time, and looks after the socket as well while the loop is blocked.
        """
        with self._lock:
            self._unwatch()
            self._loop = loop
            self._watch_news()

    def detach(self) -> None:
        """The loop is about to end. In its thread."""
        with self._lock:
            self._unwatch()
            self._loop = None
            self._watch_news()

    @property
    def is_lent(self) -> bool:
        """Whether those who wait look after the socket. The link's own thread looks only now and then, as for a loop."""
        return self._lent > 0

    def lend(self, change: int) -> None:
        """Lend the socket to those who wait (+1), or take it back (-1), for example while a stream is open."""
        with self._lock:
            self._unwatch()
            self._lent += change
            self._watch_news()
        self._wake()
        self.rouse()

    def look(self, timeout_s: float) -> None:
        """Wait for news of a socket that is lent, and see to it. In one thread at a time."""
        for descriptor, _ in self._leader_poll.poll(int(timeout_s * 1000)):
            if descriptor == self._rouse_in.fileno():
                self._rouse_in.recv(4096)
        try:
            self._serve_news()
        except BaseException:  # Ctrl-C in the middle of somebody's message: the next connection says everything again
            interrupted = Canceled("another thread was interrupted while it received the answer")
            self._queue(self._handle, (Event.BROKEN, time.monotonic()))
            self._queue(self.caller.fail_moving, (interrupted,))
            raise

    def rouse(self) -> None:
        """Have `look` return."""
        with suppress(OSError):
            self._rouse_out.send(b"\0")

    def notify(self, notice: Callable[[], object]) -> None:
        """Wake somebody by this once the lock is free. To be called by what runs under it."""
        self._notices.append(notice)

    def send_update(self, facts: dict[str, Any]) -> None:
        """Tell the broker of a change, for example of sessions opened or closed. From any thread."""
        self.post(self._send_update, facts)

    def close(self) -> None:
        """Say bye, end open calls, and stop the thread. May be called more than once."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        self.post(self._handle, Event.CLOSED, time.monotonic())
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING_S)

    def _serve_loop(self) -> None:
        """In the loop's thread: the socket has news. When the lock is taken, the loop comes back at once."""
        if self._lock.acquire(blocking=False):
            try:
                self._serve_news()
            finally:
                self._lock.release()

    def _serve_news(self) -> None:
        with self._lock:
            self._receive()
            notices = self._take_notices()
        for notice in notices:
            notice()

    # In the link's thread

    def _run(self) -> None:
        self._poll.register(self._wake_in.fileno(), select.POLLIN)
        try:
            while self._connection.state is not State.CLOSED:
                self._turn()
        except Exception as error:  # noqa: BLE001 - the loop of the thread
            get_logger("orbit_zmq.link").exception("link-failed")
            self._refusal = InternalError(f"the connection's thread has failed: {error}")
            self._connection.handle(Event.CLOSED, time.monotonic())
            self.caller.fail_all(self._refusal)
        finally:
            with self._lock:
                self._drop()
                self._sockets.close()
                self._run_inbox()
                self.caller.fail_all(self._ending())
                notices = self._take_notices()
            for notice in notices:
                notice()
            self._settled.set()
            for end in (self._wake_in, self._wake_out, self._rouse_in, self._rouse_out):
                end.close()

    def _turn(self) -> None:
        with self._lock:
            timeout_s = self._work()
            notices = self._take_notices()
        for notice in notices:
            notice()
        if self._loop is not None or self._lent > 0:
            timeout_s = min(timeout_s, LENT_S)
        for descriptor, _ in self._poll.poll(int(timeout_s * 1000 + 0.999)):
            if descriptor == self._wake_in.fileno():
                self._wake_in.recv(4096)
            elif descriptor != self._news:
                self._has_monitor_news = True
        self._asleep = False

    def _work(self) -> float:
        """Everything that there is to do, and how long there will be nothing (seconds)."""
        if self._has_arrived():
            self._receive()
        self._run_inbox()
        if self._has_monitor_news:
            self._watch()
        now = time.monotonic()
        if now >= self._due_at or now >= self.caller.next_deadline():
            self._due_at = self._tick(now)
        if self._outbox:
            self._flush()
        self._asleep = True
        if self._inbox or self._has_arrived():
            return 0.0
        return max(0.0, min(self._due_at, self.caller.next_deadline()) - now)

    def _has_arrived(self) -> bool:
        return self._dealer is not None and has_arrived(self._dealer)

    def _look_for_more(self) -> None:
        """After another thread has used the socket: its descriptor may stay silent about what arrived meanwhile."""
        if self._asleep and (self.caller.next_deadline() < self._due_at or self._has_arrived()):
            self._wake()

    def _take_notices(self) -> list[Callable[[], object]]:
        notices, self._notices = self._notices, []
        return notices

    def _queue(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._inbox.append((function, arguments))
        if self._asleep:
            self._wake()

    def _run_inbox(self) -> None:
        inbox = self._inbox
        for _ in range(len(inbox)):
            function, arguments = inbox.popleft()
            function(*arguments)

    def _wake(self) -> None:
        self._asleep = False
        with suppress(OSError):  # full: it is being woken; closed: nobody is left to wake
            self._wake_out.send(b"\0")

    def _tick(self, now: float) -> float:
        """Do what is due, and say when something will be again."""
        self._apply(self._connection.tick(now), now)
        due = [self._connection.next_tick(), self.caller.tick(now)]
        if self.server is not None:
            due.append(self.server.tick(now))
        if now >= self._next_second:
            self._next_second = now + SECOND_S
            self._each_second(now)
        due.append(self._next_second)
        if self._connection.state is State.UP:
            if now >= self._next_heartbeat:
                self._next_heartbeat = now + self._connection.intervals.heartbeat_s
                body, flags = pack_body(self._party.pulse())
                self._send(CONTROL, Header(Kind.HEARTBEAT, flags=flags), body)
            due.append(self._next_heartbeat)
        return min(due)

    def _each_second(self, now: float) -> None:
        self.caller.repeat_chunks(now)
        if self.server is not None:
            self.server.repeat_chunks(now)
        is_away = self._connection.state in (State.DOWN, State.OPENING)
        if is_away and now - self._connection.down_since >= BROKER_AWAY_S:
            self.caller.fail_older_than(now - BROKER_AWAY_S, self._unreachable())

    def _handle(self, event: Event, now: float) -> None:
        self._due_at = now
        self._apply(self._connection.handle(event, now), now)

    def _apply(self, effects: tuple[Effect, ...], now: float) -> None:
        for effect in effects:
            EFFECTS[effect](self, now)

    def _open(self, now: float) -> None:
        try:
            self._dealer, self._monitor = self._sockets.dealer(
                self.place.address, server_key=self.place.server_key, keys=self.place.keys
            )
        except OrbitError as error:
            self._refuse(error, now)
            return
        self._watch_news()
        self._poll.register(descriptor_of(self._monitor), select.POLLIN)
        self._has_monitor_news = True

    def _watch_news(self) -> None:
        """Have the loop or the link's thread woken by the socket. The copy of its descriptor lives until nobody waits on it."""
        if self._dealer is None:
            return
        self._news = os.dup(descriptor_of(self._dealer))
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

    def _say_hello(self, now: float) -> None:
        facts = {
            "versions": list(PROTOCOL_VERSIONS),
            "incarnation": self.incarnation,
            "limits": Limits().to_body(),
            **self._party.hello(),
        }
        body, flags = pack_body(facts)
        self._push(CONTROL, Header(Kind.HELLO, flags=flags), body)

    def _resume(self, now: float) -> None:
        self._next_heartbeat = now
        self.caller.on_connected(now)
        self._settled.set()
        self._on_change()

    def _suspend(self, now: float) -> None:
        self.caller.on_disconnected()

    def _drop(self, now: float = 0.0) -> None:
        self._outbox.clear()  # what was not sent is said again on the next connection
        if self._dealer is not None and self._monitor is not None:
            self._unwatch()
            self._poll.unregister(descriptor_of(self._monitor))
            close_monitored(self._dealer, self._monitor)
            self._dealer = self._monitor = None

    def _end_calls(self, now: float) -> None:
        self.caller.fail_all(self._ending())

    def _say_bye(self, now: float) -> None:
        self._push(CONTROL, Header(Kind.BYE, flags=FINAL), b"")
        self._flush()

    def _ending(self) -> OrbitError:
        if self._refusal is not None:
            return self._refusal
        if self._connection.state is State.CLOSED:
            return ShuttingDown("this client has been closed", hint="Make a new one.")
        return ShuttingDown("the broker has been stopped")

    def _unreachable(self) -> BrokerUnreachable:
        where = f"{self.place.address} (from {self.place.found_in})"
        return BrokerUnreachable(f"the broker at {where} does not answer: {self._reason}")

    def _refuse(self, error: OrbitError, now: float) -> None:
        self._refusal = error
        self._handle(Event.REFUSED, now)
        self._settled.set()
        self._on_change()

    # Sending

    def _send(self, priority: int, header: Header, body: bytes | memoryview) -> None:
        """What the rules say. Between two connections it is dropped: they say it again on the next one."""
        if self._connection.state is State.UP:
            self._push(priority, header, body)

    def _push(self, priority: int, header: Header, body: bytes | memoryview) -> None:
        frame = encode_header(header)
        if not self._outbox and self._try_send(frame, body):
            return
        if not self._outbox.push(priority, len(frame) + len(body), (frame, body)):
            self._reason = "the queue to the broker was full"
            self._inbox.append((self._handle, (Event.BROKEN, time.monotonic())))  # the next connection says it again

    def _try_send(self, header: bytes, body: bytes | memoryview) -> bool:
        if self._dealer is None:
            return False
        try:
            self._dealer.send(header, FIRST_FRAME)
        except zmq.Again:
            return False
        self._dealer.send(body, LAST_FRAME)
        return True

    def _flush(self) -> None:
        while (item := self._outbox.peek()) is not None and self._try_send(*item):
            self._outbox.pop()

    def _send_update(self, facts: dict[str, Any]) -> None:
        body, flags = pack_body(facts)
        self._send(CONTROL, Header(Kind.UPDATE, flags=flags), body)

    # Receiving

    def _receive(self) -> None:
        now = time.monotonic()
        for _ in range(BATCH):
            if self._dealer is None:
                return
            try:
                frames = self._dealer.recv_multipart(LAST_FRAME)
            except zmq.Again:
                return
            self._connection.heard_at = now
            try:
                if len(frames) != 2:
                    raise ProtocolError(f"a message of {len(frames)} frames")
                header = decode_header(frames[0])
                MESSAGES.get(header.kind, Link._on_unknown)(self, header, frames[1], now)
            except ProtocolError as error:
                self.dropped += 1
                if self.dropped == 1 or self.dropped % 1000 == 0:
                    get_logger("orbit_zmq.link").warning("message-dropped", reason=str(error), dropped=self.dropped)
            if not self._has_arrived():
                return

    def _on_welcome(self, header: Header, body: bytes, now: float) -> None:
        facts = unpack_map(body, header.flags)
        limits = Limits.from_body(facts.get("limits", {})).agreed_with(Limits())
        self._connection.intervals = Intervals.from_body(facts.get("intervals", {}))
        self.caller.limits = limits
        if self.server is not None:
            self.server.limits = limits
        self.name, self.user = str(facts.get("name", "")), str(facts.get("user", ""))
        self.epoch = bytes(facts.get("epoch") or b"")
        self._handle(Event.WELCOMED, now)
        if facts.get("want_catalogue"):
            self._send_update({"catalogue_body": self._party.catalogue()})

    def _on_who_are_you(self, header: Header, body: bytes, now: float) -> None:
        self._handle(Event.ASKED_WHO, now)

    def _on_bye(self, header: Header, body: bytes, now: float) -> None:
        self._reason = "it has been stopped" if header.flags & FINAL else "it is restarting"
        self._handle(Event.SAID_BYE if header.flags & FINAL else Event.BROKEN, now)

    def _on_heartbeat(self, header: Header, body: bytes, now: float) -> None:
        if header.flags & PROBE:
            self._next_heartbeat = self._due_at = now

    def _on_request(self, header: Header, body: bytes, now: float) -> None:
        if self.server is None or not header.caller:
            self._answer_unsupported(header, "requests")
        else:
            self.server.on_request(header, body, now)

    def _on_answer(self, header: Header, body: bytes, now: float) -> None:
        if header.id == 0 and header.kind == Kind.ERROR:
            self._on_refusal(header, body, now)
        else:
            self.caller.on_answer(header, body, now)

    def _on_refusal(self, header: Header, body: bytes, now: float) -> None:
        """An error that belongs to no call is the broker's answer to hello."""
        error = error_from_body(unpack_body(body, header.flags))
        self._reason = error.message
        if error.code in TRY_AGAIN:
            self._handle(Event.BROKEN, now)
        elif self._connection.state is not State.UP:
            self._refuse(error, now)

    def _on_chunk(self, header: Header, body: bytes, now: float) -> None:
        """What carries a caller's incarnation belongs to a request that is served here."""
        if header.caller and self.server is not None:
            self.server.on_chunk(header, body, now)
        else:
            self.caller.on_answer(header, body, now)

    def _on_credit(self, header: Header, body: bytes, now: float) -> None:
        if header.caller and self.server is not None:
            self.server.on_credit(header, now)
        else:
            self.caller.on_answer(header, body, now)

    def _on_resend(self, header: Header, body: bytes, now: float) -> None:
        self.caller.on_resend(header, now)

    def _on_cancel(self, header: Header, body: bytes, now: float) -> None:
        if self.server is not None:
            self.server.on_cancel(header)

    def _on_unknown(self, header: Header, body: bytes, now: float) -> None:
        self._answer_unsupported(header, f"messages of kind {header.kind}")

    def _answer_unsupported(self, header: Header, what: str) -> None:
        body, flags = pack_body(Unsupported(f"{self.name or 'this participant'} does not take {what}").to_body())
        answer = Header(Kind.ERROR, id=header.id, caller=header.caller, target=header.target, flags=flags)
        self._send(CALLS, answer, body)

    def _watch(self) -> None:
        """What libzmq tells of the connection."""
        now = time.monotonic()
        self._has_monitor_news = False
        while self._monitor is not None:
            try:
                frames = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            event = struct.unpack("=H", frames[0][:2])[0]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and self._connection.welcomes == 0:
                self._refuse(AuthRequired(f"the broker at {self.place.address} does not know this key"), now)
            elif event != zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._reason = REASONS.get(event, self._reason)
                self._handle(Event.BROKEN, now)


REASONS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it no longer knows this key",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed; the broker's key may not be the expected one",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "what answers there is not a broker of this kind",
    zmq.EVENT_DISCONNECTED: "the connection was closed",
}
EFFECTS: dict[Effect, Callable[[Link, float], None]] = {
    Effect.OPEN: Link._open,
    Effect.SAY_HELLO: Link._say_hello,
    Effect.RESUME: Link._resume,
    Effect.SUSPEND: Link._suspend,
    Effect.DROP: Link._drop,
    Effect.END_CALLS: Link._end_calls,
    Effect.SAY_BYE: Link._say_bye,
}
MESSAGES: dict[int, Callable[[Link, Header, bytes, float], None]] = {
    Kind.WELCOME: Link._on_welcome,
    Kind.WHO_ARE_YOU: Link._on_who_are_you,
    Kind.BYE: Link._on_bye,
    Kind.HEARTBEAT: Link._on_heartbeat,
    Kind.REQUEST: Link._on_request,
    Kind.REPLY: Link._on_answer,
    Kind.ERROR: Link._on_answer,
    Kind.CHUNK: Link._on_chunk,
    Kind.CREDIT: Link._on_credit,
    Kind.RESEND: Link._on_resend,
    Kind.CANCEL: Link._on_cancel,
}

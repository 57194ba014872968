"""The link: one participant's line to the broker.

Its thread opens connections, says hello, sends what the rules ask for, hands what arrives to them, and keeps their time. The
keeper decides in which thread that happens; here everything runs under its lock. Whoever is told something takes it over at
once: nothing in here waits for anybody.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from orbit_zmq import faultpoint
from orbit_zmq.errors import (
    Canceled,
    InternalError,
    OrbitError,
    ShuttingDown,
)
from orbit_zmq.log import get_logger
from orbit_zmq.place import Place
from orbit_zmq.rules.caller import Caller
from orbit_zmq.rules.connection import OPENING_S, REACH_S, Connection, Effect, Event, State
from orbit_zmq.rules.obstacles import Obstacle, Way, error_of
from orbit_zmq.rules.outbox import CONTROL, Outbox
from orbit_zmq.rules.server import Handler, Server
from orbit_zmq.transport.hearing import Ear
from orbit_zmq.transport.incoming import take, watch
from orbit_zmq.transport.keeper import Keeper
from orbit_zmq.transport.monitor import is_foreign
from orbit_zmq.transport.publishing import Publishing
from orbit_zmq.transport.sockets import Sockets, close_monitored, descriptor_of, has_arrived
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import FINAL, Header, Kind, encode_header
from orbit_zmq.wire.limits import PROTOCOL_VERSIONS, Limits

if TYPE_CHECKING:
    from orbit_zmq.transport.listener import Listening

log = get_logger(__name__)

BROKER_AWAY_S = 60.0  # calls wait so long for a broker to come back
SECOND_S = 1.0  # how often rare things are looked at
BATCH = 256  # messages taken from the socket before anything else gets its turn
QUEUE_MESSAGES = 1 << 20  # calls and credits bound what is queued here; these bounds are a backstop
QUEUE_BYTES = 1 << 30
FIRST_FRAME = int(zmq.DONTWAIT | zmq.SNDMORE)  # plain integers: pyzmq's flags cost a microsecond each time
LAST_FRAME = int(zmq.DONTWAIT)
LOOK_S = 0.1  # of waiting for a connection at a time
CLOSING_S = 1.0  # how long close waits for the thread


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
        on_change: Callable[[], None] = lambda: None,  # welcomed, interrupted, or refused; in the link's thread
    ) -> None:
        now = time.monotonic()
        self._places = place.in_order()
        self._best = 0  # where the last welcome came from
        self.place = place  # the one that is tried or used
        self.incarnation = secrets.token_bytes(16)
        self.name = ""
        self.user = ""
        self.epoch = b""
        self.dropped = 0  # messages that were no messages
        self.caller = Caller(self.send, Limits())
        self.server = None if handler is None else Server(self.send, handler, Limits())
        self.on_holders: Callable[[dict[str, Any]], None] = lambda facts: None  # who holds sessions here; in the link's thread
        self.publishing = None if handler is None else Publishing(self)
        self.party = party
        self._on_change = on_change
        self.connection = Connection(now, addresses=len(self._places))
        self._outbox: Outbox[tuple[bytes, bytes | memoryview]] = Outbox(QUEUE_MESSAGES, QUEUE_BYTES)
        self.keeper = Keeper(self)  # who looks after the socket, and how to be that oneself
        self.post = self.keeper.post
        self.notify = self.keeper.notify
        self.attach = self.keeper.attach
        self._sleeps_until = now
        self._due_at = now  # when the rules have something to do
        self._sockets = Sockets()
        self.ear = Ear(self, self._sockets)
        self._dealer: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._next_heartbeat = now
        self._next_second = now
        self.way = Way()
        self.tells_obstacles = handler is not None  # in the log; who gives up soon says it by its error
        self._refusal: OrbitError | None = None
        self._settled = threading.Event()  # up, refused, or closed
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="orbit-link", daemon=True)

    # From other threads

    def start(self) -> None:
        """Begin to connect; harmless when it has begun."""
        with self.keeper.lock:
            if not self._thread.ident:
                self._thread.start()

    def wait_until_up(self, timeout_s: float) -> None:
        """Return once welcomed; the refusal, or the error that says what stands in the way after that time.

        Every address has its turn, and a broker that has admitted the key is given more time.
        """
        left_s = timeout_s + REACH_S * (len(self._places) - 1)
        has_more_time = True
        if self.is_turned_away:
            self.post(self.retry_soon)
        while not self.is_up and not self.is_closed:
            began, look_s = time.monotonic(), max(0.0, min(left_s, LOOK_S))
            is_settled = self._settled.wait(look_s)
            left_s -= min(time.monotonic() - began, look_s)  # while the machine stood still, nobody could connect
            if is_settled or left_s > 0:
                continue
            if not (has_more_time and self.way.is_greeted):
                raise self.way.error(self.place.address, self.place.found_in, is_foreign)
            left_s, has_more_time = OPENING_S, False
        if self.is_closed:
            raise self.ending()

    @property
    def is_up(self) -> bool:
        return self.connection.state is State.UP

    @property
    def is_closed(self) -> bool:
        return self.connection.state in (State.CLOSED, State.REFUSED)

    @property
    def refusal(self) -> OrbitError | None:
        """Why the broker will not have this participant, if that is so."""
        return self._refusal

    @property
    def is_turned_away(self) -> bool:
        """Whether the broker does not admit this key at present."""
        return not self.is_up and self.way.is_barred

    def retry_soon(self) -> None:
        """Make the next attempt to connect soon. In the keeper's thread."""
        now = time.monotonic()
        self.connection.hurry(now)
        self._due_at = now

    def hurry(self, due_at: float) -> None:
        """Look again by then. In the keeper's thread."""
        self._due_at = min(self._due_at, due_at)

    def beat(self) -> None:
        """Say the next heartbeat at once. In the keeper's thread."""
        self._next_heartbeat = self._due_at = time.monotonic()

    def send_update(self, facts: dict[str, Any]) -> None:
        """Tell the broker of a change, for example of sessions opened or closed. From any thread."""
        self.post(self.say_update, facts)

    def listen(self, listening: Listening) -> None:
        """Begin to hear events; `listening.ready` is told when that is in force. From any thread."""
        self.keeper.queue(self.ear.listen, listening)

    def unlisten(self, listening: Listening) -> None:
        """Hear them no more. From any thread."""
        self.keeper.queue(self.ear.unlisten, listening)

    def close_soon(self) -> None:
        """Say bye, end open calls, and stop the thread; without waiting for it."""
        if os.getpid() == self._pid and self._thread.is_alive():
            self.keeper.queue(self.handle, Event.CLOSED, time.monotonic())

    def close(self) -> None:
        """The same, and wait for it. May be called more than once."""
        self.close_soon()
        if os.getpid() != self._pid or not self._thread.is_alive():
            return
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING_S)

    # What the keeper asks for

    def has_arrived(self) -> bool:
        return self._dealer is not None and has_arrived(self._dealer)

    def receive(self) -> bool:
        """Messages of the broker, up to a batch; whether there are more."""
        now = time.monotonic()
        for _ in range(BATCH):
            if self._dealer is None:
                return False
            try:
                frames = self._dealer.recv_multipart(LAST_FRAME)
            except zmq.Again:
                return False
            self.connection.heard_at = now
            take(self, frames, now)
            if not self.has_arrived():
                return False
        return True

    def work(self) -> None:
        now = time.monotonic()
        if self._monitor is not None:
            watch(self, self._monitor, now)
        if now >= self._due_at or now >= self.caller.next_deadline():
            self._due_at = self._tick(now)
        if self.ear.listener is not None:
            self.ear.listener.work(now)
        if self._outbox:
            self._flush()

    def due_in(self) -> float:
        if self.connection.state is State.CLOSED:
            return 0.0  # the thread ends now
        self._sleeps_until = min(self._due_at, self.caller.next_deadline())
        if self.ear.listener is not None:
            if self.ear.listener.has_arrived():
                return 0.0
            self._sleeps_until = min(self._sleeps_until, self.ear.listener.next_due())
        return max(0.0, self._sleeps_until - time.monotonic())

    def is_overdue(self) -> bool:
        return min(self._due_at, self.caller.next_deadline()) < self._sleeps_until

    def on_interrupt(self) -> None:
        """A message may have been cut in half: the next connection says everything again, but for lost chunks."""
        self.handle(Event.BROKEN, time.monotonic())
        self.caller.fail_moving(Canceled("another thread was interrupted while it received the answer"))

    # In the link's thread

    def _run(self) -> None:
        try:
            while self.connection.state is not State.CLOSED:
                self.keeper.turn()
        except Exception as error:
            log.exception("link-failed")
            self._refusal = InternalError(f"the connection's thread has failed: {error}")
            self.connection.handle(Event.CLOSED, time.monotonic())
        finally:
            self.keeper.end(self._last_words)
            self._settled.set()

    def _last_words(self) -> None:
        if self.ear.listener is not None:
            self.ear.listener.fail(self.ending())
        self._drop()
        self._sockets.close()
        self.caller.fail_all(self.ending())

    def _tick(self, now: float) -> float:
        """Do what is due, and say when something will be again."""
        self._apply(self.connection.tick(now), now)
        due = [self.connection.next_tick(), self.caller.tick(now)]
        if self.server is not None:
            due.append(self.server.tick(now))
        if now >= self._next_second:
            self._next_second = now + SECOND_S
            self._each_second(now)
        due.append(self._next_second)
        if self.connection.state is State.UP:
            if self.publishing is not None:
                due.append(self.publishing.tick(now))
            if now >= self._next_heartbeat:
                self._next_heartbeat = now + self.connection.intervals.heartbeat_s
                heard = self.ear.listener.pulse() if self.ear.listener is not None else {}
                body, flags = pack_body(self.party.pulse() | heard)
                self.send(CONTROL, Header(Kind.HEARTBEAT, flags=flags), body)
            due.append(self._next_heartbeat)
        return min(due)

    def _each_second(self, now: float) -> None:
        self.caller.repeat_chunks(now)
        if self.server is not None:
            self.server.repeat_chunks(now)
        if self.publishing is not None:
            self.publishing.forget(now)
        is_away = self.connection.state in (State.DOWN, State.OPENING)
        if is_away and now - self.connection.down_since >= BROKER_AWAY_S:
            self.caller.fail_older_than(now - BROKER_AWAY_S, self.obstacle())

    def handle(self, event: Event, now: float) -> None:
        """Something has happened to the connection."""
        self._due_at = now
        self._apply(self.connection.handle(event, now), now)

    def _apply(self, effects: tuple[Effect, ...], now: float) -> None:
        for effect in effects:
            EFFECTS[effect](self, now)

    def _open(self, now: float) -> None:
        self.place = self._places[(self._best + self.connection.attempts - 1) % len(self._places)]
        self.way.on_opening()
        try:
            self._dealer, self._monitor = self._sockets.dealer(
                self.place.address, server_key=self.place.server_key, keys=self.place.keys
            )
        except OrbitError as error:
            self.refuse(error, now)
            return
        self.keeper.watch(descriptor_of(self._dealer))
        self.keeper.watch_aside(descriptor_of(self._monitor), True)

    def _say_hello(self, now: float) -> None:
        facts = {
            "versions": list(PROTOCOL_VERSIONS),
            "incarnation": self.incarnation,
            "limits": Limits().to_body(),
            **self.party.hello(),
        }
        if self.epoch:
            facts["epoch"] = self.epoch  # another broker than this one has been restarted, and its endpoints will be back
        if self.publishing is not None:
            facts["tips"] = self.publishing.on_hello()
        body, flags = pack_body(facts)
        self._push(CONTROL, Header(Kind.HELLO, flags=flags), body)

    def _resume(self, now: float) -> None:
        self._best = self._places.index(self.place)
        self.way.on_welcome()
        self.tells_obstacles = self.server is not None
        self._next_heartbeat = now
        self.caller.on_connected(now)
        self.ear.on_up()
        self._settled.set()
        self._on_change()

    def _suspend(self, now: float) -> None:
        self._settled.clear()
        self.caller.on_disconnected()
        self.ear.on_down()
        self._on_change()

    def _drop(self, now: float = 0.0) -> None:
        self._outbox.clear()  # what was not sent is said again on the next connection
        if self._dealer is not None and self._monitor is not None:
            self.keeper.unwatch()
            self.keeper.watch_aside(descriptor_of(self._monitor), False)
            close_monitored(self._dealer, self._monitor)
            self._dealer = self._monitor = None

    def _end_calls(self, now: float) -> None:
        self.caller.fail_all(self.ending())

    def _say_bye(self, now: float) -> None:
        self._push(CONTROL, Header(Kind.BYE, flags=FINAL), b"")
        self._flush()

    def ending(self) -> OrbitError:
        """Why there is no connection any more."""
        if self._refusal is not None:
            return self._refusal
        if self.connection.state is State.CLOSED:
            return ShuttingDown("this client has been closed", hint="Make a new one.")
        return self.obstacle() if self.is_turned_away else ShuttingDown("the broker has been stopped")

    def obstacle(self) -> OrbitError:
        """What stands in the way of a connection."""
        return self.way.error(self.place.address, self.place.found_in)

    def meet(self, obstacle: Obstacle, now: float) -> None:
        """This attempt has failed. An endpoint says so once, until it fails in another way."""
        if self.way.meet(self.place.address, obstacle) and self.tells_obstacles:
            error = error_of(obstacle, self.place.address)
            log.warning("not-connected", reason=error.message, hint=error.hint)
        self.handle(Event.NOT_ADMITTED if obstacle is Obstacle.NOT_ADMITTED else Event.BROKEN, now)

    def refuse(self, error: OrbitError, now: float) -> None:
        """The broker will not have this participant."""
        self._refusal = error
        self.handle(Event.REFUSED, now)
        self._settled.set()
        self._on_change()

    # Sending

    def send(self, priority: int, header: Header, body: bytes | memoryview) -> bool:
        """What the rules say. Between two connections it is dropped (False): they say it again on the next one."""
        if self.connection.state is not State.UP:
            return False
        self._push(priority, header, body)
        return True

    def _push(self, priority: int, header: Header, body: bytes | memoryview) -> None:
        frame = encode_header(header)
        if not self._outbox and self._try_send(frame, body):
            return
        if not self._outbox.push(priority, len(frame) + len(body), (frame, body)):
            self.way.reason = "the queue to the broker was full"
            self.keeper.queue(self.handle, Event.BROKEN, time.monotonic())  # the next connection says it again

    def _try_send(self, header: bytes, body: bytes | memoryview) -> bool:
        if self._dealer is None:
            return False
        if faultpoint.is_armed:
            faultpoint.reach("client.sending")
        try:
            self._dealer.send(header, FIRST_FRAME)
            self._dealer.send(body, LAST_FRAME)
        except zmq.Again:  # also between the two, when the connection has just gone: libzmq then sends neither
            return False
        return True

    def _flush(self) -> None:
        while (item := self._outbox.peek()) is not None and self._try_send(*item):
            self._outbox.pop()

    def say_update(self, facts: dict[str, Any]) -> None:
        body, flags = pack_body(facts)
        self.send(CONTROL, Header(Kind.UPDATE, flags=flags), body)

    def send_event(self, frame: bytes, body: bytes) -> bool:
        """Events wait in their stream, so that they are never in the way of anything that is queued here."""
        return not self._outbox and self._try_send(frame, body)


EFFECTS: dict[Effect, Callable[[Link, float], None]] = {
    Effect.OPEN: Link._open,
    Effect.SAY_HELLO: Link._say_hello,
    Effect.RESUME: Link._resume,
    Effect.SUSPEND: Link._suspend,
    Effect.DROP: Link._drop,
    Effect.END_CALLS: Link._end_calls,
    Effect.SAY_BYE: Link._say_bye,
}

"""The link: one participant's line to the broker.

Its thread opens connections, says hello, sends what the rules ask for, hands what arrives to them, and keeps their time. The
keeper decides in which thread that happens; here everything runs under its lock. Whoever is told something takes it over at
once: nothing in here waits for anybody.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from orbit_zmq import faultpoint
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
from orbit_zmq.rules.publisher import Publisher
from orbit_zmq.rules.server import Handler, Server
from orbit_zmq.transport.hearing import Ear
from orbit_zmq.transport.keeper import Keeper
from orbit_zmq.transport.sockets import Sockets, close_monitored, descriptor_of, has_arrived
from orbit_zmq.wire.body import pack_body, unpack_body, unpack_map
from orbit_zmq.wire.header import FINAL, PROBE, Header, Kind, decode_header, encode_header
from orbit_zmq.wire.limits import PROTOCOL_VERSIONS, Intervals, Limits

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
        self.on_holders: Callable[[dict[str, Any]], None] = lambda facts: None  # who holds sessions here; in the link's thread
        self.publisher = None if handler is None else Publisher()
        self._party = party
        self._on_change = on_change
        self._connection = Connection(now)
        self._outbox: Outbox[tuple[bytes, bytes | memoryview]] = Outbox(QUEUE_MESSAGES, QUEUE_BYTES)
        self._keeper = Keeper(self)
        self.post = self._keeper.post
        self.notify = self._keeper.notify
        self.attach = self._keeper.attach
        self._sleeps_until = now
        self._due_at = now  # when the rules have something to do
        self._sockets = Sockets()
        self._ear = Ear(self, self._sockets)
        self._dealer: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._next_heartbeat = now
        self._next_second = now
        self._reason = "nothing answers"
        self._refusal: OrbitError | None = None
        self._settled = threading.Event()  # up, refused, or closed
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="orbit-link", daemon=True)

    # From other threads

    def start(self) -> None:
        """Begin to connect; harmless when it has begun."""
        with self._keeper.lock:
            if not self._thread.ident:
                self._thread.start()

    def wait_until_up(self, timeout_s: float) -> None:
        """Return once welcomed; the refusal, or BrokerUnreachable with what was seen so far."""
        ends_at = time.monotonic() + timeout_s
        while not self.is_up and not self.is_closed:
            if not self._settled.wait(max(0.0, ends_at - time.monotonic())):
                raise self._unreachable()
        if self.is_closed:
            raise self.ending()

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

    @property
    def keeper(self) -> Keeper:
        """Who looks after the socket, and how to be that oneself."""
        return self._keeper

    def hurry(self) -> None:
        """Say the next heartbeat at once. In the keeper's thread."""
        self._next_heartbeat = self._due_at = time.monotonic()

    def send_update(self, facts: dict[str, Any]) -> None:
        """Tell the broker of a change, for example of sessions opened or closed. From any thread."""
        self.post(self._send_update, facts)

    def publish(self, header: Header, body: bytes) -> None:
        """Send an event to whoever hears its audience; its header lacks nothing but the number. From any thread."""
        self.post(self._publish, header, body)

    def listen(self, listening: Listening) -> None:
        """Begin to hear events; `listening.ready` is told when that is in force. From any thread."""
        self._keeper.queue(self._ear.listen, listening)

    def unlisten(self, listening: Listening) -> None:
        """Hear them no more. From any thread."""
        self._keeper.queue(self._ear.unlisten, listening)

    def close_soon(self) -> None:
        """Say bye, end open calls, and stop the thread; without waiting for it."""
        if os.getpid() == self._pid and self._thread.is_alive():
            self._keeper.queue(self._handle, Event.CLOSED, time.monotonic())

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
            self._connection.heard_at = now
            self._take(frames, now)
            if not self.has_arrived():
                return False
        return True

    def work(self) -> None:
        self._watch()
        now = time.monotonic()
        if now >= self._due_at or now >= self.caller.next_deadline():
            self._due_at = self._tick(now)
        if self._ear.listener is not None:
            self._ear.listener.work(now)
        if self._outbox:
            self._flush()

    def due_in(self) -> float:
        self._sleeps_until = min(self._due_at, self.caller.next_deadline())
        if self._ear.listener is not None:
            if self._ear.listener.has_arrived():
                return 0.0
            self._sleeps_until = min(self._sleeps_until, self._ear.listener.next_due())
        return max(0.0, self._sleeps_until - time.monotonic())

    def is_overdue(self) -> bool:
        return min(self._due_at, self.caller.next_deadline()) < self._sleeps_until

    def on_interrupt(self) -> None:
        """A message may have been cut in half: the next connection says everything again, but for lost chunks."""
        self._handle(Event.BROKEN, time.monotonic())
        self.caller.fail_moving(Canceled("another thread was interrupted while it received the answer"))

    # In the link's thread

    def _run(self) -> None:
        try:
            while self._connection.state is not State.CLOSED:
                self._keeper.turn()
        except Exception as error:
            log.exception("link-failed")
            self._refusal = InternalError(f"the connection's thread has failed: {error}")
            self._connection.handle(Event.CLOSED, time.monotonic())
        finally:
            self._keeper.end(self._last_words)
            self._settled.set()

    def _last_words(self) -> None:
        if self._ear.listener is not None:
            self._ear.listener.fail(self.ending())
        self._drop()
        self._sockets.close()
        self.caller.fail_all(self.ending())

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
            if self.publisher is not None:
                due.append(self._tick_events(self.publisher, now))
            if now >= self._next_heartbeat:
                self._next_heartbeat = now + self._connection.intervals.heartbeat_s
                heard = self._ear.listener.pulse() if self._ear.listener is not None else {}
                body, flags = pack_body(self._party.pulse() | heard)
                self._send(CONTROL, Header(Kind.HEARTBEAT, flags=flags), body)
            due.append(self._next_heartbeat)
        return min(due)

    def _each_second(self, now: float) -> None:
        self.caller.repeat_chunks(now)
        if self.server is not None:
            self.server.repeat_chunks(now)
        if self.publisher is not None:
            self.publisher.tick(now)
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
        self._keeper.watch(descriptor_of(self._dealer))
        self._keeper.watch_aside(descriptor_of(self._monitor), True)

    def _say_hello(self, now: float) -> None:
        facts = {
            "versions": list(PROTOCOL_VERSIONS),
            "incarnation": self.incarnation,
            "limits": Limits().to_body(),
            **self._party.hello(),
        }
        if self.epoch:
            facts["epoch"] = self.epoch  # another broker than this one has been restarted, and its endpoints will be back
        if self.publisher is not None:
            facts["tips"] = self.publisher.on_hello()
        body, flags = pack_body(facts)
        self._push(CONTROL, Header(Kind.HELLO, flags=flags), body)

    def _resume(self, now: float) -> None:
        self._next_heartbeat = now
        self.caller.on_connected(now)
        self._ear.on_up()
        self._settled.set()
        self._on_change()

    def _suspend(self, now: float) -> None:
        self._settled.clear()
        self.caller.on_disconnected()
        self._ear.on_down()

    def _drop(self, now: float = 0.0) -> None:
        self._outbox.clear()  # what was not sent is said again on the next connection
        if self._dealer is not None and self._monitor is not None:
            self._keeper.unwatch()
            self._keeper.watch_aside(descriptor_of(self._monitor), False)
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
            self._keeper.queue(self._handle, Event.BROKEN, time.monotonic())  # the next connection says it again

    def _try_send(self, header: bytes, body: bytes | memoryview) -> bool:
        if self._dealer is None:
            return False
        if faultpoint.is_armed:
            faultpoint.reach("client.sending")
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

    def _take(self, frames: list[bytes], now: float) -> None:
        header = Header(0)
        try:
            if len(frames) != 2:
                raise ProtocolError(f"a message of {len(frames)} frames")
            header = decode_header(frames[0])
            MESSAGES.get(header.kind, Link._on_unknown)(self, header, frames[1], now)
        except ProtocolError as error:
            self.dropped += 1
            if self.dropped == 1 or self.dropped % 1000 == 0:
                log.warning("message-dropped", reason=str(error), dropped=self.dropped)
        except Exception:
            log.exception("rule-failed")
            if not header.caller:
                self.caller.fail_one(header.id, InternalError("the answer could not be understood; the log says why"))

    def _on_welcome(self, header: Header, body: bytes, now: float) -> None:
        facts = unpack_map(body, header.flags)
        limits = Limits.from_body(facts.get("limits", {})).agreed_with(Limits())
        self._connection.intervals = Intervals.from_body(facts.get("intervals", {}))
        self.caller.limits = limits
        if self.server is not None:
            self.server.limits = limits
        self.name, self.user = str(facts.get("name", "")), str(facts.get("user", ""))
        epoch = facts.get("epoch")
        self.epoch = epoch if isinstance(epoch, bytes) else b""
        self._ear.on_welcome(facts)

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
        faultpoint.reach("endpoint.received")
        if self.server is None or not header.caller:
            self._answer_unsupported(header, "requests")
        else:
            self.server.on_request(header, body, now)

    def _on_answer(self, header: Header, body: bytes, now: float) -> None:
        if header.id == 0 and header.kind == Kind.ERROR:
            self._on_refusal(header, body, now)
        else:
            faultpoint.reach("client.answered")
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

    def _on_holders(self, header: Header, body: bytes, now: float) -> None:
        self.on_holders(unpack_map(body, header.flags))

    def _on_cancel(self, header: Header, body: bytes, now: float) -> None:
        if self.server is not None:
            self.server.on_cancel(header)

    def _on_unknown(self, header: Header, body: bytes, now: float) -> None:
        self._answer_unsupported(header, f"messages of kind {header.kind}")

    def _answer_unsupported(self, header: Header, what: str) -> None:
        body, flags = pack_body(Unsupported(f"{self.name or 'this participant'} does not take {what}").to_body())
        answer = Header(Kind.ERROR, id=header.id, caller=header.caller, target=header.target, flags=flags)
        self._send(CALLS, answer, body)

    # Events

    def _publish(self, header: Header, body: bytes) -> None:
        if self.publisher is None:
            return
        now = time.monotonic()
        self.publisher.add(header, body, now)
        if self._connection.state is State.UP:
            self.publisher.flush(self._send_event, now)
            self._due_at = min(self._due_at, self.publisher.next_due(now))

    def _send_event(self, frame: bytes, body: bytes) -> bool:
        """Events wait in their stream, so that they are never in the way of anything that is queued here."""
        return not self._outbox and self._try_send(frame, body)

    def _tick_events(self, publisher: Publisher, now: float) -> float:
        publisher.flush(self._send_event, now)
        tips = publisher.due_tips(now)
        if tips:
            body, flags = pack_body(tips)
            self._send(CONTROL, Header(Kind.TIP, flags=flags), body)
        return publisher.next_due(now)

    def _on_tips(self, header: Header, body: bytes, now: float) -> None:
        self._ear.on_tips(header, body)

    def _on_keys(self, header: Header, body: bytes, now: float) -> None:
        self._ear.on_keys(header, body)

    def _watch(self) -> None:
        """What libzmq tells of the connection."""
        now = time.monotonic()
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
    Kind.TIP: Link._on_tips,
    Kind.KEYS: Link._on_keys,
    Kind.HOLDERS: Link._on_holders,
}

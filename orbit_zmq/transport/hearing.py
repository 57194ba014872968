"""Hearing: between a link and its listener, which is made when somebody listens first.

It hands the link's news to the listener, always in the keeper's thread, and takes the listener's questions to the link.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from orbit_zmq.errors import OrbitError, ProtocolError
from orbit_zmq.log import get_logger
from orbit_zmq.place import Place
from orbit_zmq.rules.caller import OpenCall
from orbit_zmq.transport.sockets import Sockets
from orbit_zmq.wire.body import pack_body, unpack_body, unpack_map
from orbit_zmq.wire.header import IDEMPOTENT, RAW, Header, Kind

if TYPE_CHECKING:
    from orbit_zmq.transport.link import Link
    from orbit_zmq.transport.listener import Done, Listener, Listening

ASK_S = 10.0


class Ear:
    """The listener of one link, if it has one."""

    def __init__(self, link: Link, sockets: Sockets) -> None:
        self.listener: Listener | None = None
        self._link = link
        self._sockets = sockets
        self._asked = 0  # questions that are open
        self._took_back = False  # the socket, from whoever waits for calls, meanwhile
        self._events: object = None  # what the last welcome said
        self._audiences: dict[str, Any] = {}

    @property
    def place(self) -> Place:
        return self._link.place

    @property
    def user(self) -> str:
        return self._link.user

    def listen(self, listening: Listening) -> None:
        if self._link.is_closed:
            listening.ready(self._link.ending())
            return
        if self.listener is None:
            from orbit_zmq.transport.listener import Listener  # loads cryptography, which who only calls does not need

            self.listener = Listener(self, self._sockets)
            self._go_up()
        self.listener.add(listening, time.monotonic())

    def unlisten(self, listening: Listening) -> None:
        if self.listener is not None:
            self.listener.remove(listening, time.monotonic())

    def on_welcome(self, facts: Mapping[str, Any]) -> None:
        self._events, audiences = facts.get("events"), facts.get("audiences")
        self._audiences = audiences if isinstance(audiences, dict) else {}

    def on_up(self) -> None:
        if self.listener is not None:
            self._link.keeper.queue(self._go_up)

    def on_down(self) -> None:
        if self.listener is not None:
            self._link.keeper.queue(self._go_down)

    def on_tips(self, header: Header, body: bytes) -> None:
        if self.listener is not None:
            self._link.keeper.queue(self._tell, self.listener.on_tips, header, body)

    def on_keys(self, header: Header, body: bytes) -> None:
        self._audiences |= unpack_map(body, header.flags)
        if self.listener is not None:
            self._link.keeper.queue(self._tell, self.listener.on_keys, header, body)

    def _go_up(self) -> None:
        if self.listener is not None and self._link.is_up:
            self.listener.on_down()  # a fresh connection for a fresh line
            self.listener.on_up(self._events, self._audiences, time.monotonic())

    def _go_down(self) -> None:
        if self.listener is not None and not self._link.is_up:
            self.listener.on_down()

    def _tell(self, function: Callable[[Header, bytes, float], None], header: Header, body: bytes) -> None:
        try:
            function(header, body, time.monotonic())
        except ProtocolError:
            self._link.dropped += 1

    # What the listener asks for

    def ask(self, header: Header, arguments: Mapping[str, Any], done: Done) -> None:
        body, flags = pack_body(arguments)
        header.kind, header.flags = Kind.REQUEST, IDEMPOTENT
        if not self._asked and self._link.keeper.is_lent:
            self._took_back = True
            self._link.keeper.lend(-1)  # perhaps nobody waits for a call, and the answer would lie there
        self._asked += 1
        try:
            self._link.caller.start(OpenCall(header, body, flags, _Asked(self, done), ASK_S), time.monotonic())
        except OrbitError as error:
            self.tell_soon(done, error)

    def beat(self) -> None:
        self._link.beat()

    def watch(self, descriptor: int, is_watched: bool) -> None:
        self._link.keeper.watch_aside(descriptor, is_watched)

    def now(self) -> float:
        return time.monotonic()

    def tell_soon(self, done: Done, answer: object) -> None:
        self._link.keeper.queue(self._answered, done, answer)

    def _answered(self, done: Done, answer: object) -> None:
        self._asked -= 1
        if not self._asked and self._took_back:
            self._took_back = False
            self._link.keeper.lend(+1)
        try:
            done(answer)
        except ProtocolError as error:
            get_logger("orbit_zmq.events").warning("answer-dropped", reason=error.message)


class _Asked:
    """Waits for an answer that the listener asked for, and hands it over in the keeper's thread."""

    __slots__ = ("_done", "_ear")

    def __init__(self, ear: Ear, done: Done) -> None:
        self._ear = ear
        self._done = done

    def on_reply(self, body: bytes, flags: int) -> None:
        try:
            answer = body if flags & RAW else unpack_body(body, flags)
        except ProtocolError as error:
            answer = error
        self._ear.tell_soon(self._done, answer)

    def on_error(self, error: OrbitError) -> None:
        self._ear.tell_soon(self._done, error)

    def on_stream(self, data: bytes, last: bool) -> None: ...
    def on_room(self) -> None: ...

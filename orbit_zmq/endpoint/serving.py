"""Serving: hands requests from the link's thread to the service's loop, and answers back.

It keeps no state of its own beyond the call object that both sides share; which requests run and what is remembered is
the rules' matter, what they do the service's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from orbit_zmq.endpoint.service import Service
from orbit_zmq.errors import Busy, OrbitError
from orbit_zmq.rules.publisher import Wanted
from orbit_zmq.rules.server import Entry
from orbit_zmq.transport.handover import Handover
from orbit_zmq.transport.link import Link
from orbit_zmq.wire.body import pack_body, unpack_map
from orbit_zmq.wire.header import STREAM

REPLAY = "replay"  # the one operation of an endpoint itself
REPLAYS = 4  # answered at once


class ServedCall:
    """One request on its way through the service; `Service` calls exactly one of the three answers."""

    __slots__ = ("_chunks", "_entry", "_link", "body", "flags", "header", "room", "stream_in")

    def __init__(self, link: Link, entry: Entry) -> None:
        self._link = link
        self._entry = entry
        self.header = entry.header
        self.flags = entry.header.flags
        self.body = b""
        self.room = asyncio.Event()
        self.stream_in: AsyncIterator[bytes] | None = None
        if self.flags & STREAM:
            self._chunks: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()  # bounded by the credit that is given
            self.stream_in = self._read()

    def reply(self, body: bytes, flags: int) -> None:
        """Answer with a result."""
        self._link.post(self._reply, body, flags)

    def fail(self, error: OrbitError) -> None:
        """Answer with an error."""
        self._link.post(self._fail, error)

    async def reply_stream(self, chunks: AsyncIterator[bytes]) -> None:
        """Answer with a stream, as fast as the caller takes it."""
        self._link.post(self._begin)
        try:
            async for chunk in chunks:
                await self.room.wait()
                self.room.clear()
                self._link.post(self._feed, chunk, False)
        except OrbitError as error:
            self.fail(error)
        else:
            self._link.post(self._feed, b"", True)

    def put(self, data: bytes, last: bool) -> None:
        """A chunk of the stream that comes with the request. In the loop's thread."""
        self._chunks.put_nowait((data, last))

    async def _read(self) -> AsyncIterator[bytes]:
        last = False
        while not last:
            data, last = await self._chunks.get()
            self._link.post(self._consumed)
            if data:
                yield data

    # In the link's thread

    def _reply(self, body: bytes, flags: int) -> None:
        if self._link.server is not None:
            self._link.server.reply(self._entry, body, flags, time.monotonic())

    def _fail(self, error: OrbitError) -> None:
        if self._link.server is not None:
            self._link.server.fail(self._entry, error, time.monotonic())

    def _begin(self) -> None:
        if self._link.server is not None:
            self._link.server.begin_stream(self._entry, b"", 0, time.monotonic())

    def _feed(self, data: bytes, last: bool) -> None:
        if self._link.server is not None:
            self._link.server.feed(self._entry, data, last, time.monotonic())

    def _consumed(self) -> None:
        if self._link.server is not None:
            self._link.server.consumed(self._entry)


class Serving:
    """The handler of an endpoint's link. Its methods are called in the link's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._service: Service | None = None
        self._link: Link | None = None
        self._replays: list[Entry] = []  # whose answers may still be on their way

    def connect(self, service: Service, link: Link) -> None:
        """Say whom requests go to; before the link starts."""
        self._service, self._link = service, link
        self._handover = Handover(self._loop, link.notify)
        link.on_holders = self.on_holders

    def execute(self, entry: Entry, body: bytes) -> None:
        if entry.header.operation == REPLAY and not entry.header.plugin and not entry.header.session:
            self._replay(entry, body)
        elif self._service is not None:
            call = self._call_of(entry)
            call.body = body
            self._handover.put(self._service.on_call, call)

    def cancel(self, entry: Entry, reason: str) -> None:
        if self._service is not None:
            self._handover.put(self._service.on_cancel, entry.header.caller, entry.header.id, reason)

    def on_holders(self, facts: dict[str, Any]) -> None:
        """The broker says which processes that hold sessions here are lost, and which are there again."""
        lost, back = (_incarnations(facts.get(word)) for word in ("lost", "back"))
        if self._service is not None:
            self._handover.put(self._service.sessions.on_holders, lost, back)

    def on_stream(self, entry: Entry, data: bytes, last: bool) -> None:
        self._handover.put(self._call_of(entry).put, data, last)

    def on_room(self, entry: Entry) -> None:
        self._handover.put(self._call_of(entry).room.set)

    def _replay(self, entry: Entry, body: bytes) -> None:
        """Give a subscriber what it has not heard. Here, so that a plugin that blocks its loop does not keep it waiting."""
        link, now = self._link, time.monotonic()
        if link is None or link.server is None or link.publishing is None:
            return
        try:
            self._replays = [other for other in self._replays if other.result is not None and not other.result.finished]
            if len(self._replays) >= REPLAYS:
                raise Busy(f"{REPLAYS} replays are being answered")
            wanted = Wanted.from_body(unpack_map(body, entry.header.flags))
            answer = link.publishing.replay(entry.header.user, wanted)
        except OrbitError as error:
            link.server.fail(entry, error, now)
            return
        link.server.reply(entry, *pack_body(answer), now)
        self._replays.append(entry)

    def _call_of(self, entry: Entry) -> ServedCall:
        if not isinstance(entry.work, ServedCall):
            if self._link is None:
                raise RuntimeError("the link was started before it was connected")
            entry.work = ServedCall(self._link, entry)
        return entry.work


def _incarnations(said: object) -> list[bytes]:
    return [one for one in said if isinstance(one, bytes)] if isinstance(said, list) else []

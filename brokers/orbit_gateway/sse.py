"""`GET /events`: a user's events, and the topology, as a stream of server-sent events for one reader.

A reader says by the query what it wants, and by Last-Event-ID how far it has come. What it is given is the feed's matter.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import product
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from orbit_gateway.answers import answering
from orbit_gateway.feeds import Feed, Key, Reader, frame_of
from orbit_gateway.protection import LAST_WORDS
from orbit_zmq.client.events import wire_topics
from orbit_zmq.errors import InvalidArgument, OrbitError

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway

KEEP_ALIVE_S = 15.0  # proxies cut what is silent for longer
RETRY_MS = 1_000
FILTERS = 256  # combinations that one reader may ask for
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close"}


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The one route of this module."""

    async def events(request: Request) -> Response:
        return await _open(gateway, request)

    return [Route("/events", answering(events), methods=["GET"])]


class EventStream(StreamingResponse):
    """The answer to one reader, until either side ends it, or the reader may not hear any more."""

    def __init__(self, feed: Feed, reader: Reader, first: Iterable[bytes], check: Callable[[], Awaitable[object]]) -> None:
        super().__init__(self._frames(reader, first), headers=HEADERS, media_type="text/event-stream")
        self._feed, self._reader, self._check = feed, reader, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[LAST_WORDS] = _closed
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.remove(self._reader)

    async def _frames(self, reader: Reader, first: Iterable[bytes]) -> AsyncIterator[bytes]:
        yield b"retry: %d\n" % RETRY_MS
        for frames in first:
            yield frames
        while not reader.reason:
            comment = b""
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await reader.wake.wait()
            except TimeoutError:
                comment = b": still here\n\n"
            try:
                await self._check()
            except OrbitError as error:
                reader.end(error.code)
            if data := comment + reader.take():
                yield data
        yield _closed(reader.reason)


def _closed(reason: str) -> bytes:
    return frame_of({"topic": "closed", "data": {"reason": reason}}, None)


async def _open(gateway: Gateway, request: Request) -> Response:
    identity = await gateway.identify(request)
    if request.method == "HEAD":
        return Response(headers=HEADERS, media_type="text/event-stream")
    reader = Reader(identity, _wanted(request))
    feed, first = await gateway.hub.open(reader, _after(request))
    return EventStream(feed, reader, first, lambda: gateway.identify(request))


def _wanted(request: Request) -> frozenset[Key]:
    """The filters of the query; several values of one name are alternatives."""
    query = request.query_params
    unknown = query.keys() - {"endpoint", "plugin", "session", "topic"}
    if unknown:
        raise InvalidArgument(f"unknown filter {sorted(unknown)[0]}", hint="Filters are endpoint, plugin, session and topic.")
    topics = [topic for said in query.getlist("topic") for topic in wire_topics(said)]
    alternatives = [*(query.getlist(name) or [""] for name in ("endpoint", "plugin", "session")), topics or [""]]
    if math.prod(map(len, alternatives)) > FILTERS:
        raise InvalidArgument(f"more than {FILTERS} combinations of filters", hint="Open several streams.")
    return frozenset((endpoint, plugin, session, topic) for endpoint, plugin, session, topic in product(*alternatives))


def _after(request: Request) -> int | None:
    said = request.headers.get("last-event-id", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None

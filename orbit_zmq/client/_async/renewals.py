"""AsyncRenewals: sessions with a ttl live on while this client listens to them.

An endpoint does not know who hears its events, so the client asks for the state of such a session every third of its ttl,
which is activity like any call. It keeps nothing alive but sessions: not the client, and not itself when nobody listens.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orbit_zmq.errors import OrbitError, SessionClosed, SessionExpired
from orbit_zmq.transport.async_port import AsyncPort
from orbit_zmq.transport.bell import AsyncBell

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient

PART = 1 / 3  # of the ttl: one renewal may be lost
LEAST_S = 0.1
RETRY_S = 5.0  # a session that is not there may be opened yet; an endpoint that is away may come back
DEADLINE_S = 5.0
LOOK_S = 60.0  # so often it looks whether the client is still there


@dataclass(frozen=True, slots=True)
class HeardSession:
    """A session that somebody listens to; endpoint and plugin may be left empty."""

    session: str
    endpoint: str
    plugin: str


class AsyncRenewals:
    """The sessions that one client listens to, and one task (a thread, in the sync twin) while any of them has a ttl."""

    def __init__(self, client: AsyncClient, port: AsyncPort) -> None:
        self._client = weakref.ref(client)
        self._port = port
        self._bell = AsyncBell()
        self._lock = threading.Lock()
        self._listeners: dict[HeardSession, int] = {}
        self._due: dict[HeardSession, float] = {}
        self._runs = False

    def begin(self, heard: HeardSession) -> None:
        """Somebody listens to a session from now on."""
        with self._lock:
            self._listeners[heard] = self._listeners.get(heard, 0) + 1
            self._due[heard] = time.monotonic()
            starts, self._runs = not self._runs, True
        if starts:
            self._port.spawn(self._run)
        self._bell.ring()

    def end(self, heard: HeardSession) -> None:
        """One who listened does not any more. Harmless after `close`."""
        with self._lock:
            left = self._listeners.pop(heard, 0) - 1
            if left > 0:
                self._listeners[heard] = left
            else:
                self._due.pop(heard, None)
        self._bell.ring()

    def close(self) -> None:
        """Nobody listens any more."""
        with self._lock:
            self._listeners.clear()
            self._due.clear()
        self._bell.ring()

    async def _run(self) -> None:
        while (pause_s := self._pause_s()) is not None:
            await self._bell.wait(pause_s)
            now = time.monotonic()
            for heard in [heard for heard, at in tuple(self._due.items()) if at <= now]:
                self._put_off(heard, await self._renew(heard))

    def _pause_s(self) -> float | None:
        """How long there is nothing to do; None when there never will be."""
        with self._lock:
            if not self._due or self._client() is None:
                self._runs = False
                return None
            return min(max(min(self._due.values()) - time.monotonic(), 0.0), LOOK_S)

    def _put_off(self, heard: HeardSession, by_s: float) -> None:
        with self._lock:
            if heard in self._due and by_s < math.inf:
                self._due[heard] = time.monotonic() + by_s
            else:
                self._due.pop(heard, None)

    async def _renew(self, heard: HeardSession) -> float:
        """Ask for the session's state; after how many seconds it has to be asked for again."""
        client = self._client()
        if client is None:
            return math.inf
        try:
            status = await client.call(
                heard.endpoint, heard.plugin, "session_status", session=heard.session, deadline_s=DEADLINE_S
            )
        except (SessionClosed, SessionExpired):
            return math.inf
        except OrbitError:
            return RETRY_S
        ttl = status.get("ttl")
        return max(ttl * PART, LEAST_S) if ttl else math.inf

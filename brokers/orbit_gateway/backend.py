"""The gateway's side towards the broker: one connection with the role `gateway`, and a client for each user of HTTP.

All of them share the connection and act on behalf of their user, so that ownership, rights and audience are that user's.
Nothing here knows of HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any

from orbit_zmq import AsyncClient
from orbit_zmq.environment import environment_facts
from orbit_zmq.errors import BrokerUnreachable
from orbit_zmq.place import Place
from orbit_zmq.transport.async_port import AsyncPort
from orbit_zmq.transport.link import Link

USERS = 1_024  # clients that are remembered
CONNECT_S = 2.0  # whoever starts a gateway by hand soon hears what stands in its way
BESIDE_S = 10.0  # whose parent has the broker knows that it is there, though the machine may be busy
AWAY_S = 3.0  # a request waits so long for a broker that is away: it may only have been started again
LOOK_S = 0.05


class GatewayParty:
    """What the gateway says of itself at hello."""

    def hello(self) -> dict[str, Any]:
        return {"role": "gateway", "environment": environment_facts()}

    def catalogue(self) -> bytes:
        return b""

    def pulse(self) -> dict[str, Any]:
        return {}


class Backend:
    """The connection, and the clients over it."""

    def __init__(self, place: Place) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.link = Link(place, GatewayParty(), on_change=self._on_change)
        self._port = AsyncPort(self.link)
        self._clients: dict[str, AsyncClient] = {}
        self.pages: dict[tuple[bytes, str], dict[str, Any]] = {}  # (incarnation, instance) -> how a plugin looks

    @property
    def own(self) -> AsyncClient:
        """Acts for the user of the gateway's own key."""
        return self.client_of("")

    @property
    def url(self) -> str:
        """The broker's address."""
        return self.link.place.address

    async def open(self, within_s: float) -> None:
        """Connect; BrokerUnreachable or AuthRequired say what stands in the way."""
        await self._port.open(within_s)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        await self._port.close()

    def client_of(self, user: str) -> AsyncClient:
        """A client that acts for a user."""
        client = self._clients.get(user)
        if client is None:
            while len(self._clients) >= USERS:
                del self._clients[next(iter(self._clients))]
            client = self._clients[user] = AsyncClient.over(self.link, on_behalf_of=user)
        return client

    async def client(self, user: str, within_s: float = AWAY_S) -> AsyncClient:
        """The same once the broker is there; BrokerUnreachable where it stays away for so long, and nothing was sent to it."""
        ends_at = self._loop.time() + min(within_s, AWAY_S)
        while not self.link.is_up:
            if self._loop.time() >= ends_at:
                raise BrokerUnreachable(
                    f"the gateway's broker is away: {self.link.obstacle().message}",
                    hint="Nothing was done. Try again in a moment.",
                )
            await asyncio.sleep(LOOK_S)
        return self.client_of(user)

    async def wait_until_refused(self) -> None:
        """Return when the broker will not have this gateway any more; raise why."""
        while self.link.refusal is None:
            await self._changed.wait()
            self._changed.clear()
        raise self.link.refusal

    def _on_change(self) -> None:
        """In the link's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

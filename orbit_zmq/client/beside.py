"""An asyncio client on the connection of a plain one: for a thread with a loop of its own that works beside other threads.

The loop looks after the socket meanwhile, which saves its calls a change of thread; threads that call through the plain client
are served, too. This module must not open or close connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orbit_zmq.client._async.client import AsyncClient
from orbit_zmq.client._sync.client import Client


@asynccontextmanager
async def client_beside(client: Client) -> AsyncIterator[AsyncClient]:
    """A client for this loop on the connection of `client`, which has to be open, and stays so."""
    link = client._link
    made = AsyncClient.over(link, on_behalf_of=client._on_behalf_of)
    made.endpoint_away_s, made.broker_away_s = client.endpoint_away_s, client.broker_away_s
    client._port.lend(-1)  # else the threads that wait for calls would have to look after the socket
    link.attach(asyncio.get_running_loop())
    try:
        yield made
    finally:
        await made.close()
        link.attach(None)
        client._port.lend(+1)

"""AsyncSubscription: a callback that hears events, until it is unsubscribed or the client is closed.

Each has a mailbox and a task (a thread, in the sync twin) of its own, so that a callback that is slow delays nobody else.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from orbit_zmq.client.events import Event, events_of
from orbit_zmq.client.page import facts_table
from orbit_zmq.errors import ProtocolError
from orbit_zmq.log import get_logger
from orbit_zmq.rules.heard import Heard, Missed
from orbit_zmq.transport.async_port import AsyncPort
from orbit_zmq.transport.mailbox import AsyncMailbox

if TYPE_CHECKING:
    from orbit_zmq.transport.listener import Listening

log = get_logger("orbit_zmq.events")

TELL_S = 1.0  # between two lines of the log about events that were missed


class AsyncSubscription:
    """What `subscribe` answers. `missed` counts the events that this subscriber was not given."""

    def __init__(
        self,
        port: AsyncPort,
        listening: Listening,
        mailbox: AsyncMailbox,
        filters: Mapping[str, str],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.missed = 0
        self.filters = {name: value for name, value in filters.items() if value}
        self._port = port
        self._listening = listening
        self._mailbox = mailbox
        self._topic = filters.get("topic", "")
        self._on_end = on_end
        self._told_at = -math.inf

    @property
    def _is_open(self) -> bool:
        """It ends when it is unsubscribed, and when the client is closed."""
        return not self._mailbox.is_closed

    def __repr__(self) -> str:
        wanted = ", ".join(f"{name} {value}" for name, value in self.filters.items()) or "everything"
        return f"<subscription to {wanted}: {'in force' if self._is_open else 'ended'}, {self.missed} events missed>"

    def _repr_html_(self) -> str:
        return facts_table("subscription", {**self.filters, "in force": self._is_open, "events missed": self.missed})

    async def unsubscribe(self) -> None:
        """Hear no more. The callback may be in the middle of one event, and gets no other one. Harmless when it has ended."""
        if self._is_open:
            self._port.unlisten(self._listening)
            self._mailbox.close()
            if self._on_end is not None:
                self._on_end()

    def start(self, tell: Callable[[Any], Any], on_missed: Callable[[str, int], Any] | None) -> None:
        """Begin to give what comes to a callback."""
        self._port.spawn(self._run, tell, on_missed)

    async def items(self) -> AsyncIterator[Any]:
        """What comes: Event, Missed, or the whole view of the topology."""
        while self._is_open:
            for item in await self._mailbox.take():
                if item is None or not self._is_open:
                    return
                if isinstance(item, dict):
                    yield item
                    continue
                try:
                    events = list(events_of(item, self._topic))
                except ProtocolError as error:
                    log.warning("event-dropped", reason=error.message)
                    events = [Missed(item.endpoint, 1)] if isinstance(item, Heard) else []
                for event in events:
                    if not self._is_open:
                        return
                    yield event

    async def take(self) -> list[Any]:
        """What has come since it was asked for last, bodies still packed: Heard and Missed, or None at the end."""
        return await self._mailbox.take()

    def _count(self, missed: Missed) -> None:
        """Who is too slow for a flood misses some again and again; the log says so once in a while."""
        self.missed += missed.count
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            log.warning("events-missed", endpoint=missed.endpoint, count=missed.count, in_all=self.missed)

    async def _run(self, tell: Callable[[Any], Any], on_missed: Callable[[str, int], Any] | None) -> None:
        async for item in self.items():
            try:
                if not isinstance(item, Missed):
                    await self._port.call_back(tell, item)
                    continue
                self._count(item)
                if on_missed is not None:
                    await self._port.call_back(on_missed, item.endpoint, item.count)
            except (Exception, SystemExit):  # the user's callback
                log.exception("callback-failed")


def caller_of(callback: Callable[..., Any], with_meta: bool) -> Callable[[Event], Any]:
    """How a callback is given an event: `callback(endpoint, plugin, topic, data)`, with `meta` behind if that is wanted."""
    if with_meta:
        return lambda event: callback(event.endpoint, event.plugin, event.topic, event.data, event.meta)
    return lambda event: callback(event.endpoint, event.plugin, event.topic, event.data)

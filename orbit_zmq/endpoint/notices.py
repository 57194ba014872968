"""Notices: what an endpoint's plugins tell the world, and what they are told of it.

Events of sessions and plugins get their audience and time here and go to the link. Plugins that override
`on_topology_change` are given every whole view in order, each in a task of its own; the endpoint listens only if there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from orbit_zmq.endpoint.service import Service
from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.rules.publisher import check_event_body, event_header
from orbit_zmq.rules.topology import View
from orbit_zmq.transport.handover import Handover
from orbit_zmq.transport.link import Link
from orbit_zmq.transport.listener import Listening
from orbit_zmq.transport.mailbox import AsyncMailbox

log = get_logger(__name__)


class Notices:
    """Between the plugins of one endpoint and its link. To be made in the loop's thread."""

    def __init__(self, link: Link, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._service = service
        self._handover = Handover(loop, link.notify)
        self._mailbox = AsyncMailbox(self._handover)
        self._listening: Listening | None = None
        self._view: View | None = None
        self._told: dict[Plugin, asyncio.Queue[View]] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        service.sessions.publish = self.publish
        service.on_plugins_changed = self.look

    def publish(self, audiences: set[str], plugin: str, session: str, topic: str, body: bytes, flags: int) -> None:
        """Send an event; an empty audience is the endpoint's own user. From any thread; nothing without a running link."""
        check_event_body(topic, body)
        now = time.time()
        for audience in {audience or self._link.user for audience in audiences}:
            header = event_header(audience, plugin, session, topic, now, flags)
            if audience and not self._link.is_closed and self._link.publishing is not None:
                self._link.publishing.publish(header, body)

    def look(self) -> None:
        """Which plugins want to hear of the topology? To be called when they are others."""
        wanting = {plugin for plugin in self._service.plugins if _wants_topology(plugin)}
        for plugin in self._told.keys() - wanting:
            del self._told[plugin]
        for plugin in wanting - self._told.keys():
            views: asyncio.Queue[View] = asyncio.Queue()
            self._told[plugin] = views
            if self._view is not None:
                views.put_nowait(self._view)
            self._tasks.append(self._service.spawn(self._tell(plugin, views)))
        if wanting and self._listening is None:
            self._listening = Listening(self._mailbox.put, _log_refusal, is_topology=True)
            self._link.listen(self._listening)
            self._tasks.append(self._service.spawn(self._receive()))
        elif not wanting and self._listening is not None:
            self._link.unlisten(self._listening)
            self._listening = self._view = None

    def stop(self) -> None:
        """Tell plugins nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _receive(self) -> None:
        while self._listening is not None:
            for item in await self._mailbox.take():
                if isinstance(item, dict):
                    self._view = item
                    for views in self._told.values():
                        views.put_nowait(item)

    async def _tell(self, plugin: Plugin, views: asyncio.Queue[View]) -> None:
        while self._told.get(plugin) is views:
            view = await views.get()
            hook: Callable[[View], Coroutine[Any, Any, None]] = plugin.on_topology_change
            try:
                await hook({name: dict(facts) for name, facts in view.items()})
            except (Exception, SystemExit):  # the plugin call
                log.exception("topology-hook-failed", plugin=plugin.instance_name)


def _wants_topology(plugin: Plugin) -> bool:
    return type(plugin).on_topology_change is not Plugin.on_topology_change


def _log_refusal(error: OrbitError | None) -> None:
    if error is not None:
        log.warning("topology-not-heard", code=error.code, reason=error.message)

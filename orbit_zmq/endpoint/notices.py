"""Notices: what an endpoint's plugins tell the world, and what they are told of it.

Events of sessions and plugins get their audience and time here and go to the link. Plugins that override
`on_topology_change` are given the whole view, each in a task of its own, and the newest one where several came meanwhile;
the endpoint listens only if there is such a plugin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from orbit_zmq.endpoint.raised import is_canceled
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
        self._listening: Listening | None = None
        self._receiving: asyncio.Task[Any] | None = None
        self._view: View | None = None
        self._told: dict[Plugin, _Told] = {}
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
            self._told.pop(plugin).end()
        for plugin in wanting - self._told.keys():
            told = self._told[plugin] = _Told(plugin)
            told.task = self._service.spawn(told.tell())
            if self._view is not None:
                told.put(self._view)
        if wanting and self._listening is None:
            mailbox = AsyncMailbox(self._handover)
            self._listening = Listening(mailbox.put, _log_refusal, is_topology=True)
            self._link.listen(self._listening)
            self._receiving = self._service.spawn(self._receive(mailbox))
        elif not wanting and self._listening is not None:
            self._link.unlisten(self._listening)
            self._listening = self._view = None
            if self._receiving is not None:
                self._receiving.cancel()

    def stop(self) -> None:
        """Tell plugins nothing more."""
        for told in self._told.values():
            told.end()
        if self._receiving is not None:
            self._receiving.cancel()

    async def _receive(self, mailbox: AsyncMailbox) -> None:
        while True:
            for item in await mailbox.take():
                if isinstance(item, dict):
                    self._view = item
                    for told in self._told.values():
                        told.put(item)


class _Told:
    """One plugin that is told of the topology: the newest view that it has not seen, and the task that calls its hook."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._view: View | None = None
        self._has_view = asyncio.Event()
        self._has_ended = False
        self.task: asyncio.Task[Any] | None = None

    def put(self, view: View) -> None:
        """There is a newer view."""
        self._view = view
        self._has_view.set()

    def end(self) -> None:
        """Tell it nothing more. A hook that ends its own plugin is not canceled."""
        self._has_ended = True
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    async def tell(self) -> None:
        """Call the hook for as long as the plugin is served."""
        hook: Callable[[View], Coroutine[Any, Any, None]] = self._plugin.on_topology_change
        while not self._has_ended:
            await self._has_view.wait()
            self._has_view.clear()
            view = self._view or {}
            try:
                await hook({name: dict(facts) for name, facts in view.items()})
            except (Exception, SystemExit, asyncio.CancelledError) as error:  # the plugin call
                if isinstance(error, asyncio.CancelledError) and is_canceled():
                    raise
                log.exception("topology-hook-failed", plugin=self._plugin.instance_name)


def _wants_topology(plugin: Plugin) -> bool:
    return type(plugin).on_topology_change is not Plugin.on_topology_change


def _log_refusal(error: OrbitError | None) -> None:
    if error is not None:
        log.warning("topology-not-heard", code=error.code, reason=error.message)

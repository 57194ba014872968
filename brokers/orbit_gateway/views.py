"""The endpoints as HTTP shows them: what REST lists, and what the topology frames of the event stream carry.

Only what the identity may reach is in them. Pages of plugins are asked for once and remembered.
"""

from __future__ import annotations

import asyncio
from typing import Any

from orbit_gateway.backend import Backend
from orbit_gateway.identity import Identity
from orbit_zmq.client.facts import EndpointFacts
from orbit_zmq.errors import OrbitError

UI_S = 2.0  # for a plugin to say how it looks; one that is silent is shown without
PAGES = 4_096  # remembered


async def endpoint_list(backend: Backend, identity: Identity, *, with_ui: bool = False) -> dict[str, Any]:
    """`{broker: {url}, endpoints: {name: {endpoint: {role, liveness}, plugins: {instance: {...}}}}}`."""
    found = await _reachable(backend, identity)
    if with_ui:
        await _learn_uis(backend, identity, found)
    endpoints = {facts.name: _entry(backend, facts, identity) for facts in found}
    return {"broker": {"url": backend.url}, "endpoints": endpoints}


async def endpoint_rows(backend: Backend, identity: Identity) -> list[dict[str, Any]]:
    """`[{name, plugins, connected, plugin_count}]`."""
    rows = []
    for facts in await _reachable(backend, identity):
        plugins = _plugins(facts, identity)
        connected = facts.state in ("present", "busy")
        rows.append({"name": facts.name, "plugins": plugins, "connected": connected, "plugin_count": len(plugins)})
    return rows


async def _reachable(backend: Backend, identity: Identity) -> list[EndpointFacts]:
    client = await backend.client(identity.user)
    handles = await client.endpoints()
    found = [handle.facts for handle in handles if identity.may_reach(handle.name)]
    return sorted(found, key=lambda facts: facts.name)


def _plugins(facts: EndpointFacts, identity: Identity) -> list[str]:
    return [
        name
        for name, one in sorted(facts.plugins.items())
        if identity.may_reach(facts.name, name) or identity.may_reach(facts.name, one.get("plugin", name))
    ]


def _entry(backend: Backend, facts: EndpointFacts, identity: Identity) -> dict[str, Any]:
    plugins = {
        name: {
            "namespace": f"/{facts.name}/{name}",
            "version": facts.plugins[name].get("version"),
            "enabled": True,
            "type": facts.plugins[name].get("plugin", name),
            "ui_config": backend.pages.get((facts.incarnation, name), {}),
        }
        for name in _plugins(facts, identity)
    }
    return {"endpoint": {"role": facts.host.get("role", "endpoint"), "liveness": facts.state}, "plugins": plugins}


async def _learn_uis(backend: Backend, identity: Identity, found: list[EndpointFacts]) -> None:
    client = backend.client_of(identity.user)

    async def learn(facts: EndpointFacts, plugin: str) -> None:
        try:
            said = await client.call(facts.name, plugin, "ui_config", deadline_s=UI_S)
        except OrbitError:
            return  # asked again the next time
        while len(backend.pages) >= PAGES:
            del backend.pages[next(iter(backend.pages))]
        backend.pages[facts.incarnation, plugin] = said.get("ui", {}) if isinstance(said, dict) else {}

    wanted = [(facts, name) for facts in found for name in _plugins(facts, identity)]
    await asyncio.gather(*(learn(facts, name) for facts, name in wanted if (facts.incarnation, name) not in backend.pages))

"""ORBIT-ZMQ: drive many HPC machines from one place.

What a program needs is here by name and imported when it is first used, so that `import orbit_zmq` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orbit_zmq._version import __version__

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient as AsyncClient
    from orbit_zmq.client._async.client import AsyncEndpointHandle as AsyncEndpointHandle
    from orbit_zmq.client._async.plugin import AsyncPluginClient as AsyncPluginClient
    from orbit_zmq.client._sync.client import Client as Client
    from orbit_zmq.client._sync.plugin import PluginClient as PluginClient
    from orbit_zmq.embedded import local as local
    from orbit_zmq.endpoint.endpoint import Endpoint as Endpoint
    from orbit_zmq.errors import OrbitError as OrbitError
    from orbit_zmq.errors import RemoteError as RemoteError
    from orbit_zmq.plugin import Plugin as Plugin
    from orbit_zmq.plugin import PluginSession as PluginSession
    from orbit_zmq.plugin import Raw as Raw
    from orbit_zmq.plugin.operation import operation as operation

_HOMES = {
    "AsyncClient": "orbit_zmq.client._async.client",
    "AsyncEndpointHandle": "orbit_zmq.client._async.client",
    "AsyncPluginClient": "orbit_zmq.client._async.plugin",
    "AsyncExecutor": "orbit_rhapsody.async_executor",  # of a plugin: found by name, for the library imports none
    "Client": "orbit_zmq.client._sync.client",
    "Executor": "orbit_rhapsody.executor",  # likewise
    "PluginClient": "orbit_zmq.client._sync.plugin",
    "Endpoint": "orbit_zmq.endpoint.endpoint",
    "OrbitError": "orbit_zmq.errors",
    "RemoteError": "orbit_zmq.errors",
    "local": "orbit_zmq.embedded",
    "Plugin": "orbit_zmq.plugin",
    "PluginSession": "orbit_zmq.plugin",
    "Raw": "orbit_zmq.plugin",
    "operation": "orbit_zmq.plugin",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'orbit_zmq' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

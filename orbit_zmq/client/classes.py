"""Which client class belongs to a plugin type: found by entry point, loaded when it is asked for, else the `client_class` of a
plugin that this process has defined.

A plugin whose class cannot be imported here is used through the generic class; the reason is logged once.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from orbit_zmq.log import get_logger


def _defined_here(plugin: str, attribute: str) -> Any:
    """The client class that a plugin class names, where that class has been defined in this process."""
    registry = sys.modules.get("orbit_zmq.plugin.registry")  # nothing of the endpoint's side is loaded for this
    client_class = getattr(registry.defined(plugin), "client_class", None) if registry is not None else None
    return client_class if client_class is not None and hasattr(client_class, attribute) else None


@cache
def _load(group: str, plugin: str) -> Any:
    for point in entry_points(group=group, name=plugin):
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            get_logger(__name__).warning("client-class-not-loaded", plugin=plugin, reason=str(error))
    return None


def async_client_class(plugin: str) -> Any:
    """The class of `orbit_zmq.async_clients` for this plugin type, or None."""
    return _load("orbit_zmq.async_clients", plugin) or _defined_here(plugin, "__aenter__")


def client_class(plugin: str) -> Any:
    """The class of `orbit_zmq.clients` for this plugin type, or None."""
    return _load("orbit_zmq.clients", plugin) or _defined_here(plugin, "__enter__")

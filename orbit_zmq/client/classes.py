"""Which client class belongs to a plugin type: found by entry point, loaded when it is asked for.

A plugin whose class cannot be imported here is used through the generic class; the reason is logged once.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from orbit_zmq.log import get_logger


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
    return _load("orbit_zmq.async_clients", plugin)


def client_class(plugin: str) -> Any:
    """The class of `orbit_zmq.clients` for this plugin type, or None."""
    return _load("orbit_zmq.clients", plugin)

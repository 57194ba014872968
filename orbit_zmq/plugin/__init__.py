"""What a plugin author imports: the base classes, the decorator, and the types that an operation may speak of."""

from orbit_zmq.plugin.host import Host
from orbit_zmq.plugin.operation import Caller, Raw, operation
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.registry import get_plugin_class, get_plugin_names
from orbit_zmq.plugin.request import JSONResponse, Request, Response
from orbit_zmq.plugin.session import PluginSession
from orbit_zmq.plugin.ui import UIConfig
from orbit_zmq.why import Explanation

__all__ = [
    "Caller",
    "Explanation",
    "Host",
    "JSONResponse",
    "Plugin",
    "PluginSession",
    "Raw",
    "Request",
    "Response",
    "UIConfig",
    "get_plugin_class",
    "get_plugin_names",
    "operation",
]

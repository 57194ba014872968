"""What a plugin class is made of: its attributes checked, and its operations collected, when it is defined.

Everything that can be wrong with a class is found here, in an error that names plugin and attribute. No plugin is made.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.plugin.arguments import Signature, signature_of
from orbit_zmq.plugin.operation import (
    MARK,
    Declaration,
    Operation,
    check_is_async,
    check_path,
    collect,
    make_operation,
)
from orbit_zmq.plugin.session import PluginSession

if TYPE_CHECKING:
    from orbit_zmq.plugin.plugin import Plugin

NAME = re.compile(r"[a-z0-9._-]{1,255}")
HOOKS = ("on_topology_change", "why")  # the endpoint awaits these
BASE_MODULE = "orbit_zmq.plugin.plugin"


def operations_of(plugin_class: type[Plugin]) -> dict[str, Operation]:
    """All operations of a plugin class and its session class, by name; each checked."""
    operations: dict[str, Operation] = {}
    label = f"plugin {plugin_class.plugin_name}"
    for owner in (plugin_class, plugin_class.session_class):
        on_session = owner is plugin_class.session_class
        for attribute, (declaration, function) in collect(owner, label).items():
            where = f"{label}: {owner.__qualname__}.{attribute}"
            signature = signature_of(function, where)
            if attribute == "register_session" and signature.takes_more and not signature.request:
                signature = _with_session_arguments(plugin_class, signature, where)
            made = make_operation(
                declaration, attribute, function, signature, plugin=plugin_class.plugin_name, on_session=on_session
            )
            if made.name in operations:
                raise InvalidArgument(f"{where}: the plugin has an operation {made.name!r} already")
            operations[made.name] = made
    _check_routes(operations, label)
    return operations


def _with_session_arguments(plugin_class: type[Plugin], signature: Signature, label: str) -> Signature:
    """register_session takes what create_session takes, or by default what the session class is made with."""
    maker: Callable[..., Any] = plugin_class.create_session
    if maker.__module__ == BASE_MODULE:
        maker = plugin_class.session_class.__init__
    wanted = signature_of(maker, f"{label}: {maker.__qualname__}")
    fields = {name: field for name, field in wanted.fields.items() if name != "sid"}
    taken = sorted(fields.keys() & {*signature.fields, signature.caller})
    if taken:
        raise InvalidArgument(f"{label}: {maker.__qualname__} has parameters of register_session: {', '.join(taken)}")
    return replace(signature, fields=signature.fields | fields, takes_more=wanted.takes_more)


def check_class(cls: type[Plugin]) -> str:
    """Refuse a class with a bad attribute; answers what messages call it."""
    label = f"plugin {cls.plugin_name}"
    if not isinstance(cls.plugin_name, str) or not NAME.fullmatch(cls.plugin_name):
        raise InvalidArgument(f"{cls.__qualname__}: plugin_name {cls.plugin_name!r} is not of a-z 0-9 . _ -")
    session_class = getattr(cls, "session_class", None)
    if not isinstance(session_class, type) or not issubclass(session_class, PluginSession):
        raise InvalidArgument(
            f"{label}: {cls.__qualname__}.session_class is {session_class!r}",
            hint="Set session_class to a subclass of PluginSession.",
        )
    if not isinstance(cls.version, str):
        raise InvalidArgument(f"{label}: {cls.__qualname__}.version is {cls.version!r}, not text")
    if type(cls.session_ttl) not in (int, float) or not 0 <= cls.session_ttl < math.inf:
        raise InvalidArgument(f"{label}: {cls.__qualname__}.session_ttl is {cls.session_ttl!r}, not seconds (0: never)")
    for hook in HOOKS:
        check_is_async(getattr(cls, hook), f"{label}: {cls.__qualname__}.{hook}")
    client_class = cls.client_class
    if client_class is not None and not (isinstance(client_class, type) and hasattr(client_class, "register_session")):
        raise InvalidArgument(
            f"{label}: {cls.__qualname__}.client_class is {client_class!r}",
            hint="Set client_class to a subclass of PluginClient or AsyncPluginClient.",
        )
    return f"{label}: {cls.__qualname__}"


def _check_routes(operations: dict[str, Operation], label: str) -> None:
    routes: dict[tuple[str, str], str] = {}
    for made in operations.values():
        other = routes.setdefault((made.method, made.path), made.name)
        if other != made.name:
            raise InvalidArgument(f"{label}: operations {other!r} and {made.name!r} are both {made.method} {made.path}")


def with_route(plugin: Plugin, method: str, path: str, handler: Callable[..., Any]) -> dict[str, Operation]:
    """The operations of a plugin with one more route: of an operation that it has, or of a request handler."""
    label = f"plugin {plugin.plugin_name}: route {method} {path}"
    operations = dict(plugin.operations)
    if hasattr(handler, MARK):
        known = [one for one in operations.values() if one.attribute == getattr(handler, "__name__", "")]
        if not known:
            raise InvalidArgument(f"{label}: {handler!r} is no operation of this plugin")
        check_path(path, known[0].check.names, label)
        operations[known[0].name] = known[0].routed(method, path)
    else:
        made = _handled_by(plugin, method, path, handler, label)
        operations[made.name] = made
    _check_routes(operations, f"plugin {plugin.plugin_name}")
    return operations


def _handled_by(plugin: Plugin, method: str, path: str, handler: Callable[..., Any], label: str) -> Operation:
    check_is_async(handler, f"{label}: {getattr(handler, '__qualname__', handler)!s}")
    parameters = list(inspect.signature(handler).parameters)
    if len(parameters) != 1:
        raise InvalidArgument(f"{label}: a handler takes the request and nothing else, not {', '.join(parameters)}")
    name = getattr(handler, "__name__", "")
    if not name.isidentifier() or name in plugin.operations:
        raise InvalidArgument(f"{label}: the plugin has an operation {name!r} already", hint="Rename the handler.")
    attribute = f"_handler_of_{name}"
    setattr(plugin, attribute, handler)
    is_read = method == "GET"
    declaration = Declaration("read" if is_read else "run", is_read, 30.0, method, path, name, "{sid}" in path)
    signature = Signature({}, True, stream_in="", raw_in="", caller="", request=parameters[0], returns=Any)
    return make_operation(declaration, attribute, handler, signature, plugin=plugin.plugin_name, on_session=False)

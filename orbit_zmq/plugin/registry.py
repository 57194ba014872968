"""The registry: which plugin classes there are, and which of them an endpoint loads.

A class is known by being defined, or by an entry point of the group `orbit_zmq.plugins`, which is imported when it is
asked for. What does not import or does not apply is reported with the reason and never raised. It makes instances; it
does not run them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Literal

from orbit_zmq.errors import NotFound
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import did_you_mean

if TYPE_CHECKING:
    from orbit_zmq.plugin.host import Host
    from orbit_zmq.plugin.plugin import Plugin

log = get_logger(__name__)

GROUP = "orbit_zmq.plugins"
Policy = Literal["default", "on request", "no"]
Absent = dict[str, str]  # {"plugin": ..., "reason": ...}

# plugin -> role -> whether it is loaded; a plugin that is not here is loaded on request everywhere.
POLICIES: dict[str, dict[str, Policy]] = {
    "sysinfo": {"bridge": "default", "login": "default", "compute": "default", "standalone": "default"},
    "psij": {"bridge": "no", "login": "default", "compute": "on request", "standalone": "default"},
    "jobs": {"bridge": "no", "login": "default", "compute": "on request", "standalone": "default"},
    "queue_info": {"bridge": "no", "login": "default", "compute": "default", "standalone": "on request"},
    "rhapsody": {"bridge": "no", "login": "on request", "compute": "default", "standalone": "default"},
    "lucid": {"bridge": "no"},
    "xgfabric": {"bridge": "no"},
}

_defined: dict[str, type[Plugin]] = {}


def add(plugin_class: type[Plugin]) -> None:
    """Take in a class that has just been defined; a later one of the same name replaces it, as in a notebook."""
    _defined[plugin_class.plugin_name] = plugin_class


def get_plugin_names() -> list[str]:
    """The names of all plugins that are defined or installed, sorted; nothing is imported."""
    return sorted({*_defined, *_installed()})


def get_plugin_class(name: str) -> type[Plugin] | None:
    """The class of a plugin, or None where there is none of that name or it does not import."""
    found = _load(name)
    return None if isinstance(found, str) else found


def policy_of(name: str, role: str) -> Policy:
    """Whether an endpoint of that role loads a plugin by itself, when it is named, or never."""
    return POLICIES.get(name, {}).get(role, "on request")


def select(tokens: str | Iterable[str | type[Plugin]], role: str) -> tuple[list[type[Plugin]], list[Absent]]:
    """The classes that tokens stand for on an endpoint of that role, and the plugins that stay absent, with reasons.

    A token is a name, a glob, `default`, `all`, several of these with commas, or a class. One that matches nothing is
    NotFound.
    """
    wanted: dict[str, type[Plugin] | None] = {}
    for token in [tokens] if isinstance(tokens, str) else tokens:
        if isinstance(token, type):
            wanted[token.plugin_name] = token
            continue
        for part in filter(None, map(str.strip, token.split(","))):
            for name in _matches(part, role):
                wanted.setdefault(name, None)
    classes: list[type[Plugin]] = []
    absent: list[Absent] = []
    for name, plugin_class in wanted.items():
        if policy_of(name, role) == "no":
            absent.append({"plugin": name, "reason": f"not for an endpoint of role {role}"})
            continue
        found = plugin_class or _load(name)
        if isinstance(found, type):
            classes.append(found)
        else:
            absent.append({"plugin": name, "reason": found or "no longer installed"})
    return classes, absent


def make_plugins(classes: Sequence[type[Plugin]], host: Host) -> tuple[list[Plugin], list[Absent]]:
    """An instance of each class that applies on this host, and the rest with the reason."""
    plugins: list[Plugin] = []
    absent: list[Absent] = []
    for plugin_class in classes:
        try:
            if plugin_class.is_enabled(host):
                plugins.append(plugin_class(host))
                continue
            reason = "not applicable on this host"
        except Exception as error:  # code of a plugin author, which must not keep the other plugins away
            log.exception("plugin-not-made", plugin=plugin_class.plugin_name)
            reason = f"cannot be made: {_sentence(error)}"
        absent.append({"plugin": plugin_class.plugin_name, "reason": reason})
    return plugins, absent


def _matches(token: str, role: str) -> list[str]:
    known = get_plugin_names()
    if token == "default":
        return [name for name in known if policy_of(name, role) == "default"]
    if token == "all":
        return known
    found = fnmatch.filter(known, token) if any(sign in token for sign in "*?[") else [token] * (token in known)
    if not found:
        raise NotFound(
            f"no plugin matches {token!r}; there are: {', '.join(known) or 'none'}",
            hint=did_you_mean(token, known, "Known plugins"),
            details={"known": known},
        )
    return found


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(name: str) -> type[Plugin] | str | None:
    """A plugin class; or why it cannot be had, as text; or None where nobody knows the name."""
    if name in _defined:
        return _defined[name]
    point = _installed().get(name)
    if point is None:
        return None
    from orbit_zmq.plugin.plugin import Plugin  # that module puts its classes in here

    try:
        loaded = point.load()
    except Exception as error:  # noqa: BLE001 - a plugin author's module, or a dependency that is not installed
        log.warning("plugin-does-not-import", plugin=name, error=_sentence(error))
        return f"does not import: {_sentence(error)}"
    if not isinstance(loaded, type) or not issubclass(loaded, Plugin) or loaded.plugin_name != name:
        return f"its entry point {point.value} is no Plugin of that name"
    return loaded


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

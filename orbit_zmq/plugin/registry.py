"""The registry: which plugin classes there are, and which of them an endpoint loads.

A class is known by being defined, or by an entry point of the group `orbit_zmq.plugins`, which is imported when it is
asked for. What does not import or does not apply is reported with the reason and never raised. It makes instances; it
does not run them.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orbit_zmq.errors import Conflict, InvalidArgument, NotFound
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import did_you_mean

if TYPE_CHECKING:
    from orbit_zmq.plugin.host import Host
    from orbit_zmq.plugin.plugin import Plugin

    Token: TypeAlias = str | type[Plugin] | Plugin

log = get_logger(__name__)

GROUP = "orbit_zmq.plugins"
Policy = Literal["default", "on request", "no"]
Absent = dict[str, str]  # {"plugin": ..., "reason": ...}, and "hint" where nobody asked for it
Options = Mapping[str, Mapping[str, Mapping[str, Any]]]  # plugin -> instance -> option -> value

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """One instance that an endpoint is to serve, made already or not."""

    plugin_class: type[Plugin]
    instance_name: str
    made: Plugin | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # for its constructor, by name


def add(plugin_class: type[Plugin]) -> None:
    """Take in a class that has just been defined; a later one of the same name replaces it, as in a notebook."""
    _defined[plugin_class.plugin_name] = plugin_class


def defined(name: str) -> type[Plugin] | None:
    """The class that has been defined in this process under that name; nothing is imported."""
    return _defined.get(name)


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


def select(tokens: Token | Iterable[Token], role: str) -> tuple[list[Wanted], list[Absent]]:
    """What tokens stand for on an endpoint of that role, and the plugins that stay absent, with reasons.

    A token is a name, `name:instance`, a glob, `default`, `all`, several of these with commas; or a class, or an
    instance. One token needs no list. One that matches nothing is NotFound, one that is no plugin InvalidArgument.
    """
    asked: dict[str, type[Plugin] | Plugin | str] = {}  # instance -> what it is, or is of
    for token in tokens_of(tokens):
        _check_token(token)
        if isinstance(token, type):
            known = asked.get(token.plugin_name)
            _refuse_second(known is None or isinstance(known, (str, type)), token.plugin_name, token.plugin_name)
            asked[token.plugin_name] = token
        elif not isinstance(token, str):
            _refuse_second(asked.setdefault(token.instance_name, token) is token, token.plugin_name, token.instance_name)
        else:
            for instance, name in _instances_of(token, role):
                known = asked.setdefault(instance, name)
                _refuse_second(not isinstance(known, str) or known == name, name, instance)
    wanted: list[Wanted] = []
    absent: list[Absent] = []
    for instance, what in asked.items():
        name = what if isinstance(what, str) else what.plugin_name
        found = what if not isinstance(what, str) else _load(name)
        if policy_of(name, role) == "no":
            absent.append({"plugin": name, "reason": f"not for an endpoint of role {role}"})
        elif found is None or isinstance(found, str):
            absent.append({"plugin": name, "reason": found or "no longer installed"})
        elif isinstance(found, type):
            wanted.append(Wanted(found, instance))
        else:
            wanted.append(Wanted(type(found), instance, found))
    return wanted, absent


def left_out(tokens: Token | Iterable[Token], wanted: Iterable[Wanted], role: str) -> list[Absent]:
    """Of `default`: the installed plugins that other roles load by themselves and this one on request, with what to do."""
    words = {word.strip() for token in tokens_of(tokens) if isinstance(token, str) for word in token.split(",")}
    served = {one.plugin_class.plugin_name for one in wanted}
    return [
        {"plugin": name, "reason": f"started with role {role}", "hint": f"add `--plugins default,{name}`"}
        for name in (get_plugin_names() if "default" in words else ())
        if name not in served and policy_of(name, role) == "on request" and "default" in POLICIES.get(name, {}).values()
    ]


def tokens_of(tokens: Token | Iterable[Token]) -> list[Token]:
    """Several tokens, or the one."""
    return list(tokens) if isinstance(tokens, Iterable) and not isinstance(tokens, str) else [tokens]


def _check_token(token: object) -> None:
    from orbit_zmq.plugin.plugin import Plugin  # that module puts its classes in here

    if isinstance(token, (str, Plugin)):
        return
    if not isinstance(token, type) or not issubclass(token, Plugin):
        raise InvalidArgument(
            f"{getattr(token, '__qualname__', repr(token))} is no plugin",
            hint="Give names, subclasses of Plugin, or instances of them.",
        )
    if not token.plugin_name:
        raise InvalidArgument(f"{token.__qualname__} has no plugin_name, so it cannot be served", hint="Set plugin_name.")


def make_plugins(wanted: Sequence[Wanted], host: Host) -> tuple[list[Plugin], list[Absent]]:
    """The instances that apply on this host, and the rest with the reason."""
    plugins: list[Plugin] = []
    absent: list[Absent] = []
    for one in wanted:
        try:
            plugin = make_plugin(one, host)
            reason = "not applicable on this host"
        except Exception as error:  # code of a plugin author, which must not keep the other plugins away
            log.exception("plugin-not-made", plugin=one.plugin_class.plugin_name)
            which = "" if one.instance_name == one.plugin_class.plugin_name else f"its instance {one.instance_name} "
            plugin, reason = None, f"{which}cannot be made: {_sentence(error)}"
        if plugin is None:
            absent.append({"plugin": one.plugin_class.plugin_name, "reason": reason})
        else:
            is_first = all(plugin.instance_name != other.instance_name for other in plugins)
            _refuse_second(is_first, plugin.plugin_name, plugin.instance_name)
            plugins.append(plugin)
    return plugins, absent


def make_plugin(wanted: Wanted, host: Host) -> Plugin | None:
    """The instance, on this host; None where its class does not apply there. What its author's code raises passes."""
    if not wanted.plugin_class.is_enabled(host):
        return None
    if wanted.made is not None:
        wanted.made.host = host
        return wanted.made
    if wanted.instance_name == wanted.plugin_class.plugin_name:
        return wanted.plugin_class(host, **wanted.options)
    return wanted.plugin_class(host, wanted.instance_name, **wanted.options)


def with_options(wanted: Sequence[Wanted], options: Options) -> list[Wanted]:
    """The instances with their options, and further ones that only the options name, of plugins that are served.

    InvalidArgument for an option that a plugin's constructor does not take.
    """
    found: list[Wanted] = []
    for one in wanted:
        given = options.get(one.plugin_class.plugin_name, {}).get(one.instance_name, {})
        found.append(replace(one, options=_checked(one, given)))
    for plugin_class in dict.fromkeys(one.plugin_class for one in wanted):
        taken = {one.instance_name for one in wanted if one.plugin_class is plugin_class}
        for instance, given in options.get(plugin_class.plugin_name, {}).items():
            if instance not in taken:
                more = Wanted(plugin_class, instance)
                found.append(replace(more, options=_checked(more, given)))
    return found


def _checked(wanted: Wanted, options: Mapping[str, Any]) -> Mapping[str, Any]:
    known = list(inspect.signature(wanted.plugin_class).parameters)[2:]
    for name in options:
        if name not in known:
            raise InvalidArgument(
                f"plugin {wanted.instance_name}: there is no option {name!r}", hint=did_you_mean(name, known, "It takes")
            )
    return options


def _refuse_second(is_first: bool, plugin: str, instance: str) -> None:
    if not is_first:
        raise Conflict(
            f"plugin {plugin}: there is another instance {instance!r}", hint="Give each instance its own instance_name."
        )


def _instances_of(token: str, role: str) -> Iterable[tuple[str, str]]:
    """The (instance, plugin) pairs of a token of text."""
    for part in filter(None, map(str.strip, token.split(","))):
        name, _, instance = part.partition(":")
        for found in _matches(name.strip(), role):
            yield instance.strip() or found, found


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
        say = log.info if isinstance(error, ImportError) else log.warning  # what is absent is listed with its reason
        say("plugin-does-not-import", plugin=name, error=_sentence(error))
        return f"does not import: {_sentence(error)}"
    if not isinstance(loaded, type) or not issubclass(loaded, Plugin) or loaded.plugin_name != name:
        return f"its entry point {point.value} is no Plugin of that name"
    return loaded


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

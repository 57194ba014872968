"""What participants say of themselves, read and checked: the bodies of hello and update.

Whatever a peer sends becomes one of these records or an OrbitError. Nothing here changes the state or knows who is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from orbit_broker.events import read_tips
from orbit_broker.state import Session, Share
from orbit_zmq.errors import InvalidArgument, ProtocolError, TooLarge
from orbit_zmq.wire.body import unpack_map
from orbit_zmq.wire.header import READ, RIGHT_OF, WRITE
from orbit_zmq.wire.limits import HELLO_BYTES, NAME_CHARS, SESSIONS_IN_HELLO, Limits, agree_on_version

ROLES = ("endpoint", "client", "gateway", "admin")
NAME = re.compile(rf"[a-z0-9._-]{{1,{NAME_CHARS}}}")
RESERVED = {  # HTTP needs these as first parts of paths, and `broker` is the broker itself
    *("events", "endpoints", "endpoint", "broker", "auth", "metrics", "healthz", "readyz", "openapi.json"),
    *("docs", "plugins", "token", "mcp"),
}
PLUGINS = 256  # instances of one endpoint
LABELS = 64
SHARES = 256  # users that one endpoint shares with
SHARED_PATTERNS = 256  # of plugins, with one of them


@dataclass(frozen=True, slots=True)
class Facts:
    """What an endpoint may say in hello and in update; None stands for nothing said."""

    plugins: dict[str, dict[str, Any]] | None = None
    absent: list[dict[str, Any]] | None = None
    catalogue: bytes | None = None
    catalogue_body: bytes | None = None
    load: dict[str, Any] | None = None
    share: dict[str, Share] | None = None
    opened: list[Session] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Hello:
    """One hello."""

    version: int
    incarnation: bytes
    role: str
    name: str
    limits: Limits
    facts: Facts
    sessions: list[Session]
    environment: dict[str, Any]
    host: dict[str, Any]
    labels: dict[str, str]
    settings: dict[str, Any]
    tips: dict[str, int]  # the last numbers of its streams of events
    epoch: bytes  # of the broker that welcomed it last, if one has


def read_hello(body: bytes, flags: int) -> Hello:
    """The hello in this body, or an OrbitError that says what is wrong with it."""
    said = _read(body, flags)
    version = agree_on_version(said.get("versions"))
    incarnation, role, name = said.get("incarnation"), said.get("role"), said.get("name") or ""
    if not isinstance(incarnation, bytes) or len(incarnation) != 16:
        raise ProtocolError("an incarnation is 16 bytes")
    if role not in ROLES:
        raise InvalidArgument(f"a role is one of {', '.join(ROLES)}", details={"field": "role"})
    if not isinstance(name, str):
        raise ProtocolError("a name is text")
    if role == "endpoint":
        check_endpoint_name(name)
    sessions = _sessions(said.get("sessions") or [])
    if len(sessions) > SESSIONS_IN_HELLO:
        raise TooLarge(f"a hello has at most {SESSIONS_IN_HELLO} sessions; the rest follows in updates")
    return Hello(
        version=version,
        incarnation=incarnation,
        role=role,
        name=name,
        limits=Limits.from_body(said.get("limits") or {}),
        facts=replace(_facts(said | {"share": said.get("share") or {}}), catalogue_body=None, opened=[], closed=[]),
        sessions=sessions,
        environment=_map(said, "environment") or {},
        host=_map(said, "host") or {},
        labels=_labels(said.get("labels") or {}),
        settings=_map(said, "settings") or {},
        tips=read_tips(said.get("tips") or {}),
        epoch=_epoch(said.get("epoch")),
    )


def read_update(body: bytes, flags: int) -> Facts:
    """The update in this body, or an OrbitError."""
    return _facts(_read(body, flags))


def check_endpoint_name(name: str) -> None:
    """Raise InvalidArgument for what cannot be the name of an endpoint."""
    if NAME.fullmatch(name) is None or name in RESERVED:
        raise InvalidArgument(
            f"{name!r} cannot be the name of an endpoint",
            hint=f"Names are of a-z 0-9 . _ - and none of {', '.join(sorted(RESERVED))}.",
            details={"field": "name"},
        )


def _epoch(said: object) -> bytes:
    if said is not None and (not isinstance(said, bytes) or len(said) != 16):
        raise ProtocolError("an epoch is 16 bytes")
    return said or b""


def _read(body: bytes, flags: int) -> dict[str, Any]:
    if len(body) > HELLO_BYTES:
        raise TooLarge(f"a hello or update has at most {HELLO_BYTES} bytes")
    return unpack_map(body, flags)


def _facts(said: dict[str, Any]) -> Facts:
    closed = said.get("closed") or []
    if not isinstance(closed, list) or not all(map(_is_name, closed)):
        raise ProtocolError("closed is a list of session ids")
    return Facts(
        plugins=_plugins(said.get("plugins")),
        absent=_maps(said.get("absent"), "absent"),
        catalogue=_bytes(said, "catalogue", 32),
        catalogue_body=_bytes(said, "catalogue_body"),
        load=_map(said, "load"),
        share=_share(said.get("share")),
        opened=_sessions(said.get("opened") or []),
        closed=closed,
    )


def _sessions(listed: object) -> list[Session]:
    sessions = []
    for entry in _maps(listed, "sessions") or []:
        texts = [entry.get(key) or "" for key in ("id", "plugin", "user", "lifetime")]
        if not texts[0] or not all(isinstance(text, str) and len(text) <= NAME_CHARS for text in texts):
            raise ProtocolError("a session is a map of texts: id, plugin, user, lifetime")
        holder = entry.get("holder") or b""
        if not isinstance(holder, bytes) or len(holder) not in (0, 16):
            raise ProtocolError("the holder of a session is an incarnation")
        sessions.append(Session(texts[0], texts[1], texts[2], texts[3], holder))
    return sessions


def _plugins(said: object) -> dict[str, dict[str, Any]] | None:
    if said is None:
        return None
    if not isinstance(said, dict) or len(said) > PLUGINS or not all(isinstance(facts, dict) for facts in said.values()):
        raise ProtocolError(f"plugins are a map of at most {PLUGINS} instances to maps")
    if not all(map(_is_name, said)):
        raise ProtocolError("the name of a plugin instance is text")
    return said


def _share(said: object) -> dict[str, Share] | None:
    """With whom an endpoint shares what; running code has to be said."""
    if said is None:
        return None
    if isinstance(said, dict) and len(said) <= SHARES and all(map(_is_name, said)):
        shares = {user: _one_share(facts) for user, facts in said.items()}
        if None not in shares.values():
            return {user: share for user, share in shares.items() if share is not None}
    raise InvalidArgument(
        f"share is a map of at most {SHARES} users to maps of plugins and rights",
        hint='For example {"ada": {"plugins": ["sysinfo"], "rights": ["read", "write"]}}.',
        details={"field": "share"},
    )


def _one_share(facts: object) -> Share | None:
    if not isinstance(facts, dict):
        return None
    plugins, rights = facts.get("plugins"), facts.get("rights")
    if not isinstance(plugins, list) or len(plugins) > SHARED_PATTERNS or not all(map(_is_name, plugins)):
        return None
    if rights is None:
        return Share(tuple(plugins), READ | WRITE)
    if not isinstance(rights, list) or not all(isinstance(right, str) and right in RIGHT_OF for right in rights):
        return None
    return Share(tuple(plugins), sum({RIGHT_OF[right] for right in rights}))


def _labels(said: object) -> dict[str, str]:
    if not isinstance(said, dict) or len(said) > LABELS or not all(map(_is_name, _flat(said.items()))):
        raise ProtocolError(f"labels are a map of at most {LABELS} texts to texts")
    return said


def _maps(said: object, key: str) -> list[dict[str, Any]] | None:
    if said is None:
        return None
    if not isinstance(said, list) or not all(isinstance(entry, dict) for entry in said):
        raise ProtocolError(f"{key} are a list of maps")
    return said


def _map(said: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = said.get(key)
    if value is not None and not isinstance(value, dict):
        raise ProtocolError(f"{key} is a map")
    return value


def _bytes(said: dict[str, Any], key: str, size: int | None = None) -> bytes | None:
    value = said.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise ProtocolError(f"{key} is bytes of its own length")
    return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS


def _flat(pairs: Iterable[tuple[object, object]]) -> Iterable[object]:
    for key, value in pairs:
        yield key
        yield value

"""What a client knows of endpoints: the broker's answers as records. No sockets, no waiting."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orbit_zmq.errors import NotFound, ProtocolError

DEADLINE_S = 30.0  # of a call whose operation is not in the catalogue


@dataclass(frozen=True, slots=True)
class OperationFacts:
    """What a caller has to know of an operation before calling it."""

    idempotent: bool = False
    deadline_s: float = DEADLINE_S
    needs_session: bool = False
    stream_in: str = ""  # name of the parameter that is a stream of bytes
    raw: bool = False
    doc: str = ""
    method: str = "POST"
    path: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)  # JSON Schema
    returns: dict[str, Any] = field(default_factory=dict)
    stream_out: bool = False
    effect: str = ""  # read, write, or run


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """An endpoint as the broker knows it. `state` is present, busy, suspect or lost; times are in seconds."""

    name: str
    incarnation: bytes
    state: str = "present"
    catalogue: bytes = b""
    plugins: dict[str, dict[str, str]] = field(default_factory=dict)  # instance -> {plugin, version}
    absent: list[dict[str, str]] = field(default_factory=list)  # {plugin, reason}, and hint where nobody asked for it
    environment: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # {limits, retention}, units in the names
    load: dict[str, Any] = field(default_factory=dict)
    sessions: int = 0
    silent_for_s: float = 0.0

    @classmethod
    def from_body(cls, body: object) -> EndpointFacts:
        """Read what the broker says of an endpoint; ProtocolError when it does not name one."""
        if not isinstance(body, dict) or not isinstance(body.get("endpoint"), str):
            raise ProtocolError("the broker's answer names no endpoint")
        known = {name: body[name] for name in cls.__slots__ if name in body and name != "name"}
        return cls(name=body["endpoint"], **known)

    def has(self, plugin: str) -> bool:
        """Whether it has a plugin of that instance name or type."""
        return any(plugin in (instance, facts.get("plugin")) for instance, facts in self.plugins.items())

    def instance(self, plugin: str) -> str:
        """The instance of that name; else the one of that type, if there is exactly one; else NotFound lists what is there."""
        if plugin in self.plugins:
            return plugin
        of_type = [instance for instance, facts in self.plugins.items() if facts.get("plugin") == plugin]
        if len(of_type) == 1:
            return of_type[0]
        if of_type:
            raise NotFound(
                f"{self.name} has several instances of plugin {plugin}: {', '.join(of_type)}", hint="Name one of them."
            )
        absent = [entry for entry in self.absent if entry.get("plugin") == plugin]
        if absent and "hint" in absent[0]:
            raise NotFound(f"endpoint {self.name} has no plugin {plugin}", hint=f"{self.name}: {reason_of(absent[0])}.")
        reasons = [entry.get("reason", "") for entry in absent]
        nearest = difflib.get_close_matches(plugin, self.plugins, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"It has: {', '.join(sorted(self.plugins)) or 'none'}."
        because = f": {reasons[0]}" if reasons else ""
        raise NotFound(f"endpoint {self.name} has no plugin {plugin}{because}", hint=hint)


@dataclass(frozen=True, slots=True)
class KnownHere:
    """What a client object knows by itself of something that it has handed in."""

    kind: str  # session, task, or another word for what it is
    state: str  # unsent: the endpoint has not taken it yet.  open: it has, and there is no result.  here: its result has come
    reason: str  # one sentence
    unsent: int = 0  # how much of what was handed in the endpoint has not taken yet


def reason_of(absent: Mapping[str, str]) -> str:
    """Why a plugin is absent, and what to do about it where that is known."""
    return "; ".join(part for part in (absent.get("reason"), absent.get("hint")) if part)


def operations_of(catalogue: dict[str, Any]) -> dict[str, dict[str, OperationFacts]]:
    """From an unpacked catalogue: plugin instance -> operation -> facts; ProtocolError when it is none."""
    try:
        return {
            instance: {entry["name"]: _operation_of(entry) for entry in plugin.get("operations", [])}
            for instance, plugin in catalogue.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the endpoint's catalogue is damaged: {error!r}") from None


def _operation_of(entry: dict[str, Any]) -> OperationFacts:
    return OperationFacts(
        idempotent=bool(entry.get("idempotent")),
        deadline_s=float(entry.get("deadline_s", DEADLINE_S)),
        needs_session=bool(entry.get("session")),
        stream_in=entry.get("stream_in") or "",
        raw=bool(entry.get("raw")),
        doc=entry.get("doc") or "",
        method=str(entry.get("method") or "POST"),
        path=str(entry.get("path") or ""),
        parameters=_schema(entry.get("parameters")),
        returns=_schema(entry.get("returns")),
        stream_out=bool(entry.get("stream_out")),
        effect=str(entry.get("effect") or ""),
    )


def _schema(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

"""From an HTTP method and a path to an operation, by the routes that a catalogue names. No request is made here."""

from __future__ import annotations

from collections.abc import Mapping

from orbit_zmq.client.facts import OperationFacts
from orbit_zmq.errors import NotFound

SESSION = "sid"


def find_route(operations: Mapping[str, OperationFacts], method: str, path: str) -> tuple[str, dict[str, str]]:
    """The operation that answers there, and what the path says; NotFound where none does."""
    parts = path.strip("/").split("/")
    for name, facts in operations.items():
        if facts.method == method and (said := _match(facts.path.split("/"), parts)) is not None:
            return name, said
    raise NotFound(f"there is no route {method} {path}", hint="The catalogue has the routes of a plugin.")


def _match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    said: dict[str, str] = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and wanted.endswith("}"):
            said[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return said

"""Where a plugin is served, and one question to all of these places at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from orbit_zmq.cli.connection import endpoints_of
from orbit_zmq.cli.parameters import several_of

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.facts import EndpointFacts
    from orbit_zmq.errors import OrbitError

Item = dict[str, Any]
Place = tuple[str, str]  # an endpoint, and an instance of the plugin there

SESSION = "default"  # the one that each user has at each plugin
AT_ONCE = 16


def places_of(client: Client, endpoint: str | None, plugin: str, kind: str) -> list[Place]:
    """Every instance of that name or type, at one endpoint or at all. NotFound says why there is none; `kind` is the type."""
    from orbit_zmq.client.facts import reason_of
    from orbit_zmq.errors import NotFound

    endpoints = endpoints_of(client, endpoint)
    found = [(one.name, instance) for one in endpoints for instance in _instances(one, plugin)]
    if not found:
        reasons = [
            f"{one.name}: {reason_of(entry)}" for one in endpoints for entry in one.absent if entry.get("plugin") == kind
        ]
        hint = f"{reasons[0]}." if reasons else "See: orbit plugin list"
        raise NotFound(f"No endpoint serves the plugin {plugin}.", hint=hint)
    return found


def listed(
    client: Client, places: Sequence[Place], operation: str, key: str, arguments: Item, deadline_s: float | None
) -> list[Item]:
    """What the operation lists everywhere, each with where it is from. Who cannot answer is named; where nobody can, that is
    raised."""
    from orbit_zmq.cli.main import complain
    from orbit_zmq.errors import OrbitError

    found: list[Item] = []
    errors: list[OrbitError] = []

    def ask(place: Place) -> list[Item] | OrbitError:
        try:
            return items_of(client.call(*place, operation, arguments, session=SESSION, deadline_s=deadline_s), key, place)
        except OrbitError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(ask, places))
    for (endpoint, instance), answer in zip(places, answers, strict=True):
        if isinstance(answer, OrbitError):
            errors.append(answer)
            if len(places) > 1:
                complain(f"not listed: {endpoint} {instance}: {answer.message}")
        else:
            found += answer
    if len(errors) == len(places):
        raise errors[0]
    return found


def selected(what: str, selectors: Sequence[str], found: list[Item], *keys: str) -> list[Item]:
    """Those that the selectors mean by one of the keys; all where there is none."""
    if not selectors:
        return found
    known = sorted({str(one[key]) for one in found for key in keys if one.get(key) is not None})
    names = set(several_of(what, selectors, known))
    return [one for one in found if any(str(one.get(key)) in names for key in keys)]


def _instances(endpoint: EndpointFacts, wanted: str) -> list[str]:
    """That of the name, and where a type is named all of that type."""
    return [name for name, facts in sorted(endpoint.plugins.items()) if wanted in (name, facts.get("plugin"))]


def items_of(answer: Any, key: str, place: Place) -> list[Item]:
    """The records of an answer; ProtocolError for one that is no such list."""
    from orbit_zmq.errors import ProtocolError

    records = answer.get(key) if isinstance(answer, dict) else None
    if isinstance(records, dict):
        records = list(records.values())
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise ProtocolError(f"its answer has no {key}")
    return [{**one, "endpoint": place[0], "plugin": place[1]} for one in records]

"""Asking everybody who may know why something is not further: this client, the broker, and the plugins of all endpoints.

Endpoints that do not answer are not waited for; they are named where nobody else knows the id. What the answers mean is
decided by orbit_zmq/client/explaining.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from orbit_zmq.client.explaining import (
    ANSWERING,
    Known,
    Place,
    composed,
    merged,
    place_of,
    the_one,
    why_not_asked,
    with_scheduler,
    with_session,
    without_broker,
)
from orbit_zmq.client.facts import EndpointFacts
from orbit_zmq.client.together import async_together
from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, NotPermitted, OrbitError
from orbit_zmq.models import BrokerStatus
from orbit_zmq.why import Answer, SchedulerPart, SessionPart, Why

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient
    from orbit_zmq.client._async.plugin import AsyncPluginClient
    from orbit_zmq.transport.link import Link

QUEUE_INFO = "queue_info"  # the plugin that knows what a batch system says


class Question(NamedTuple):
    """What is asked about, and which one is meant where there are several: empty words mean any."""

    item: str
    endpoint: str
    plugin: str
    session: str
    deadline_s: float  # for each answer of a plugin


async def async_why(
    client: AsyncClient, link: Link, user: str, plugin_clients: Sequence[AsyncPluginClient], asked: Question
) -> Why:
    """Where something is and why it is not further; see AsyncClient.why."""
    item = asked.item
    if not item:
        raise InvalidArgument("nothing is asked about", hint="Name a task, a job or a session by its id.")
    here = _known_here(plugin_clients, asked)
    if len(here) == 1 and not client.is_connected:
        return without_broker(item, here[0], link.obstacle().message)
    known = await _known(client, link, user)
    said, unanswered = await _ask_all(client, known, asked)
    found = [place for place in said if asked.session in ("", place.sid)]
    if not found and not here:
        found = await _known_to_broker(client, known, asked)
    place = the_one(item, merged([*here, *found]), known, unanswered)
    return composed(item, await _completed(client, place, known, asked), known)


def _known_here(plugin_clients: Sequence[AsyncPluginClient], asked: Question) -> list[Place]:
    """What this client has handed in itself."""
    places = []
    for one in plugin_clients:
        known = one.known_here(asked.item) if one.sid else None
        is_meant = all(
            wanted in ("", name)
            for wanted, name in ((asked.endpoint, one.endpoint), (asked.plugin, one.plugin), (asked.session, one.sid))
        )
        if known is not None and is_meant:
            places.append(Place(one.endpoint, one.plugin, one.sid, here=known, is_session=asked.item == one.sid))
    return places


async def _known(client: AsyncClient, link: Link, user: str) -> Known:
    status = BrokerStatus.model_validate(await client.broker_status())
    endpoints = {handle.name: handle.facts for handle in await client.endpoints()}
    open_calls = Counter(call.header.endpoint for call in tuple(link.caller.open.values()))
    return Known(client.name, user, open_calls, link.caller.limits.open_calls, endpoints, status)


async def _ask_all(client: AsyncClient, known: Known, asked: Question) -> tuple[list[Place], list[str]]:
    """What the plugins say that are meant, and who could not be asked."""
    meant = [facts for facts in known.endpoints.values() if asked.endpoint in ("", facts.name)]
    unanswered = [why_not_asked(facts) for facts in meant if facts.state not in ANSWERING]
    calls = [
        partial(_ask, client, facts, instance, asked.item, asked.deadline_s)
        for facts in meant
        if facts.state in ANSWERING
        for instance, served in sorted(facts.plugins.items())
        if asked.plugin in ("", instance, served.get("plugin"))
    ]
    places: list[Place] = []
    for found, silent in await async_together(calls):
        places += found
        unanswered += silent
    return places, unanswered


async def _ask(
    client: AsyncClient, facts: EndpointFacts, instance: str, item: str, deadline_s: float
) -> tuple[list[Place], list[str]]:
    try:
        said = await client.call(facts.name, instance, "why", {"item": item}, deadline_s=deadline_s)
        answer = Answer.model_validate(said)
    except NotPermitted:  # nothing there is of this user
        return [], []
    except OrbitError as error:
        return [], [f"{facts.name} {instance}: {error.message}"]
    except ValidationError:
        return [], [f"{facts.name} {instance}: its answer is not one of why"]
    places = [place_of(facts.name, instance, found) for found in answer.found]
    return places, [f"{facts.name}: {sentence}" for sentence in answer.unanswered]


async def _known_to_broker(client: AsyncClient, known: Known, asked: Question) -> list[Place]:
    """Where the broker knows a session to be whose endpoint could not be asked, that of the item or the one that is named."""
    wanted = asked.session or asked.item
    try:
        facts = await client.find_session(wanted)
    except Conflict as error:
        names = error.details.get("endpoints")
        homes = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    except NotFound:
        homes, wanted = [asked.endpoint] if _is_silent(known, asked.endpoint) else [], ""
    else:
        homes = [facts.name]
    unknown = SessionPart(state="unknown", reason="It was not asked, or did not answer.", sid=wanted) if wanted else None
    return [
        Place(name, sid=wanted, session=unknown, is_session=wanted == asked.item)
        for name in homes
        if asked.endpoint in ("", name) and (not asked.session or _is_silent(known, name))
    ]


def _is_silent(known: Known, endpoint: str) -> bool:
    """Whether the broker knows the endpoint, and it does not answer at present."""
    facts = known.endpoints.get(endpoint)
    return facts is not None and facts.state not in ANSWERING


async def _completed(client: AsyncClient, place: Place, known: Known, asked: Question) -> Place:
    """With what the session says where its task is not there yet, and the batch system of a job."""
    facts = known.endpoints.get(place.endpoint)
    if facts is None or facts.state not in ANSWERING:
        return place
    if place.is_away:
        found, _ = await _ask(client, facts, place.instance, place.sid, asked.deadline_s)
        return with_session(place, found)
    said = place.item
    if said is None or not said.native_id or said.scheduler is not None:
        return place
    scheduler = await _scheduler_of(client, facts, said.native_id, asked.deadline_s)
    return place if scheduler is None else with_scheduler(place, scheduler)


async def _scheduler_of(client: AsyncClient, facts: EndpointFacts, native_id: str, deadline_s: float) -> SchedulerPart | None:
    """What the batch system of an endpoint says of a job; None where nobody there can tell, or several clusters know it."""
    found: list[SchedulerPart] = []
    for instance, served in sorted(facts.plugins.items()):
        if QUEUE_INFO in (instance, served.get("plugin")):
            places, _ = await _ask(client, facts, instance, native_id, deadline_s)
            found += [said.scheduler for one in places if (said := one.explanation) is not None and said.scheduler is not None]
    return found[0] if len(found) == 1 else None

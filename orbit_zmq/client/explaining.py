"""Why something is not further, put together from what client, broker, endpoint and plugins have said.

Rules alone: facts in, the answer out. Nothing here asks, waits, or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orbit_zmq.client.facts import EndpointFacts, KnownHere
from orbit_zmq.errors import Conflict, NotFound
from orbit_zmq.models import BrokerStatus, ParticipantStatus
from orbit_zmq.units import duration_text, size_text
from orbit_zmq.why import (
    BrokerPart,
    ClientPart,
    EndpointPart,
    Explanation,
    Found,
    Phase,
    PluginPart,
    SchedulerPart,
    SessionPart,
    Why,
)

ANSWERING = ("present", "busy")  # endpoints in these states are asked


@dataclass(frozen=True, slots=True)
class Place:
    """Where something of the id is, and what is said of it there. Without an explanation nobody there could be asked."""

    endpoint: str
    instance: str = ""
    sid: str = ""
    explanation: Explanation | None = None
    session: SessionPart | None = None
    here: KnownHere | None = None
    is_session: bool = False

    @property
    def item(self) -> Explanation | None:
        """What is said of the thing itself; of a task that is not there yet its session may have been asked instead."""
        said = self.explanation
        return said if said is not None and (said.kind != "session" or self.is_session) else None

    @property
    def is_away(self) -> bool:
        """Its client has it, and the endpoint has not taken it yet."""
        return self.item is None and self.here is not None and self.here.state == "unsent"

    @property
    def kind(self) -> str:
        if self.item is not None:
            return self.item.kind
        return self.here.kind if self.here is not None else "session" if self.is_session else "item"

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.endpoint, self.instance, self.sid) if part)


@dataclass(frozen=True, slots=True)
class Known:
    """What the client and the broker know at this moment."""

    client: str  # the name of the client that asks
    user: str
    open_calls: Mapping[str, int]  # of this client, by endpoint
    open_calls_limit: int
    endpoints: dict[str, EndpointFacts]
    status: BrokerStatus

    def participant(self, name: str) -> ParticipantStatus | None:
        return next((one for one in self.status.participants if one.name == name), None)


def place_of(endpoint: str, instance: str, found: Found) -> Place:
    """What a plugin has found, with where that is."""
    session = found.session
    said = found.explanation
    sid = session.sid if session is not None else ""
    return Place(endpoint, instance, sid, said, session, is_session=said.kind == "session")


def merged(places: Iterable[Place]) -> list[Place]:
    """One of each: what the client knows by itself, what the broker knows, and what the endpoint says of the same."""
    kept: list[Place] = []
    for place in places:
        same = next((number for number, one in enumerate(kept) if _is_same(one, place)), None)
        if same is None:
            kept.append(place)
        else:
            kept[same] = _both(kept[same], place)
    return kept


def _is_same(one: Place, other: Place) -> bool:
    if one.endpoint != other.endpoint or one.sid != other.sid:
        return False
    return one.instance == other.instance or not (one.instance and other.instance)


def _both(one: Place, other: Place) -> Place:
    return replace(
        one,
        instance=one.instance or other.instance,
        explanation=one.explanation or other.explanation,
        session=one.session or other.session,
        here=one.here or other.here,
        is_session=one.is_session or other.is_session,
    )


def the_one(item: str, places: Sequence[Place], known: Known, unanswered: Sequence[str]) -> Place:
    """The place that is meant. Conflict where there are several, NotFound where there is none, with who could not be asked."""
    if len(places) == 1:
        return places[0]
    if places:
        names = [place.name for place in places]
        raise Conflict(
            f"there are {len(places)} things with the id {item!r}: {'; '.join(names)}",
            hint="Say which by endpoint, plugin, or session.",
            details={"places": names},
        )
    lost = [
        f"{one.name} was lost {duration_text(one.lost_for_s)} ago ({one.cause})"
        for one in known.status.lost_endpoints
        if one.user == known.user
    ]
    missing = [*unanswered, *lost]
    if missing:
        hint = f"Who could not be asked: {'; '.join(missing)}."
        raise NotFound(f"nobody who answers knows {item!r}", hint=hint, details={"item": item, "unanswered": missing})
    raise NotFound(
        f"there is no task, job or session {item!r} of yours",
        hint="It was never there, or it has ended and been forgotten, or its client has not sent it: then ask in that program.",
        details={"item": item, "unanswered": []},
    )


def why_not_asked(facts: EndpointFacts) -> str:
    """Of an endpoint that does not answer at present."""
    return f"{facts.name} is {facts.state}, silent for {duration_text(facts.silent_for_s)}"


def composed(item: str, place: Place, known: Known) -> Why:
    """The answer: every station that has to do with it, and the first of them that holds it up."""
    endpoint = _endpoint_part(place.endpoint, known)
    client, plugin = _client_part(place, known), _plugin_part(place)
    phase, at, reason = _verdict(place, client, endpoint)
    return Why(
        id=item,
        kind=place.kind,
        state=_state(place, phase),
        phase=phase,
        at=at,
        reason=reason,
        client=client,
        broker=_broker_part(place.endpoint, known),
        endpoint=endpoint,
        session=place.session,
        plugin=plugin,
        scheduler=place.item.scheduler if place.item is not None else None,
    )


def without_broker(item: str, place: Place, reason: str) -> Why:
    """The same while no broker answers, of something that this client has handed in."""
    here = place.here or KnownHere("item", "unknown", "")
    return Why(
        id=item,
        kind=place.kind,
        state=here.state,
        phase="ended" if here.state == "here" else "unknown",
        at=None if here.state == "here" else "broker",
        reason=here.reason if here.state == "here" else f"No broker answers: {reason}",
        client=ClientPart(state=here.state, reason=here.reason, is_here=True, unsent=here.unsent),
        broker=BrokerPart(state="away", reason=reason),
    )


def _state(place: Place, phase: Phase) -> str:
    if place.item is not None:
        return place.item.state
    return place.here.state if place.here is not None else phase


def _verdict(place: Place, client: ClientPart | None, endpoint: EndpointPart) -> tuple[Phase, str | None, str]:
    """Its phase, where it waits, and the sentence that says why."""
    said, here = place.item, place.here
    if said is not None:
        return said.phase, _station(said) if said.phase == "waiting" else None, said.reason
    if here is not None and here.state == "here":
        return "ended", None, here.reason
    if endpoint.state not in ANSWERING:
        return ("waiting" if place.is_away else "unknown"), "endpoint", endpoint.reason
    if place.is_away and client is not None:
        return "waiting", "client", client.reason
    if place.session is not None and place.session.state == "unknown":
        return "unknown", "endpoint", f"{place.endpoint} is {endpoint.state} and does not answer: {place.session.reason}"
    return "unknown", "endpoint", f"{place.endpoint} answers and does not know it: it ended and was forgotten, or was lost."


def _station(said: Explanation) -> str:
    if said.kind == "session":
        return "session"
    return "scheduler" if said.scheduler is not None and said.scheduler.state in ("PENDING", "HELD") else "plugin"


def _client_part(place: Place, known: Known) -> ClientPart | None:
    if place.here is not None:
        return ClientPart(
            state=place.here.state,
            reason=place.here.reason,
            name=known.client,
            is_here=True,
            open_calls=known.open_calls.get(place.endpoint, 0),
            open_calls_limit=known.open_calls_limit,
            unsent=place.here.unsent,
        )
    holder = place.session.holder if place.session is not None else ""
    if not holder:
        return None
    participant = known.participant(holder)
    if participant is None:
        return ClientPart(state="away", reason=f"{holder} held the session last and is not connected.", name=holder)
    said = f"{holder} holds the session and has {participant.open_calls_made} calls open."
    return ClientPart(
        state=participant.state,
        reason=said,
        name=holder,
        open_calls=participant.open_calls_made,
        open_calls_limit=known.open_calls_limit,
    )


def _broker_part(name: str, known: Known) -> BrokerPart | None:
    endpoint = known.participant(name)
    if endpoint is None:
        return None
    queue = endpoint.queue
    said = f"Nothing waits in it for {name}."
    if queue.messages:
        said = f"{queue.messages} messages of {size_text(queue.bytes)} wait in it for {name}."
    return BrokerPart(
        state="queued" if queue.messages else "ok",
        reason=said,
        queued_messages=queue.messages,
        queued_bytes=queue.bytes,
        open_calls=endpoint.open_calls_served,
    )


def _endpoint_part(name: str, known: Known) -> EndpointPart:
    facts, participant = known.endpoints.get(name), known.participant(name)
    if facts is None or participant is None:
        return _lost_endpoint(name, known)
    load, limit = participant.load, facts.settings.get("limits", {}).get("running_calls")
    said = f"{name} is {facts.state}"
    if facts.state == "busy":
        said += f": its work loop hangs, for {duration_text(participant.loop_age_s)} by now"
    elif facts.state != "present":
        said += f": nothing has been heard of it for {duration_text(facts.silent_for_s)}. What runs there may go on"
    elif load is not None:
        said += f", with {load.running} calls and {load.tasks} tasks"
    return EndpointPart(
        state=facts.state,
        reason=f"{said}.",
        name=name,
        silent_for_s=facts.silent_for_s,
        loop_age_s=participant.loop_age_s,
        running_calls=load.running if load is not None else None,
        running_calls_limit=limit if isinstance(limit, int) else None,
        tasks=load.tasks if load is not None else None,
        host_load=load.host_load if load is not None else None,
    )


def _lost_endpoint(name: str, known: Known) -> EndpointPart:
    lost = next((one for one in known.status.lost_endpoints if one.name == name), None)
    if lost is None:
        return EndpointPart(state="unknown", reason=f"The broker does not know {name}.", name=name)
    said = f"{name} was lost {duration_text(lost.lost_for_s)} ago ({lost.cause}). Lasting sessions come back with it."
    return EndpointPart(state="lost", reason=said, name=name, lost_for_s=lost.lost_for_s)


def _plugin_part(place: Place) -> PluginPart | None:
    said = place.explanation
    if said is None:
        return None
    return PluginPart(
        state=said.phase,
        reason=said.reason,
        instance=place.instance,
        ahead=said.ahead,
        running=said.running,
        limit=said.limit,
        facts=said.facts,
    )


def with_session(place: Place, found: Iterable[Place]) -> Place:
    """The same with what the session says of itself, into which its client has not been able to hand the thing."""
    session = next((one for one in found if one.is_session), None)
    return place if session is None else replace(place, explanation=session.explanation, session=session.session)


def with_scheduler(place: Place, scheduler: SchedulerPart) -> Place:
    """The same with what the batch system says of the job; that counts while the plugin has not seen the job start."""
    said = place.explanation
    if said is None:
        return place
    update: dict[str, object] = {"scheduler": scheduler}
    if said.phase == "waiting":
        update |= {"reason": scheduler.reason, "phase": "running" if scheduler.state == "RUNNING" else "waiting"}
    return replace(place, explanation=said.model_copy(update=update))

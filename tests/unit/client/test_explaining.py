"""What `client.why` makes of what everybody has said: rules alone, with made-up facts."""

from __future__ import annotations

from typing import Any

import pytest

from orbit_zmq.client.explaining import Known, Place, composed, merged, the_one, with_scheduler, without_broker
from orbit_zmq.client.facts import EndpointFacts, KnownHere
from orbit_zmq.errors import Conflict, NotFound
from orbit_zmq.models import BrokerStatus, LostEndpoint, ParticipantStatus
from orbit_zmq.why import Explanation, SchedulerPart, SessionPart

UNSENT = KnownHere("task", "unsent", "3 tasks have not been taken yet.", 3)
OPEN = KnownHere("task", "open", "It has been taken.")
HERE = KnownHere("task", "here", "Its result has come.")


def participant(name: str, state: str = "present", role: str = "endpoint", **facts: Any) -> ParticipantStatus:
    counts = dict.fromkeys(
        ("open_calls_made", "open_calls_served", "calls_made", "calls_served", "sessions", "replayed", "missed"), 0
    )
    rates = dict.fromkeys(("silent_for_s", "loop_age_s", "calls_served_per_s", "events_per_s"), 0.0)
    texts = dict.fromkeys(("incarnation", "host_role", "scheduler"), "")
    said = {"load": None, "latency_s": None, "is_connected": True, "is_subscriber": False, "queue": {"messages": 0, "bytes": 0}}
    whole = {**counts, **rates, **texts, **said, "name": name, "role": role, "user": "ann", "state": state, **facts}
    return ParticipantStatus.model_validate(whole)


def known(*participants: ParticipantStatus, lost: tuple[LostEndpoint, ...] = (), **silent_for_s: float) -> Known:
    status = BrokerStatus.model_construct(participants=list(participants), lost_endpoints=list(lost))
    endpoints = {
        one.name: EndpointFacts(one.name, b"", one.state, silent_for_s=silent_for_s.get(one.name, 0.0))
        for one in participants
        if one.role == "endpoint"
    }
    return Known("ann.1", "ann", {"hpc1": 2}, 1024, endpoints, status)


def said(phase: Any = "waiting", kind: str = "task", **more: Any) -> Explanation:
    return Explanation(kind=kind, state="SUBMITTED", phase=phase, reason="2 others are before it.", **more)


def session(state: str = "ready", holder: str = "ann.2") -> SessionPart:
    return SessionPart(state=state, reason=f"It is {state}.", sid="s", holder=holder)


def verdict(place: Place, facts: Known) -> tuple[str, str | None, str]:
    found = composed("x", place, facts)
    return found.phase, found.at, found.reason


HPC1 = participant("hpc1")
BUSY = participant("hpc1", "busy", loop_age_s=7.0)


@pytest.mark.parametrize(
    ("place", "facts", "expected"),
    [
        (Place("hpc1", "r", "s", said()), known(HPC1), ("waiting", "plugin", "2 others are before it.")),
        (Place("hpc1", "r", "s", said("running")), known(HPC1), ("running", None, "2 others are before it.")),
        (Place("hpc1", "r", "s", said("ended"), here=OPEN), known(HPC1), ("ended", None, "2 others are before it.")),
        (Place("hpc1", "r", "s", here=HERE), known(HPC1), ("ended", None, "Its result has come.")),
        (Place("hpc1", "r", "s", here=UNSENT), known(HPC1), ("waiting", "client", "3 tasks have not been taken yet.")),
        (Place("hpc1", "r", "s", said(kind="session"), here=UNSENT), known(HPC1),
         ("waiting", "client", "3 tasks have not been taken yet.")),
        (Place("hpc1", "r", "s", said(), here=UNSENT), known(HPC1), ("waiting", "plugin", "2 others are before it.")),
        (Place("hpc1", "r", "s", here=UNSENT), known(participant("hpc1", "suspect"), hpc1=12.0),
         ("waiting", "endpoint", "hpc1 is suspect: nothing has been heard of it for 12s. What runs there may go on.")),
        (Place("hpc1", "r", "s", here=OPEN), known(participant("hpc1", "suspect"), hpc1=12.0),
         ("unknown", "endpoint", "hpc1 is suspect: nothing has been heard of it for 12s. What runs there may go on.")),
        (Place("hpc1", "r", "s", here=OPEN), known(HPC1),
         ("unknown", "endpoint", "hpc1 answers and does not know it: it ended and was forgotten, or was lost.")),
        (Place("hpc1", "r", "s", here=OPEN), known(), ("unknown", "endpoint", "The broker does not know hpc1.")),
        (Place("hpc1", sid="s", session=session("unknown"), is_session=True), known(BUSY),
         ("unknown", "endpoint", "hpc1 is busy and does not answer: It is unknown.")),
        (Place("hpc1", "r", "s", said(kind="session"), session("initializing"), is_session=True), known(HPC1),
         ("waiting", "session", "2 others are before it.")),
    ],
)  # fmt: skip
def test_the_first_that_holds_it_up_is_named(place, facts, expected):
    assert verdict(place, facts) == expected


def test_a_job_waits_at_the_scheduler_only_while_it_is_there():
    pending = SchedulerPart(state="PENDING", reason="It is number 3.", native_id="7")
    running = SchedulerPart(state="RUNNING", reason="It runs.", native_id="7")
    waits, runs = Place("hpc1", "jobs", explanation=said(kind="job")), Place("hpc1", "jobs", explanation=said("running", "job"))

    assert verdict(with_scheduler(waits, pending), known(HPC1)) == ("waiting", "scheduler", "It is number 3.")
    assert verdict(with_scheduler(runs, running), known(HPC1)) == ("running", None, "2 others are before it.")


def test_a_lost_endpoint_is_said_to_be():
    gone = LostEndpoint(name="hpc1", user="ann", host_role="login", cause="silence", lost_for_s=75.0)

    assert verdict(Place("hpc1", "r", "s", here=OPEN), known(lost=(gone,))) == (
        "unknown", "endpoint", "hpc1 was lost 1m15s ago (silence). Lasting sessions come back with it.",
    )  # fmt: skip


def test_what_client_and_endpoint_know_of_the_same_is_one_thing():
    places = [
        Place("hpc1", "r", "s", here=OPEN),
        Place("hpc1", "r", "s", said(), session()),
        Place("hpc1", "r", "t", said()),
        Place("hpc2", sid="s", session=session("unknown"), is_session=True),
    ]

    one, other, third = merged(places)
    assert (one.here, one.explanation, one.session) == (OPEN, said(), session())
    assert (other.sid, third.endpoint) == ("t", "hpc2")


def test_none_is_unknown_and_several_are_a_conflict():
    place = Place("hpc1", "r", "s", said())
    assert the_one("x", [place], known(HPC1), []) is place
    with pytest.raises(Conflict, match="hpc1 r s; hpc1 r t"):
        the_one("x", [place, Place("hpc1", "r", "t", said())], known(HPC1), [])
    with pytest.raises(NotFound, match="there is no task, job or session 'x' of yours"):
        the_one("x", [], known(HPC1), [])
    gone = [
        LostEndpoint(name=name, user=user, host_role="", cause="bye", lost_for_s=1.0)
        for name, user in (("a", "ann"), ("b", "bob"))
    ]
    with pytest.raises(NotFound, match="nobody who answers knows 'x'") as raised:
        the_one("x", [], known(HPC1, lost=tuple(gone)), ["hpc1 is suspect, silent for 12s"])
    assert raised.value.details["unanswered"] == ["hpc1 is suspect, silent for 12s", "a was lost 1s ago (bye)"]


def test_the_holder_of_a_session_is_its_client():
    laptop = participant("ann.2", role="client", open_calls_made=4)
    place = Place("hpc1", "r", "s", said(), session())

    there, away = (composed("x", place, known(HPC1, *others)).client for others in ([laptop], []))
    assert there is not None and (there.name, there.state, there.open_calls, there.is_here) == ("ann.2", "present", 4, False)
    assert away is not None and (away.state, away.reason) == ("away", "ann.2 held the session last and is not connected.")
    own = composed("x", Place("hpc1", "r", "s", said(), here=UNSENT), known(HPC1)).client
    assert own is not None and (own.name, own.is_here, own.open_calls, own.unsent) == ("ann.1", True, 2, 3)


def test_what_waits_in_the_broker_is_counted():
    queued = participant("hpc1", queue={"messages": 3, "bytes": 2048}, open_calls_served=5)
    part = composed("x", Place("hpc1", "r", "s", said()), known(queued)).broker

    assert part is not None
    assert (part.state, part.queued_messages, part.open_calls) == ("queued", 3, 5)
    assert part.reason == "3 messages of 2.0KiB wait in it for hpc1."


def test_without_a_broker_what_the_client_knows_counts():
    waiting, ended = (without_broker("x", Place("hpc1", "r", "s", here=here), "it does not answer") for here in (OPEN, HERE))

    assert (waiting.phase, waiting.at, waiting.reason) == ("unknown", "broker", "No broker answers: it does not answer")
    assert (ended.phase, ended.at, ended.reason) == ("ended", None, "Its result has come.")

"""Why something is not further than it is: what `client.why` and `orbit why` answer, and what plugins say for it.

On its way a task or a job passes stations: the client that hands it in, the broker, the endpoint, a session there, the plugin,
and for jobs the batch system. Each has a part here, with a sentence. Clients, endpoints, plugins and the command line share
these models; this module must not ask anybody. A field may be added at any time. Durations are in seconds, points in time in
seconds since 1970, sizes in bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orbit_zmq.models import Model

# waiting: something holds it up.  running: it is being worked on.  ready: a session that takes calls.  ended: for better or
# worse.  unknown: whoever knows does not answer.
Phase = Literal["waiting", "running", "ready", "ended", "unknown"]
STATIONS = ("client", "broker", "endpoint", "session", "plugin", "scheduler")


class Part(Model):
    """What one station has to do with it."""

    state: str
    reason: str  # one sentence


class ClientPart(Part):
    """The client that hands in the work, or holds the session; `unsent` is known to that client alone."""

    name: str = ""
    is_here: bool = False  # it is the one that asks
    open_calls: int | None = None
    open_calls_limit: int | None = None  # at one endpoint
    unsent: int | None = None  # tasks that the endpoint has not taken yet


class BrokerPart(Part):
    """What waits in the broker for the endpoint."""

    queued_messages: int = 0
    queued_bytes: int = 0
    open_calls: int = 0  # that the endpoint has not answered


class EndpointPart(Part):
    """The endpoint, as the broker knows it."""

    name: str
    silent_for_s: float | None = None
    loop_age_s: float | None = None  # of the last turn of its work loop, as it said
    lost_for_s: float | None = None
    running_calls: int | None = None
    running_calls_limit: int | None = None
    tasks: int | None = None  # of all sessions, that have not ended
    host_load: float | None = None  # for each core


class SessionPart(Part):
    """The session there; `state` is initializing, ready, failed, closed, or expired."""

    sid: str
    holder: str = ""
    lifetime: str = ""
    ttl_s: float = 0.0  # 0: never
    state_for_s: float | None = None


class PluginPart(Part):
    """What the plugin says: how many are before it, how many run, and how many may at once."""

    instance: str
    ahead: int | None = None
    running: int | None = None
    limit: int | None = None
    facts: dict[str, Any] = Field(default_factory=dict)


class SchedulerPart(Part):
    """What the batch system says of a job; `state` as in the plugin queue_info."""

    native_id: str
    raw_state: str = ""  # the scheduler's own word
    raw_reason: str = ""  # likewise
    queue: str | None = None
    place: int | None = None  # among those that wait in its queue, by priority; 1 is next
    estimated_start: float | None = None
    time_limit_s: float | None = None
    nodes: int | None = None
    node_list: str | None = None  # as the scheduler writes it


class Explanation(Model):
    """What a plugin says of one of its items: the answer of a `why` hook."""

    kind: str  # task, job, session, or another word for what the plugin has
    state: str  # in the plugin's words
    phase: Phase
    reason: str  # one sentence
    ahead: int | None = None
    running: int | None = None
    limit: int | None = None
    native_id: str = ""  # of the job in the batch system, if it is one
    scheduler: SchedulerPart | None = None
    facts: dict[str, Any] = Field(default_factory=dict)


class Found(Model):
    """Something of that id, and the session that it is in."""

    explanation: Explanation
    session: SessionPart | None = None


class Answer(Model):
    """What the operation `why` of a plugin answers: what it found, and a sentence for each that could not tell."""

    found: list[Found] = Field(default_factory=list)
    unanswered: list[str] = Field(default_factory=list)


class Why(Model):
    """Where something is, and why it is not further. `at` is the station where it waits, None where it does not."""

    id: str
    kind: str
    state: str  # in the words of its plugin
    phase: Phase
    at: str | None
    reason: str  # one sentence: the answer
    client: ClientPart | None = None
    broker: BrokerPart | None = None
    endpoint: EndpointPart | None = None
    session: SessionPart | None = None
    plugin: PluginPart | None = None
    scheduler: SchedulerPart | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """The stations that have to do with it, in the order in which it passes them."""
        return {station: part for station in STATIONS if (part := getattr(self, station)) is not None}

    def __str__(self) -> str:
        return "\n".join([self.reason, *(f"  {station}: {part.state}: {part.reason}" for station, part in self.parts.items())])

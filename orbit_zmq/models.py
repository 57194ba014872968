"""Models of what the broker tells of itself, shared by the broker, the command line, monitors and the gateway.

A field may be added at any time; `schema_version` grows when one goes or changes its meaning. Durations are seconds, sizes
are bytes, both in the name.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

STATUS_SCHEMA_VERSION = 2


class Model(BaseModel):
    """What all of them have in common: a newer broker may say more than a reader knows."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class QueueStatus(Model):
    """What waits to be sent."""

    messages: int
    bytes: int


class LoadStatus(Model):
    """What an endpoint says of itself: calls that run, long polls that wait, sessions, and tasks that have not ended."""

    running: int = 0
    waiting: int = 0
    sessions: int = 0
    tasks: int = 0
    tasks_by_state: dict[str, int] = {}  # those that sessions know, ended ones too
    host_load: float = 0.0  # the host's load average of one minute, for each core


class ParticipantStatus(Model):
    """One connected party, or one that may come back. Totals are those since its first hello."""

    name: str
    role: str
    user: str
    state: str  # present, busy, suspect
    incarnation: str
    is_connected: bool
    silent_for_s: float
    loop_age_s: float
    latency_s: float | None  # of the last probe, there and back; None for one that is not probed
    open_calls_made: int
    open_calls_served: int
    calls_made: int
    calls_served: int
    calls_served_per_s: float  # over 10 s
    events_per_s: float
    sessions: int
    host_role: str  # empty for all but endpoints, like scheduler and load
    scheduler: str
    load: LoadStatus | None
    is_subscriber: bool
    replayed: int  # events that it had to ask for again, and that it missed, by its own word
    missed: int
    queue: QueueStatus


class LostEndpoint(Model):
    """An endpoint that is not there any more. `cause` is bye, silence, replaced or revoked."""

    name: str
    user: str
    host_role: str
    cause: str
    lost_for_s: float


class SessionActivity(Model):
    """How busy one session is, over 10 s."""

    endpoint: str
    plugin: str
    session: str
    user: str
    calls_per_s: float
    events_per_s: float


class CallCounts(Model):
    """Calls that have not ended: on their way, waiting for an endpoint to come back, and large answers of the broker."""

    in_flight: int
    held: int
    own_streams: int


class EventStatus(Model):
    """Events: who may hear, how many streams there are, and what present subscribers had to ask for again, or missed."""

    audiences: int
    streams: int
    subscribers: int
    replayed: int
    missed: int


class SecurityStatus(Model):
    """Who is kept out, and whether the rules in force are those that are written down."""

    keys: int  # that are listed
    key_list_damage: str  # what is wrong with the list on disk, while an older one is in force; else empty
    connections_reaped: int  # that shook no hands or said no hello
    audit_lines_lost: int  # that could not be written


class LoopStatus(Model):
    """How long the rounds of the broker's loop take. Everybody waits for the longest."""

    rounds: int
    longest_round_s: float  # since the start
    longest_round_lately_s: float  # of the last ten to twenty seconds


class Totals(Model):
    """Since the start. Messages and bytes are those of the broker's socket, headers included."""

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    requests: int
    replies: int
    errors: int
    events: int


class Rates(Model):
    """The same, a second."""

    messages_in: float
    messages_out: float
    bytes_in: float
    bytes_out: float
    requests: float
    replies: float
    errors: float
    events: float


class BrokerStatus(Model):
    """The answer of the broker's operation `status`."""

    schema_version: int = STATUS_SCHEMA_VERSION
    epoch: str  # incarnation of the broker, hexadecimal
    broker_version: str
    protocol_versions: tuple[int, int]
    versions: dict[str, str]  # of python, pyzmq, libzmq, msgpack
    hostname: str
    pid: int
    ipc: str | None
    tcp: str | None
    events_ipc: str | None
    events_tcp: str | None
    uptime_s: float
    memory_bytes: int
    open_files: int
    open_files_limit: int
    participants: list[ParticipantStatus]
    lost_endpoints: list[LostEndpoint]  # of the last 15 minutes, the last one first
    busiest_sessions: list[SessionActivity]  # that the asker may know of, the busiest first
    calls: CallCounts
    events: EventStatus
    security: SecurityStatus
    loop: LoopStatus
    sessions: int
    catalogues: int
    queues: QueueStatus
    totals: Totals
    rates_1s: Rates
    rates_10s: Rates
    drops: dict[str, int]  # messages thrown away, by cause

"""What the broker knows: one record for each participant, the calls in flight, sessions, and catalogues.

Every record has one owner and one place that removes it. Nothing here decides anything, sends anything, or reads a clock.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orbit_broker.audiences import Audiences
from orbit_broker.counters import Counters, count_session
from orbit_broker.rounds import Rounds
from orbit_zmq.rules.chunks import ChunkSender
from orbit_zmq.rules.liveness import Liveness, Presence
from orbit_zmq.rules.outbox import Budget, Outbox
from orbit_zmq.wire.header import ALL_RIGHTS, IDEMPOTENT, RESENT, Header
from orbit_zmq.wire.limits import Intervals, Limits

if TYPE_CHECKING:
    from orbit_broker.keyring import Keyring

FLIGHTS = 65_536  # calls open at once, in all
FLIGHTS_OF_A_KEY = 16_384  # so that no key takes all of them
HELD_REQUESTS = FLIGHTS  # that wait for an endpoint or a catalogue: after a start, callers may be back before all endpoints
HELD_BYTES = 64 << 20
ANY = "*"  # what a request waits for that the return of any endpoint may fulfil
DEPARTED = 256  # lost endpoints that monitors are told of
QUEUED_BYTES = 256 << 20  # in the queues of all participants together
CATALOGUE_WAIT_S = 5.0  # an endpoint that has just said hello sends its catalogue within a round trip
SETTLE_S = 10.0  # after a start, endpoints need so long to find the broker again: their longest pause is 5 s


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection belongs to, and what its key allows."""

    user_id: str  # what ZAP gave: the public key, or uid:<number> on ipc
    user: str
    role: str  # an admin's key may claim any role
    may_take: Callable[[str], bool]  # this name, as an endpoint
    may_reach: Callable[[str, str], bool]  # this endpoint and plugin
    may_act_for: bool = False  # other users: a gateway's key, or one with that right
    rights: int = ALL_RIGHTS  # what the key lets its holder do, as bits
    key_name: str = ""  # empty for the broker's own user on ipc


@dataclass(frozen=True, slots=True)
class Share:
    """What an endpoint lets another user do there."""

    plugins: tuple[str, ...]  # patterns, of instances or of types
    rights: int


@dataclass(slots=True)
class Party:
    """What one key, or the broker's own user on ipc, has here."""

    participants: set[Participant] = field(default_factory=set)
    calls: int = 0  # open ones
    held: int = 0  # requests that wait


@dataclass(slots=True)
class Message:
    """What lies in a queue. Only a request has a flight: it waits for its endpoint, and is not sent once its call has ended."""

    header: Header
    frame: bytes
    body: bytes | memoryview
    queued_at: float
    flight: Flight | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """What an endpoint says of one of its sessions."""

    id: str
    plugin: str
    user: str
    lifetime: str
    holder: bytes = b""  # the process that it does not outlive by much, or empty


@dataclass(slots=True, eq=False)
class Participant:
    """One process, from its first hello until it is lost."""

    incarnation: bytes
    name: str
    role: str
    identity: Identity
    party: Party
    limits: Limits
    liveness: Liveness
    routing_id: bytes = b""  # of the present connection, empty without one
    outbox: Outbox[Message] = field(default_factory=Outbox)
    sent_at: float = 0.0
    is_returning: bool = False  # it knew the broker before this one, and what that one knew
    owes_resend: bool = False  # an answer to it was dropped because its queue was full
    made: set[Flight] = field(default_factory=set)
    serving: set[Flight] = field(default_factory=set)
    windows: dict[tuple[bytes, bool], int] = field(default_factory=dict)  # (endpoint, idempotent) -> open calls
    permitted: dict[tuple[Participant, str, str, str], int] = field(default_factory=dict)  # call -> rights there, as of:
    permitted_as_of: int = -1
    users: set[str] = field(default_factory=set)  # whose calls this endpoint was given
    hears: set[str] = field(default_factory=set)  # audiences whose keys it was given
    is_listening: bool = False  # it hears events, and says so in its heartbeats
    replayed: int = 0  # events that it had to ask for again, and that it missed, by its own word
    missed: int = 0
    calls_made: int = 0  # since its first hello
    calls_served: int = 0
    latency_s: float | None = None  # of the last probe that was answered
    probe: int = 0  # number of the last probe
    probed_at: float = 0.0
    # What it says of itself
    plugins: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: list[dict[str, Any]] = field(default_factory=list)
    share: dict[str, Share] = field(default_factory=dict)  # by user, `*` for everybody
    catalogue: bytes = b""
    sessions: dict[str, Session] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    loop_age_s: float = 0.0

    @property
    def is_endpoint(self) -> bool:
        return self.role == "endpoint"

    @property
    def takes_requests(self) -> bool:
        """Requests to an endpoint that is suspect wait."""
        return self.liveness.presence is Presence.PRESENT


@dataclass(slots=True, eq=False)
class Flight:
    """One call between its request and its last message. `server` is None where the broker itself answers."""

    caller: Participant
    id: int
    server: Participant | None
    flags: int
    left_s: float
    deadline: float
    is_queued: bool = False  # its request lies in the endpoint's queue
    was_handed_over: bool = False
    has_chunks: bool = False  # the deadline starts anew whenever a chunk or credit moves it
    unread: int = 0  # channels of the reply that the caller has not acknowledged, as bits
    sender: ChunkSender | None = None  # of a reply of the broker itself, with the flags of that reply
    reply_flags: int = 0
    has_ended: bool = False

    @property
    def key(self) -> tuple[bytes, int]:
        return self.caller.incarnation, self.id

    @property
    def may_have_run(self) -> bool:
        return self.was_handed_over or (self.flags & RESENT and not self.flags & IDEMPOTENT) != 0


@dataclass(frozen=True, slots=True)
class Held:
    """A request whose endpoint, or whose catalogue, may appear soon."""

    caller: Participant
    header: Header
    body: bytes
    waits_for: str | bytes  # name of an endpoint, ANY of them, or hash of a catalogue
    until: float
    deadline: float


@dataclass(frozen=True, slots=True)
class DueAnswer:
    """The result of an operation of the broker, to be told when the keys of audiences are in force."""

    caller: Participant
    header: Header
    result: dict[str, Any]


@dataclass(slots=True)
class Topology:
    """The stream of changes among endpoints: what is still to be told, by name, and when something was told last."""

    number: int = 0
    changes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    told_at: float = -math.inf
    tip_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Departed:
    """An endpoint that was lost, for monitors."""

    name: str
    user: str
    host_role: str
    cause: str
    at: float


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A hello that waits for another holder of its name to be heard."""

    routing_id: bytes
    identity: Identity
    body: bytes
    flags: int
    holder: Participant
    since: float


@dataclass(slots=True)
class State:
    """Everything that the broker knows."""

    epoch: bytes
    started_at: float  # monotonic
    version: str = "0"
    intervals: Intervals = field(default_factory=Intervals)
    limits: Limits = field(default_factory=Limits)
    settle_s: float = SETTLE_S
    participants: dict[bytes, Participant] = field(default_factory=dict)  # by incarnation
    peers: dict[bytes, Participant] = field(default_factory=dict)  # by routing id, connected ones only
    parties: dict[str, Party] = field(default_factory=dict)  # by user id
    permissions_version: int = 0  # grows whenever something that permissions depend on changes
    endpoints: dict[str, Participant] = field(default_factory=dict)  # by name
    departed: dict[str, Departed] = field(default_factory=dict)  # by name, endpoints alone, in the order of their loss
    queued: Budget = field(default_factory=lambda: Budget(QUEUED_BYTES))
    flights: dict[tuple[bytes, int], Flight] = field(default_factory=dict)
    own_streams: set[Flight] = field(default_factory=set)  # those of them that the broker itself answers
    sessions: dict[str, list[Participant]] = field(default_factory=dict)
    holdings: dict[bytes, dict[Participant, int]] = field(default_factory=dict)  # holder -> endpoint -> sessions of it
    is_settled: bool = False  # settle_s have passed since the start
    catalogues: dict[bytes, bytes] = field(default_factory=dict)  # by hash
    effects: dict[bytes, dict[tuple[str, str], int]] = field(default_factory=dict)  # by hash: (plugin, operation) -> right
    keys: Keyring | None = None  # the list of keys, for the operations that change it
    public_key: str = ""  # of the broker
    reachable: Callable[[str], list[str]] = lambda address: [address]  # where others find what listens at an address
    due_answers: list[DueAnswer] = field(default_factory=list)
    to_disconnect: list[Participant] = field(default_factory=list)  # endpoints that somebody has ended
    told_to_end: dict[bytes, None] = field(default_factory=dict)  # their incarnations, in order: one may not have heard it
    held: dict[tuple[bytes, int], Held] = field(default_factory=dict)
    held_for: dict[str | bytes, dict[tuple[bytes, int], Held]] = field(default_factory=dict)  # by what they wait for
    held_bytes: int = 0
    newcomers: dict[bytes, Newcomer] = field(default_factory=dict)  # by routing id
    asked: dict[bytes, float] = field(default_factory=dict)  # strangers' routing id -> when they were asked who they are
    counters: Counters = field(default_factory=Counters)
    rounds: Rounds = field(default_factory=Rounds)
    audiences: Audiences = field(default_factory=Audiences)
    tips_version: int = 0  # grows whenever a stream moves
    topology: Topology = field(default_factory=lambda: Topology())
    events_at: dict[str, str | None] = field(default_factory=lambda: {"ipc": None, "tcp": None})  # where they are published
    wall_clock: Callable[[], float] = time.time  # for the time that events carry
    random: random.Random = field(default_factory=random.Random)
    sweep_at: float = 0.0
    sample_at: float = 0.0
    is_draining: bool = False  # an admin has asked for the end
    is_leaving: bool = False  # bye has been said: nobody is admitted any more
    facts: dict[str, Any] = field(default_factory=dict)  # of this process, for `status`
    measure: Callable[[], dict[str, Any]] = dict  # memory and file descriptors of this process, for `status`
    measure_security: Callable[[], dict[str, int]] = lambda: {"connections_reaped": 0, "audit_lines_lost": 0}
    deadlines: list[tuple[float, int, Flight]] = field(default_factory=list)
    _sequence: int = 0

    # Participants

    def add(self, participant: Participant) -> None:
        self.participants[participant.incarnation] = participant
        participant.party.participants.add(participant)
        if participant.is_endpoint:
            self.endpoints[participant.name] = participant
            self.departed.pop(participant.name, None)

    def party_of(self, user_id: str) -> Party:
        """The record of a key; it stays while one of its participants is there."""
        return self.parties.setdefault(user_id, Party())

    def attach(self, participant: Participant, routing_id: bytes) -> None:
        """Give a participant a connection; the one that it had is forgotten."""
        self.detach(participant)
        participant.routing_id = routing_id
        self.peers[routing_id] = participant

    def detach(self, participant: Participant) -> int:
        """Forget its connection; of its queue only requests that it has never seen are kept. The number thrown out."""
        self.peers.pop(participant.routing_id, None)
        participant.routing_id = b""
        return participant.outbox.keep(_is_new_request)

    def remove(self, participant: Participant) -> None:
        """The one place where a participant goes. Its flights have been ended before."""
        self.detach(participant)
        participant.outbox.clear()
        del self.participants[participant.incarnation]
        participant.party.participants.discard(participant)
        if not participant.party.participants:
            self.parties.pop(participant.identity.user_id, None)
        participant.permitted.clear()
        self.permissions_version += participant.is_endpoint
        if self.endpoints.get(participant.name) is participant:
            del self.endpoints[participant.name]
        for session_id in tuple(participant.sessions):
            self.close_session(participant, session_id)
        for held in [held for held in self.held.values() if held.caller is participant]:
            self.release(held)
        self.forget_catalogue(participant.catalogue)
        self.audiences.close_streams(participant.incarnation)

    def depart(self, endpoint: Participant, cause: str, now: float) -> None:
        """Remember for monitors that an endpoint was lost; the oldest is forgotten first."""
        self.departed.pop(endpoint.name, None)
        while len(self.departed) >= DEPARTED:
            del self.departed[next(iter(self.departed))]
        host_role = str(endpoint.host.get("role", ""))
        self.departed[endpoint.name] = Departed(endpoint.name, endpoint.identity.user, host_role, cause, now)

    # Flights

    def open_flight(self, caller: Participant, server: Participant | None, header: Header, now: float) -> Flight:
        flight = Flight(caller, header.id, server, header.flags, header.left_s, now + header.left_s)
        self.flights[caller.incarnation, header.id] = flight
        caller.made.add(flight)
        caller.party.calls += 1
        if server is None:
            self.own_streams.add(flight)
        else:
            server.serving.add(flight)
            caller.calls_made += 1
            server.calls_served += 1
            count_session(self.counters.calls_of, (server.name, header.plugin, header.session, header.user))
            window = (server.incarnation, header.flags & IDEMPOTENT != 0)
            caller.windows[window] = caller.windows.get(window, 0) + 1
        self._watch(flight)
        return flight

    def close_flight(self, flight: Flight) -> None:
        """The one place where a flight goes."""
        if flight.has_ended:
            return
        flight.has_ended = True
        caller, server = flight.caller, flight.server
        del self.flights[caller.incarnation, flight.id]
        caller.made.discard(flight)
        caller.party.calls -= 1
        if server is None:
            self.own_streams.discard(flight)
        else:
            server.serving.discard(flight)
            window = (server.incarnation, flight.flags & IDEMPOTENT != 0)
            caller.windows[window] -= 1
            if not caller.windows[window]:
                del caller.windows[window]

    def expired_flights(self, now: float) -> list[Flight]:
        """The flights whose deadline has passed; each is told once."""
        expired = []
        while self.deadlines and self.deadlines[0][0] <= now:
            flight = heapq.heappop(self.deadlines)[2]
            if flight.has_ended:
                continue
            if flight.deadline > now:
                self._watch(flight)
            else:
                expired.append(flight)
        return expired

    def next_deadline(self) -> float:
        """When a deadline may pass next."""
        return self.deadlines[0][0] if self.deadlines else self.sweep_at

    def _watch(self, flight: Flight) -> None:
        self._sequence += 1
        heapq.heappush(self.deadlines, (flight.deadline, self._sequence, flight))
        if len(self.deadlines) > 2 * len(self.flights) + 1024:  # most of it belongs to flights that have ended
            self.deadlines = [entry for entry in self.deadlines if not entry[2].has_ended]
            heapq.heapify(self.deadlines)

    # Held requests

    def hold(self, held: Held) -> bool:
        """False when there is no room."""
        if len(self.held) >= HELD_REQUESTS or self.held_bytes + len(held.body) > HELD_BYTES:
            return False
        if held.caller.party.held >= FLIGHTS_OF_A_KEY:
            return False
        key = (held.caller.incarnation, held.header.id)
        if key in self.held:
            self.release(self.held[key])
        self.held[key] = self.held_for.setdefault(held.waits_for, {})[key] = held
        self.held_bytes += len(held.body)
        held.caller.party.held += 1
        return True

    def release(self, held: Held) -> None:
        """The one place where a held request goes."""
        key, waiting = (held.caller.incarnation, held.header.id), self.held_for[held.waits_for]
        del self.held[key], waiting[key]
        if not waiting:
            del self.held_for[held.waits_for]
        self.held_bytes -= len(held.body)
        held.caller.party.held -= 1

    # Sessions and catalogues

    def open_session(self, endpoint: Participant, session: Session) -> None:
        holders = self.sessions.setdefault(session.id, [])
        if endpoint not in holders:
            holders.append(endpoint)
        else:
            self._unhold(endpoint, endpoint.sessions[session.id].holder)
        endpoint.sessions[session.id] = session
        if session.holder:
            held = self.holdings.setdefault(session.holder, {})
            held[endpoint] = held.get(endpoint, 0) + 1

    def close_session(self, endpoint: Participant, session_id: str) -> None:
        session = endpoint.sessions.pop(session_id, None)
        if session is None:
            return
        self._unhold(endpoint, session.holder)
        holders = self.sessions[session_id]
        holders.remove(endpoint)
        if not holders:
            del self.sessions[session_id]

    def _unhold(self, endpoint: Participant, holder: bytes) -> None:
        held = self.holdings.get(holder)
        if held is None:
            return
        held[endpoint] -= 1
        if not held[endpoint]:
            del held[endpoint]
        if not held:
            del self.holdings[holder]

    def forget_catalogue(self, digest: bytes) -> None:
        """Drop a catalogue that no endpoint refers to any more."""
        if digest in self.catalogues and not any(other.catalogue == digest for other in self.endpoints.values()):
            del self.catalogues[digest]
            self.effects.pop(digest, None)


def _is_new_request(message: Message) -> bool:
    flight = message.flight
    if flight is None or flight.has_ended:
        return False
    if flight.was_handed_over:
        flight.is_queued = False
        return False
    return True

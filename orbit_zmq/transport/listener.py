"""The listener: one participant's ear for published events, beside its link.

It keeps a SUB socket while anybody listens, a fresh one for every connection of the link and after each break of its own, and
finds out by a barrier when its subscriptions are in force. What was lost and has to be asked for again the rules decide; here
they are driven. Everything runs in the keeper's thread under its lock, and nothing waits.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

from orbit_zmq.addresses import events_address
from orbit_zmq.errors import BrokerUnreachable, OrbitError, ProtocolError
from orbit_zmq.log import get_logger
from orbit_zmq.place import Place
from orbit_zmq.rules.heard import Heard, Missed
from orbit_zmq.rules.subscriber import BROKER, EVERYBODY, Hearing, Subscriber
from orbit_zmq.rules.topology import Topology, View
from orbit_zmq.transport.mailbox import Item
from orbit_zmq.transport.monitor import GREETED, REACHED, next_event
from orbit_zmq.transport.sockets import Sockets, close_monitored, descriptor_of, has_arrived
from orbit_zmq.wire.body import unpack_map
from orbit_zmq.wire.header import Header
from orbit_zmq.wire.seal import BARRIER, topic_of

BATCH = 256  # publications taken before anything else gets its turn
BARRIER_S = 3.0
PAUSES_S = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0)  # before a new connection, by how many have failed in a row
NAMED_ENDPOINTS = 128  # subscribed to one by one; more, and everything of the audience is subscribed to
DONTWAIT = int(zmq.DONTWAIT)
Done = Callable[[Any], None]


class Line(Protocol):
    """What a listener needs of its link."""

    @property
    def place(self) -> Place: ...

    @property
    def user(self) -> str: ...

    def ask(self, header: Header, arguments: Mapping[str, Any], done: Done) -> None:
        """Call an operation; `done` gets the result or an OrbitError, in the keeper's thread."""

    def beat(self) -> None:
        """Say a heartbeat soon, which is answered with the tips that have changed."""

    def watch(self, descriptor: int, is_watched: bool) -> None:
        """Have the keeper's thread woken by a socket."""

    def now(self) -> float:
        """The time, as it is given to everything here."""


@dataclass(slots=True, eq=False)
class Listening:
    """One subscription: what it is interested in, where that goes, and who waits for it to be in force."""

    put: Callable[[Item], bool]  # False: it came faster than it is taken
    ready: Callable[[OrbitError | None], None]
    endpoint: str = ""
    plugin: str = ""
    session: str = ""
    topics: tuple[str, ...] = ()
    audience: str = ""  # empty: the participant's own user
    is_topology: bool = False
    is_active: bool = False
    since: dict[tuple[str, bytes], int] = field(default_factory=dict)  # streams that had come so far when it began
    cursor: Mapping[bytes, int] | None = None  # begin after these numbers: the only one of its audience

    def takes(self, event: Heard, own_user: str) -> bool:
        header = event.header
        return (
            self.is_active
            and event.audience == (self.audience or own_user)
            and (not self.endpoint or event.endpoint == self.endpoint)
            and (not self.plugin or header.plugin == self.plugin)
            and (not self.session or header.session == self.session)
            and (not self.topics or header.operation in self.topics)
            and header.id > self.since.get((event.audience, event.incarnation), 0)
        )


class Listener:
    """The SUB socket of one participant, and its subscriptions."""

    def __init__(self, line: Line, sockets: Sockets) -> None:
        self.subscriber = Subscriber(self)
        self.topology = Topology()
        self.dropped = 0
        self.overtaken = 0  # events that came faster than they were taken
        self._line = line
        self._sockets = sockets
        self._listenings: list[Listening] = []
        self._round: list[Listening] | None = None  # those that the round in progress will put in force
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._address: str | None = None
        self._prefixes: set[bytes] = set()
        self._barrier = b""
        self._barrier_due = math.inf
        self._open_at = math.inf
        self._failures = 0
        self._is_up = False
        self._had_line = False  # this is not the first connection: what was missed meanwhile is asked for

    # Subscriptions

    def add(self, listening: Listening, now: float) -> None:
        """Begin a subscription; `ready` is told when it is in force."""
        self._listenings.append(listening)
        if self._is_up:
            if self._socket is None:
                self._open_at = min(self._open_at, now)
            self._begin_round(now)

    def remove(self, listening: Listening, now: float) -> None:
        """End a subscription. Without any the socket is closed."""
        if listening in self._listenings:
            self._listenings.remove(listening)
            listening.is_active = False
            if listening.cursor is not None:
                self.subscriber.cursors.pop(self._audience_of(listening), None)
            self.subscriber.forget_unwanted()
            if not self._listenings:
                self._close()
                self._open_at = math.inf

    def fail(self, error: OrbitError) -> None:
        """There will be no connection any more."""
        for listening in self._listenings:
            if not listening.is_active:
                listening.ready(error)
        self._close()
        self._open_at = math.inf
        self._is_up = False

    # The line

    def on_up(self, events: object, audiences: object, now: float) -> None:
        """The link has been welcomed."""
        place, published = self._line.place, events if isinstance(events, dict) else {}
        self._address = place.events or events_address(place.address, published)
        if isinstance(audiences, dict):
            self.subscriber.on_keys(audiences, now)
        self._is_up = True
        self._failures = 0
        self._open_at = now if self._listenings else math.inf

    def on_down(self) -> None:
        """The link is gone: what comes from now on would be known by nobody's tips."""
        self._is_up = False
        self._close()
        self._open_at = math.inf
        self.subscriber.on_disconnected()

    def on_keys(self, header: Header, body: bytes, now: float) -> None:
        """The broker has replaced keys."""
        self.subscriber.on_keys(unpack_map(body, header.flags), now)

    def on_tips(self, header: Header, body: bytes, now: float) -> None:
        """The answer to a heartbeat."""
        if self._round is None and self._socket is not None:
            self.subscriber.on_tips(unpack_map(body, header.flags), now)

    def pulse(self) -> dict[str, Any]:
        """What a heartbeat says of it."""
        if not self._listenings:
            return {}
        known = self.subscriber
        return {"tips": known.version, "replayed": known.replayed, "missed": known.missed + self.overtaken}

    # The keeper's thread

    def has_arrived(self) -> bool:
        return self._socket is not None and has_arrived(self._socket)

    def work(self, now: float) -> None:
        """What has arrived, up to a batch, and what the time asks for."""
        if now >= self._open_at:
            self._open(now)
        if self._socket is None:
            return
        self._receive(now)
        self._watch(now)
        if now >= self._barrier_due:
            self._break("the broker does not publish", now)
            return
        for hearing in self.subscriber.due_replays(now):
            self._repair(hearing)
        if self.subscriber.wants_keys(now):
            self._ask("keys", {}, self._on_keys_answer)
        if self.subscriber.wants_tips(now):
            self._line.beat()
        for view in self.topology.tick(now):
            self._tell_view(view)

    def next_due(self) -> float:
        """When `work` has something to do, apart from what arrives."""
        return min(self._open_at, self._barrier_due, self.subscriber.next_due()) if self._is_up else math.inf

    # What the rules ask

    def wants(self, audience: str, endpoint: str) -> bool:
        if endpoint == BROKER:
            return audience == EVERYBODY and any(listening.is_topology for listening in self._listenings)
        return any(
            not listening.is_topology and self._audience_of(listening) == audience and listening.endpoint in ("", endpoint)
            for listening in self._listenings
        )

    def on_event(self, event: Heard) -> None:
        if event.endpoint == BROKER:
            self._on_changes(event)
            return
        own_user = self._line.user
        for listening in self._listenings:
            if not listening.is_topology and listening.takes(event, own_user) and not listening.put(event):
                self.overtaken += 1

    def on_missed(self, audience: str, endpoint: str, count: int) -> None:
        for listening in self._listenings:
            concerns = self._audience_of(listening) == audience and listening.endpoint in ("", endpoint)
            if concerns and listening.is_active and not listening.is_topology:
                listening.put(Missed(endpoint, count))

    # Inside

    def _open(self, now: float) -> None:
        self._close()
        self._open_at = math.inf
        place = self._line.place
        if self._address is None:
            self._give_up(BrokerUnreachable("the broker does not say where it publishes events"))
            return
        try:
            self._socket, self._monitor = self._sockets.subscriber(self._address, server_key=place.server_key, keys=place.keys)
        except OrbitError as error:
            self._give_up(error)
            return
        self._line.watch(descriptor_of(self._socket), True)
        self._line.watch(descriptor_of(self._monitor), True)
        self._begin_round(now)

    def _close(self) -> None:
        if self._socket is not None and self._monitor is not None:
            self._line.watch(descriptor_of(self._socket), False)
            self._line.watch(descriptor_of(self._monitor), False)
            close_monitored(self._socket, self._monitor)
        self._socket = self._monitor = None
        self._prefixes = set()
        self._round, self._barrier, self._barrier_due = None, b"", math.inf

    def _break(self, reason: str, now: float) -> None:
        """The connection is no good: take another, after a while if this goes on."""
        self._close()
        pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
        self._failures += 1
        self._open_at = now + pause_s
        get_logger("orbit_zmq.events").warning("events-interrupted", reason=reason, address=self._address, pause_s=pause_s)

    def _give_up(self, error: OrbitError) -> None:
        for listening in self._listenings:
            if not listening.is_active:
                listening.ready(error)

    def _begin_round(self, now: float) -> None:
        """Subscribe to what is wanted, and then to a barrier."""
        if self._socket is None or self._round is not None:
            return
        audiences = {self._audience_of(listening) for listening in self._listenings}
        unknown = audiences - self.subscriber.tags.keys()
        self._round = list(self._listenings)
        if unknown:
            self._ask("keys", {"audiences": sorted(unknown)}, self._on_keys_answer)
            return
        wanted = self._wanted_prefixes()
        for prefix in wanted - self._prefixes:
            self._socket.subscribe(prefix)
        for prefix in self._prefixes - wanted:
            self._socket.unsubscribe(prefix)
        self._prefixes = wanted
        self._barrier = BARRIER + secrets.token_hex(8).encode()
        self._socket.subscribe(self._barrier)
        self._barrier_due = now + BARRIER_S

    def _wanted_prefixes(self) -> set[bytes]:
        named: dict[str, set[str]] = {}
        for listening in self._listenings:
            endpoint = BROKER if listening.is_topology else listening.endpoint
            named.setdefault(self._audience_of(listening), set()).add(endpoint)
        tags = self.subscriber.tags
        return {
            topic_of(tags[audience], "" if len(endpoints) > NAMED_ENDPOINTS or "" in endpoints else endpoint)
            for audience, endpoints in named.items()
            for endpoint in endpoints
        }

    def _receive(self, now: float) -> None:
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                frames = self._socket.recv_multipart(DONTWAIT)
            except zmq.Again:
                return
            try:
                if len(frames) == 3:
                    self.subscriber.on_publication((frames[0], frames[1], frames[2]), now)
                elif frames[0] == self._barrier:
                    self._on_barrier(now)
            except ProtocolError:
                self.dropped += 1  # noise, or a stranger's words: what it hides is found missing by its number

    def _on_barrier(self, now: float) -> None:
        if self._socket is not None:
            self._socket.unsubscribe(self._barrier)
        self._barrier, self._barrier_due = b"", math.inf
        self._failures = 0
        started = self._round
        names = sorted({self._audience_of(listening) for listening in self._listenings})
        self._ask("tips", {"audiences": names}, lambda answer: self._on_start(started, answer))

    def _on_start(self, started: list[Listening] | None, answer: Any) -> None:
        """The tips have come by which old numbers are told from live ones."""
        now = self._line.now()
        if started is None or started is not self._round:
            return  # the connection has been replaced meanwhile
        if not isinstance(answer, dict):
            self._break("the broker does not say where events stand", now)
            return
        for listening in self._listenings:  # one that came after the round had begun, too: these tips begin its streams
            if listening.cursor is not None and not listening.is_active:
                self.subscriber.cursors[self._audience_of(listening)] = listening.cursor
                self._put_in_force(listening)
        self.subscriber.on_tips(answer, now, is_start=True, after_a_break=self._had_line)
        self._had_line = True
        self._round = None
        lasts = {(entry[0], entry[2]): entry[4] for entry in answer["streams"]}
        for listening in started:
            if not listening.is_active and not listening.is_topology:
                listening.since = lasts
                self._put_in_force(listening)
        if any(listening.is_topology for listening in started):
            self._ask("topology", {}, self._on_whole_view)
        if any(listening not in started for listening in self._listenings):
            self._begin_round(now)

    def _put_in_force(self, listening: Listening) -> None:
        listening.is_active = True
        listening.ready(None)

    def _on_keys_answer(self, answer: Any) -> None:
        if isinstance(answer, OrbitError):
            if self._barrier_due == math.inf and self._round is not None:
                self._round = None
                self._give_up(answer)
            return
        now = self._line.now()
        self.subscriber.on_keys(answer if isinstance(answer, dict) else {}, now)
        if self._round is not None and not self._barrier:
            self._round = None
            self._begin_round(now)

    def _repair(self, hearing: Hearing) -> None:
        """Ask the source for what is missing."""
        after = hearing.cursor or 0
        if hearing.endpoint == BROKER:
            self._ask("topology", {}, self._on_whole_view)
            return
        header = Header(0, endpoint=hearing.endpoint, target=hearing.incarnation, operation="replay")
        if hearing.audience != self._line.user:
            header.on_behalf_of = hearing.audience
        arguments = {"after": after, "up_to": hearing.gap_end, **self._common_filter(hearing)}
        self._line.ask(header, arguments, lambda answer: self._on_replay(hearing, after, answer))

    def _common_filter(self, hearing: Hearing) -> dict[str, Any]:
        """What all subscriptions to a stream have in common, so that nothing is sent that nobody wants."""
        filters = {
            (listening.plugin, listening.session, listening.topics)
            for listening in self._listenings
            if not listening.is_topology and listening.endpoint in ("", hearing.endpoint)
        }
        if len(filters) != 1:
            return {}
        plugin, session, topics = filters.pop()
        return {"plugin": plugin, "session": session, "topics": list(topics)}

    def _on_replay(self, hearing: Hearing, after: int, answer: Any) -> None:
        now = self._line.now()
        if isinstance(answer, OrbitError):
            self.subscriber.on_replay_failed(hearing, answer, now)
        else:
            self.subscriber.on_replayed(hearing, after, answer if isinstance(answer, dict) else {}, now)

    def _on_whole_view(self, view: Any) -> None:
        now = self._line.now()
        if not isinstance(view, dict):
            for hearing in self.subscriber.hearings.values():
                if hearing.endpoint == BROKER and isinstance(view, OrbitError):
                    self.subscriber.on_replay_failed(hearing, view, now)
            return
        epoch, number, endpoints = view.get("incarnation"), view.get("number"), view.get("endpoints")
        if not isinstance(epoch, bytes) or type(number) is not int or not isinstance(endpoints, dict):
            raise ProtocolError("a topology of another shape")
        for listening in self._listenings:
            if listening.is_topology and not listening.is_active:
                self._put_in_force(listening)
        for told in self.topology.replace(epoch, endpoints, now):
            self._tell_view(told)
        self.subscriber.on_whole_view(epoch, number)

    def _on_changes(self, event: Heard) -> None:
        changes = unpack_map(event.body, event.header.flags).get("changes")
        if not isinstance(changes, list):
            return
        pairs = [(entry[0], entry[1]) for entry in changes if isinstance(entry, list) and len(entry) == 2]
        for view in self.topology.change(pairs):
            self._tell_view(view)

    def _tell_view(self, view: View) -> None:
        for listening in self._listenings:
            if listening.is_topology and listening.is_active:
                listening.put(view)

    def _ask(self, operation: str, arguments: Mapping[str, Any], done: Done) -> None:
        self._line.ask(Header(0, endpoint=BROKER, operation=operation), arguments, done)

    def _audience_of(self, listening: Listening) -> str:
        return EVERYBODY if listening.is_topology else listening.audience or self._line.user

    def _watch(self, now: float) -> None:
        """What libzmq tells of the connection."""
        while self._monitor is not None and (seen := next_event(self._monitor)) is not None:
            if seen[0] not in (REACHED, GREETED):
                self._break("the connection was closed or refused", now)

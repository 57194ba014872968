"""What the rules send: messages into queues, and events for the log. No sockets here.

`send` queues, the loop takes from `next_message` and reports by `was_sent`. So a rule never finds out in its middle that a
peer is gone, and a test reads what was sent without a network.
"""

from __future__ import annotations

from typing import Any

from orbit_broker.state import Flight, Message, Participant
from orbit_zmq.errors import OrbitError
from orbit_zmq.rules.outbox import BULK, CALLS, CONTROL
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import Header, Kind, encode_header

BROKER = "broker"
STALE_S = 0.05  # a request that waited longer gets a new header, with the waiting taken off its seconds left
LEAST_LEFT_S = 0.001  # seconds left must be above zero on the wire


class Out:
    """The outgoing side of the broker, between two turns of its loop."""

    def __init__(self) -> None:
        self.dirty: dict[Participant, None] = {}  # whose queues have something new, in order
        self.strangers: list[tuple[bytes, bytes, bytes]] = []  # (routing id, header, body) to connections without a record
        self.publications: list[tuple[bytes, bytes, bytes]] = []  # sealed, for whoever has subscribed
        self.rights_changed = False  # connections of keys that are not listed any more have to go
        self.cuts: list[bytes] = []  # routing ids of connections to be ended, once they have been told why
        self.audits: list[dict[str, Any]] = []  # for the audit log
        self.events: list[tuple[bool, str, dict[str, Any]]] = []  # (is it a warning, event, facts) for the log

    def send(
        self,
        peer: Participant,
        priority: int,
        header: Header,
        body: bytes | memoryview = b"",
        now: float = 0.0,
        flight: Flight | None = None,
    ) -> bool:
        """Queue a message; False when the peer is away or its queue is full. A request waits for a peer that is away.

        Raises ValueError when the header has become larger than a header may be.
        """
        if not peer.routing_id and flight is None:
            return False
        frame = encode_header(header)
        if not peer.outbox.push(priority, len(frame) + len(body), Message(header, frame, body, now, flight)):
            return False
        if flight is not None:
            flight.is_queued = True
        self.dirty[peer] = None
        return True

    def control(self, peer: Participant, kind: Kind, flags: int = 0, body: bytes = b"") -> None:
        """A message of the broker itself that nobody waits for; a queue full of them needs no more."""
        self.send(peer, CONTROL, Header(kind, flags=flags), body)

    def error(self, peer: Participant, call_id: int, error: OrbitError) -> None:
        """End a call at its caller. Where that is not possible now, the caller is asked to say again what it waits for."""
        body, flags = pack_body(error.to_body())
        if not self.send(peer, CALLS, Header(Kind.ERROR, id=call_id, source=BROKER, flags=flags), body):
            peer.owes_resend = bool(peer.routing_id)

    def answer_stranger(self, routing_id: bytes, kind: Kind, body: bytes = b"", flags: int = 0) -> None:
        """Say something to a connection that belongs to no participant; it is tried once."""
        self.strangers.append((routing_id, encode_header(Header(kind, source=BROKER, flags=flags)), body))

    def audit(self, who: Participant, header: Header, what: str, result: str, **facts: Any) -> None:
        """An action of an admin, or one that was refused: who, on whose behalf, what, and what came of it."""
        self.audits.append(
            {
                "key": who.identity.key_name or who.identity.user_id,
                "participant": who.name,
                "user": who.identity.user,
                "on_behalf_of": header.on_behalf_of,
                "what": what,
                "endpoint": header.endpoint,
                "plugin": header.plugin,
                "session": header.session,
                "result": result,
                **facts,
            }
        )

    def log(self, event: str, **facts: Any) -> None:
        self.events.append((False, event, facts))

    def warn(self, event: str, **facts: Any) -> None:
        self.events.append((True, event, facts))


def next_message(peer: Participant, now: float) -> Message | None:
    """The message that has to be sent next, its header up to date; None while there is nothing, or it has to wait."""
    outbox = peer.outbox
    if not outbox or not peer.routing_id:
        return None
    lowest = BULK if peer.takes_requests or not peer.is_endpoint else CONTROL  # a suspect endpoint gets nothing but control:
    while (message := outbox.peek(lowest)) is not None:  # what has not been handed over can be said to be safe to repeat
        flight = message.flight
        if flight is None:
            return message
        if not flight.has_ended:
            if now - message.queued_at >= STALE_S:
                message.header.left_s = max(flight.deadline - now, LEAST_LEFT_S)
                message.frame = encode_header(message.header)
            return message
        outbox.pop()
    return None


def was_sent(peer: Participant, now: float) -> None:
    """The socket has accepted the message that `next_message` gave."""
    message = peer.outbox.pop()
    peer.sent_at = now
    if message is not None and message.flight is not None:
        message.flight.is_queued = False
        message.flight.was_handed_over = True

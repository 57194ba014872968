"""What the broker says, and libzmq of the connection to it: each message goes to the rule that it is for.

Everything here runs under the link's lock. Bytes that are no message are dropped and counted; nothing of a peer's raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from orbit_zmq import faultpoint
from orbit_zmq.errors import AuthRequired, Canceled, InternalError, ProtocolError, Unsupported, error_from_body
from orbit_zmq.log import get_logger
from orbit_zmq.rules.connection import Event, State
from orbit_zmq.rules.obstacles import Obstacle
from orbit_zmq.rules.outbox import CALLS, CONTROL
from orbit_zmq.transport.monitor import GREETED, REACHED, next_event, obstacle_of
from orbit_zmq.wire.body import pack_body, unpack_body, unpack_map
from orbit_zmq.wire.header import FINAL, PROBE, Header, Kind, decode_header
from orbit_zmq.wire.limits import Intervals, Limits

if TYPE_CHECKING:
    from orbit_zmq.transport.link import Link

log = get_logger(__name__)

TRY_AGAIN = ("busy", "shutting-down", "broker-unreachable", "internal")  # refusals that may pass


def take(link: Link, frames: list[bytes], now: float) -> None:
    """A message of the broker."""
    header = Header(0)
    try:
        if len(frames) != 2:
            raise ProtocolError(f"a message of {len(frames)} frames")
        header = decode_header(frames[0])
        MESSAGES.get(header.kind, _on_unknown)(link, header, frames[1], now)
    except ProtocolError as error:
        link.dropped += 1
        if link.dropped == 1 or link.dropped % 1000 == 0:
            log.warning("message-dropped", reason=str(error), dropped=link.dropped)
    except Exception:
        log.exception("rule-failed")
        if not header.caller:
            link.caller.fail_one(header.id, InternalError("the answer could not be understood; the log says why"))


def watch(link: Link, monitor: zmq.Socket[bytes], now: float) -> None:
    """What libzmq tells of the connection."""
    while not monitor.closed and (seen := next_event(monitor)) is not None:
        event, value = seen
        if event == REACHED:
            link.way.is_reached = link.connection.is_reached = True
        elif event == GREETED:
            link.way.is_greeted = True
        elif link.way.is_greeted:
            link.way.reason = link.way.reason or "the connection was closed"
            link.handle(Event.BROKEN, now)
        else:
            link.meet(obstacle_of(event, value, now - link.connection.heard_at), now)


def _on_welcome(link: Link, header: Header, body: bytes, now: float) -> None:
    facts = unpack_map(body, header.flags)
    limits = Limits.from_body(facts.get("limits", {})).agreed_with(Limits())
    link.connection.intervals = Intervals.from_body(facts.get("intervals", {}))
    link.caller.limits = limits
    if link.server is not None:
        link.server.limits = limits
    link.name, link.user = str(facts.get("name", "")), str(facts.get("user", ""))
    epoch = facts.get("epoch")
    link.epoch = epoch if isinstance(epoch, bytes) else b""
    link.ear.on_welcome(facts)

    link.handle(Event.WELCOMED, now)
    if facts.get("want_catalogue"):
        link.say_update({"catalogue_body": link.party.catalogue()})


def _on_who_are_you(link: Link, header: Header, body: bytes, now: float) -> None:
    link.handle(Event.ASKED_WHO, now)


def _on_bye(link: Link, header: Header, body: bytes, now: float) -> None:
    link.way.reason = "it has been stopped" if header.flags & FINAL else "it is restarting"
    link.handle(Event.SAID_BYE if header.flags & FINAL else Event.BROKEN, now)


def _on_heartbeat(link: Link, header: Header, body: bytes, now: float) -> None:
    if header.flags & PROBE:  # answered here and now, for the broker measures how long that takes
        pulse, flags = pack_body(link.party.pulse())
        link.send(CONTROL, Header(Kind.HEARTBEAT, id=header.id, flags=flags), pulse)


def _on_request(link: Link, header: Header, body: bytes, now: float) -> None:
    faultpoint.reach("endpoint.received")
    if link.server is None or not header.caller:
        _answer_unsupported(link, header, "requests")
    else:
        link.server.on_request(header, body, now)


def _on_answer(link: Link, header: Header, body: bytes, now: float) -> None:
    if header.id == 0 and header.kind == Kind.ERROR:
        _on_refusal(link, header, body, now)
    else:
        faultpoint.reach("client.answered")
        link.caller.on_answer(header, body, now)


def _on_refusal(link: Link, header: Header, body: bytes, now: float) -> None:
    """An error that belongs to no call is the broker's answer to hello."""
    error = error_from_body(unpack_body(body, header.flags))
    if error.code in TRY_AGAIN:
        link.way.reason = error.message
        link.handle(Event.BROKEN, now)
    elif isinstance(error, AuthRequired):
        link.meet(Obstacle.NOT_ADMITTED, now)
    elif link.connection.state is not State.UP or isinstance(error, Canceled):  # or somebody has ended this participant
        link.refuse(error, now)


def _on_chunk(link: Link, header: Header, body: bytes, now: float) -> None:
    """What carries a caller's incarnation belongs to a request that is served here."""
    if header.caller and link.server is not None:
        link.server.on_chunk(header, body, now)
    else:
        link.caller.on_answer(header, body, now)


def _on_credit(link: Link, header: Header, body: bytes, now: float) -> None:
    if header.caller and link.server is not None:
        link.server.on_credit(header, now)
    else:
        link.caller.on_answer(header, body, now)


def _on_resend(link: Link, header: Header, body: bytes, now: float) -> None:
    link.caller.on_resend(header, now)


def _on_holders(link: Link, header: Header, body: bytes, now: float) -> None:
    link.on_holders(unpack_map(body, header.flags))


def _on_cancel(link: Link, header: Header, body: bytes, now: float) -> None:
    if link.server is not None:
        link.server.on_cancel(header, body)


def _on_unknown(link: Link, header: Header, body: bytes, now: float) -> None:
    _answer_unsupported(link, header, f"messages of kind {header.kind}")


def _answer_unsupported(link: Link, header: Header, what: str) -> None:
    body, flags = pack_body(Unsupported(f"{link.name or 'this participant'} does not take {what}").to_body())
    answer = Header(Kind.ERROR, id=header.id, caller=header.caller, target=header.target, flags=flags)
    link.send(CALLS, answer, body)


def _on_tips(link: Link, header: Header, body: bytes, now: float) -> None:
    link.ear.on_tips(header, body)


def _on_keys(link: Link, header: Header, body: bytes, now: float) -> None:
    link.ear.on_keys(header, body)


MESSAGES: dict[int, Callable[[Link, Header, bytes, float], None]] = {
    Kind.WELCOME: _on_welcome,
    Kind.WHO_ARE_YOU: _on_who_are_you,
    Kind.BYE: _on_bye,
    Kind.HEARTBEAT: _on_heartbeat,
    Kind.REQUEST: _on_request,
    Kind.REPLY: _on_answer,
    Kind.ERROR: _on_answer,
    Kind.CHUNK: _on_chunk,
    Kind.CREDIT: _on_credit,
    Kind.RESEND: _on_resend,
    Kind.CANCEL: _on_cancel,
    Kind.TIP: _on_tips,
    Kind.KEYS: _on_keys,
    Kind.HOLDERS: _on_holders,
}

"""What both ports share: a call is checked at the door, and this is what the link does with it under its lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orbit_zmq.errors import BrokerUnreachable, Canceled, InvalidArgument, OrbitError, TooLarge
from orbit_zmq.rules.caller import OpenCall
from orbit_zmq.transport.link import Link
from orbit_zmq.transport.mailbox import AsyncMailbox, Mailbox
from orbit_zmq.wire.header import Header
from orbit_zmq.wire.limits import MAX_LEFT_S, NAME_CHARS

if TYPE_CHECKING:
    from orbit_zmq.transport.listener import Listening

END: Final = b""  # marks the end of a streamed result; chunks that are handed on are never empty


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: its body as bytes with the header's flags, and whether a stream of bytes follows."""

    body: bytes
    flags: int


def check_deadline(deadline_s: float) -> None:
    """Refuse a deadline that is none: InvalidArgument."""
    if deadline_s is True or not 0.001 <= deadline_s <= MAX_LEFT_S:  # also refuses nan
        raise InvalidArgument(f"deadline_s is {deadline_s!r}", hint=f"It is 0.001 to {MAX_LEFT_S:g} seconds.")


def check_call(header: Header, body: bytes, deadline_s: float, limit_bytes: int) -> None:
    """Refuse at the door what could not be sent: InvalidArgument or TooLarge."""
    check_deadline(deadline_s)
    names = (header.endpoint, header.plugin, header.session, header.operation)
    if not "".join(names).isascii() or max(map(len, names)) > NAME_CHARS:  # so that no header outgrows its limit
        raise InvalidArgument(f"names of endpoints, plugins, sessions and operations are {NAME_CHARS} ASCII letters at most")
    if len(body) > limit_bytes:
        raise TooLarge(f"the arguments of {header.operation} are {len(body)} bytes; the limit is {limit_bytes}")


def listening_of(
    mailbox: Mailbox | AsyncMailbox, ready: Callable[[OrbitError | None], None], interest: Mapping[str, Any]
) -> Listening:
    """A subscription that goes to a mailbox."""
    from orbit_zmq.transport.listener import Listening  # loads cryptography, which who only calls does not need

    return Listening(mailbox.put, ready, **interest)


def deaf(link: Link) -> BrokerUnreachable:
    """Why a subscription does not come into force."""
    return BrokerUnreachable(
        f"the events of the broker at {link.place.address} cannot be heard",
        hint="They come over an address of their own, on TCP the next port; is it open?",
    )


def start(link: Link, call: OpenCall) -> None:
    """Send a request. Under the link's lock, as all of these."""
    try:
        if link.is_closed:
            raise link.refusal or Canceled("the client has been closed", hint="Make a new one.")
        link.caller.start(call, time.monotonic())
        if link.is_turned_away:
            link.retry_soon()  # the call ends when that is refused
    except OrbitError as error:
        call.waiter.on_error(error)


def feed(link: Link, call: OpenCall, data: bytes, last: bool) -> None:
    """Send a piece of the stream that goes with a call."""
    link.caller.feed(call, data, last, time.monotonic())


def abandon(link: Link, call: OpenCall, error: OrbitError) -> None:
    """Our own side cannot go on with a call."""
    link.caller.cancel(call)
    call.waiter.on_error(error)


def reason_of(error: BaseException) -> str:
    """Why a call is given up, for those who run the operation: what `task.cancel(reason)` was given, or what has happened."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error.args[0]) if error.args and isinstance(error.args[0], str) else ""


def checked(data: object) -> bytes:
    """A piece of a stream, or InvalidArgument."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidArgument(f"a stream of bytes yielded {type(data).__name__}")
    return bytes(data)

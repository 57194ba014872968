"""Which broker to connect to, and with which keys: one search order for clients, endpoints and commands.

An argument, then the environment, then the current context, then this user's broker on this machine. Nothing here connects;
when nothing is found the error names every place that was looked at.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from orbit_zmq.contexts import current_context, read_context
from orbit_zmq.errors import BrokerUnreachable, InvalidArgument, NotPermitted
from orbit_zmq.paths import state_dir
from orbit_zmq.runtime_file import read_runtime_file, runtime_file_path
from orbit_zmq.security.join import MAX_CHARS, PREFIX, JoinString
from orbit_zmq.security.keys import BROKER_KEY, OWNER_KEY, KeyPair, load_keypair
from orbit_zmq.settings import environment

TCP_ADDRESS = re.compile(r"tcp://[^\s/]+:\d{1,5}")
STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Place:
    """An address; over TCP also the broker's public key and the keys to come with. `found_in` is for messages."""

    address: str
    server_key: str | None
    keys: KeyPair | None
    found_in: str
    events: str | None = None  # where events are published; None: where the broker says
    name: str = ""  # the endpoint that the keys are for, where they are for one
    others: tuple[tuple[str, str | None], ...] = ()  # more addresses of the same broker, and where it publishes there

    def in_order(self) -> tuple[Place, ...]:
        """One place for each address, in the order in which they are tried."""
        others = (replace(self, address=address, events=events, others=()) for address, events in self.others)
        return (replace(self, others=()), *others)


def find_broker(url: str | None = None, join: str | None = None, context: str | None = None) -> Place:
    """The first place that is named: argument, environment, current context, this user's broker on this machine.

    `join` is a join string, the path of a file with one, or `-` for standard input. An address that comes with a join
    string or a context is used with its keys.
    """
    by_argument = _joined_by_argument(join, context)
    joined = by_argument or _joined_by_environment()
    if url:
        return _place_of(url, joined and joined[0], "the argument url")
    if by_argument:
        return _joined_place(*by_argument)
    if from_environment := environment("ORBIT_URL"):
        return _place_of(from_environment, joined and joined[0], "ORBIT_URL")
    if joined:
        return _joined_place(*joined)
    if named := environment("ORBIT_CONTEXT") or current_context():
        return _joined_place(read_context(named), f"the context {named}")
    return _local_place()


def read_join_string(where: str) -> tuple[JoinString, str]:
    """The join string that this is, or that lies in the file of that name, or that comes from standard input."""
    if where.strip().startswith(PREFIX):
        return JoinString.decode(where), "the argument join"
    if where == STANDARD_INPUT:
        return JoinString.decode(sys.stdin.readline(MAX_CHARS + 1)), "standard input"
    return JoinString.read(Path(where).expanduser()), where


def _joined_by_argument(join: str | None, context: str | None) -> tuple[JoinString, str] | None:
    if join:
        return read_join_string(join)
    return (read_context(context), f"the context {context}") if context else None


def _joined_by_environment() -> tuple[JoinString, str] | None:
    if text := environment("ORBIT_JOIN"):
        return JoinString.decode(text), "ORBIT_JOIN"
    if path := environment("ORBIT_JOIN_FILE"):
        return JoinString.read(Path(path).expanduser()), "ORBIT_JOIN_FILE"
    return None


def _joined_place(joined: JoinString, found_in: str) -> Place:
    place = _place_of(joined.requests[0], joined, found_in)
    events: list[str | None] = [*joined.events, *[None] * len(joined.requests)]
    if overridden := environment("ORBIT_EVENTS_URL"):
        events = [overridden] * len(joined.requests)
    others = [address for address in joined.requests[1:] if TCP_ADDRESS.fullmatch(address)]
    return replace(place, others=tuple(zip(others, events[1:], strict=False)))


def _place_of(address: str, joined: JoinString | None, found_in: str) -> Place:
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return Place(address, None, None, found_in, environment("ORBIT_EVENTS_URL"))
    if TCP_ADDRESS.fullmatch(address) is None:
        raise InvalidArgument(
            f"{found_in} is {address!r}, which is no address of a broker.",
            hint="An address is tcp://host:port or ipc:///path.",
        )
    if joined is not None:
        events = environment("ORBIT_EVENTS_URL") or (
            joined.events[0] if address == joined.requests[0] and joined.events else None
        )
        name = joined.name if joined.role == "endpoint" else ""
        return Place(address, joined.broker_key, joined.keys, found_in, events, name)
    try:
        server_key, keys = load_keypair(state_dir() / BROKER_KEY).public, load_keypair(state_dir() / OWNER_KEY)
    except FileNotFoundError:
        raise InvalidArgument(
            f"{found_in} names {address}, but there is no key for it: this user has started no broker here.",
            hint="Ask the broker's owner for a join string (`orbit invite`) and store it with `orbit join`.",
        ) from None
    return Place(address, server_key, keys, found_in, environment("ORBIT_EVENTS_URL"))


def _local_place() -> Place:
    looked_at = (
        "the arguments url, join and context; ORBIT_URL, ORBIT_JOIN, ORBIT_JOIN_FILE and ORBIT_CONTEXT; the current context"
    )
    try:
        record, here = read_runtime_file(), str(runtime_file_path())
    except NotPermitted as error:
        raise BrokerUnreachable(f"No broker was found. Looked at: {looked_at}; and {error.message}", hint=error.hint) from error
    if record is None:
        raise BrokerUnreachable(f"No broker was found. Looked at: {looked_at}; and {here}, which names none that runs.")
    if not record.is_here():
        raise BrokerUnreachable(
            f"No broker was found. Looked at: {looked_at}; and {here}, whose broker runs on {record.hostname}.",
            hint="Name it with --url or ORBIT_URL, or start one here with `orbit broker start`.",
        )
    events = environment("ORBIT_EVENTS_URL") or (f"ipc://{record.events_ipc}" if record.events_ipc else None)
    return Place(f"ipc://{record.ipc}", None, None, here, events)

"""Which broker to connect to, and with which keys: one search order for clients, endpoints and commands.

The arguments, then the environment, then the context in use, then the config file, then this user's broker here. Nothing
here connects; when nothing is found the error names every place that was looked at.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from orbit_zmq.contexts import read_context
from orbit_zmq.errors import BrokerUnreachable, InvalidArgument, NotPermitted
from orbit_zmq.paths import state_dir
from orbit_zmq.runtime_file import read_runtime_file, runtime_file_path
from orbit_zmq.security.join import MAX_CHARS, PREFIX, JoinString
from orbit_zmq.security.keys import BROKER_KEY, OWNER_KEY, KeyPair, load_keypair
from orbit_zmq.settings import environment, setting

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


@dataclass(frozen=True, slots=True)
class Named:
    """What one level says of the broker; `origins` are the names of its three for messages."""

    url: str | None
    join: str | None
    context: str | None
    origins: tuple[str, str, str]


def find_broker(url: str | None = None, join: str | None = None, context: str | None = None) -> Place:
    """The first place that is named: by the arguments, the environment, the context in use, the config file, or this user's
    broker on this machine.

    Of one level the address counts before the join string and that before the context. `join` is a join string, the path of a
    file with one, or `-` for standard input. An address that comes with a join string, or over a level with ORBIT_JOIN_FILE, is
    used with its keys.
    """
    arguments = Named(url, join, context, ("the argument url", "the argument join", f"the context {context}"))
    for level in (arguments, _environment_level()):
        if place := _place_at(level):
            return place
    return _place_at(_config_level()) or _local_place()


def read_join_string(where: str) -> JoinString:
    """The join string that this is, or that lies in the file of that name, or that comes from standard input."""
    if where.strip().startswith(PREFIX):
        return JoinString.decode(where)
    if where == STANDARD_INPUT:
        return JoinString.decode(sys.stdin.readline(MAX_CHARS + 1))
    return JoinString.read(Path(where).expanduser())


def _environment_level() -> Named:
    joined = "ORBIT_JOIN" if environment("ORBIT_JOIN") else "ORBIT_JOIN_FILE"
    url, join, context = names = ("ORBIT_URL", joined, "ORBIT_CONTEXT")
    return Named(environment(url), environment(join), environment(context), names)


def _config_level() -> Named:
    """The context in use takes the place of an address in the config file."""
    context = setting("context")
    url, join = (None, None) if context else (setting("url"), setting("join_file"))
    return Named(url, join, context, ("config.toml", "config.toml", f"the context {context}"))


def _place_at(level: Named) -> Place | None:
    url, joined = level.url, None
    if level.join:
        joined = read_join_string(level.join)
    elif level.context:
        context = read_context(level.context)
        url, joined = url or context.url, context.join
    elif url and (from_environment := _environment_level().join):
        joined = read_join_string(from_environment)
    address = url or (joined.requests[0] if joined is not None else None)
    named = zip((level.url, level.join, level.context), level.origins, strict=True)
    if not address:
        return None
    found_in = next(origin for value, origin in named if value)
    if level.join and not level.url and not level.join.strip().startswith(PREFIX):
        found_in = "standard input" if level.join == STANDARD_INPUT else level.join
    place = _place_of(address, joined, found_in)
    return place if joined is None or address != joined.requests[0] else replace(place, others=_others_of(joined))


def _others_of(joined: JoinString) -> tuple[tuple[str, str | None], ...]:
    """The other addresses of a join string, and where events are published there."""
    events: list[str | None] = [*joined.events, *[None] * len(joined.requests)]
    if overridden := environment("ORBIT_EVENTS_URL"):
        events = [overridden] * len(joined.requests)
    pairs = zip(joined.requests[1:], events[1:], strict=False)
    return tuple((address, at) for address, at in pairs if TCP_ADDRESS.fullmatch(address))


def check_address(address: str, found_in: str) -> None:
    """InvalidArgument where it is no address of a broker; `found_in` says whose word it is."""
    is_ipc = address.startswith("ipc://") and len(address) > len("ipc://")
    if not is_ipc and TCP_ADDRESS.fullmatch(address) is None:
        raise InvalidArgument(
            f"{found_in} is {address!r}, which is no address of a broker.",
            hint="An address is tcp://host:port or ipc:///path.",
        )


def _place_of(address: str, joined: JoinString | None, found_in: str) -> Place:
    check_address(address, found_in)
    if address.startswith("ipc://"):
        return Place(address, None, None, found_in, environment("ORBIT_EVENTS_URL"))
    if joined is not None:
        is_first = address == joined.requests[0]
        events = environment("ORBIT_EVENTS_URL") or (next(iter(joined.events), None) if is_first else None)
        name = joined.name if joined.role == "endpoint" else ""
        return Place(address, joined.broker_key, joined.keys, found_in, events, name)
    try:
        server_key, keys = load_keypair(state_dir() / BROKER_KEY).public, load_keypair(state_dir() / OWNER_KEY)
    except FileNotFoundError:
        raise InvalidArgument(
            f"{found_in} names {address}, but there is no key for it: this user has started no broker here.",
            hint="Ask the broker's owner for a join string and pass it as join, or in the file ORBIT_JOIN_FILE.",
        ) from None
    return Place(address, server_key, keys, found_in, environment("ORBIT_EVENTS_URL"))


def _local_place() -> Place:
    looked_at = "the arguments url, join and context; ORBIT_URL, ORBIT_JOIN, ORBIT_JOIN_FILE and ORBIT_CONTEXT; config.toml"
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

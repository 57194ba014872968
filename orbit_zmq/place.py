"""Which broker to connect to, and with which keys: one search order for clients, endpoints and commands.

An argument, then the environment, then a stored context, then this user's broker on this machine. Nothing here connects;
when nothing is found the error names every place that was looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from orbit_zmq.errors import BrokerUnreachable, InvalidArgument, NotPermitted
from orbit_zmq.paths import config_dir, state_dir
from orbit_zmq.runtime_file import read_runtime_file, runtime_file_path
from orbit_zmq.security.join import PREFIX, JoinString
from orbit_zmq.security.keys import BROKER_KEY, OWNER_KEY, KeyPair, load_keypair
from orbit_zmq.settings import environment

TCP_ADDRESS = re.compile(r"tcp://[^\s/]+:\d{1,5}")
CONTEXT_NAME = re.compile(r"[a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """An address; over TCP also the broker's public key and the keys to come with. `found_in` is for messages."""

    address: str
    server_key: str | None
    keys: KeyPair | None
    found_in: str
    events: str | None = None  # where events are published; None: where the broker says


def find_broker(url: str | None = None, join: str | None = None, context: str | None = None) -> Place:
    """The first place that is named: argument, environment, context, this user's broker on this machine.

    `join` is a join string or the path of a file with one. An address that comes with a join string is used with its keys.
    """
    joined, joined_in = _join_string(join)
    if url:
        return _place_of(url, joined, "the argument url")
    if join and joined:
        return _joined_place(joined, joined_in)
    if from_environment := environment("ORBIT_URL"):
        return _place_of(from_environment, joined, "ORBIT_URL")
    if joined:
        return _joined_place(joined, joined_in)
    if named := context or environment("ORBIT_CONTEXT"):
        return _joined_place(_read_context(named), f"the context {named}")
    return _local_place()


def _join_string(argument: str | None) -> tuple[JoinString | None, str]:
    if argument:
        text = argument.strip()
        if text.startswith(PREFIX):
            return JoinString.decode(text), "the argument join"
        return JoinString.read(Path(argument).expanduser()), argument
    if from_environment := environment("ORBIT_JOIN_FILE"):
        return JoinString.read(Path(from_environment).expanduser()), "ORBIT_JOIN_FILE"
    return None, ""


def _joined_place(joined: JoinString, found_in: str) -> Place:
    return _place_of(joined.requests[0], joined, found_in)


def _place_of(address: str, joined: JoinString | None, found_in: str) -> Place:
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return Place(address, None, None, found_in, environment("ORBIT_EVENTS_URL"))
    if TCP_ADDRESS.fullmatch(address) is None:
        raise InvalidArgument(
            f"{found_in} is {address!r}, which is no address of a broker.",
            hint="An address is tcp://host:port or ipc:///path.",
        )
    if joined is not None:
        events = environment("ORBIT_EVENTS_URL") or next(iter(joined.events), None)
        return Place(address, joined.broker_key, joined.keys, found_in, events)
    try:
        server_key, keys = load_keypair(state_dir() / BROKER_KEY).public, load_keypair(state_dir() / OWNER_KEY)
    except FileNotFoundError:
        raise InvalidArgument(
            f"{found_in} names {address}, but there is no key for it: this user has started no broker here.",
            hint="Ask the broker's owner for a join string and pass it as join, or in the file ORBIT_JOIN_FILE.",
        ) from None
    return Place(address, server_key, keys, found_in, environment("ORBIT_EVENTS_URL"))


def _read_context(name: str) -> JoinString:
    if CONTEXT_NAME.fullmatch(name) is None:
        raise InvalidArgument(f"{name!r} is no name of a context.", hint="Names are of a-z 0-9 . _ -")
    path = config_dir() / "contexts" / name
    if not path.exists():
        raise InvalidArgument(f"There is no context {name}.", hint=f"It would be the join string in {path}")
    return JoinString.read(path)


def _local_place() -> Place:
    looked_at = "the arguments url, join and context; ORBIT_URL, ORBIT_JOIN_FILE and ORBIT_CONTEXT"
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

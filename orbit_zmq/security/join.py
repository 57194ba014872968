"""The join string: all that a remote party needs to connect, in one line of text.

It carries the broker's addresses and public key and the party's own key pair, so whoever has it is that party. It is
checked as a whole, and no error ever quotes it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit_zmq.addresses import bracketed, host_of, port_of, tcp_address
from orbit_zmq.errors import InvalidArgument
from orbit_zmq.files import read_private, write_private
from orbit_zmq.security.keys import KeyPair, is_key

PREFIX = "orbit1:"
CHECK_BYTES = 6  # enough to notice any slip of copying; it is no protection, the string is a secret anyway
MAX_CHARS = 16_384
LOOPBACK = ("127.", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class JoinString:
    """Addresses of the broker for requests and for events, its public key, and the party's own keys, name and role."""

    requests: tuple[str, ...]
    events: tuple[str, ...]
    broker_key: str
    keys: KeyPair
    name: str
    role: str

    def encode(self) -> str:
        """The one line that is handed over."""
        content = {
            "requests": list(self.requests),
            "events": list(self.events),
            "broker": self.broker_key,
            "public": self.keys.public,
            "secret": self.keys.secret,
            "name": self.name,
            "role": self.role,
        }
        packed = json.dumps(content, separators=(",", ":")).encode()
        return PREFIX + base64.urlsafe_b64encode(_check_of(packed) + packed).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinString:
        """Read a join string; InvalidArgument, which never quotes it, when it is not whole."""
        content = _content_of(text.strip())
        joined = _from_content(content) if content is not None else None
        if joined is None:
            raise InvalidArgument(
                "This is not a whole join string.",
                hint=f"A join string begins with {PREFIX} and is one line; copy all of it, or ask for a new one.",
            )
        return joined

    @classmethod
    def read(cls, path: Path) -> JoinString:
        """Read the file that one is stored in; it has to be 0600."""
        try:
            return cls.decode(read_private(path))
        except OSError as error:
            if isinstance(error, PermissionError):
                raise
            raise InvalidArgument(
                f"The join file {path} cannot be read: {error.strerror}.", hint="Name the file with the join string."
            ) from error

    def write(self, path: Path) -> None:
        """Store it (0600)."""
        write_private(path, self.encode() + "\n")


def invitation(
    answer: Mapping[str, Any], keys: KeyPair, name: str, role: str, *, hosts: Sequence[str] = (), seen_at: str = ""
) -> JoinString:
    """The join string for what the broker's operation `invite` has answered.

    `hosts` stand in place of the addresses that the broker knows of itself. Without them `seen_at`, an address by which it
    was reached from elsewhere, is tried first, and its full host name last, which may take long where it does not resolve.
    """
    requests, events = list(answer["requests"]), list(answer["events"])
    found = [*hosts] if hosts else [host_of(address) for address in requests]
    if not hosts:
        beyond = host_of(seen_at) if seen_at.startswith("tcp://") else ""
        if beyond and not beyond.startswith(LOOPBACK):
            found.insert(0, beyond)
        if "." in answer.get("hostname", ""):
            found.append(answer["hostname"])
    order = dict.fromkeys(map(bracketed, found))
    return JoinString(
        requests=tuple(tcp_address(host, port_of(requests[0])) for host in order),
        events=tuple(tcp_address(host, port_of(events[0])) for host in order) if events else (),
        broker_key=answer["broker_key"],
        keys=keys,
        name=name,
        role=role,
    )


def _check_of(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:CHECK_BYTES]


def _content_of(text: str) -> dict[str, Any] | None:
    if not text.startswith(PREFIX) or len(text) > MAX_CHARS:
        return None
    encoded = text[len(PREFIX) :]
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        check, packed = raw[:CHECK_BYTES], raw[CHECK_BYTES:]
        content = json.loads(packed) if check == _check_of(packed) else None
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _from_content(content: dict[str, Any]) -> JoinString | None:
    keys = [content.get(name) for name in ("broker", "public", "secret")]
    names = [content.get(name) for name in ("name", "role")]
    addresses = [content.get(name) for name in ("requests", "events")]
    if not all(map(is_key, keys)) or not all(isinstance(name, str) and name for name in names):
        return None
    for listed in addresses:
        if not isinstance(listed, list) or not all(isinstance(address, str) for address in listed):
            return None
    if not content["requests"]:
        return None
    return JoinString(
        requests=tuple(content["requests"]),
        events=tuple(content["events"]),
        broker_key=content["broker"],
        keys=KeyPair(public=content["public"], secret=content["secret"]),
        name=content["name"],
        role=content["role"],
    )

"""CURVE key pairs, and the files that they are kept in.

A key file is JSON, 0600, and is refused when group or others may read it. A secret is never logged or shown: the repr of a
key pair hides it. Making a key is libzmq's work, reached through the transport when it is needed.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.files import create_private, read_private

BROKER_KEY = "broker.key"  # in the state directory: the broker's own pair
OWNER_KEY = "owner.key"  # the pair by which its owner's programs connect over TCP on this machine
KEY_LIST = "keys.json"  # who else may

Z85_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")  # 32 bytes in Z85


def is_key(text: object) -> bool:
    """Whether this is a CURVE key as text."""
    return isinstance(text, str) and Z85_KEY.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key, and the secret that proves to be its holder; both as Z85 text."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not is_key(self.public) or not is_key(self.secret):
            raise InvalidArgument("A CURVE key is 40 characters of Z85.", hint="Have a new key made.")


def make_keypair() -> KeyPair:
    """A fresh pair."""
    from orbit_zmq.transport import curve  # only who needs a new key loads libzmq

    return curve.make_keypair()


def load_keypair(path: Path) -> KeyPair:
    """Read a key file; FileNotFoundError where there is none, InvalidArgument where it is damaged."""
    text = read_private(path)
    try:
        fields = json.loads(text)
        return KeyPair(public=fields["public"], secret=fields["secret"])
    except (ValueError, TypeError, KeyError):
        pass  # the causes would quote the secret
    raise InvalidArgument(f"{path} is not a key file.", hint="Move it away; a new one is made at the next start.")


def load_or_make_keypair(path: Path) -> KeyPair:
    """Read the key file, or make it. Of two processes that start at once, both get the same pair."""
    try:
        return load_keypair(path)
    except FileNotFoundError:
        create_private(path, json.dumps(asdict(make_keypair())) + "\n")
        return load_keypair(path)


def own_user() -> str:
    """The name of the user that this process runs as; `uid-<number>` where the machine has no name for it."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"

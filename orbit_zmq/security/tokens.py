"""The tokens of HTTP: whom each of them stands for, what it may do, and until when.

One JSON file in the gateway's state directory, 0600, replaced whole, with hashes in place of tokens: who reads it cannot
call with what is in it. A token has 256 random bits, so a plain hash is enough. The file is looked at (one `stat`) with every
question, so that a running gateway sees a change at once; a damaged one admits nobody, because a token that was revoked
must never come back.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from orbit_zmq.errors import Conflict, InvalidArgument, NotFound
from orbit_zmq.files import file_version, read_private, write_private
from orbit_zmq.log import get_logger

log = get_logger(__name__)

FILE = "tokens.json"
PREFIX = "orbit_"  # so that scanners of sources find one that was left there
TOKEN = re.compile(r"orbit_[A-Za-z0-9_-]{43}")
NAME = re.compile(r"[a-z0-9._-]{1,255}")
RIGHTS = ("read", "write", "run", "admin")
DEFAULT_RIGHTS = ("read", "write", "run")
VERSION = 1


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One token: whom it stands for, and what it may do where. `endpoints` and `plugins` are patterns of the shell; times
    are wall-clock seconds.
    """

    name: str
    user: str
    hash: str
    rights: tuple[str, ...] = DEFAULT_RIGHTS
    endpoints: tuple[str, ...] = ("*",)
    plugins: tuple[str, ...] = ("*",)
    created: float = 0.0
    expires: float | None = None

    def is_valid(self, now_wall: float) -> bool:
        return self.expires is None or now_wall < self.expires

    def describe(self) -> dict[str, Any]:
        """What is told of it: everything but the hash."""
        told = {name: value for name, value in asdict(self).items() if name != "hash"}
        return {**told, "is_expired": not self.is_valid(time.time())}


class TokenList:
    """The entries of one directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._by_hash: dict[str, TokenEntry] = {}
        self._stamp: tuple[int, int, int] | None = None
        self.damage = ""  # what is wrong with the file, while nobody is admitted; else empty
        self._look()

    def __iter__(self) -> Iterator[TokenEntry]:
        self._look()
        return iter(sorted(self._by_hash.values(), key=lambda entry: entry.name))

    def lookup(self, token: str) -> TokenEntry | None:
        """The entry of a token, expired or not; None for one that is not listed."""
        return self.entry_of(hash_of(token)) if TOKEN.fullmatch(token) else None

    def entry_of(self, hash_: str) -> TokenEntry | None:
        """The same by the hash."""
        self._look()
        return self._by_hash.get(hash_)

    def create(
        self,
        name: str,
        user: str,
        *,
        rights: tuple[str, ...] = DEFAULT_RIGHTS,
        endpoints: tuple[str, ...] = ("*",),
        plugins: tuple[str, ...] = ("*",),
        expires_s: float | None = None,
    ) -> str:
        """Make a token and list its hash; it stands nowhere but in the answer. Conflict where the name is taken."""
        if expires_s is not None and not 0 < expires_s < math.inf:
            raise InvalidArgument("The token would have expired when it is made.", hint="Say when, such as 12h or 30d.")
        token = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        expires = None if expires_s is None else now + expires_s
        entry = TokenEntry(name, user, hash_of(token), rights, endpoints, plugins, now, expires)
        check_entry(entry)
        with self._changing() as entries:
            if any(other.name == name for other in entries):
                raise Conflict(
                    f"A token of the name {name} is listed already.", hint="Revoke it first, or choose another name."
                )
            entries.append(entry)
        return token

    def revoke(self, name: str) -> TokenEntry:
        """Strike the token of that name; NotFound where there is none."""
        with self._changing() as entries:
            struck = next((entry for entry in entries if entry.name == name), None)
            if struck is None:
                raise NotFound(f"No token of the name {name} is listed.", hint="`orbit token list` shows what is.")
            entries.remove(struck)
        return struck

    @contextmanager
    def _changing(self) -> Iterator[list[TokenEntry]]:
        """The entries, to be changed by one process at a time; written unless an error ends it."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = read_entries(self.path)
            yield entries
            content = {"version": VERSION, "tokens": [asdict(entry) for entry in entries]}
            write_private(self.path, json.dumps(content, indent=1) + "\n")

    def _look(self) -> None:
        stamp = file_version(self.path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._by_hash = {entry.hash: entry for entry in read_entries(self.path)}
            self.damage = ""
        except (OSError, InvalidArgument) as error:
            self._by_hash, self.damage = {}, str(error)
            log.error("token-list-damaged", path=str(self.path), reason=self.damage)


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_entries(path: Path) -> list[TokenEntry]:
    """All entries of a list, none where there is no file; InvalidArgument names what is wrong with it, never a part of them."""
    try:
        content = json.loads(read_private(path))
        if content["version"] != VERSION:
            raise ValueError(f"it has version {content['version']!r}")
        return [_entry_from(entry) for entry in content["tokens"]]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidArgument(f"{path} is no list of tokens: {error}", hint="Restore it, or move it away.") from None


def check_entry(entry: TokenEntry) -> None:
    """Raise InvalidArgument naming the first field that is not what it has to be."""
    lists = (entry.rights, entry.endpoints, entry.plugins)
    checks = {
        "name": isinstance(entry.name, str) and NAME.fullmatch(entry.name) is not None,
        "user": isinstance(entry.user, str) and 0 < len(entry.user) <= 255 and entry.user.isprintable(),
        "hash": isinstance(entry.hash, str) and len(entry.hash) == 64,
        "rights, endpoints or plugins": all(texts and all(isinstance(text, str) for text in texts) for texts in lists),
        "rights": set(entry.rights) <= set(RIGHTS),
        "times": isinstance(entry.created, (int, float)) and (entry.expires is None or entry.expires > 0),
    }
    for field, is_right in checks.items():
        if not is_right:
            raise InvalidArgument(
                f"The token {entry.name!r} has a wrong value for {field}.",
                hint=f"Rights: {', '.join(RIGHTS)}. Names are of a-z 0-9 . _ -",
            )


def _entry_from(content: dict[str, Any]) -> TokenEntry:
    known = {field.name: content[field.name] for field in fields(TokenEntry)}
    for name in ("rights", "endpoints", "plugins"):
        known[name] = tuple(known[name])
    entry = TokenEntry(**known)
    check_entry(entry)
    return entry

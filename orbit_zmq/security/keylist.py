"""The broker's list of the keys that may connect over TCP, and what each of them may do.

One JSON file beside the broker's own key, 0600, replaced whole. It is read at the start and again when it has changed; a
look-up touches memory only, because the broker makes one during every handshake. Patterns are those of the shell: `hpc1.*`.
A list that turns out damaged while it is in force is reported, and the one in memory stays.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Any

from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, NotPermitted
from orbit_zmq.files import file_version, read_private, write_private
from orbit_zmq.log import get_logger
from orbit_zmq.security.keys import OWNER_KEY, KeyPair, is_key, load_or_make_keypair, make_keypair, own_user

log = get_logger(__name__)

ROLES = ("endpoint", "client", "gateway", "admin")
RIGHTS = ("read", "write", "run", "act-for")
CALLER = ("read", "write", "run")
DEFAULT_RIGHTS = {"endpoint": CALLER, "client": CALLER, "gateway": RIGHTS, "admin": RIGHTS}
OWNER = "owner"
VERSION = 1
NAME = re.compile(r"[a-z0-9._-]{1,255}")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key: who holds it, which endpoint names it may take, and what it may do where. Times are wall-clock seconds."""

    key: str
    name: str
    user: str
    role: str
    names: tuple[str, ...]
    endpoints: tuple[str, ...] = ("*",)
    plugins: tuple[str, ...] = ("*",)
    rights: tuple[str, ...] = CALLER
    parent: str = ""  # name of the key that minted this one; empty where an admin did
    created: float = 0.0
    last_seen: float | None = None
    expires: float | None = None

    def is_valid(self, now_wall: float) -> bool:
        return self.expires is None or now_wall < self.expires

    def may_take(self, name: str) -> bool:
        """Whether a party with this key may be the endpoint of that name."""
        return any(fnmatchcase(name, pattern) for pattern in self.names)

    def may_reach(self, endpoint: str, plugin: str) -> bool:
        """Whether a party with this key may call that plugin on that endpoint at all."""
        return any(fnmatchcase(endpoint, pattern) for pattern in self.endpoints) and any(
            fnmatchcase(plugin, pattern) for pattern in self.plugins
        )


class KeyList:
    """The entries by key, and the file that they came from."""

    def __init__(self, path: Path, entries: Iterable[KeyEntry]) -> None:
        self.path = path
        self._entries = {entry.key: entry for entry in entries}
        self._stamp = file_version(path)
        self.damage = ""  # what is wrong with the file, while an older list is in force

    @classmethod
    def load(cls, path: Path) -> KeyList:
        """Read the list, or begin one. The owner's own entry is always in it; its key lies beside the list."""
        owner = load_or_make_keypair(path.with_name(OWNER_KEY))
        try:
            keys = cls(path, read_entries(path))
        except FileNotFoundError:
            keys = cls(path, ())
        if owner.public not in keys._entries:
            kept = [entry for entry in keys if entry.name != OWNER]
            entry = KeyEntry(owner.public, OWNER, own_user(), "admin", ("*",), rights=RIGHTS, created=time.time())
            keys._replace_all([entry, *kept])
        return keys

    def __iter__(self) -> Iterator[KeyEntry]:
        return iter(tuple(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def lookup(self, key: str, now_wall: float) -> KeyEntry | None:
        """The entry of a key that is listed and has not expired. Memory only."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.is_valid(now_wall) else None

    def seen(self, key: str, now_wall: float) -> None:
        """Remember when a key last connected; it is written with the next change."""
        if key in self._entries:
            self._entries[key] = replace(self._entries[key], last_seen=now_wall)

    def reload(self) -> bool:
        """Take over the file if it has changed. False when it has not, or when it is damaged: then nothing changes."""
        stamp = file_version(self.path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            fresh = read_entries(self.path)
        except (OSError, InvalidArgument) as error:
            self.damage = str(error)
            log.error("key-list-damaged", path=str(self.path), reason=self.damage, kept=len(self))
            return False
        self.damage = ""
        seen = {entry.key: entry.last_seen for entry in self}
        self._entries = {
            entry.key: replace(entry, last_seen=max(entry.last_seen or 0.0, seen.get(entry.key) or 0.0) or None)
            for entry in fresh
        }
        return True

    def admit(
        self,
        name: str,
        role: str,
        user: str | None = None,
        *,
        names: tuple[str, ...] | None = None,
        endpoints: tuple[str, ...] = ("*",),
        plugins: tuple[str, ...] = ("*",),
        rights: tuple[str, ...] | None = None,
        expires: float | None = None,
    ) -> KeyPair:
        """Make a key for a new party and list it; the pair is in nobody's file but the one that the caller writes.

        An endpoint may take its own name and names below it (`hpc1`, `hpc1.*`) unless `names` says otherwise; nobody else
        may take any. The user is this process's unless it is given.
        """
        pair = make_keypair()
        own_names = (name, f"{name}.*") if role == "endpoint" else ()
        entry = KeyEntry(
            key=pair.public,
            name=name,
            user=user or own_user(),
            role=role,
            names=own_names if names is None else names,
            endpoints=endpoints,
            plugins=plugins,
            rights=DEFAULT_RIGHTS.get(role, ()) if rights is None else rights,
            created=time.time(),
            expires=expires,
        )
        self.add(entry)
        return pair

    def add(self, entry: KeyEntry) -> None:
        """List a key that somebody has made. Conflict where its name or the key is listed; the same entry again is fine."""
        check_entry(entry)
        self._refuse_damage()
        listed = next((other for other in self if other.name == entry.name or other.key == entry.key), None)
        if listed is None:
            self._replace_all([*self, entry])
        elif replace(listed, created=0.0, last_seen=None, expires=None) != replace(entry, created=0.0, expires=None):
            raise Conflict(
                f"A key of the name {listed.name} is listed already.", hint="Revoke it first, or choose another name."
            )

    def by_name(self, name: str) -> KeyEntry:
        """The entry of that name, expired or not; NotFound where there is none."""
        entry = next((entry for entry in self if entry.name == name), None)
        if entry is None:
            raise NotFound(f"No key of the name {name} is listed.", hint="`orbit key list` shows what is.")
        return entry

    def with_children(self, entry: KeyEntry) -> list[KeyEntry]:
        """An entry, and those that were minted with its key, or with theirs."""
        minted: dict[str, list[KeyEntry]] = {}
        for child in self:
            minted.setdefault(child.parent, []).append(child)
        found = [entry]
        for parent in found:
            found += minted.pop(parent.name, [])
        return found

    def renew(self, name: str, expires: float) -> KeyEntry:
        """Have the key of that name expire at that time, if it would before; answers what is listed."""
        self._refuse_damage()
        entry = self.by_name(name)
        if entry.expires is None or entry.expires >= expires:
            return entry
        fresh = replace(entry, expires=expires)
        self._replace_all([fresh if other.key == entry.key else other for other in self])
        return fresh

    def revoke(self, name: str) -> list[KeyEntry]:
        """Strike the key of that name and those that it minted; answers what they were, so that connections can be ended."""
        self._refuse_damage()
        if name == OWNER:
            raise NotPermitted("The owner's own key cannot be revoked.", hint="Delete owner.key to have a new one made.")
        struck = self.with_children(self.by_name(name))
        gone = {entry.key for entry in struck}
        self._replace_all([other for other in self if other.key not in gone])
        return struck

    def next_expiry(self, now_wall: float) -> float:
        """When the next of the keys expires; infinity where none does."""
        return min((entry.expires for entry in self if entry.expires is not None and entry.expires > now_wall), default=inf)

    def _refuse_damage(self) -> None:
        """Nothing is written over a list that somebody has damaged by hand: it may be worth mending."""
        self.reload()
        if self.damage:
            raise Conflict(self.damage, hint="Mend the list or move it away; the one read before is in force until then.")

    def _replace_all(self, entries: list[KeyEntry]) -> None:
        content = {"version": VERSION, "keys": [asdict(entry) for entry in entries]}
        write_private(self.path, json.dumps(content, indent=1) + "\n")
        self._entries = {entry.key: entry for entry in entries}
        self._stamp = file_version(self.path)


def read_entries(path: Path) -> list[KeyEntry]:
    """All entries of a list, or InvalidArgument naming what is wrong with it; never a part of them."""
    try:
        content = json.loads(read_private(path))
    except ValueError as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{path} is damaged: {error}", hint="Restore it, or move it away.") from error
    if not isinstance(content, dict) or content.get("version") != VERSION or not isinstance(content.get("keys"), list):
        raise InvalidArgument(f"{path} is not a list of keys of version {VERSION}.", hint="Restore it, or move it away.")
    return [_entry_from(fields_, path) for fields_ in content["keys"]]


def _entry_from(content: object, path: Path) -> KeyEntry:
    if not isinstance(content, dict):
        raise InvalidArgument(f"{path} has an entry that is no map.", hint="Restore it, or move it away.")
    known: dict[str, Any] = {field.name: content[field.name] for field in fields(KeyEntry) if field.name in content}
    for name in ("names", "endpoints", "plugins", "rights"):
        if isinstance(known.get(name), list):
            known[name] = tuple(known[name])
    try:
        entry = KeyEntry(**known)
    except TypeError as error:
        raise InvalidArgument(f"{path} has an entry that is not complete.", hint="Restore it, or move it away.") from error
    check_entry(entry)
    return entry


def check_entry(entry: KeyEntry) -> None:
    """Raise InvalidArgument naming the first field that is not what it has to be."""
    texts = (entry.names, entry.endpoints, entry.plugins, entry.rights)
    checks = {
        "key": is_key(entry.key),
        "name": isinstance(entry.name, str) and NAME.fullmatch(entry.name) is not None,
        "user": isinstance(entry.user, str) and 0 < len(entry.user) <= 255,
        "role": entry.role in ROLES,
        "names, endpoints, plugins or rights": all(
            isinstance(patterns, tuple) and all(isinstance(pattern, str) for pattern in patterns) for patterns in texts
        ),
        "rights": isinstance(entry.rights, tuple) and set(entry.rights) <= set(RIGHTS),
        "parent": isinstance(entry.parent, str),
        "times": _is_time(entry.created) and all(t is None or _is_time(t) for t in (entry.last_seen, entry.expires)),
    }
    for field, is_right in checks.items():
        if not is_right:
            raise InvalidArgument(
                f"The key entry {entry.name!r} has a wrong value for {field}.",
                hint=f"Roles: {', '.join(ROLES)}. Rights: {', '.join(RIGHTS)}. Names are of a-z 0-9 . _ -",
            )


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")

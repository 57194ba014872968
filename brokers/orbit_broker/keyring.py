"""The list of keys as the handshake and the rules ask for it: who may connect, whom a key stands for, and what changes that.

A look-up touches memory only. Whatever changes who may what (another list, a key whose time is over) is told by `changed`,
which the rules look at in their next round. Nothing here knows connections.
"""

from __future__ import annotations

import os
import time
from typing import Any

from orbit_broker.state import Identity
from orbit_zmq.security.keylist import KeyEntry, KeyList
from orbit_zmq.security.keys import own_user
from orbit_zmq.wire.header import RIGHT_OF


class Keyring:
    """The keys of one broker."""

    def __init__(self, keys: KeyList) -> None:
        self.changed = False  # since the rules looked last
        self._keys = keys
        self._own = f"uid:{os.geteuid()}"
        self._user = own_user()
        self._next_expiry = keys.next_expiry(time.time())

    @property
    def damage(self) -> str:
        """What is wrong with the list on disk, while an older one is in force; else empty."""
        return self._keys.damage

    def __len__(self) -> int:
        return len(self._keys)

    def is_known(self, key: str) -> bool:
        """Whether a key may connect. One that is not known may have been listed a moment ago: one `stat` tells."""
        now = time.time()
        known = self._keys.lookup(key, now) is not None
        if not known and self._keys.reload():
            self._note_change()
            known = self._keys.lookup(key, now) is not None
        if known:
            self._keys.seen(key, now)
        return known

    def identify(self, user_id: str) -> Identity | None:
        """Whom a user id stands for, as the list says now."""
        if user_id == self._own:
            return Identity(user_id, self._user, "admin", _any_name, _anywhere, may_act_for=True)
        entry = self._keys.lookup(user_id, time.time())
        return None if entry is None else _identity_of(entry)

    def look(self) -> None:
        """Find out whether the list on disk is another one, or a key has expired."""
        if self._keys.reload() or time.time() >= self._next_expiry:
            self._note_change()

    def entries(self) -> list[KeyEntry]:
        return list(self._keys)

    def entry_of(self, user_id: str) -> KeyEntry | None:
        """The entry of a key; None for the broker's own user on ipc."""
        return self._keys.lookup(user_id, time.time())

    def by_name(self, name: str) -> KeyEntry:
        """NotFound where no key has that name."""
        return self._keys.by_name(name)

    def with_children(self, entry: KeyEntry) -> list[KeyEntry]:
        return self._keys.with_children(entry)

    def add(self, entry: KeyEntry) -> KeyEntry:
        """List a key and answer what is listed; Conflict where another one has its name."""
        try:
            self._keys.add(entry)
        finally:
            self._note_change()  # it may have been read anew
        return self._keys.by_name(entry.name)

    def renew(self, name: str, expires: float) -> KeyEntry:
        """Put off the expiry of a key, and answer what is listed."""
        try:
            return self._keys.renew(name, expires)
        finally:
            self._note_change()

    def revoke(self, name: str) -> list[KeyEntry]:
        """Strike a key and those that it minted."""
        try:
            return self._keys.revoke(name)
        finally:
            self._note_change()

    def describe(self, entry: KeyEntry, connections: int) -> dict[str, Any]:
        """What is told of an entry."""
        return {
            **{
                name: getattr(entry, name)
                for name in ("name", "key", "user", "role", "parent", "created", "expires", "last_seen")
            },
            **{name: list(getattr(entry, name)) for name in ("names", "endpoints", "plugins", "rights")},
            "is_expired": not entry.is_valid(time.time()),
            "connections": connections,
        }

    def _note_change(self) -> None:
        self.changed = True
        self._next_expiry = self._keys.next_expiry(time.time())


def _identity_of(entry: KeyEntry) -> Identity:
    is_limited = (entry.endpoints, entry.plugins) != (("*",), ("*",))
    return Identity(
        entry.key,
        entry.user,
        entry.role,
        entry.may_take,
        entry.may_reach if is_limited else _anywhere,
        may_act_for=entry.role == "gateway" or "act-for" in entry.rights,
        rights=sum(RIGHT_OF[right] for right in set(entry.rights) & RIGHT_OF.keys()),
        key_name=entry.name,
    )


def _any_name(name: str) -> bool:
    return True


def _anywhere(endpoint: str, plugin: str) -> bool:
    return True

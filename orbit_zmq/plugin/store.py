"""SessionStore: what a plugin's session keeps beyond the life of the endpoint's process.

A session of lifetime `ttl` or `persistent` finds what it kept in its store again when the endpoint has been started anew and
has made the session again. An ephemeral session has a store that keeps nothing and costs nothing. This module must not know
sqlite or the table of sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgpack

INCOMPLETE = "!incomplete"  # keys of the endpoint's own: something was not kept
ABSENT = "!absent"  # since when the session could not be made again


class Backing(Protocol):
    """What the endpoint has for all its sessions."""

    fault: str

    def keep(self, session: str, items: Iterable[tuple[str, bytes]]) -> None: ...
    def drop(self, session: str, keys: Iterable[str]) -> None: ...
    def when_kept(self, callback: Callable[[], None]) -> None: ...
    def items(self, session: str, prefix: str) -> list[tuple[str, bytes]]: ...
    def get(self, session: str, key: str) -> bytes | None: ...
    @property
    def is_over_limit(self) -> bool: ...


class SessionStore:
    """Plain values by key, of one session. All but `items` and `get` may be called from any thread and return at once."""

    def __init__(self, backing: Backing | None = None, session: str = "") -> None:
        self._backing = backing
        self._session = session

    @property
    def is_kept(self) -> bool:
        """Whether the session outlives the process. Nothing has to be kept where it does not."""
        return self._backing is not None

    @property
    def fault(self) -> str:
        """Why nothing is kept at present though it should be, as with a full disk; empty while all is well."""
        backing = self._backing
        return "" if backing is None else backing.fault

    @property
    def is_over_limit(self) -> bool:
        """Whether the endpoint keeps more than it may, so that the oldest of it has to go."""
        backing = self._backing
        return backing is not None and backing.is_over_limit

    def keep(self, key: str, value: Any) -> None:
        """Keep a plain value (what msgpack can carry, bytes included) under a key, in place of what was there."""
        self.keep_all({key: value})

    def keep_all(self, values: Mapping[str, Any]) -> None:
        """Keep several values: all of them, or after a crash none."""
        backing = self._backing  # `detach` may come from another thread at any time
        if backing is not None:
            backing.keep(self._session, [(key, msgpack.packb(value)) for key, value in values.items()])

    def drop(self, *keys: str) -> None:
        """Keep these no more."""
        backing = self._backing
        if backing is not None:
            backing.drop(self._session, keys)

    def when_kept(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called once all that was given so far is on disk, or cannot be. From another thread, or at once."""
        backing = self._backing
        if backing is None:
            callback()
        else:
            backing.when_kept(callback)

    async def flush(self) -> None:
        """Return once all that was given so far is on disk, or cannot be."""
        backing = self._backing
        if backing is None:
            return
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not kept.done():
                kept.set_result(None)

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle)

        backing.when_kept(tell)
        await kept

    def items(self, prefix: str = "") -> dict[str, Any]:
        """What was kept under keys that begin so, in the order of the keys. It reads from the disk: call it in a thread."""
        backing = self._backing
        if backing is None:
            return {}
        return {key: msgpack.unpackb(value) for key, value in backing.items(self._session, prefix)}

    def get(self, key: str) -> Any:
        """One value, or None. It reads from the disk: call it in a thread."""
        backing = self._backing
        found = backing.get(self._session, key) if backing is not None else None
        return None if found is None else msgpack.unpackb(found)

    def may_lack_something(self) -> bool:
        """Whether an earlier process could not write all that this session had to keep, as with a full disk.

        It is so until `set_complete`. It reads from the disk: call it in a thread.
        """
        return self.get(INCOMPLETE) is not None

    def set_complete(self) -> None:
        """What was lacking has been dealt with."""
        self.drop(INCOMPLETE)

    def detach(self) -> None:
        """What the session does from here on is not kept: the endpoint ends, and the session is to be found as it was."""
        self._backing = None

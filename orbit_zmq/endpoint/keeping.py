"""Keeping: between the table of sessions and the store. Which sessions are kept, and what is written of them.

Kept are those of the lifetimes `ttl` and `persistent`, the `default` ones among them, that were made by `create_session`: what
it was given then, it is given again. This module must not run operations or know what plugins keep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from orbit_zmq.endpoint.store import Store
from orbit_zmq.errors import InternalError, InvalidArgument, OrbitError, ProtocolError
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.store import ABSENT, SessionStore
from orbit_zmq.wire.body import pack_body, unpack_body

if TYPE_CHECKING:
    from orbit_zmq.endpoint.session_record import SessionRecord
    from orbit_zmq.plugin.plugin import Plugin

log = get_logger(__name__)

ABSENT_S = 7 * 86_400.0  # a session that cannot be made again is kept for so long, as results are that nobody fetches


@dataclass(frozen=True, slots=True)
class KeptSession:
    """What the store has of one session."""

    key: str  # its place in the table
    sid: str
    plugin: str  # the instance
    caller: Caller  # its user, and who held it last
    lifetime: Any
    ttl_s: float
    on_holder_lost: Any
    arguments: dict[str, Any]
    shared: list[str]  # the effects of what was shared with its user; none for the endpoint's own


class Keeping:
    """The kept sessions of one endpoint. Without a store it keeps nothing."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._arguments: dict[str, dict[str, Any]] = {}  # of the sessions that are kept, by their place in the table
        self._shared: dict[str, list[str]] = {}  # likewise
        self._since: dict[str, float] = {}  # sessions that have not been made again, and since when that is so
        self._expires_at = math.inf
        self._absent: dict[str, list[KeptSession]] = {}  # sessions of plugins that are not served, by the plugin's instance

    @property
    def fault(self) -> str:
        """Why nothing is kept, or nothing."""
        return self._store.fault if self._store is not None else ""

    def store_of(self, record: SessionRecord) -> SessionStore:
        """What the session itself keeps things in."""
        if self._store is None or record.lifetime == "ephemeral" or record.key not in self._arguments:
            return SessionStore()
        return SessionStore(self._store, record.key)

    def store_of_plugin(self, plugin: Plugin) -> SessionStore:
        """What a plugin instance keeps things in that belong to no session; the colon is in no session's id."""
        return SessionStore() if self._store is None else SessionStore(self._store, f"plugin:{plugin.instance_name}")

    def begin(self, record: SessionRecord, arguments: dict[str, Any], shared: list[str]) -> None:
        """A session is about to be made by `create_session` with these arguments, for a user with whom so much is shared."""
        if self._store is not None and record.lifetime != "ephemeral":
            self._arguments[record.key], self._shared[record.key] = arguments, shared

    def is_kept(self, record: SessionRecord) -> bool:
        """Whether a session will be there after a restart."""
        return record.key in self._arguments and not self.fault

    def write(self, record: SessionRecord) -> None:
        """Keep a session that has been made, or whose holder has changed."""
        arguments = self._arguments.get(record.key)
        if self._store is None or arguments is None:
            return
        facts = {
            "sid": record.sid,
            "plugin": record.plugin.instance_name,
            "user": record.user,
            "holder": record.holder,
            "process": record.process,
            "lifetime": record.lifetime,
            "ttl_s": record.ttl_s,
            "on_holder_lost": record.on_holder_lost,
            "arguments": arguments,
            "shared": self._shared[record.key],
        }
        if self._since.pop(record.key, None) is not None:
            self._store.drop(record.key, (ABSENT,))
        body, flags = pack_body(facts)
        self._store.keep_session(record.key, bytes((flags,)) + body)

    async def written(self) -> None:
        """Return once all that was written of sessions is on disk, or cannot be."""
        if self._store is not None:
            await SessionStore(self._store).flush()

    def end(self, record: SessionRecord, *, for_good: bool) -> None:
        """A session has left the table. Unless that is for good, it is to be found again as it is now."""
        if self._arguments.pop(record.key, None) is None or self._store is None:
            return
        del self._shared[record.key]
        if record.session is not None:
            record.session.store.detach()
        if for_good:
            self._store.drop_session(record.key)

    def read(self) -> dict[str, list[KeptSession]]:
        """All that is kept, by plugin instance. Reads from the disk."""
        found: dict[str, list[KeptSession]] = {}
        try:
            rows = self._store.sessions() if self._store is not None else []
            self._since = {key: self._absent_since(key) for key, _ in rows}
        except InternalError as error:
            log.error("sessions-not-restored", reason=error.message)
            rows = []
        for key, facts in rows:
            try:
                kept = _kept_of(key, facts)
            except (ProtocolError, InvalidArgument, KeyError, TypeError, IndexError) as error:
                log.error("session-not-restored", session=key, reason=f"{type(error).__name__}: {error}")
                continue
            found.setdefault(kept.plugin, []).append(kept)
        self._absent = found
        return found

    def _absent_since(self, key: str) -> float:
        mark = self._store.get(key, ABSENT) if self._store is not None else None
        return math.inf if mark is None else float(msgpack.unpackb(mark))

    def take(self, plugin: Plugin) -> list[KeptSession]:
        """The sessions that wait for a plugin instance to be served; each is given once."""
        return self._absent.pop(plugin.instance_name, [])

    def note_absent(self, now: float) -> None:
        """All that can be made again has been: the others stay in the store for ABSENT_S, counted over restarts.

        `now` is the time of day.
        """
        for instance, kept in self._absent.items():
            log.warning("sessions-wait-for-plugin", plugin=instance, sessions=len(kept))
        if self._store is None:
            return
        for key in [key for key, since in self._since.items() if since == math.inf]:
            self._since[key] = now
            self._store.keep(key, [(ABSENT, msgpack.packb(now))])
        self._expires_at = min(self._since.values(), default=math.inf) + ABSENT_S
        self.expire(now)

    def expire(self, now: float) -> None:
        """Forget the sessions that could not be made again for too long."""
        if now < self._expires_at or self._store is None:
            return
        over = {key for key, since in self._since.items() if now >= since + ABSENT_S}
        for key in over:
            del self._since[key]
            self._store.drop_session(key)
            log.warning("session-dropped", session=key, absent_s=ABSENT_S)
        self._absent = {plugin: [one for one in kept if one.key not in over] for plugin, kept in self._absent.items()}
        self._expires_at = min(self._since.values(), default=math.inf) + ABSENT_S

    def close(self) -> None:
        """Write what is to be written. Blocks for some seconds at most."""
        if self._store is not None:
            self._store.close()


def arguments_of(plugin: Plugin, kept: KeptSession) -> dict[str, Any]:
    """What a session was registered with, as its plugin takes it today."""
    from orbit_zmq.plugin.plugin import Plugin as Base

    if type(plugin).register_session is not Base.register_session:
        return kept.arguments  # what it took is the plugin's own matter
    checked = plugin.operations["register_session"].validate(kept.arguments)
    return {name: checked[name] for name in kept.arguments}


def log_failure(kept: KeptSession, error: OrbitError) -> None:
    """A session could not be made again; what it kept stays in the store."""
    log.error("session-not-restored", session=kept.sid, plugin=kept.plugin, code=error.code, reason=error.message)


def _kept_of(key: str, facts: bytes) -> KeptSession:
    body = unpack_body(facts[1:], facts[0])
    caller = Caller(body["user"], body["holder"], body["sid"], body["process"])
    return KeptSession(
        key,
        body["sid"],
        body["plugin"],
        caller,
        body["lifetime"],
        body["ttl_s"],
        body["on_holder_lost"],
        body["arguments"],
        body.get("shared", []),
    )

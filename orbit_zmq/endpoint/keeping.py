"""Keeping: between the table of sessions and the store. Which sessions are kept, and what is written of them.

Kept are those of the lifetimes `ttl` and `persistent`, the `default` ones among them, that were made by `create_session`: what
it was given then, it is given again. This module must not run operations or know what plugins keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbit_zmq.endpoint.store import Store
from orbit_zmq.errors import InternalError, InvalidArgument, OrbitError, ProtocolError
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.store import SessionStore
from orbit_zmq.wire.body import pack_body, unpack_body

if TYPE_CHECKING:
    from orbit_zmq.endpoint.session_record import SessionRecord
    from orbit_zmq.plugin.plugin import Plugin

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeptSession:
    """What the store has of one session."""

    sid: str
    plugin: str  # the instance
    caller: Caller  # its user, and who held it last
    lifetime: Any
    ttl_s: float
    on_holder_lost: Any
    arguments: dict[str, Any]


class Keeping:
    """The kept sessions of one endpoint. Without a store it keeps nothing."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._arguments: dict[str, dict[str, Any]] = {}  # of the sessions that are kept, by their place in the table
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

    def begin(self, record: SessionRecord, arguments: dict[str, Any]) -> None:
        """A session is about to be made by `create_session` with these arguments."""
        if self._store is not None and record.lifetime != "ephemeral":
            self._arguments[record.key] = arguments

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
        }
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
        if record.session is not None:
            record.session.store.detach()
        if for_good:
            self._store.drop_session(record.key)

    def read(self) -> dict[str, list[KeptSession]]:
        """All that is kept, by plugin instance. Reads from the disk."""
        found: dict[str, list[KeptSession]] = {}
        try:
            rows = self._store.sessions() if self._store is not None else []
        except InternalError as error:
            log.error("sessions-not-restored", reason=error.message)
            rows = []
        for key, facts in rows:
            try:
                kept = _kept_of(facts)
            except (ProtocolError, InvalidArgument, KeyError, TypeError, IndexError) as error:
                log.error("session-not-restored", session=key, reason=f"{type(error).__name__}: {error}")
                continue
            found.setdefault(kept.plugin, []).append(kept)
        self._absent = found
        return found

    def take(self, plugin: Plugin) -> list[KeptSession]:
        """The sessions that wait for a plugin instance to be served; each is given once."""
        return self._absent.pop(plugin.instance_name, [])

    def say_absent(self) -> None:
        """Tell of the sessions whose plugin is not served; they stay in the store."""
        for instance, kept in self._absent.items():
            log.warning("sessions-wait-for-plugin", plugin=instance, sessions=len(kept))

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


def _kept_of(facts: bytes) -> KeptSession:
    body = unpack_body(facts[1:], facts[0])
    caller = Caller(body["user"], body["holder"], body["sid"], body["process"])
    return KeptSession(
        body["sid"], body["plugin"], caller, body["lifetime"], body["ttl_s"], body["on_holder_lost"], body["arguments"]
    )

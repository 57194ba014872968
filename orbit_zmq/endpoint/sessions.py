"""The sessions of an endpoint: one record for each, one table, one place that removes it.

It opens, attaches, initializes, expires and closes them, and says so to the broker through `announce`. It checks the
owner wherever a session id comes in. It runs no operations and knows nothing of calls but how to end one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from orbit_zmq.endpoint.access import Access
from orbit_zmq.endpoint.explaining import explain
from orbit_zmq.endpoint.keeping import Keeping, arguments_of, log_failure
from orbit_zmq.endpoint.raised import error_of, is_canceled
from orbit_zmq.endpoint.session_code import bound_arguments, close_session, make_session, release_session
from orbit_zmq.endpoint.session_record import (
    DEFAULT,
    SessionRecord,
    Status,
    check_holder_lost,
    key_of,
    lifetime_of,
    not_ready,
)
from orbit_zmq.errors import (
    Conflict,
    InternalError,
    NotFound,
    OrbitError,
    SessionClosed,
    SessionExpired,
    ShuttingDown,
)
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.current import CURRENT, current_call
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.session import HolderLost, Lifetime, PluginSession, Spawn, check_not_ending
from orbit_zmq.why import Answer
from orbit_zmq.wire.body import pack_body

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient

log = get_logger(__name__)

SWEEP_S = 1.0  # lifetimes are seconds to days; one pass over thousands of records takes a millisecond
RESTORE_S = 60.0  # for one session to be made again; the endpoint serves nothing until then
ENDED_IDS = 10_000  # ids that are still told closed or expired from unknown; the oldest is forgotten first

Publish = Callable[[set[str], str, str, str, bytes, int], None]  # audiences, plugin, session, topic, body, flags


class Sessions:
    """The table. Used from the loop's thread, except for `facts` and `count`."""

    def __init__(
        self,
        announce: Callable[[dict[str, Any]], None],
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[[str], AsyncClient] | None = None,
        access: Access | None = None,
    ) -> None:
        self._access = access
        self._records: dict[str, SessionRecord] = {}
        self._connect = connect  # makes a client that acts for a user
        self._clients: dict[str, AsyncClient] = {}  # of plugins, by the user that they act for
        self.ending = ""  # why no more work is taken in
        self.unfinished_tasks = 0  # of all sessions, as of the last sweep
        self.tasks_by_state: dict[str, int] = {}  # the same
        self._ended: OrderedDict[str, tuple[str, type[OrbitError], Plugin]] = (
            OrderedDict()
        )  # sid -> (user, what it answers, ...)
        self._announce = announce
        self.publish: Publish | None = None  # set while the endpoint has a link
        self.keeping = Keeping()  # an endpoint that has a store sets another one before it serves
        self._spawn = spawn
        self._clock = clock

    def __len__(self) -> int:
        return len(self._records)

    def facts(self) -> list[dict[str, Any]]:
        """The sessions that can be found by their id, as hello lists them; from any thread."""
        records = list(self._records.values())
        return [record.fact() for record in records if record.session is not None and record.sid != DEFAULT]

    def send_notification(self, plugin: Plugin, topic: str, body: bytes, flags: int, user: str | None = None) -> None:
        """An event of a plugin, for the endpoint's user and the owners of its sessions, or for one user. From any thread."""
        if self.publish is not None:
            owners = {record.user for record in list(self._records.values()) if record.plugin is plugin}
            self.publish({"", *owners} if user is None else {user}, plugin.instance_name, "", topic, body, flags)

    def _notify(self, record: SessionRecord, topic: str, body: bytes, flags: int) -> None:
        if self.publish is not None:
            self.publish({record.user}, record.plugin.instance_name, record.sid, topic, body, flags)

    def count(self, plugin: Plugin) -> int:
        return sum(record.plugin is plugin for record in list(self._records.values()))

    def list_of(self, plugin: Plugin, caller: Caller) -> list[dict[str, Any]]:
        """What list_sessions answers: the sessions of the caller, or of everybody to an admin."""
        return [self._describe(record) for record in self.records_of(plugin, caller)]

    def records_of(self, plugin: Plugin, caller: Caller) -> list[SessionRecord]:
        """The sessions of a plugin that the caller may know of: their own, and an admin everybody's."""
        return [
            record
            for record in self._records.values()
            if record.plugin is plugin and (caller.is_admin or record.user == caller.user)
        ]

    def ended_as(self, sid: str, plugin: Plugin, user: str) -> type[OrbitError] | None:
        """How a session of this user ended, as far as that is remembered."""
        owner, kind, of = self._ended.get(key_of(sid, plugin, user), ("", None, None))
        return kind if owner == user and of is plugin else None

    async def why(self, plugin: Plugin, item: str, caller: Caller) -> Answer:
        """What is known of an id at a plugin."""
        return await explain(self, plugin, item, caller, self._clock())

    def _describe(self, record: SessionRecord) -> dict[str, Any]:
        return {**record.describe(), "kept": self.keeping.is_kept(record)}

    def find(self, sid: str, user: str, plugin: Plugin | None = None) -> SessionRecord:
        """The record of a user's session; another user's is as unknown as one that never was."""
        key = key_of(sid, plugin, user)
        record = self._records.get(key)
        if record is not None and record.user == user and (plugin is None or record.plugin is plugin):
            return record
        owner, kind, _ = self._ended.get(key, ("", NotFound, None))
        if record is None and kind is not NotFound and owner == user:
            raise kind(f"session {'expired' if kind is SessionExpired else 'closed'}: {sid}")
        raise NotFound(f"unknown session id: {sid}", hint="Open a session with register_session.")

    def enter(self, sid: str, process: bytes, user: str, plugin: Plugin) -> SessionRecord:
        """The record for a call that starts now, which is activity; an error where the session takes no calls."""
        record = self.find(sid, user, plugin)
        if record.status is not Status.READY:
            raise not_ready(record)
        record.last_used = self._clock()
        if process == record.process:
            record.holder_lost_at = None
        return record

    def has_default(self, plugin: Plugin, user: str) -> bool:
        """Whether the default session of a user takes calls."""
        record = self._records.get(key_of(DEFAULT, plugin, user))
        return record is not None and record.status is Status.READY

    async def open_default(self, plugin: Plugin, caller: Caller) -> None:
        """Open a user's default session where there is none, and wait until it is ready. One that fails is forgotten."""
        key = key_of(DEFAULT, plugin, caller.user)
        if key not in self._records:
            await self.register(plugin, caller, sid=DEFAULT, lifetime=None, ttl=None, arguments={})
        record = self._records.get(key)
        if record is not None and record.status is Status.INITIALIZING:
            await record.changed.wait()
        if record is not None and record.status is Status.FAILED:
            self._remove(record, SessionClosed)
            raise not_ready(record)

    async def forward(self, plugin: Plugin, sid: str, method: str, arguments: dict[str, Any]) -> Any:
        """Call a method of a session for the caller of the present call."""
        call = current_call("forward")
        caller = call.caller()
        if sid == DEFAULT and not self.has_default(plugin, caller.user):
            await self.open_default(plugin, caller)
        record = self.enter(sid, caller.incarnation, caller.user, plugin)
        function = getattr(record.session, method)
        known = next((one for one in plugin.operations.values() if one.on_session and one.attribute == method), None)
        if known is not None:
            call.check(known)
        checked = known.validate(arguments) if known is not None else bound_arguments(function, method, arguments)
        record.calls.add(call)
        try:
            return await function(**checked)
        finally:
            record.calls.discard(call)

    def adopt(self, plugin: Plugin, session: PluginSession, lifetime: Lifetime | None, ttl: float | None) -> None:
        """Take in a session that a plugin has set up itself, for the caller of the present call."""
        caller = current_call("add_session").caller()
        if key_of(session.sid, plugin, caller.user) in self._records:
            raise Conflict(f"session id {session.sid} is taken", details={"sid": session.sid})
        record = self._new_record(session.sid, plugin, caller, lifetime, ttl)
        self._equip(record, session)
        self._set(record, Status.READY)
        self._announce_opened(record)

    def client_of_plugin(self) -> AsyncClient:
        """A client that acts for the caller of the present call, or for the endpoint's own user outside of calls."""
        call = CURRENT.get()
        user = call.caller().user if call is not None else ""
        if user not in self._clients:
            self._clients[user] = self._client_for(user)
        return self._clients[user]

    async def register(
        self,
        plugin: Plugin,
        caller: Caller,
        *,
        sid: str | None,
        lifetime: Lifetime | None,
        ttl: float | None,
        arguments: dict[str, Any],
        on_holder_lost: HolderLost | None = None,
    ) -> dict[str, str]:
        """Open a session, or attach to the caller's own of that id."""
        known = self._records.get(key_of(sid, plugin, caller.user)) if sid is not None else None
        if known is not None:
            return self._attach(known, plugin, caller, *lifetime_of(lifetime, ttl), on_holder_lost, arguments)
        check_holder_lost(on_holder_lost, lifetime, ttl, sid)
        check_not_ending(self.ending)
        # Before the first await: a second register of the same id attaches.
        record = self._new_record(sid or self._fresh_id(), plugin, caller, lifetime, ttl)
        record.on_holder_lost = on_holder_lost or record.on_holder_lost
        shared = self._access.shared_with(caller.user, plugin) if self._access is not None else []
        try:
            await self._create(record, arguments, shared)
            if record.lifetime != "ephemeral":
                await self.keeping.written()
        except BaseException as error:
            self._forget_failed(record, error)
            raise
        return {"sid": record.sid, "status": record.status.value}

    async def unregister(self, plugin: Plugin, caller: Caller) -> None:
        """Close a session; returns when what it held has been released."""
        record = self.find(caller.session, caller.user, plugin)
        self.keeping.end(record, for_good=True)
        released = self._remove(record, SessionClosed)
        await asyncio.shield(released)
        if record.lifetime != "ephemeral":
            await self.keeping.written()

    async def status(self, plugin: Plugin, caller: Caller, wait_s: float) -> dict[str, Any]:
        """What session_status answers, at the latest after `wait_s`."""
        record = self.find(caller.session, caller.user, plugin)
        record.last_used = self._clock()
        if record.status is Status.INITIALIZING and wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(record.changed.wait(), wait_s)
        if record.status is Status.ENDED:
            record = self.find(caller.session, caller.user, plugin)
        answer = self._describe(record)
        if record.error is not None:
            answer["error"] = record.error.to_body()
        return answer

    def on_holders(self, lost: Iterable[bytes], back: Iterable[bytes]) -> None:
        """Processes are gone, or there again: the ephemeral sessions that they hold end some time after they are lost."""
        gone, there = frozenset(lost), frozenset(back)
        for record in self._records.values():
            if record.process in gone and record.holder_lost_at is None:
                record.holder_lost_at = self._clock()
            elif record.process in there:
                record.holder_lost_at = None

    async def restore(self, plugin: Plugin) -> None:
        """Make the kept sessions of a plugin again, with what they were registered with. Those of users with whom the plugin is
        not shared any more stay as they are."""
        unshared: Counter[str] = Counter()
        for kept in self.keeping.take(plugin):
            if kept.key in self._records:
                continue
            if self._access is not None and not self._access.still_shares(kept.caller.user, plugin, kept.shared):
                unshared[kept.caller.user] += 1
                continue
            record = self._new_record(kept.sid, plugin, kept.caller, kept.lifetime, kept.ttl_s or None)
            record.on_holder_lost = kept.on_holder_lost
            try:
                async with asyncio.timeout(RESTORE_S):
                    await self._create(record, arguments_of(plugin, kept), kept.shared)
            except Exception as error:  # noqa: BLE001 - the plugin call
                self.keeping.end(record, for_good=False)
                self._forget_failed(record, error)
                log_failure(kept, error_of(error))
        for user, sessions in unshared.items():
            log.warning("sessions-wait-for-share", plugin=plugin.instance_name, user=user, sessions=sessions)

    def close_plugin(self, plugin: Plugin) -> None:
        """End the sessions of a plugin that is removed; what they hold is released in the background."""
        for record in [record for record in self._records.values() if record.plugin is plugin]:
            self._remove(record, SessionClosed)

    def sweep(self) -> None:
        """End the sessions whose lifetime is over, and count the tasks of the others."""
        now = self._clock()
        for record in list(self._records.values()):
            if record.has_expired(now):
                self._remove(record, SessionExpired)
            elif record.has_lost_holder(now) and record.session is not None:
                record.holder_lost_at = None
                self._spawn_in(record, record.session.cancel_work(f"the session's holder {record.holder} was lost"))
        self.keeping.expire(time.time())
        self.unfinished_tasks = sum(record.unfinished_tasks() for record in self._records.values())
        states: Counter[str] = Counter()
        for record in self._records.values():
            states.update(record.tasks_by_state())
        self.tasks_by_state = dict(states)

    async def sweep_always(self) -> None:
        """Sweep until canceled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep()
            except Exception:  # lifetimes of the others go on
                log.exception("sweep-failed")

    def take_no_more_work(self, reason: str, ends_at: float) -> None:
        """The endpoint ends soon, at `ends_at` (seconds since 1970): sessions refuse work now, and tell their owners."""
        self.ending = reason
        for record in self._records.values():
            if record.session is not None:
                record.session.ending = reason
                record.session.notify("endpoint_ending", {"reason": reason, "ends_at": ends_at})

    async def cancel_all_work(self, reason: str, within_s: float) -> int:
        """Have what runs for all sessions ended, within so long; how much that was."""
        sessions = [record.session for record in self._records.values() if record.session is not None]
        tasks = [asyncio.create_task(session.cancel_work(reason)) for session in sessions]
        if not tasks:
            return 0
        done, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        return sum(task.result()["canceled"] for task in done if task.exception() is None)

    async def close_all(self, within_s: float) -> None:
        """End every session because the endpoint stops; what is not released in time is given up."""
        released = [self._remove(record, ShuttingDown) for record in list(self._records.values())]
        if not released:
            return
        _, late = await asyncio.wait(released, timeout=within_s)
        for task in late:
            log.warning("session-close-given-up", after_s=within_s)
            task.cancel()

    def _attach(
        self,
        record: SessionRecord,
        plugin: Plugin,
        caller: Caller,
        lifetime: Lifetime | None,
        ttl: float | None,
        on_holder_lost: HolderLost | None,
        arguments: dict[str, Any],
    ) -> dict[str, str]:
        if record.user != caller.user or record.plugin is not plugin:
            raise Conflict(f"session id {record.sid} is taken", details={"sid": record.sid})
        if lifetime not in (None, record.lifetime) or ttl not in (None, record.ttl_s):
            raise Conflict(
                f"session {record.sid} exists with lifetime {record.lifetime}, ttl {record.ttl_s:g}",
                hint="Attach without lifetime and ttl, or with the same ones.",
            )
        contradicted = record.contradicted(arguments)
        if contradicted:
            raise Conflict(
                f"session {record.sid} exists with other {', '.join(contradicted)}",
                hint="Attach without what it was opened with, or open a session under another id.",
                details={"fields": contradicted},
            )
        check_holder_lost(on_holder_lost, record.lifetime, None, record.sid)
        before = record.fact()
        record.holder, record.holder_lost_at = caller.name, None
        record.on_holder_lost = on_holder_lost or record.on_holder_lost
        record.last_used = self._clock()
        record.process = caller.incarnation
        if record.session is not None:
            record.session.holder = caller.name
            self.keeping.write(record)
            if record.fact() != before:
                self._announce_opened(record)
        return {"sid": record.sid, "status": record.status.value}

    async def _create(self, record: SessionRecord, arguments: dict[str, Any], shared: list[str]) -> None:
        record.arguments = arguments
        self.keeping.begin(record, arguments, shared)
        session = await make_session(record, arguments)
        self._equip(record, session)
        if record.status is Status.ENDED:  # closed by somebody who attached while it was being made
            await close_session(record)
            raise SessionClosed(f"session closed: {record.sid}")
        initialize = getattr(session, "initialize", None)
        if initialize is None:
            self._set(record, Status.READY)
        else:
            self._spawn_in(record, self._initialize(record, initialize))
        self.keeping.write(record)
        self._announce_opened(record)

    def _new_record(
        self, sid: str, plugin: Plugin, caller: Caller, lifetime: Lifetime | None, ttl: float | None
    ) -> SessionRecord:
        """The one place where a record enters the table."""
        lifetime, ttl = lifetime_of(lifetime, ttl)
        if sid == DEFAULT and lifetime not in (None, "persistent"):
            raise Conflict(f"the session {DEFAULT} is persistent", hint="Register it without lifetime and ttl.")
        lifetime = lifetime or ("persistent" if sid == DEFAULT else "ephemeral")
        ttl_s = (ttl or plugin.session_ttl) if lifetime == "ttl" else 0.0
        record = SessionRecord(sid, plugin, caller, lifetime, ttl_s, self._clock())
        self._records[record.key] = record
        self._ended.pop(record.key, None)
        return record

    def _equip(self, record: SessionRecord, session: PluginSession) -> None:
        """Give a session what the endpoint has for it."""
        session.owner, session.holder, session.host = record.user, record.holder, record.plugin.host
        session.store = self.keeping.store_of(record)
        session.notifier = lambda topic, body, flags: self._notify(record, topic, body, flags)
        session.spawner = lambda coroutine: self._spawn_in(record, coroutine)
        session.connect = lambda: self._client_for(record.user)
        record.session = session

    def _client_for(self, user: str) -> AsyncClient:
        if self._connect is None:
            raise InternalError("this endpoint has no connection of its own")
        return self._connect(user)

    def _announce_opened(self, record: SessionRecord) -> None:
        if record.sid != DEFAULT:
            self._announce({"opened": [record.fact()]})

    async def _initialize(self, record: SessionRecord, initialize: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            await initialize()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_canceled():
                raise
            log.exception("session-initialize-failed", plugin=record.plugin.instance_name, session=record.sid)
            record.error = error_of(error)
            self._set(record, Status.FAILED)
        else:
            self._set(record, Status.READY)
        if record.status in (Status.READY, Status.FAILED):
            news: dict[str, Any] = {"sid": record.sid, "status": record.status.value}
            if record.error is not None:
                news["error"] = record.error.to_body() | {"traceback": ""}
            self._notify(record, "session_status", *pack_body(news))

    def _set(self, record: SessionRecord, status: Status) -> None:
        if record.status is not Status.ENDED:
            record.status = status
            record.status_since = record.last_used = self._clock()
        record.changed.set()

    def _spawn_in(self, record: SessionRecord, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._spawn(coroutine)
        record.tasks.add(task)
        task.add_done_callback(record.tasks.discard)
        return task

    def _remove(self, record: SessionRecord, kind: type[OrbitError]) -> asyncio.Task[Any]:
        """End a session for good, and release what it holds in the background."""
        self._drop(record)
        self.keeping.end(record, for_good=kind is not ShuttingDown and record.status is not Status.FAILED)
        record.status = Status.ENDED
        record.changed.set()
        self._ended[record.key] = (record.user, SessionClosed if kind is ShuttingDown else kind, record.plugin)
        while len(self._ended) > ENDED_IDS:
            self._ended.popitem(last=False)
        if record.session is not None and record.sid != DEFAULT:
            self._announce({"closed": [record.sid]})
        for call in list(record.calls):
            call.end(kind(f"the session ended during the call: {record.sid}"))
        return self._spawn(release_session(record))

    def _forget_failed(self, record: SessionRecord, error: BaseException) -> None:
        """A session that could not be made was never there; who waits for its status still hears why."""
        self._drop(record)
        self.keeping.end(record, for_good=True)
        record.error = error_of(error)
        self._set(record, Status.FAILED)

    def _drop(self, record: SessionRecord) -> None:
        """The one place where a record leaves the table."""
        if self._records.get(record.key) is record:
            del self._records[record.key]

    def _fresh_id(self) -> str:
        while True:
            sid = f"session.{secrets.token_hex(4)}"
            if sid not in self._records and sid not in self._ended:
                return sid

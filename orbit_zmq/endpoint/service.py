"""The service: runs the operations that calls ask for, in the endpoint's asyncio loop.

One task for each call, all in one group, no more than a bounded number at once. Every accepted call is answered exactly
once, whatever the plugin does. It knows no sockets and no frames; the transport hands it IncomingCalls.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orbit_zmq import faultpoint
from orbit_zmq.endpoint.access import Access
from orbit_zmq.endpoint.account import host_load, settings
from orbit_zmq.endpoint.raised import error_of
from orbit_zmq.endpoint.running import IncomingCall, Running
from orbit_zmq.endpoint.session_record import DEFAULT
from orbit_zmq.endpoint.sessions import Sessions
from orbit_zmq.endpoint.streams import StreamIn, StreamOut
from orbit_zmq.errors import (
    Busy,
    Canceled,
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OrbitError,
    ShuttingDown,
)
from orbit_zmq.log import REQUEST, TRACE, get_logger
from orbit_zmq.plugin.arguments import did_you_mean
from orbit_zmq.plugin.catalogue import catalogue_of
from orbit_zmq.plugin.current import CURRENT
from orbit_zmq.plugin.host import Host
from orbit_zmq.plugin.operation import Operation
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.request import answer_of, request_of
from orbit_zmq.wire.header import Header

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient

log = get_logger(__name__)

MAX_RUNNING = 1024  # calls at once, as many as one caller may have open: after a break they come together; past that `busy`
MAX_WAITING = 4096  # long polls at once; they cost a task each and no work
STOPPED_S = 5.0  # for an operation that was canceled, to end
CLOSE_WITHIN_S = 2.0  # for all sessions together when the endpoint stops


class Service:
    """The plugins of one endpoint and the calls to them."""

    def __init__(
        self,
        host: Host,
        plugins: Sequence[Plugin],
        *,
        access: Access,
        announce: Callable[[dict[str, Any]], None],
        absent: Iterable[Mapping[str, str]] = (),
        max_running: int = MAX_RUNNING,
        max_waiting: int = MAX_WAITING,
        connect: Callable[[str], AsyncClient] | None = None,
    ) -> None:
        self.host = host
        self._access = access
        self.sessions = Sessions(announce, self._spawn, connect=connect, access=access)
        self._announce = announce
        self.on_plugins_changed: Callable[[], None] = lambda: None  # for whoever tells plugins of the topology
        self._plugins: dict[str, Plugin] = {}
        for plugin in plugins:
            self._plugins = self._with(plugin)
            plugin.sessions = self.sessions
        self._absent = [dict(one) for one in absent]
        self._described = self._describe(self._plugins)
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._waiting = 0  # of those that run, how many only wait
        self._running: set[Running] = set()
        self._beside: dict[Plugin, asyncio.Task[Any]] = {}  # what plugins do beside operations
        self._group: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._stop_asked = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Serve until `stop`. All tasks of all plugins live in here."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                sweeping = group.create_task(self.sessions.sweep_always())
                try:
                    await self._stop_asked.wait()
                finally:
                    self._stop_asked.set()  # no call is taken from here on
                for running in list(self._running):
                    running.end(_stopped())
                await self.sessions.close_all(CLOSE_WITHIN_S)
                for task in (sweeping, *self._beside.values()):
                    task.cancel()
        finally:
            self._group = None
            if self._timer is not None:
                self._timer.cancel()
            self._stopped.set()

    async def stop(self) -> None:
        """End all calls and close all sessions; returns when `run` has ended."""
        self._stop_asked.set()
        if self._group is not None:
            await self._stopped.wait()

    async def restore(self) -> None:
        """Make the kept sessions again; while `run` runs, and before the first call."""
        await asyncio.to_thread(self.sessions.keeping.read)
        for plugin in self.plugins:
            await self.sessions.restore(plugin)
        self.sessions.keeping.note_absent(time.time())
        for plugin in self.plugins:
            self._begin(plugin)

    def facts(self) -> dict[str, Any]:
        """What hello says of the plugins; from any thread."""
        return {
            **self._described,
            "absent": self._absent,
            "sessions": self.sessions.facts(),
            "host": {"role": self.host.role, "scheduler": self.host.scheduler},
            "labels": dict(self.host.labels),
            "settings": settings(self._max_running, self._max_waiting),
            "share": self._access.to_body(),
            "load": self.load(),
        }

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine until it ends or the service stops; a failure is logged. In the loop's thread."""
        return self._spawn(coroutine)

    def load(self) -> dict[str, Any]:
        """How much there is to do, and why nothing is kept where that is so; from any thread."""
        fault = self.sessions.keeping.fault
        return {
            "running": len(self._running) - self._waiting,
            "waiting": self._waiting,
            "sessions": len(self.sessions),
            "tasks": self.sessions.unfinished_tasks,
            "tasks_by_state": self.sessions.tasks_by_state,
            "host_load": host_load(),
            **({"store_fault": fault} if fault else {}),
        }

    @property
    def plugins(self) -> list[Plugin]:
        """What is served now."""
        return list(self._plugins.values())

    def add(self, plugin: Plugin) -> None:
        """Serve another plugin instance, and tell the broker. In the loop's thread."""
        plugins = self._with(plugin)
        described = self._describe(plugins)
        plugin.sessions = self.sessions
        self._plugins, self._described = plugins, described
        self._announce(dict(described))
        self.on_plugins_changed()
        if self._group is not None:
            self._spawn(self._restore_one(plugin))

    def remove(self, instance: str) -> None:
        """Serve a plugin instance no longer: its calls end, its sessions are closed, the broker is told."""
        plugins = dict(self._plugins)
        plugin = plugins.pop(instance, None)
        if plugin is None:
            raise self._no_plugin(instance)
        described = self._describe(plugins)
        self._plugins, self._described = plugins, described
        self._announce(dict(described))
        self.on_plugins_changed()
        for running in [running for running in self._running if running.plugin is plugin and running.record is None]:
            running.end(NotFound(f"plugin {instance} has been removed from endpoint {self.host.name}"))
        self.sessions.close_plugin(plugin)
        if (beside := self._beside.pop(plugin, None)) is not None:
            beside.cancel()

    async def _restore_one(self, plugin: Plugin) -> None:
        await self.sessions.restore(plugin)
        if plugin in self.plugins:
            self._begin(plugin)

    def _begin(self, plugin: Plugin) -> None:
        """Let a plugin do what it does beside its operations."""
        if type(plugin).while_served is not Plugin.while_served:
            self._beside[plugin] = self._spawn(plugin.while_served())

    def on_call(self, call: IncomingCall) -> None:
        """Start a call, or answer why not."""
        try:
            running = self._accept(call)
        except OrbitError as error:
            self._fail(call, error)
            return
        running.moved()
        self._running.add(running)
        self._waiting += running.operation.waits
        if running.record is not None:
            running.record.calls.add(running)
        if running.deadline < self._timer_at:
            self._set_timer(running.deadline)
        assert self._group is not None  # _accept has looked
        self._group.create_task(self._run(running))

    def on_cancel(self, caller: bytes, call_id: int, reason: str = "") -> None:
        """The caller has given a call up."""
        for running in list(self._running):
            header = running.call.header
            if header.id == call_id and header.caller == caller:
                self._end(running, Canceled(reason))

    def _accept(self, call: IncomingCall) -> Running:
        """Find what the call is for, or raise why there is nothing."""
        if self._group is None or self._stop_asked.is_set():
            raise ShuttingDown("the endpoint does not serve calls now")
        header = call.header
        plugin = self._plugins.get(header.plugin)
        if plugin is None:
            plugin = self._plugin_of(header)
        operation = plugin.operations.get(header.operation)
        if operation is None:
            raise self._no_operation(plugin, header.operation)
        self._access.check(header, plugin, operation)
        self._check_room(operation)
        if not operation.needs_session:
            return Running(call, operation, plugin, None, self._access)
        if not header.session:
            raise InvalidArgument(
                f"{operation.label} needs a session", hint="Open one with register_session and call with its id."
            )
        if not operation.on_session:
            return Running(call, operation, plugin, None, self._access)
        if header.session == DEFAULT and not self.sessions.has_default(plugin, header.user):
            return Running(call, operation, plugin, None, self._access)  # it enters the session when that is open
        record = self.sessions.enter(header.session, header.caller, header.user, plugin)
        return Running(call, operation, plugin, record, self._access)

    def _check_room(self, operation: Operation) -> None:
        if operation.waits:
            if self._waiting >= self._max_waiting:
                raise Busy(f"{self._max_waiting} calls wait on endpoint {self.host.name} already")
        elif len(self._running) - self._waiting >= self._max_running:
            raise Busy(f"{self._max_running} calls run on endpoint {self.host.name} already")

    async def _run(self, running: Running) -> None:
        """One call from its start to its answer; the only task that a call has."""
        try:
            await self._execute(running)
        except asyncio.CancelledError as error:
            if self._answer_canceled(running, error):
                raise
        except BaseException as error:  # noqa: BLE001 - the plugin call
            self._fail(running.call, error if error is running.reason else error_of(error))
        finally:
            self._running.discard(running)
            self._waiting -= running.operation.waits
            if running.record is not None:
                running.record.calls.discard(running)

    async def _execute(self, running: Running) -> None:
        if running.reason is not None:
            raise running.reason
        running.task = asyncio.current_task()
        call, operation = running.call, running.operation
        REQUEST.set((call.header.caller, call.header.id))
        if call.header.trace:
            TRACE.set(call.header.trace)
        arguments = operation.arguments(call.body, call.flags)
        if not operation.on_session:
            CURRENT.set(running)
        elif running.record is None:
            await self._enter_default(running)
        if operation.request:
            await self._handle(running, arguments)
            return
        if operation.stream_in or operation.caller or call.stream_in is not None:
            self._add_special(arguments, running)
        faultpoint.reach("endpoint.executing")
        result = getattr(running.target, operation.attribute)(**arguments)
        if not operation.is_generator:
            result = await result
        faultpoint.reach("endpoint.executed")
        if not operation.stream_out:
            call.reply(*operation.pack(result))
            return
        chunks = StreamOut(operation.label, result, running.moved)
        try:
            await call.reply_stream(chunks)
        finally:
            await self._close_stream(chunks, operation)

    async def _enter_default(self, running: Running) -> None:
        """Open the caller's default session for its first call."""
        header = running.call.header
        await self.sessions.open_default(running.plugin, running.caller())
        record = self.sessions.enter(DEFAULT, header.caller, header.user, running.plugin)
        assert record.session is not None  # it is ready
        running.record, running.target = record, record.session
        record.calls.add(running)

    async def _handle(self, running: Running, arguments: dict[str, Any]) -> None:
        """An operation that takes the request as a whole."""
        call, operation = running.call, running.operation
        if call.stream_in is not None:
            raise InvalidArgument(f"{operation.label} takes no stream of bytes")
        request = request_of(operation.method, operation.path, call.header.session, arguments)
        result = await getattr(running.target, operation.attribute)(request)
        call.reply(*operation.pack(answer_of(result, arguments)))

    def _answer_canceled(self, running: Running, error: asyncio.CancelledError) -> bool:
        """Answer a call whose task was canceled; whether the whole service is being ended from outside."""
        if running.reason is not None:
            self._fail(running.call, running.reason)
            return False
        if running.task is not None and running.task.cancelling():
            self._fail(running.call, _stopped())
            return True
        self._fail(running.call, error_of(error))  # the operation waited for something that was canceled
        return False

    async def _close_stream(self, chunks: StreamOut, operation: Operation) -> None:
        try:
            await chunks.aclose()
        except asyncio.CancelledError:
            raise
        except BaseException:
            log.exception("stream-close-failed", operation=operation.label)

    def _add_special(self, arguments: dict[str, Any], running: Running) -> None:
        """The arguments that do not come in the body: the stream and who calls."""
        call, operation = running.call, running.operation
        if operation.caller:
            arguments[operation.caller] = running.caller()
        if operation.stream_in:
            if call.stream_in is None:
                raise InvalidArgument(
                    f"{operation.label}: argument {operation.stream_in!r} is a stream of bytes",
                    details={"fields": [operation.stream_in]},
                )
            arguments[operation.stream_in] = StreamIn(call.stream_in, running.moved)
        elif call.stream_in is not None:
            raise InvalidArgument(f"{operation.label} takes no stream of bytes")

    def _fail(self, call: IncomingCall, error: OrbitError) -> None:
        try:
            call.fail(error)
        except Exception:  # the loop's task: a fault in the transport ends this call alone
            log.exception("answer-failed", operation=call.header.operation)

    def _plugin_of(self, header: Header) -> Plugin:
        if not header.plugin and header.session:
            return self.sessions.find(header.session, header.user).plugin
        raise self._no_plugin(header.plugin)

    def _with(self, plugin: Plugin) -> dict[str, Plugin]:
        if plugin.instance_name in self._plugins:
            raise Conflict(f"two plugins have the instance name {plugin.instance_name!r}")
        return {**self._plugins, plugin.instance_name: plugin}

    def _describe(self, plugins: Mapping[str, Plugin]) -> dict[str, Any]:
        """What the broker is told of these plugins. Never changed once made, for another thread may read it."""
        catalogue, digest = catalogue_of(plugins.values())
        named = {name: {"plugin": one.plugin_name, "version": one.version} for name, one in plugins.items()}
        return {"plugins": named, "catalogue": digest, "catalogue_body": catalogue}

    def _no_plugin(self, name: str) -> NotFound:
        known = sorted(self._plugins)
        return NotFound(
            f"endpoint {self.host.name} has no plugin {name!r}; it has: {', '.join(known) or 'none'}",
            hint=did_you_mean(name, known, "Plugins there"),
            details={"known": known},
        )

    def _no_operation(self, plugin: Plugin, name: str) -> NotFound:
        known = sorted(plugin.operations)
        return NotFound(
            f"plugin {plugin.instance_name} has no operation {name!r}; it has: {', '.join(known)}",
            hint=did_you_mean(name, known, "Operations there"),
            details={"known": known},
        )

    def _set_timer(self, at: float) -> None:
        # One timer for all calls, at the nearest deadline: a timer for each call costs more than the rest of its start.
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = time.monotonic()
        for running in list(self._running):
            if running.deadline <= now and running.reason is None:
                self._end(running, DeadlineExceeded(f"{running.operation.label} did not end within {running.left_s:.3g} s"))
            elif running.deadline <= now:
                running.deadline = math.inf
                log.warning("call-not-stopped", **running.facts())
        nearest = min((running.deadline for running in self._running), default=math.inf)
        if nearest < self._timer_at:
            self._set_timer(nearest)

    def _end(self, running: Running, error: OrbitError) -> None:
        """End a call; where its operation takes no notice of that, the log says so."""
        running.end(error)
        running.deadline = time.monotonic() + STOPPED_S
        if running.deadline < self._timer_at:
            self._set_timer(running.deadline)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a plugin's coroutine; its failure is logged and harms nobody else."""
        if self._group is None:
            coroutine.close()
            raise ShuttingDown("the endpoint has stopped")
        return self._group.create_task(self._guarded(coroutine))

    async def _guarded(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await coroutine
        except asyncio.CancelledError:
            raise
        except BaseException:
            log.exception("spawned-task-failed")
            return None


def _stopped() -> ShuttingDown:
    return ShuttingDown("the endpoint stopped during the call")

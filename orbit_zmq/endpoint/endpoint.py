"""Endpoint: a machine's service. It loads plugins, dials out to the broker, and serves until it is stopped.

`run` is for a process that is nothing else; `start` and `stop` put an endpoint into a thread of a program, for tests and
notebooks. What a plugin does with a call is not known here.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orbit_zmq.allocator import limit_arenas
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.endpoint.access import Access, parse_shares
from orbit_zmq.endpoint.keeping import Keeping
from orbit_zmq.endpoint.loopwatch import LoopWatch
from orbit_zmq.endpoint.notices import Notices
from orbit_zmq.endpoint.service import Service
from orbit_zmq.endpoint.serving import Serving
from orbit_zmq.endpoint.store import Store
from orbit_zmq.endpoint.wall_time import wind_down
from orbit_zmq.environment import environment_facts
from orbit_zmq.errors import InvalidArgument, NotFound, OrbitError, ShuttingDown
from orbit_zmq.log import get_logger
from orbit_zmq.paths import state_dir
from orbit_zmq.place import Place, find_broker
from orbit_zmq.plugin.host import Host, detect_role
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.registry import Wanted, get_plugin_class, left_out, make_plugin, make_plugins, select, with_options
from orbit_zmq.transport.link import Link

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient
    from orbit_zmq.plugin.registry import Options, Token

NAME = re.compile(r"[a-z0-9._-]+")
NAME_CHARS = 200  # it is a part of the names of files, which have 255
COLLECTED_AFTER = (20_000, 5, 5)  # with many tasks in memory Python's own thresholds cost a quarter of all time
READY_S = 30.0  # how long `start` waits for the broker
SEEN_S = 5.0  # how long a change of the plugins waits for a broker that is there, and may be busy, to know of it
LEFT_S = 2.0  # how long `stop` waits for what plugins have left running; it ends with the process
STOP_S = 5.0  # how long calls and sessions have to end

log = get_logger(__name__)


def default_name() -> str:
    """The host's name in the letters that an endpoint's name may have."""
    return re.sub(r"[^a-z0-9._-]", "-", socket.gethostname().lower()) or "localhost"


def check_name(name: str) -> None:
    """InvalidArgument for what cannot be the name of an endpoint."""
    if not NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r} is no name of an endpoint.", hint="Names are of a-z 0-9 . _ -")
    if len(name) > NAME_CHARS:
        raise InvalidArgument(
            f"The name of an endpoint has at most {NAME_CHARS} characters, not {len(name)}.", hint="Shorten it."
        )


def _connector(link: Link) -> Callable[[str], AsyncClient]:
    """What makes clients over this link for plugins; most endpoints never need one."""

    def connect(user: str) -> AsyncClient:
        from orbit_zmq.client._async.client import AsyncClient

        return AsyncClient.over(link, on_behalf_of=user)

    return connect


def _end_process_soon() -> None:
    """Python waits for threads and tasks for ever; a process that has said bye does not."""
    timer = threading.Timer(STOP_S, _give_up)
    timer.daemon = True
    timer.start()


def _give_up() -> None:
    log.warning("endpoint-ended-by-force", reason="code of a plugin would not end")
    os._exit(1)


class Endpoint:
    """One endpoint of this process.

    `plugins` are names, `name:instance`, globs, `default`, `all`, Plugin classes, or instances; one needs no list. The broker
    is found as a client finds it, unless its `place` is known already; without a name it takes the one that its key is for,
    else the host's. Its own user is served, and others as `share` says: `USER[:plugin,plugin[:read,write,run]]` each, to read
    and write where no right is named, `*` for everybody. Without `pickle` no plugin unpickles what a caller sends. `store_in`
    is the directory of its store, else the state directory. `plugin_options` are arguments of plugins' constructors,
    `{plugin: {instance: {name: value}}}`; instances that are named there alone are served where their plugin is. With
    `wall_time_s` it ends before so long have passed, and takes no more work towards the end. Raises
    InvalidArgument for a bad name, role or share, or an option that a plugin does not take, NotFound for a plugin that nobody
    knows, Conflict for two instances of one name.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        url: str | None = None,
        join: str | None = None,
        context: str | None = None,
        place: Place | None = None,
        plugins: Token | Iterable[Token] = "default",
        role: str | None = None,
        labels: Mapping[str, str] | None = None,
        share: Iterable[str] = (),
        pickle: bool = True,
        store_in: Path | None = None,
        plugin_options: Options | None = None,
        wall_time_s: float | None = None,
    ) -> None:
        self._place: Place = place or find_broker(url, join, context)
        self.name = name or self._place.name or default_name()
        check_name(self.name)
        self._shares = parse_shares([share] if isinstance(share, str) else share)
        self.host = Host(self.name, role or detect_role(), detect_batch_system().name, dict(labels or {}), {"pickle": pickle})
        wanted, unknown = select(plugins, self.host.role)
        self._plugins, refused = make_plugins(with_options(wanted, plugin_options or {}), self.host)
        self._absent = [*unknown, *refused, *left_out(plugins, wanted, self.host.role)]
        self._store_in = store_in
        self._wall_time_s = wall_time_s
        self._service: Service | None = None
        self._link: Link | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._changed = asyncio.Event()
        self._stopping = False
        self._broker_lost_at: float | None = None
        self._watch = LoopWatch()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._over = threading.Event()  # it serves no more; what a plugin has left running may still be there
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<endpoint {self.name}: plugins {', '.join(plugin.instance_name for plugin in self.plugins) or 'none'}>"

    @property
    def absent(self) -> list[dict[str, str]]:
        """Plugins that were asked for and are not served, with the reason, and those that `default` leaves to a request."""
        return list(self._absent)

    @property
    def plugins(self) -> list[Plugin]:
        """The plugin instances that are served."""
        return list(self._plugins) if self._service is None else self._service.plugins

    def add_plugin(self, plugin: str | type[Plugin] | Plugin, instance_name: str | None = None) -> Plugin:
        """Serve another plugin instance from now on: of a class or a known name, or one that is made already.

        Raises NotFound for a name that nobody knows, Conflict for an instance name that is taken, InvalidArgument where
        the plugin does not apply on this host, and what its own code raises.
        """
        found = get_plugin_class(plugin) if isinstance(plugin, str) else plugin
        if found is None:
            raise NotFound(f"no plugin {plugin!r}, or it does not import", hint="get_plugin_names() lists what there is.")
        if isinstance(found, type):
            wanted = Wanted(found, instance_name or found.plugin_name)
        else:
            wanted = Wanted(type(found), found.instance_name, found)
        made = make_plugin(wanted, self.host)
        if made is None:
            raise InvalidArgument(f"plugin {wanted.plugin_class.plugin_name} does not apply on this host")
        self._in_service(lambda service: service.add(made))
        return made

    def remove_plugin(self, instance_name: str) -> None:
        """Serve an instance no longer: its calls end and its sessions are closed. NotFound where there is none."""
        self._in_service(lambda service: service.remove(instance_name))

    def run(self, on_ready: Callable[[], None] | None = None, *, within_s: float | None = None) -> None:
        """Serve until SIGTERM or SIGINT, or until `stop`; raises what the broker refuses this endpoint for.

        With `within_s`: BrokerUnreachable where no broker has welcomed it by then. One that goes away later is waited for.
        """
        limit_arenas()
        gc.freeze()
        gc.set_threshold(*COLLECTED_AFTER)
        asyncio.run(self._main(on_ready or (lambda: None), within_s=within_s, with_signals=True))

    def start(self) -> Endpoint:
        """Serve in a thread of this process; returns once the broker has welcomed the endpoint."""
        self._thread = threading.Thread(target=self._run_in_thread, name=f"orbit-endpoint-{self.name}", daemon=True)
        self._thread.start()
        self._ready.wait(READY_S)
        if self._failure is not None:
            raise self._failure
        if self._link is None or not self._link.is_up:
            obstacle = self._link.obstacle() if self._link is not None else OrbitError(f"endpoint {self.name} did not start")
            self.stop()
            raise obstacle
        return self

    def stop(self) -> None:
        """End all calls and sessions, say bye, and stop. From any thread; harmless when it has stopped."""
        self._stopping = True  # said before the loop is there, too
        self._in_loop(self._ask_to_stop)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._over.wait(READY_S)
            self._thread.join(LEFT_S)

    def __enter__(self) -> Endpoint:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # What the link asks; in its thread

    def hello(self) -> dict[str, Any]:
        facts = self._service.facts() if self._service is not None else {}
        facts.pop("catalogue_body", None)
        return {"role": "endpoint", "name": self.name, "environment": environment_facts(), **facts}

    def catalogue(self) -> bytes:
        return bytes(self._service.facts()["catalogue_body"]) if self._service is not None else b""

    def pulse(self) -> dict[str, Any]:
        load = self._service.load() if self._service is not None else {}
        return {"loop_age_s": self._watch.look(time.monotonic()), "load": load}

    # The loop

    def _run_in_thread(self) -> None:
        try:
            asyncio.run(self._serve_in_thread())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that started this one
            self._failure = error
        finally:
            self._ready.set()

    async def _serve_in_thread(self) -> None:
        try:
            await self._main(lambda: None, with_signals=False)
        finally:
            self._over.set()

    async def _main(self, on_ready: Callable[[], None], *, with_signals: bool, within_s: float | None = None) -> None:
        keeping = Keeping(await asyncio.to_thread(Store.open, self._store_in or state_dir(), self.name))
        try:
            await self._serve(keeping, on_ready, with_signals=with_signals, within_s=within_s)
        finally:
            await asyncio.to_thread(keeping.close)

    async def _serve(
        self, keeping: Keeping, on_ready: Callable[[], None], *, with_signals: bool, within_s: float | None
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        if with_signals:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, self._ask_to_stop)
        serving = Serving(loop)
        link = self._link = Link(self._place, self, handler=serving, on_change=self._on_change)
        link.tells_obstacles = within_s is None
        service = self._service = Service(
            self.host,
            self._plugins,
            access=Access(self.name, self._shares, lambda: link.user),
            announce=link.send_update,
            absent=self._absent,
            connect=_connector(link),
        )
        service.sessions.keeping = keeping
        serving.connect(service, link)
        notices = Notices(link, service, loop)
        self._watch.start()
        serves = loop.create_task(service.run())  # not in a group: a plugin that will not end must not hold up the end
        serves.add_done_callback(lambda _: self._ask_to_stop())
        await asyncio.sleep(0)  # it runs from here on
        await service.restore()
        link.start()
        link.attach(loop)
        loop.call_soon(notices.look)  # once the service runs
        ending = self._end_in_time(service)
        unreachable = loop.call_later(within_s, self._give_up_start, link) if within_s is not None else None
        await self._serve_until_stopped(link, on_ready)
        if unreachable is not None:
            unreachable.cancel()
        ending.cancel()
        notices.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await service.stop()
                await asyncio.wait((serves,))
        self._watch.stop()
        link.attach(None)
        await asyncio.to_thread(link.close)
        if with_signals:
            _end_process_soon()
        if link.refusal is not None:
            raise link.refusal
        if self._failure is not None:
            raise self._failure

    async def _serve_until_stopped(self, link: Link, on_ready: Callable[[], None]) -> None:
        """Wait for the end; a refusal is one, for no connection will come after it."""
        while not self._stopping and link.refusal is None:
            if link.is_up and not self._ready.is_set():
                log.info("endpoint-ready", endpoint=self.name, broker=self._place.address)
                self._ready.set()
                on_ready()
            await self._changed.wait()
            self._changed.clear()

    def _end_in_time(self, service: Service) -> asyncio.Task[None]:
        async def end() -> None:
            if self._wall_time_s is not None:
                await wind_down(service.sessions, self.name, self._wall_time_s)
                self._ask_to_stop()

        return asyncio.get_running_loop().create_task(end())

    def _give_up_start(self, link: Link) -> None:
        if not self._ready.is_set():
            self._failure = link.obstacle()
            self._ask_to_stop()

    def _on_change(self) -> None:
        """The link is up, interrupted, or refused; in its thread."""
        link = self._link
        if link is not None and self._ready.is_set() and not self._stopping:
            self._note_broker(link)
        self._in_loop(self._changed.set)

    def _note_broker(self, link: Link) -> None:
        """Write down when the broker is lost and when it is back, once each."""
        now = time.monotonic()
        if not link.is_up and self._broker_lost_at is None:
            self._broker_lost_at = now
            log.warning("broker-lost", endpoint=self.name, broker=self._place.address, reason=link.obstacle().message)
        elif link.is_up and self._broker_lost_at is not None:
            away_s, self._broker_lost_at = round(now - self._broker_lost_at, 3), None
            log.info("broker-back", endpoint=self.name, broker=self._place.address, away_s=away_s)

    def _ask_to_stop(self) -> None:
        self._stopping = True
        self._changed.set()

    def _in_service(self, change: Callable[[Service], None]) -> None:
        """Change what is served, in the loop's thread, and wait until it is done and the broker knows. From any thread; what
        runs in the loop itself cannot wait for the broker."""
        service, loop = self._service, self._loop
        if service is None or loop is None or loop.is_closed():
            raise ShuttingDown(f"endpoint {self.name} is not running", hint="Name its plugins when it is made.")
        if threading.get_ident() == self._loop_thread:
            change(service)
            return

        async def changed() -> None:
            change(service)
            if self._link is None or not self._link.is_up:  # a broker that is away is told when it is back
                return
            with suppress(OrbitError, TimeoutError):
                async with asyncio.timeout(SEEN_S):  # what is asked after the change is answered after it
                    await service.sessions.client_of_plugin().topology()

        asyncio.run_coroutine_threadsafe(changed(), loop).result(READY_S)

    def _in_loop(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has stopped
                self._loop.call_soon_threadsafe(function)

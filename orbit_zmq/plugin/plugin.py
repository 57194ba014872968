"""Plugin: what a plugin author derives from, one object for each instance on an endpoint.

Defining a subclass with a plugin_name checks it, builds its operations, and puts it into the registry. The operations
that every plugin has are methods here. It must not know of sockets or frames.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from orbit_zmq.errors import Conflict, InternalError, InvalidArgument, NotFound
from orbit_zmq.plugin import registry
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.definition import NAME, check_class, operations_of, with_route
from orbit_zmq.plugin.host import Host
from orbit_zmq.plugin.operation import Operation, declare, operation
from orbit_zmq.plugin.session import HolderLost, Lifetime, PluginSession
from orbit_zmq.plugin.store import SessionStore
from orbit_zmq.plugin.ui import UIConfig, ui_file_of, ui_of
from orbit_zmq.why import Answer, Explanation
from orbit_zmq.wire.body import pack_body

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient
    from orbit_zmq.endpoint.sessions import Sessions

WAIT_S = 3600.0
WaitSeconds = Annotated[float, Field(ge=0, le=WAIT_S, allow_inf_nan=False)]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
ItemId = Annotated[str, Field(min_length=1, max_length=255)]
TtlSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Plugin:
    """One plugin instance. Operations that need no session are its async methods under `@operation`."""

    plugin_name: ClassVar[str] = ""  # empty: a base class that is no plugin yet
    session_class: ClassVar[type[PluginSession]]
    version: ClassVar[str] = "0.0.1"
    session_ttl: ClassVar[float] = 3600.0  # seconds without activity until a session of lifetime `ttl` ends; 0: never
    client_class: ClassVar[type | None] = None  # what a client in the same program gets; None: one made of the catalogue
    ui_config: ClassVar[dict[str, Any] | UIConfig | None] = None
    ui_module: ClassVar[str | Path | None] = None  # a .js file beside the module of the class
    operations: dict[str, Operation]

    _served_by: Sessions | None = None
    _ui: ClassVar[dict[str, Any]] = {}
    _ui_file: ClassVar[Path | None] = None

    def __init__(self, host: Host, instance_name: str | None = None) -> None:
        self.host = host
        self.instance_name = instance_name or self.plugin_name
        self.uid = f"{self.instance_name}.{secrets.token_hex(4)}"  # of this object; another process has another
        self.started = time.monotonic()
        if not NAME.fullmatch(self.instance_name):
            raise InvalidArgument(f"plugin {self.plugin_name}: instance_name {instance_name!r} is not of a-z 0-9 . _ -")

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not cls.plugin_name:
            return
        label = check_class(cls)
        cls._ui = ui_of(cls.ui_config, label)
        cls._ui_file = ui_file_of(cls, cls.ui_module, label)
        cls.operations = operations_of(cls)
        if "plugin_name" in vars(cls):
            registry.add(cls)

    @classmethod
    def is_enabled(cls, host: Host) -> bool:
        """Whether the plugin applies on this host; asked before an instance is made."""
        return True

    @classmethod
    def preload(cls) -> None:
        """Import what its first session needs and what takes long. Called in a thread of its own by an endpoint inside a job
        while its tunnel is opened; what it raises is shown and changes nothing."""

    def create_session(self, sid: str, *_: Any, **arguments: Any) -> Any:  # *_ lets an override name its parameters
        """Make the session of a register_session; the hook for one that needs more. It may be `async def`."""
        return self.session_class(sid, **arguments)

    @property
    def namespace(self) -> str:
        """Where the routes of this instance begin, under the name of its endpoint."""
        return f"/{self.instance_name}"

    @property
    def client(self) -> AsyncClient:
        """A client over the endpoint's own connection. Within a call it acts for its caller, else for the endpoint's user."""
        return self.sessions.client_of_plugin()

    @property
    def store(self) -> SessionStore:
        """What the plugin keeps beyond the life of the process and of all sessions, under its instance's name."""
        return SessionStore() if self._served_by is None else self._served_by.keeping.store_of_plugin(self)

    def send_notification(self, topic: str, data: Any = None, *, user: str | None = None) -> None:
        """Tell the endpoint's user, and the owners of sessions of this plugin, that something has happened; or one user alone.

        From any thread; nothing while the plugin is not served.
        """
        if self._served_by is not None:
            self._served_by.send_notification(self, topic, *pack_body(data), user)

    async def while_served(self) -> None:
        """For plugins that override it: runs beside the operations, from when kept sessions have been made again until the
        plugin is served no longer; it is then canceled."""

    async def on_topology_change(self, endpoints: dict[str, Any]) -> None:
        """For plugins that override it: called with the whole view `{name: {role, state, plugins}}`, first when the plugin is
        served, then whenever an endpoint comes, goes, or changes. One that has gone is in it once, as `lost`."""

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        """For plugins that override it: why something is not further that is in no session, such as a batch job; None for what
        is not theirs, or not the caller's. It has five seconds."""
        return None

    def add_route_get(self, path: str, handler: Callable[..., Any]) -> None:
        """Give an operation another GET route, or serve one by `async def handler(request)`; in `__init__`."""
        self._add_route("GET", path, handler)

    def add_route_post(self, path: str, handler: Callable[..., Any]) -> None:
        """The same for POST."""
        self._add_route("POST", path, handler)

    async def forward(self, sid: str, method: Callable[..., Any] | str, /, **arguments: Any) -> Any:
        """Call a method of a session for the caller of the present call, who has to own it; that is activity."""
        name = method if isinstance(method, str) else method.__name__
        return await self.sessions.forward(self, sid, name, arguments)

    def add_session(self, session: PluginSession, *, lifetime: Lifetime | None = None, ttl: float | None = None) -> None:
        """Take in a session that the plugin has made and set up itself, for the caller of the present call."""
        self.sessions.adopt(self, session, lifetime, ttl)

    @property
    def sessions(self) -> Sessions:
        """The endpoint's table of sessions."""
        if self._served_by is None:
            raise InternalError(f"plugin {self.instance_name} is not served by an endpoint")
        return self._served_by

    @sessions.setter
    def sessions(self, sessions: Sessions) -> None:
        self._served_by = sessions

    def _add_route(self, method: str, path: str, handler: Callable[..., Any]) -> None:
        if self._served_by is not None:
            raise Conflict(f"plugin {self.instance_name} is served already", hint="Add routes in __init__.")
        self.operations = with_route(self, method, path.strip("/"), handler)

    @operation(effect="read")
    async def ping(self) -> dict[str, Any]:
        """Answer at once."""
        return {}

    @declare(effect="read", name="version")
    async def get_version(self) -> dict[str, str]:
        """The version of the plugin."""
        return {"plugin": self.plugin_name, "version": self.version}

    @declare(effect="read", name="health")
    async def health_check(self) -> dict[str, Any]:
        """Whether the plugin works: status ok, degraded or failed, and what it has to do."""
        fault = self.sessions.keeping.fault
        return {
            "status": "degraded" if fault else "ok",
            "plugin": self.plugin_name,
            "version": self.version,
            "uptime_seconds": time.monotonic() - self.started,
            "active_sessions": self.sessions.count(self),
            "detail": f"sessions and results end with the process: {fault}" if fault else "",
        }

    @declare(effect="read", name="ui_config")
    async def get_ui_config(self) -> dict[str, Any]:
        """How the plugin looks in the Explorer."""
        return {
            "plugin_name": self.plugin_name,
            "instance_name": self.instance_name,
            "version": self.version,
            "ui": self._ui,
        }

    @declare(effect="read", name="ui_module")
    async def get_ui_module(self) -> bytes:
        """The JavaScript module of the plugin's page; NotFound where it has none."""
        if self._ui_file is None:
            raise NotFound(f"plugin {self.instance_name} has no ui_module")
        return await asyncio.to_thread(self._ui_file.read_bytes)

    @declare(effect="read", name="why")
    async def get_why(self, item: ItemId, caller: Caller) -> Answer:
        """What is known of a session of the caller, or of something in one, by its id: where it waits and for what.

        It is no activity of a session.
        """
        return await self.sessions.why(self, item, caller)

    @operation(effect="read")
    async def list_sessions(self, caller: Caller) -> dict[str, Any]:
        """The caller's own sessions of this plugin; an admin sees all of them."""
        return {"sessions": self.sessions.list_of(self, caller)}

    @operation(effect="write", deadline_s=60)
    async def register_session(
        self,
        caller: Caller,
        sid: SessionId | None = None,
        lifetime: Lifetime | None = None,
        ttl: TtlSeconds | None = None,
        on_holder_lost: HolderLost | None = None,
        **arguments: Any,
    ) -> dict[str, str]:
        """Open a session, or attach to one of one's own by its id; the id `default` stands for one that is always there.

        `lifetime` is `ephemeral` (ends some time after its holder is gone; the default), `ttl` (ends `ttl` seconds
        after the last activity) or `persistent`. `on_holder_lost` is `cancel` (its work is ended some time after its holder
        is gone) or `keep` (it goes on; the default of those two). The session may still be `initializing` when this answers.
        """
        return await self.sessions.register(
            self, caller, sid=sid, lifetime=lifetime, ttl=ttl, on_holder_lost=on_holder_lost, arguments=arguments
        )

    @declare(effect="write", idempotent=True, session_id=True)
    async def unregister_session(self, caller: Caller) -> dict[str, Any]:
        """Close a session and release what it holds."""
        await self.sessions.unregister(self, caller)
        return {}

    @declare(effect="read", session_id=True, waits=True, deadline_s=WAIT_S + 30)
    async def session_status(self, caller: Caller, wait_s: WaitSeconds = 0.0) -> dict[str, Any]:
        """What the session is: initializing, ready, or failed; waits for the first to end, `wait_s` at most.

        With its owner, holder, lifetime, and ttl in seconds (0: it has none). It counts as activity, like every call.
        """
        return await self.sessions.status(self, caller, wait_s)

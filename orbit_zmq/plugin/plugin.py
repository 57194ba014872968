"""Plugin: what a plugin author derives from, one object for each instance on an endpoint.

Defining a subclass with a plugin_name checks it, builds its operations, and puts it into the registry. The operations
that every plugin has are methods here. It must not know of sockets or frames.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from orbit_zmq.errors import InternalError, InvalidArgument
from orbit_zmq.plugin import registry
from orbit_zmq.plugin.arguments import Caller, Signature, signature_of
from orbit_zmq.plugin.host import Host
from orbit_zmq.plugin.operation import Operation, collect, declare, make_operation, operation
from orbit_zmq.plugin.session import Lifetime, PluginSession

if TYPE_CHECKING:
    from orbit_zmq.endpoint.sessions import Sessions

NAME = re.compile(r"[a-z0-9._-]{1,255}")
WaitSeconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
TtlSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Plugin:
    """One plugin instance. Operations that need no session are its async methods under `@operation`."""

    plugin_name: ClassVar[str] = ""  # empty: a base class that is no plugin yet
    session_class: ClassVar[type[PluginSession]]
    version: ClassVar[str] = "0.0.1"
    session_ttl: ClassVar[float] = 3600.0  # seconds without activity until a session of lifetime `ttl` ends; 0: never
    operations: ClassVar[dict[str, Operation]]

    _sessions: Sessions | None = None

    def __init__(self, host: Host, instance_name: str | None = None) -> None:
        self.host = host
        self.instance_name = instance_name or self.plugin_name
        self.started = time.monotonic()
        if not NAME.fullmatch(self.instance_name):
            raise InvalidArgument(f"plugin {self.plugin_name}: instance_name {instance_name!r} is not of a-z 0-9 . _ -")

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not cls.plugin_name:
            return
        _check_class(cls)
        cls.operations = operations_of(cls)
        if "plugin_name" in vars(cls):
            registry.add(cls)

    @classmethod
    def is_enabled(cls, host: Host) -> bool:
        """Whether the plugin applies on this host; asked before an instance is made."""
        return True

    def create_session(self, sid: str, *_: Any, **arguments: Any) -> Any:  # *_ lets an override name its parameters
        """Make the session of a register_session; the hook for one that needs more. It may be `async def`."""
        return self.session_class(sid, **arguments)

    @property
    def sessions(self) -> Sessions:
        """The endpoint's table of sessions."""
        if self._sessions is None:
            raise InternalError(f"plugin {self.instance_name} is not served by an endpoint")
        return self._sessions

    @sessions.setter
    def sessions(self, sessions: Sessions) -> None:
        self._sessions = sessions

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
        return {
            "status": "ok",
            "plugin": self.plugin_name,
            "version": self.version,
            "uptime_seconds": time.monotonic() - self.started,
            "active_sessions": self.sessions.count(self),
            "detail": "",
        }

    @operation(effect="read")
    async def list_sessions(self, caller: Caller) -> dict[str, Any]:
        """The caller's own sessions of this plugin."""
        return {"sessions": self.sessions.list_of(self, caller.user)}

    @operation(effect="write", deadline_s=60)
    async def register_session(
        self,
        caller: Caller,
        sid: SessionId | None = None,
        lifetime: Lifetime | None = None,
        ttl: TtlSeconds | None = None,
        **arguments: Any,
    ) -> dict[str, str]:
        """Open a session, or attach to one of one's own by its id.

        `lifetime` is `ephemeral` (ends some time after its holder is gone; the default), `ttl` (ends `ttl` seconds
        after the last activity) or `persistent`. The session may still be `initializing` when this answers.
        """
        return await self.sessions.register(self, caller, sid=sid, lifetime=lifetime, ttl=ttl, arguments=arguments)

    @declare(effect="write", idempotent=True, session_id=True)
    async def unregister_session(self, caller: Caller) -> dict[str, Any]:
        """Close a session and release what it holds."""
        await self.sessions.unregister(self, caller)
        return {}

    @declare(effect="read", session_id=True)
    async def session_status(self, caller: Caller, wait_s: WaitSeconds = 0.0) -> dict[str, Any]:
        """What the session is: initializing, ready, or failed; waits for the first to end, `wait_s` at most."""
        return await self.sessions.status(self, caller, wait_s)


def operations_of(plugin_class: type[Plugin]) -> dict[str, Operation]:
    """All operations of a plugin class and its session class, by name; each checked."""
    operations: dict[str, Operation] = {}
    label = f"plugin {plugin_class.plugin_name}"
    for owner in (plugin_class, plugin_class.session_class):
        on_session = owner is plugin_class.session_class
        for attribute, (declaration, function) in collect(owner, label).items():
            where = f"{label}: {owner.__qualname__}.{attribute}"
            signature = signature_of(function, where)
            if attribute == "register_session" and signature.takes_more:
                signature = _with_session_arguments(plugin_class, signature, where)
            made = make_operation(
                declaration, attribute, function, signature, plugin=plugin_class.plugin_name, on_session=on_session
            )
            if made.name in operations:
                raise InvalidArgument(f"{where}: the plugin has an operation {made.name!r} already")
            operations[made.name] = made
    _check_routes(operations, label)
    return operations


def _with_session_arguments(plugin_class: type[Plugin], signature: Signature, label: str) -> Signature:
    """register_session takes what create_session takes, or by default what the session class is made with."""
    maker: Callable[..., Any] = plugin_class.create_session
    if maker is Plugin.create_session:
        maker = plugin_class.session_class.__init__
    wanted = signature_of(maker, f"{label}: {maker.__qualname__}")
    fields = {name: field for name, field in wanted.fields.items() if name != "sid"}
    taken = sorted(fields.keys() & {*signature.fields, signature.caller})
    if taken:
        raise InvalidArgument(f"{label}: {maker.__qualname__} has parameters of register_session: {', '.join(taken)}")
    return replace(signature, fields=signature.fields | fields, takes_more=wanted.takes_more)


def _check_class(cls: type[Plugin]) -> None:
    label = f"plugin {cls.plugin_name}"
    if not isinstance(cls.plugin_name, str) or not NAME.fullmatch(cls.plugin_name):
        raise InvalidArgument(f"{cls.__qualname__}: plugin_name {cls.plugin_name!r} is not of a-z 0-9 . _ -")
    session_class = getattr(cls, "session_class", None)
    if not isinstance(session_class, type) or not issubclass(session_class, PluginSession):
        raise InvalidArgument(
            f"{label}: {cls.__qualname__}.session_class is {session_class!r}",
            hint="Set session_class to a subclass of PluginSession.",
        )
    if not isinstance(cls.version, str):
        raise InvalidArgument(f"{label}: {cls.__qualname__}.version is {cls.version!r}, not text")


def _check_routes(operations: dict[str, Operation], label: str) -> None:
    routes: dict[tuple[str, str], str] = {}
    for made in operations.values():
        other = routes.setdefault((made.method, made.path), made.name)
        if other != made.name:
            raise InvalidArgument(f"{label}: operations {other!r} and {made.name!r} are both {made.method} {made.path}")

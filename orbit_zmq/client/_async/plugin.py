"""AsyncPluginClient: one session of one plugin on one endpoint.

Plugins may bring a subclass with typed methods; where there is none, every operation of the catalogue is a method here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orbit_zmq.client.facts import KnownHere, OperationFacts
from orbit_zmq.client.generated import method_of, signature_of
from orbit_zmq.client.page import rows_table
from orbit_zmq.errors import (
    BrokerUnreachable,
    DeadlineExceeded,
    EndpointLost,
    InvalidArgument,
    OrbitError,
    OutcomeUnknown,
    error_from_body,
)

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient
    from orbit_zmq.client._async.subscription import AsyncSubscription

INIT_TIMEOUT_S = 120.0  # Dragon takes many seconds to start
SILENT_S = 1.0  # an endpoint that lives answers a ping sooner, unless a plugin blocks its loop
DISCARD_S = 2.0  # for the end of a session that did not become ready
POLL_S = 10.0  # one wait for a session to become ready; the endpoint answers the moment it does


class AsyncPluginClient:
    """Calls the operations of one plugin. Closing it closes its session."""

    def __init__(
        self, client: AsyncClient, endpoint: str, plugin: str, operations: Mapping[str, OperationFacts] | None = None
    ) -> None:
        self._client = client
        self._operations = dict(operations or {})
        self.endpoint = endpoint
        self.plugin = plugin
        self.sid = ""
        self.is_silent = False  # its endpoint did not answer when this was closed
        self._ends_session = False  # with this object
        self._subscriptions: list[AsyncSubscription] = []  # likewise

    def __repr__(self) -> str:
        return f"<plugin {self.plugin} on {self.endpoint}, session {self.sid or 'none'}>"

    def _repr_html_(self) -> str:
        title = f"plugin {self.plugin} on {self.endpoint}, session {self.sid or 'none'}"
        rows = [(f"{name}{signature_of(facts)}", facts.doc) for name, facts in sorted(self._operations.items())]
        return rows_table(title, ("operation", ""), rows)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operations: Mapping[str, OperationFacts] = self.__dict__.get("_operations", {})
        if name in operations:
            self.__dict__[name] = method = method_of(self.call, self.call_raw, name, operations[name])
            return method
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; operations: {', '.join(sorted(operations))}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._operations})

    async def __aenter__(self) -> AsyncPluginClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def register_session(self, *, init_timeout: float = INIT_TIMEOUT_S, hold: bool = True, **arguments: Any) -> str:
        """Open the session and wait until it is ready; answers its id. DeadlineExceeded after `init_timeout` seconds.

        With `sid` it attaches to a session that is there; where `hold` is false that stays with the process that holds it.
        `close` ends only a session that this has opened without a `sid` and whose lifetime is ephemeral.
        """
        if hold:
            opened = await self._client.call(self.endpoint, self.plugin, "register_session", arguments)
        else:
            opened = await self._client.call(self.endpoint, self.plugin, "session_status", session=arguments["sid"])
        self.sid = str(opened["sid"])
        self._ends_session = not {"sid", "lifetime", "ttl"} & {name for name in arguments if arguments[name] is not None}
        if opened.get("status") in ("initializing", "failed"):
            try:
                await self._wait_until_ready(init_timeout)
            except BaseException:
                await self._discard(is_new=arguments.get("sid") is None)
                raise
        return self.sid

    async def _discard(self, *, is_new: bool) -> None:
        """Leave no session behind that nobody will use: a new one, or one that could not be set up."""
        sid, self.sid = self.sid, ""
        with suppress(OrbitError):
            if is_new or await self._has_failed(sid):
                await self._client.call(self.endpoint, self.plugin, "unregister_session", session=sid, deadline_s=DISCARD_S)

    async def _has_failed(self, sid: str) -> bool:
        answer = await self._client.call(self.endpoint, self.plugin, "session_status", session=sid, deadline_s=DISCARD_S)
        return bool(answer["status"] == "failed")

    async def unregister_session(self) -> None:
        """Close the session on the endpoint; does nothing without one."""
        sid, self.sid = self.sid, ""
        if sid:
            await self._client.call(self.endpoint, self.plugin, "unregister_session", session=sid)

    async def close(self) -> None:
        """Close the session, if it is to end with this; what the endpoint says against it does not matter any more.

        An endpoint that does not answer is not waited for: the session ends there some time after this process.
        """
        self._client.forget(self)
        if self._ends_session and self.sid and not self.is_silent:
            self.is_silent = not await self._is_answered()
            if not self.is_silent:
                with suppress(OrbitError):
                    await self.unregister_session()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        self.sid = ""

    async def _is_answered(self) -> bool:
        """Whether the endpoint says anything, be it that there is no such plugin any more."""
        try:
            await self._client.call(self.endpoint, self.plugin, "ping", deadline_s=SILENT_S)
        except OrbitError as error:
            return not isinstance(error, (DeadlineExceeded, BrokerUnreachable, EndpointLost, OutcomeUnknown))
        return True

    async def ping(self) -> dict[str, Any]:
        """Whether the plugin answers."""
        answer: dict[str, Any] = await self._client.call(self.endpoint, self.plugin, "ping")
        return answer

    async def get_version(self) -> str:
        """The version of the plugin."""
        return str((await self._client.call(self.endpoint, self.plugin, "version"))["version"])

    async def health_check(self) -> dict[str, Any]:
        """Whether the plugin works: its status, uptime and number of sessions."""
        answer: dict[str, Any] = await self._client.call(self.endpoint, self.plugin, "health")
        return answer

    async def get_ui_config(self) -> dict[str, Any]:
        """How the plugin looks in the Explorer."""
        answer: dict[str, Any] = await self._client.call(self.endpoint, self.plugin, "ui_config")
        return answer

    async def on_notification(
        self, callback: Callable[..., Any], topic: str = "", *, with_meta: bool = False
    ) -> AsyncSubscription:
        """Have `callback(endpoint, plugin, topic, data)` called for events of this session; see AsyncClient.subscribe.

        It ends with this object. InvalidArgument without a session.
        """
        if not self.sid:
            raise InvalidArgument(f"{self.plugin}: there is no session to listen to", hint="Call register_session first.")
        subscription = await self._client.subscribe(
            callback, endpoint=self.endpoint, plugin=self.plugin, session=self.sid, topic=topic, with_meta=with_meta
        )
        self._subscriptions.append(subscription)
        return subscription

    async def list_sessions(self) -> list[Any]:
        """The sessions of this user at this plugin, of all users for an admin: a dict each with sid, status, owner, holder,
        lifetime and ttl."""
        answer: list[Any] = (await self._client.call(self.endpoint, self.plugin, "list_sessions"))["sessions"]
        return answer

    def known_here(self, item: str) -> KnownHere | None:
        """What this object knows by itself of the session or of something in it, for `client.why`; None for anything else."""
        return KnownHere("session", "open", "This client uses the session.") if item == self.sid else None

    async def call(self, operation: str, *, deadline_s: float | None = None, **arguments: Any) -> Any:
        """Call an operation in this session; InvalidArgument when it needs a session and there is none."""
        return await self._client.call(
            self.endpoint, self.plugin, operation, arguments, session=self._session(operation), deadline_s=deadline_s
        )

    async def call_raw(self, operation: str, body: bytes, *, deadline_s: float | None = None) -> bytes:
        """Call an operation that takes and gives plain bytes."""
        return await self._client.call_raw(
            self.endpoint, self.plugin, operation, body, session=self._session(operation), deadline_s=deadline_s
        )

    def _session(self, operation: str) -> str:
        known = self._operations.get(operation)
        if known is None or known.needs_session:
            if not self.sid:
                raise InvalidArgument(f"{self.plugin}.{operation} needs a session", hint="Call register_session first.")
            return self.sid
        return ""

    async def _wait_until_ready(self, init_timeout: float) -> None:
        left_s = init_timeout
        while left_s > 0:
            wait_s = min(POLL_S, left_s)
            answer = await self._client.call(
                self.endpoint, self.plugin, "session_status", {"wait_s": wait_s}, session=self.sid, deadline_s=wait_s + 10
            )
            if answer["status"] == "ready":
                return
            if answer["status"] == "failed":
                raise error_from_body(answer.get("error"))
            left_s -= wait_s
        raise DeadlineExceeded(f"session {self.sid} of {self.plugin} was not ready within {init_timeout:g} s")

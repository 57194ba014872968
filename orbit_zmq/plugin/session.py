"""PluginSession: what a plugin author derives from, one object for each session of a user.

The endpoint makes it, hands it to operations, and closes it. It must not know of sockets, of the table of sessions, or
of other users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from orbit_zmq.errors import SessionClosed, SessionNotReady, ShuttingDown
from orbit_zmq.plugin.host import Host
from orbit_zmq.plugin.operation import HOOKS, check_is_async, collect
from orbit_zmq.plugin.store import SessionStore
from orbit_zmq.why import Explanation
from orbit_zmq.wire.body import pack_body

if TYPE_CHECKING:
    from orbit_zmq.client._async.client import AsyncClient

Lifetime = Literal["ephemeral", "ttl", "persistent"]
HolderLost = Literal["keep", "cancel"]  # what becomes of a session's work when its holder is lost
Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


Notifier = Callable[[str, bytes, int], None]  # topic, body, flags


def check_not_ending(ending: str) -> None:
    """Raise ShuttingDown where an endpoint takes no more work, with the reason."""
    if ending:
        raise ShuttingDown(ending, hint="Use another endpoint.", transient=False)


class PluginSession:
    """State of one session. Operations are its async methods under `@operation`.

    Where a subclass defines `async def initialize(self)`, it runs in the background once the session is registered, and
    operations are answered `session-not-ready` until it has ended.
    """

    owner: str = ""  # the user whose session it is; set when it is registered
    holder: str = ""  # the participant that created it or attached last
    host: Host = Host()  # where it runs; set likewise
    is_active: bool = True
    ending: str = ""  # why it takes no more work; set by the endpoint, when its own end is near
    spawner: Spawn | None = None  # set by the endpoint while the session is registered
    notifier: Notifier | None = None  # likewise
    connect: Callable[[], AsyncClient] | None = None  # likewise: makes `client`
    store: SessionStore = SessionStore()  # likewise: what the session keeps beyond the life of the process
    free_arguments: ClassVar[frozenset[str]] = frozenset()  # of registration, which may differ between those who attach
    _client: AsyncClient | None = None

    def __init__(self, sid: str) -> None:
        self.sid = sid

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        collect(cls, "session class")
        for hook in HOOKS:
            check_is_async(getattr(cls, hook, None), f"session class: {cls.__qualname__}.{hook}")

    def check_active(self) -> None:
        """Raise SessionClosed once the session has been closed."""
        if not self.is_active:
            raise SessionClosed(f"session closed: {self.sid}")

    def check_takes_work(self) -> None:
        """Raise ShuttingDown when the endpoint is about to end: to be asked before something is begun that lasts."""
        check_not_ending(self.ending)

    def notify(self, topic: str, data: Any = None) -> None:
        """Tell the session's owner that something has happened. From any thread; nothing without a running endpoint.

        Whoever the owner is connected as hears it, if it subscribes. TooLarge above 32 KiB: an event is not for data.
        """
        if self.notifier is not None:
            self.notifier(topic, *pack_body(data))

    def notify_packed(self, topic: str, body: bytes) -> None:
        """The same with data that is packed as msgpack already."""
        if self.notifier is not None:
            self.notifier(topic, body, 0)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine beside the operations, until it ends or the session is closed; a failure is logged."""
        if self.spawner is None or not self.is_active:
            coroutine.close()
            self.check_active()
            raise SessionNotReady(
                f"session {self.sid} is not registered yet, so it cannot spawn",
                hint="Call spawn in initialize() or later, not in __init__.",
            )
        return self.spawner(coroutine)

    @property
    def client(self) -> AsyncClient:
        """A client over the endpoint's own connection that acts for the session's owner; it is closed with the session."""
        if self._client is None:
            if self.connect is None:
                raise SessionNotReady(
                    f"session {self.sid} is not registered yet, so it has no client",
                    hint="Use the client in initialize() or later, not in __init__.",
                )
            self._client = self.connect()
        return self._client

    async def close_client(self) -> None:
        """Close the sessions that `client` has opened; the endpoint does this when the session has been closed."""
        if self._client is not None:
            await self._client.close()

    def has_unfinished_work(self) -> bool:
        """Whether something runs on for this session; that keeps one with a ttl alive."""
        return self.unfinished_tasks() > 0

    def unfinished_tasks(self) -> int:
        """How many tasks have not ended, for monitors; asked about once a second, so it must be cheap."""
        return 0

    def tasks_by_state(self) -> dict[str, int]:
        """How many tasks it knows in each state, for monitors; asked about once a second, so it must be cheap."""
        return {}

    async def why(self, item: str) -> Explanation | None:
        """For sessions that override it: why something of theirs is not further, None for what is not theirs.

        Asked with their own id, too, also while `initialize` runs. It has five seconds.
        """
        return None

    async def cancel_work(self, reason: str) -> dict[str, int]:
        """End what runs on for this session, which itself stays; `{canceled, requested, unstoppable}`.

        The endpoint calls this when the holder of a session with `on_holder_lost="cancel"` has been lost for some time.
        """
        return {"canceled": 0, "requested": 0, "unstoppable": 0}

    async def close(self) -> dict[str, Any]:
        """Release what the session holds. Spawned tasks and open calls have been cancelled before."""
        self.is_active = False
        return {}

"""What is known of one session: the record that the table of sessions keeps, and when its lifetime is over.

It changes nothing but itself, and calls nothing of a plugin author's but `has_unfinished_work` and `unfinished_tasks`.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Mapping
from enum import Enum
from itertools import islice
from typing import Any, Protocol

from orbit_zmq.errors import InvalidArgument, OrbitError, SessionNotReady
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.session import HolderLost, Lifetime, PluginSession

log = get_logger(__name__)

RECLAIM_S = 300.0  # an ephemeral session outlives its holder by this: a laptop that sleeps for a while comes back to it
MOST_TASKS = 1 << 32  # more than that no session has
STATES = 16  # of tasks, that one session tells apart
DEFAULT = "default"  # the id of the session that each user has at each plugin without asking for it


class Status(Enum):
    """initializing: calls are refused for now.  ready.  failed: initialize() raised, calls hear why.  ended: removed."""

    INITIALIZING = "initializing"
    READY = "ready"
    FAILED = "failed"
    ENDED = "ended"


class OpenCall(Protocol):
    """What the table knows of a call that runs in a session."""

    task: asyncio.Task[None] | None

    def end(self, error: OrbitError) -> None: ...


class SessionRecord:
    """All that is known of one session."""

    __slots__ = (
        "arguments", "calls", "changed", "error", "has_complained",
        "holder", "holder_lost_at", "last_used", "lifetime", "on_holder_lost", "plugin", "process", "session",
        "sid", "status", "status_since", "tasks", "ttl_s", "user",
    )  # fmt: skip

    def __init__(self, sid: str, plugin: Plugin, caller: Caller, lifetime: Lifetime, ttl_s: float, now: float) -> None:
        self.sid = sid
        self.plugin = plugin
        self.user = caller.user
        self.holder = caller.name
        self.process = caller.incarnation  # of the holder
        self.lifetime: Lifetime = lifetime
        self.ttl_s = ttl_s  # 0: never
        self.on_holder_lost: HolderLost = "cancel" if lifetime == "ephemeral" else "keep"
        self.last_used = now
        self.holder_lost_at: float | None = None
        self.status = Status.INITIALIZING
        self.status_since = now
        self.error: OrbitError | None = None
        self.session: PluginSession | None = None
        self.arguments: dict[str, Any] | None = None  # that it was registered with, where that is how it was made
        self.calls: set[OpenCall] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.changed = asyncio.Event()  # set once the status is no longer initializing

        self.has_complained = False  # that its code cannot say what it does

    def has_expired(self, now: float) -> bool:
        """Whether its lifetime is over. A call that runs and unfinished work count as activity."""
        if self.lifetime == "ephemeral":
            return self.holder_lost_at is not None and now - self.holder_lost_at >= RECLAIM_S
        if self.lifetime == "persistent" or not self.ttl_s:
            return False
        if self.calls or self.status is Status.INITIALIZING or self._is_working():
            self.last_used = now
        return now - self.last_used >= self.ttl_s

    def has_lost_holder(self, now: float) -> bool:
        """Whether it goes on without its holder, and its work is to be canceled now."""
        is_lost = self.holder_lost_at is not None and now - self.holder_lost_at >= RECLAIM_S
        return is_lost and self.on_holder_lost == "cancel" and self.lifetime != "ephemeral"

    def _is_working(self) -> bool:
        return self.session is not None and self._ask(self.session.has_unfinished_work, bool) > 0

    def unfinished_tasks(self) -> int:
        """How many tasks run for it; none where its own code cannot say."""
        return 0 if self.session is None else self._ask(self.session.unfinished_tasks, operator.index)

    def tasks_by_state(self) -> dict[str, int]:
        """How many tasks it knows in each state; none where its own code cannot say."""
        if self.session is None:
            return {}
        found: dict[str, int] = {}

        def count(said: Mapping[str, int]) -> int:
            for state, number in islice(said.items(), STATES):
                found[str(state)] = min(max(operator.index(number), 0), MOST_TASKS)
            return len(found)

        return found if self._ask(self.session.tasks_by_state, count) else {}

    def _ask(self, hook: Callable[[], object], number_of: Callable[[Any], int]) -> int:
        """What its own code counts; 0 where that raises or answers what is no number, which is logged once."""
        try:
            answer = hook()
            if asyncio.iscoroutine(answer):
                answer.close()
                raise TypeError(f"{hook.__name__} must not be a coroutine")
            return min(max(number_of(answer), 0), MOST_TASKS)
        except (Exception, SystemExit):  # the plugin call
            if not self.has_complained:
                self.has_complained = True
                log.exception("session-hook-failed", plugin=self.plugin.instance_name, session=self.sid, hook=hook.__name__)
            return 0

    def contradicted(self, arguments: Mapping[str, Any]) -> list[str]:
        """The names of the arguments that say something else of it than those that it was registered with. One that has its
        default says nothing."""
        if self.arguments is None:
            return []
        free, defaults = self.plugin.session_class.free_arguments, self.plugin.operations["register_session"].check.defaults()
        said = [name for name, value in arguments.items() if name not in free and defaults.get(name) != value]
        return [name for name in said if self.arguments.get(name) != arguments[name]]

    @property
    def key(self) -> str:
        """Its place in the table."""
        return key_of(self.sid, self.plugin, self.user)

    def describe(self) -> dict[str, Any]:
        """What list_sessions and session_status say of it."""
        return {
            "sid": self.sid,
            "plugin": self.plugin.instance_name,
            "status": self.status.value,
            "owner": self.user,
            "holder": self.holder,
            "lifetime": self.lifetime,
            "ttl": self.ttl_s,
        }

    def fact(self) -> dict[str, Any]:
        """What the broker is told; the holder, where the session does not outlive it."""
        fact = {"id": self.sid, "plugin": self.plugin.instance_name, "user": self.user, "lifetime": self.lifetime}
        return {**fact, "holder": self.process} if self.on_holder_lost == "cancel" else fact


def key_of(sid: str, plugin: Plugin | None, user: str) -> str:
    """The place of a session in the table. An id is one session's alone, but for the `default` of each plugin and user."""
    if sid != DEFAULT or plugin is None:
        return sid
    return f"{DEFAULT}:{plugin.instance_name}:{user}"  # no id has a colon


def lifetime_of(lifetime: Lifetime | None, ttl: float | None) -> tuple[Lifetime | None, float | None]:
    if ttl is not None and lifetime not in (None, "ttl"):
        raise InvalidArgument(f"ttl goes with lifetime 'ttl', not {lifetime!r}", details={"fields": ["ttl"]})
    return lifetime or ("ttl" if ttl else None), ttl


def check_holder_lost(wanted: HolderLost | None, lifetime: Lifetime | None, ttl: float | None, sid: str | None) -> None:
    """InvalidArgument where a session that ends with its holder is to go on without it."""
    if wanted == "keep" and (lifetime or ("ttl" if ttl or sid == DEFAULT else "ephemeral")) == "ephemeral":
        raise InvalidArgument(
            "an ephemeral session ends with its holder, so on_holder_lost cannot be 'keep'",
            hint="Give a lifetime of 'ttl' or 'persistent'.",
            details={"fields": ["on_holder_lost"]},
        )


def not_ready(record: SessionRecord) -> OrbitError:
    if record.error is None:
        return SessionNotReady(f"session {record.sid} is still being set up")
    return SessionNotReady(
        f"session {record.sid} could not be set up: {record.error.message}",
        hint="Open a new session once the reason is gone.",
        transient=False,
        details={"error": record.error.code},
        remote_type=record.error.remote_type,
        remote_traceback=record.error.remote_traceback,
    )

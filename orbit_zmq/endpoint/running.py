"""A call that is being executed: what the transport hands over, and what the service knows of it until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

from orbit_zmq.endpoint.access import Access
from orbit_zmq.endpoint.session_record import SessionRecord
from orbit_zmq.errors import OrbitError
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.operation import Operation
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.session import PluginSession
from orbit_zmq.wire.header import ADMIN, Header


class IncomingCall(Protocol):
    """One request to execute, made by the transport. It is answered exactly once, in the loop's thread."""

    header: Header
    body: bytes  # the whole arguments, packed
    flags: int  # RAW and TAGGED count
    stream_in: AsyncIterator[bytes] | None

    def reply(self, body: bytes, flags: int) -> None: ...

    def fail(self, error: OrbitError) -> None: ...

    async def reply_stream(self, chunks: AsyncIterator[bytes]) -> None:
        """Reply, pump the chunks, end the stream. An OrbitError out of `chunks` ends the call by `fail`, in here; only
        a cancellation comes out, unanswered."""


class Running:
    """One call that is being executed."""

    __slots__ = ("access", "call", "deadline", "left_s", "operation", "plugin", "reason", "record", "target", "task")

    def __init__(
        self, call: IncomingCall, operation: Operation, plugin: Plugin, record: SessionRecord | None, access: Access
    ) -> None:
        self.call = call
        self.access = access
        self.operation = operation
        self.plugin = plugin
        self.target: Plugin | PluginSession = plugin if record is None or record.session is None else record.session
        self.record = record
        self.left_s = call.header.left_s or operation.deadline_s
        self.deadline = 0.0
        self.reason: OrbitError | None = None  # why it was ended from outside
        self.task: asyncio.Task[None] | None = None  # set when it has begun; before that `reason` is enough

    def end(self, error: OrbitError) -> None:
        """End the call with an error; the first reason counts."""
        if self.reason is None:
            self.reason = error
            if self.task is not None:
                self.task.cancel(error.message)

    def facts(self) -> dict[str, Any]:
        """What the log says of it."""
        header = self.call.header
        why = self.reason.message if self.reason is not None else ""
        return {"operation": self.operation.label, "session": header.session, "caller": header.source, "reason": why}

    def caller(self) -> Caller:
        """Who has made it."""
        header = self.call.header
        return Caller(header.user, header.source, header.session, header.caller, header.rights & ADMIN != 0)

    def check(self, operation: Operation) -> None:
        """Raise NotPermitted unless its caller may call that one, too."""
        self.access.check(self.call.header, self.plugin, operation)

    def moved(self) -> None:
        """A chunk has passed: the deadline starts anew."""
        self.deadline = time.monotonic() + self.left_s

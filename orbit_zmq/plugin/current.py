"""The call that is being executed, for what a plugin does on its behalf without having been handed it.

Set by the endpoint around operations of the plugin class; what they call and what they spawn sees it too. It decides nothing.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from orbit_zmq.errors import InternalError, OrbitError
from orbit_zmq.plugin.arguments import Caller

if TYPE_CHECKING:
    from orbit_zmq.plugin.operation import Operation


class CurrentCall(Protocol):
    """What is known of the call."""

    task: asyncio.Task[None] | None

    def caller(self) -> Caller: ...

    def check(self, operation: Operation) -> None: ...

    def end(self, error: OrbitError) -> None: ...


CURRENT: ContextVar[CurrentCall | None] = ContextVar("orbit_zmq.current_call", default=None)


def current_call(what_for: str) -> CurrentCall:
    """The call; InternalError where none is being executed."""
    call = CURRENT.get()
    if call is None:
        raise InternalError(f"{what_for} works only within a call of an operation of the plugin")
    return call

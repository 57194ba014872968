"""What an exception of plugin code becomes: an OrbitError that carries its type, message, arguments and traceback.

An exception that is none of ours is a fault of the plugin, and is logged. This must never raise itself, whatever the exception
is: it is what keeps one bad plugin from ending the endpoint.
"""

from __future__ import annotations

import asyncio
import math
import time
import traceback

import msgpack

from orbit_zmq.errors import InvalidArgument, OrbitError, RemoteError
from orbit_zmq.log import get_logger
from orbit_zmq.wire.body import pack_body

MESSAGE_CHARS = 8192  # with the traceback and the arguments it still fits an inline reply
ARGUMENTS_BYTES = 16 << 10
LINES = 10  # of the log about the same fault, in TELL_S
TELL_S = 1.0
PLACES = 256  # of faults, that are told apart

log = get_logger(__name__)


class Faults:
    """How often the same has been raised at the same place: of a flood the log hears LINES in TELL_S, and how many more."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}  # since when it comes so often, and how often it has come

    def count(self, place: str, now: float) -> int | None:
        """How many were left out before; None where this one is left out, too."""
        began, seen = self._seen.get(place, (-math.inf, 0))
        if now - began < TELL_S:
            self._seen[place] = (began, seen + 1)
            return 0 if seen < LINES else None
        if place not in self._seen and len(self._seen) >= PLACES:
            del self._seen[next(iter(self._seen))]
        self._seen[place] = (now, 1)
        return max(seen - LINES, 0)


FAULTS = Faults()


def error_of(exception: BaseException) -> OrbitError:
    """The error that the caller gets. An OrbitError stays what it is; anything else becomes one of code `internal`."""
    text = "".join(traceback.format_exception(exception))
    if isinstance(exception, OrbitError):
        exception.remote_traceback = exception.remote_traceback or text
        exception.details = _sendable(exception.details)
        return exception
    kind = type(exception)
    left_out = FAULTS.count(_place_of(exception), time.monotonic())
    if left_out is not None:
        log.error("plugin-code-raised", exception=text, **({"left_out": left_out} if left_out else {}))
    arguments = _plain_arguments(exception)
    return RemoteError(
        _message_of(exception)[:MESSAGE_CHARS] or kind.__qualname__,
        details={} if arguments is None else {"arguments": arguments},
        remote_type=f"{kind.__module__}.{kind.__qualname__}",
        remote_traceback=text,
    )


def is_canceled() -> bool:
    """Whether the present task is to end; else a CancelledError is the plugin's own, or of what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _place_of(exception: BaseException) -> str:
    kind, last = type(exception), exception.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last is not None else ""
    return f"{kind.__module__}.{kind.__qualname__} {where}"


def _message_of(exception: BaseException) -> str:
    try:
        return str(exception)
    except BaseException:  # noqa: BLE001 - the __str__ of a plugin author's exception
        return f"<{type(exception).__qualname__} whose __str__ fails>"


def _plain_arguments(exception: BaseException) -> list[object] | None:
    """The arguments of an exception where the other side can have them as they are."""
    arguments = list(exception.args)
    try:
        size = len(msgpack.packb(arguments))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return arguments if size <= ARGUMENTS_BYTES else None


def _sendable(details: dict[str, object]) -> dict[str, object]:
    try:
        pack_body(details)
    except InvalidArgument:
        return {str(key): repr(value) for key, value in details.items()}
    return details

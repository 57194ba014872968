"""What the table of sessions asks of a plugin author's code: a session that is made, and one that is released.

Whatever that code does or raises, these end in bounded time, with a session or an error, and with nothing that runs on.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from orbit_zmq.endpoint.raised import is_canceled
from orbit_zmq.endpoint.session_record import SessionRecord
from orbit_zmq.errors import InternalError, InvalidArgument
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.session import PluginSession

log = get_logger(__name__)

CANCEL_S = 5.0  # for code that cleans up after it was canceled
CLOSE_S = 15.0  # for `close`: with CANCEL_S it is less than a caller of unregister_session waits


async def make_session(record: SessionRecord, arguments: dict[str, Any]) -> PluginSession:
    """The object that the plugin's hook makes; InternalError where it is none of that id."""
    plugin = record.plugin
    session = plugin.create_session(record.sid, **arguments)
    if inspect.isawaitable(session):
        session = await session
    if not isinstance(session, PluginSession) or getattr(session, "sid", None) != record.sid:
        raise InternalError(
            f"plugin {plugin.instance_name}: create_session returned no PluginSession with that sid",
            hint="Return self.session_class(sid, ...), whose __init__ calls super().__init__(sid).",
        )
    return session


async def release_session(record: SessionRecord) -> None:
    """End what runs for a session, and then close it."""
    for task in record.tasks:
        task.cancel()
    tasks = record.tasks | {call.task for call in record.calls if call.task is not None}
    if tasks:  # close() must not pull from under an operation what it uses
        await asyncio.wait(tasks, timeout=CANCEL_S)
    await close_session(record)


async def close_session(record: SessionRecord) -> None:
    """Call the session's `close`; what that raises is logged, and one that takes longer than CLOSE_S is given up."""
    session = record.session
    if session is None:
        return
    closing = asyncio.ensure_future(_close(record, session))  # on its own, for it may take no notice of being canceled
    try:
        await asyncio.wait((closing,), timeout=CLOSE_S)
    finally:
        session.is_active = False
        if not closing.done():
            log.warning("session-close-given-up", plugin=record.plugin.instance_name, session=record.sid)
            closing.cancel()


async def _close(record: SessionRecord, session: PluginSession) -> None:
    try:
        await session.close()
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and is_canceled():
            raise
        log.exception("session-close-failed", plugin=record.plugin.instance_name, session=record.sid)
    finally:
        session.is_active = False
        await session.close_client()


def bound_arguments(function: Callable[..., Any], method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a method that is no operation, whose signature is all that can be checked."""
    bind = inspect.signature(function).bind
    try:
        bind(**arguments)
    except TypeError as error:
        raise InvalidArgument(f"{method}: {error}") from None
    return arguments

"""What an endpoint knows of something by its id: a session, or an item that a session or a plugin explains by its hook `why`.

Whoever cannot tell, as its hook raises, hangs, or is not ready yet, is named. This module must not change sessions: to be asked
about is no activity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from orbit_zmq.endpoint.session_record import SessionRecord, Status
from orbit_zmq.errors import InternalError, OrbitError, SessionExpired
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.plugin.session import PluginSession
from orbit_zmq.units import duration_text
from orbit_zmq.why import Answer, Explanation, Found, Phase, SessionPart

if TYPE_CHECKING:
    from orbit_zmq.endpoint.sessions import Sessions

log = get_logger(__name__)

HOOK_S = 5.0  # for one hook: a batch system may have to be asked
PHASES: dict[Status, Phase] = {
    Status.INITIALIZING: "waiting",
    Status.READY: "ready",
    Status.FAILED: "ended",
    Status.ENDED: "ended",
}


async def explain(sessions: Sessions, plugin: Plugin, item: str, caller: Caller, now: float) -> Answer:
    """All that is known of an id at one plugin, as far as it is the caller's."""
    answer = Answer()
    for record in sessions.records_of(plugin, caller):
        part = _part_of(record, now)
        if record.sid == item:
            answer.found.append(Found(explanation=await _explained(record, part, answer.unanswered), session=part))
        elif record.status is Status.INITIALIZING:
            answer.unanswered.append(f"session {record.sid} of {plugin.instance_name} is still being set up")
        elif (said := await _asked_session(record, item, answer.unanswered)) is not None:
            answer.found.append(Found(explanation=said, session=part))
    ended = sessions.ended_as(item, plugin, caller.user)
    if ended is not None and not answer.found:
        answer.found.append(_ended_session(item, "expired" if ended is SessionExpired else "closed"))
    if type(plugin).why is not Plugin.why:
        said = await _asked(plugin.instance_name, plugin.why(item, caller), answer.unanswered)
        if said is not None:
            answer.found.append(Found(explanation=said))
    return answer


async def _asked_session(record: SessionRecord, item: str, unanswered: list[str]) -> Explanation | None:
    session = record.session
    if session is None or record.status is Status.FAILED or type(session).why is PluginSession.why:
        return None
    return await _asked(f"session {record.sid} of {record.plugin.instance_name}", session.why(item), unanswered)


async def _asked(who: str, hook: Awaitable[Explanation | None], unanswered: list[str]) -> Explanation | None:
    try:
        async with asyncio.timeout(HOOK_S):
            said = await hook
        if isinstance(said, (Explanation, type(None))):
            return said
        raise InternalError(f"its hook `why` answered {type(said).__name__} in place of an Explanation or None")
    except OrbitError as error:  # before TimeoutError, which some of them are
        unanswered.append(f"{who}: {error.message}")
    except TimeoutError:
        unanswered.append(f"{who} did not answer within {HOOK_S:g} s")
    except Exception as error:  # the plugin call
        log.exception("why-failed", who=who)
        unanswered.append(f"{who}: {type(error).__name__}: {error}")
    return None


async def _explained(record: SessionRecord, part: SessionPart, unanswered: list[str]) -> Explanation:
    """A session itself: what its own hook says of it counts, but for its status."""
    phase = PHASES[record.status]
    said = await _asked_session(record, record.sid, unanswered)
    if said is None:
        return Explanation(kind="session", state=part.state, phase=phase, reason=part.reason)
    return said.model_copy(update={"kind": "session", "state": part.state, "phase": phase})


def _part_of(record: SessionRecord, now: float) -> SessionPart:
    for_s = round(now - record.status_since, 3)
    said = f"It is {record.status.value}; its holder is {record.holder}."
    if record.status is Status.INITIALIZING:
        said = f"It is being set up, for {duration_text(for_s)} by now."
    elif record.error is not None:
        said = f"It could not be set up: {record.error.message}."
    elif record.holder_lost_at is not None:
        lost_s = now - record.holder_lost_at
        said = f"It is {record.status.value}; its holder {record.holder} was lost {duration_text(lost_s)} ago."
    return SessionPart(
        state=record.status.value,
        reason=said,
        sid=record.sid,
        holder=record.holder,
        lifetime=record.lifetime,
        ttl_s=record.ttl_s,
        state_for_s=for_s,
    )


def _ended_session(sid: str, how: str) -> Found:
    said = f"It has {'expired' if how == 'expired' else 'been closed'}."
    explanation = Explanation(kind="session", state=how, phase="ended", reason=said)
    return Found(explanation=explanation, session=SessionPart(state=how, reason=said, sid=sid))

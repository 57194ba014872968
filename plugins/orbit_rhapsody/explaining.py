"""Why a task or a session is not further, in words: what the hook `why` of a session answers. Sentences alone: what there is
to say comes from the engine and the results, which this module must not ask."""

from __future__ import annotations

from typing import Any

from orbit_rhapsody.codec import EXECUTABLE, RUNNING
from orbit_rhapsody.engine import Place
from orbit_zmq.units import duration_text, size_text
from orbit_zmq.why import Explanation, Phase

TASK, SESSION = "task", "session"


def ended_task(record: dict[str, Any]) -> Explanation:
    """Of a task that has ended, from its record."""
    error, code = record.get("exception"), record.get("exit_code")
    if isinstance(error, dict):
        because = f"{str(error.get('type', '')).removeprefix('builtins.')}: {error.get('message', '')}"
    else:
        because = record.get("reason") or record.get("signal") or (f"exit code {code}" if code else "")
    state = str(record["state"])
    said = f"It has ended: {state}{f', {because}' if because else ''}."
    return Explanation(kind=TASK, state=state, phase="ended", reason=said)


def open_task(state: str, place: Place | None, unfetched_bytes: int) -> Explanation:
    """Of one that has not; `place` is None where it is on its way between two."""
    if place is None:
        phase: Phase = "running" if state == RUNNING else "waiting"
        return Explanation(kind=TASK, state=state, phase=phase, reason="It changes its place this very moment: ask again.")
    phase, said = _phase_and_reason(place, unfetched_bytes)
    facts = {"backend": place.backend} if place.backend else {}
    return Explanation(
        kind=TASK,
        state=state,
        phase=phase,
        reason=said,
        ahead=place.ahead,
        running=place.running,
        limit=place.limit,
        facts=facts,
    )


def _phase_and_reason(place: Place, unfetched_bytes: int) -> tuple[Phase, str]:
    if place.is_being_ended:
        return "running", f"It is canceled, and what it ran on the backend {place.backend} is being ended."
    if place.is_running:
        return "running", f"It runs on the backend {place.backend}."
    if place.backend:
        has = f"The backend {place.backend} has it"
        if place.limit is None:
            return "waiting", f"{has} and has not started it."
        return "waiting", f"{has} and runs {place.running} of at most {place.limit} at once; {_others(place)} before it."
    if not place.has_room:
        return "waiting", f"No task is started until some results are fetched: {size_text(unfetched_bytes)} of them wait."
    if not place.ahead and (place.running or 0) < (place.limit or 0):
        return "waiting", "It is about to be started."
    what = "programs" if place.kind == EXECUTABLE else "functions"
    return "waiting", f"{place.running} of at most {place.limit} {what} are with the backends; {_others(place)} before it."


def _others(place: Place) -> str:
    return "1 other is" if place.ahead == 1 else f"{place.ahead} others are"


def starting_session(backend: str, timeout_s: float) -> Explanation:
    """Of a session whose backends are not there yet."""
    said = f"Its backend {backend} is being started, for which it has {duration_text(timeout_s)}."
    return Explanation(kind=SESSION, state="", phase="waiting", reason=said, facts={"backend": backend})


def ready_session(counts: dict[str, Any], queued_bytes: int, queue_limit_bytes: int, *, has_room: bool) -> Explanation:
    """Of one that takes tasks, or has no room for more."""
    said = f"It is ready: {counts['queued']} tasks wait in it, and {counts['in_flight']} are with its backends"
    if queued_bytes > queue_limit_bytes:
        said += f"; it takes no more at present, for {size_text(queued_bytes)} of tasks wait"
    elif not has_room:
        said += f"; it starts no more until results are fetched: {size_text(counts['unfetched_bytes'])} of them wait"
    facts = {
        "queued_bytes": queued_bytes,
        "queued_limit_bytes": queue_limit_bytes,
        "unfetched_bytes": counts["unfetched_bytes"],
    }
    return Explanation(
        kind=SESSION,
        state="",
        phase="ready",
        reason=f"{said}.",
        ahead=counts["queued"],
        running=counts["in_flight"],
        facts=facts,
    )

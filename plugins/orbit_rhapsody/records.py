"""One task's record as it is kept and sent: built once, where the task ends, and never unpacked again at the endpoint.

The value that a function returned is packed by the thread that ran the function and spliced in here as bytes, so that
later changes to a shared object do not show. This module must not touch sockets, loops or the table of tasks.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from orbit_rhapsody.codec import DONE, FAILED
from orbit_rhapsody.invocation import Outcome, TaskFailed, outcome_of
from orbit_rhapsody.news import brief
from orbit_rhapsody.output import KEPT_BYTES
from orbit_rhapsody.values import PYTHON_VERSION, pack_error, printable, strict_packer
from orbit_zmq.errors import OrbitError, OutcomeUnknown, ResultExpired

MAX_OUTPUT_CHARS = 4 * KEPT_BYTES + 100  # a byte that is no text is shown as four characters

_RETURN_VALUE: bytes = strict_packer().pack("return_value")
_NIL = b"\xc0"


def finished_record(uid: str, state: str, raw_state: str, task: dict[str, Any], times: dict[str, Any]) -> tuple[str, bytes]:
    """The final state and the packed record of a task that a backend has finished."""
    return finished_task(uid, state, raw_state, task, times)[:2]


def finished_task(
    uid: str, state: str, raw_state: str, task: dict[str, Any], times: dict[str, Any]
) -> tuple[str, bytes, bytes]:
    """The same with what is told of it in an event."""
    error = task.get("exception")
    outcome = _outcome(task.get("return_value")) if state == DONE else None
    if isinstance(error, TaskFailed):
        times.update(started=error.started, finished=error.finished)
        packed_error: dict[str, Any] | None = error.error
    elif outcome is not None and outcome.error is not None:
        state, packed_error = FAILED, outcome.error
    else:
        packed_error = pack_error(error) if isinstance(error, BaseException) else None
    if outcome is not None and outcome.started:
        times.update(started=outcome.started, finished=outcome.finished)
    exit_code = task.get("exit_code")
    fields: dict[str, Any] = {
        "uid": uid,
        "state": state,
        "raw_state": raw_state,
        "times": times,
    }  # and of the rest what says something
    if isinstance(exit_code, int):
        fields["exit_code"] = exit_code
        if exit_code < 0:
            fields["signal"] = _signal_name(-exit_code)
    for name in ("stdout", "stderr"):
        if task.get(name):
            fields[name] = _output(task[name])
    if task.get("reason"):
        fields["reason"] = task["reason"]
    if packed_error is not None:
        fields["exception"] = packed_error
    record = _pack(fields, outcome)
    error_line = _line_of(packed_error) if packed_error is not None else ""
    return state, record, brief(uid, state, exit_code, error_line, outcome.plain if outcome is not None else None)


def failed_task(uid: str, error: OrbitError, times: dict[str, Any]) -> tuple[str, bytes, bytes]:
    """State, record and news of a task that never reached a backend."""
    return finished_task(uid, FAILED, "", {"exception": error, "exit_code": None}, times)


def expired_record(uid: str) -> bytes:
    """The record of a task whose result was kept and is gone."""
    error = ResultExpired("the task ended, and its result could not be kept")
    return failed_task(uid, error, {})[1]


def unknown_task(uid: str, submitted: float, reason: str) -> tuple[str, str, bytes]:
    """Uid, state and record of a task that had been started when the endpoint ended."""
    error = OutcomeUnknown(
        f"task {uid} had been started when the endpoint ended: {reason}",
        hint="Look at what it left behind; on_unknown='rerun' has such tasks run again.",
    )
    times = {"submitted": submitted, "started": None, "finished": time.time()}
    return (uid, *failed_task(uid, error, times)[:2])


def _line_of(packed_error: dict[str, Any]) -> str:
    name = str(packed_error["type"]).removeprefix("builtins.")
    return " ".join(f"{name}: {packed_error['message']}".split())


def _outcome(value: object) -> Outcome:
    return value if isinstance(value, Outcome) else outcome_of(value)


def _pack(fields: dict[str, Any], outcome: Outcome | None) -> bytes:
    if outcome is not None and outcome.reference is not None:
        fields["return_ref"] = outcome.reference
    if outcome is not None and outcome.pickled is not None:
        fields["return_pickle"] = outcome.pickled
        fields["python"] = PYTHON_VERSION
    packed: bytes = strict_packer().pack(fields)
    plain = outcome.plain if outcome is not None and outcome.plain is not None else _NIL
    # The first byte is that of a small map with len(fields) entries; one more is appended.
    return bytes((packed[0] + 1,)) + packed[1:] + _RETURN_VALUE + plain


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those without a name
        return f"signal {number}"


def _output(text: object) -> str:
    if not text:
        return ""
    shown = str(text)
    if len(shown) > MAX_OUTPUT_CHARS:
        shown = f"[{len(shown) - MAX_OUTPUT_CHARS} characters before this are not kept]\n{shown[-MAX_OUTPUT_CHARS:]}"
    return printable(shown)

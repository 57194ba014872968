"""Every error that a user, a program or a peer can meet, and what each of them means.

    OrbitError(RuntimeError)
      InvalidArgument(ValueError)   ProtocolError   VersionMismatch   TooLarge   Unsupported
      AuthRequired(PermissionError) NotPermitted(PermissionError)
      NotFound(LookupError)         Conflict        NameTaken   AddressTaken
      SessionNotReady               SessionClosed   SessionExpired   ResultExpired
      Busy                          BrokerUnreachable   ShuttingDown
      EndpointLost                  OutcomeUnknown                   SchedulerFailed
      TunnelFailed
      DeadlineExceeded(TimeoutError)   Canceled
      InternalError                 RemoteError (an exception of the code that was called)

What crosses the wire is a stable code; the table below is the one place where a code, its sentence, its hint, whether a
retry may help, its HTTP status and its Python type meet. This module imports nothing but the standard library and must
not log, print, or look anything up.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, ClassVar

MAX_TRACEBACK_CHARS = 8_192  # the end of a traceback is what names the fault; a longer one would not fit an inline reply


class OrbitError(RuntimeError):
    """Something that ORBIT-ZMQ could not do. Subclasses say which of the stable codes it is.

    Attributes: `code` (kebab-case), `message` (one sentence that names the thing at fault), `hint` (what to do next),
    `transient` (a retry may help), `details` (plain values for programs), `remote_type` and `remote_traceback` (what the
    other side raised, where it did).
    """

    code: ClassVar[str] = "internal"
    sentence: ClassVar[str] = "An unexpected failure."
    default_hint: ClassVar[str] = "The log of the process that failed has the traceback."
    transient: bool = False
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str = "",
        *,
        hint: str = "",
        details: Mapping[str, Any] | None = None,
        transient: bool | None = None,
        remote_type: str = "",
        remote_traceback: str = "",
    ) -> None:
        super().__init__(message or self.sentence)
        self.message = message or self.sentence
        self.hint = hint or self.default_hint
        self.details: dict[str, Any] = dict(details or {})
        if transient is not None:
            self.transient = transient
        self.remote_type = remote_type
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_body(self) -> dict[str, Any]:
        """The map that is sent as the body of an error."""
        return {
            "code": self.code,
            "message": _sendable(self.message),
            "hint": _sendable(self.hint),
            "transient": self.transient,
            "type": _sendable(self.remote_type),
            "traceback": _sendable(self.remote_traceback[-MAX_TRACEBACK_CHARS:]),
            "details": self.details,
        }


class InvalidArgument(OrbitError, ValueError):
    code = "invalid-argument"
    sentence = "An argument is missing, unknown, or of the wrong kind."
    default_hint = "Correct what is named."
    http_status = 400


class ProtocolError(OrbitError):
    """The peer sent bytes that are not a message."""

    code = "protocol-error"
    sentence = "The peer sent bytes that are not a message."
    default_hint = "Check that both sides speak ORBIT-ZMQ and that their versions fit."
    http_status = 400


class VersionMismatch(OrbitError):
    code = "version-mismatch"
    sentence = "The two sides have no protocol version in common."
    default_hint = "Install the same release of orbit-zmq on both sides."
    http_status = 426


class AuthRequired(OrbitError, PermissionError):
    code = "auth-required"
    sentence = "The broker does not know the key that was offered."
    default_hint = "Ask the broker's owner for an invitation, or check that the key has not expired."
    http_status = 401


class NotPermitted(OrbitError, PermissionError):
    code = "not-permitted"
    sentence = "The caller may not do this."
    default_hint = "Ask the owner of the endpoint to share it, or use a key that has the right."
    http_status = 403


class NotFound(OrbitError, LookupError):
    code = "not-found"
    sentence = "There is no endpoint, plugin, session, or operation of that name."
    default_hint = "List what is there: client.endpoints(), or `orbit endpoint list`."
    http_status = 404


class Conflict(OrbitError):
    code = "conflict"
    sentence = "The request contradicts something that exists."
    default_hint = "Use another id, or change the request to match what exists."
    http_status = 409


class NameTaken(OrbitError):
    code = "name-taken"
    sentence = "Another process is connected under that endpoint name."
    default_hint = "Stop the other process, or choose another name with -n."
    http_status = 409


class AddressTaken(OrbitError):
    code = "address-taken"
    sentence = "Another process listens at that address."
    default_hint = "Stop the other process, or choose another port with --port."
    http_status = 409


class SessionNotReady(OrbitError):
    code = "session-not-ready"
    sentence = "The session is still being set up."
    default_hint = "Wait for session_status to say ready, then call again."
    transient = True
    http_status = 409


class SessionClosed(OrbitError):
    code = "session-closed"
    sentence = "The session has been closed."
    default_hint = "Open a new session."
    http_status = 410


class SessionExpired(OrbitError):
    code = "session-expired"
    sentence = "The session has expired."
    default_hint = "Open a new session; a longer ttl keeps it longer."
    http_status = 410


class ResultExpired(OrbitError):
    code = "result-expired"
    sentence = "The result was kept for its time and is gone."
    default_hint = "Fetch results sooner, or raise the endpoint's retention."
    http_status = 410


class TooLarge(OrbitError):
    code = "too-large"
    sentence = "The arguments or the result are larger than the limit."
    default_hint = "Pass the data as a stream of bytes, or by reference to a file."
    http_status = 413


class Busy(OrbitError):
    code = "busy"
    sentence = "A queue or a table over there is full."
    default_hint = "Wait a little and call again; fewer calls at once helps."
    transient = True
    http_status = 503


class BrokerUnreachable(OrbitError):
    code = "broker-unreachable"
    sentence = "No broker answers."
    default_hint = "Start one with `orbit up` or `orbit broker start`, or name one with --url or ORBIT_URL."
    transient = True
    http_status = 503


class ShuttingDown(OrbitError):
    code = "shutting-down"
    sentence = "The other side is shutting down for good."
    default_hint = "Start it again, then repeat the call."
    transient = True
    http_status = 503


class EndpointLost(OrbitError):
    code = "endpoint-lost"
    sentence = "The endpoint went away before the call reached it; nothing was executed."
    default_hint = "Call again when the endpoint is back."
    transient = True
    http_status = 502


class OutcomeUnknown(OrbitError):
    code = "outcome-unknown"
    sentence = "The endpoint went away with the call; it may or may not have been executed."
    default_hint = "Look at the state over there before calling again."
    http_status = 502


class SchedulerFailed(OrbitError):
    """A command of the batch system is not there, failed, or printed what cannot be read."""

    code = "scheduler-failed"
    sentence = "The batch system did not answer as it should."
    default_hint = "Correct what it names; else try that command on the endpoint's machine: the scheduler may be down."
    transient = True
    http_status = 502


class TunnelFailed(OrbitError):
    """No way by ssh from here to the broker."""

    code = "tunnel-failed"
    sentence = "The ssh tunnel to the broker could not be opened."
    default_hint = "docs/tunnels.md says which kind of tunnel is for which site, and what stands in the way of each."
    transient = True
    http_status = 502


class DeadlineExceeded(OrbitError, TimeoutError):
    code = "deadline-exceeded"
    sentence = "The call did not end within its deadline."
    default_hint = "Give it more time with deadline_s, or look whether the endpoint is busy."
    transient = True
    http_status = 504


class Canceled(OrbitError):
    code = "canceled"
    sentence = "The call was canceled."
    default_hint = "Nothing to do: somebody asked for this."
    http_status = 499


class Unsupported(OrbitError):
    code = "unsupported"
    sentence = "The other side does not know this kind of message or this option."
    default_hint = "Install the same release of orbit-zmq on both sides."
    http_status = 501


class InternalError(OrbitError):
    code = "internal"


class RemoteError(InternalError):
    """The code that was called raised an exception; `remote_type` and `remote_traceback` have the facts."""

    default_hint = ""  # str(error) is then the message of the original exception


class RemoteTraceback(Exception):
    """The text of a traceback from another process; set as the cause of the error that it belongs to."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


ERRORS: dict[str, type[OrbitError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument, ProtocolError, VersionMismatch, AuthRequired, NotPermitted, NotFound, Conflict, NameTaken,
        AddressTaken, SessionNotReady, SessionClosed, SessionExpired, ResultExpired, TooLarge, Busy, BrokerUnreachable,
        ShuttingDown, EndpointLost, OutcomeUnknown, SchedulerFailed, TunnelFailed, DeadlineExceeded, Canceled, Unsupported,
        InternalError,
    )
}  # fmt: skip


def error_from_body(body: object, allowed_modules: Collection[str] = ()) -> OrbitError:
    """Make the exception that a received error body describes; a body of another shape is a ProtocolError.

    The original type is rebuilt where it comes from builtins, a module that is already imported, or `allowed_modules`;
    it is then an OrbitError as well. Anything else becomes a RemoteError with the same facts.
    """
    if not isinstance(body, dict) or not isinstance(body.get("code"), str):
        return ProtocolError(f"an error with a body of type {type(body).__name__} in place of a map with a code")
    details = body.get("details")
    facts: dict[str, Any] = {
        "hint": _text(body, "hint"),
        "details": details if isinstance(details, dict) else {},
        "transient": bool(body.get("transient")),
        "remote_type": _text(body, "type"),
        "remote_traceback": _text(body, "traceback"),
    }
    kind: type[OrbitError] = ERRORS.get(body["code"], InternalError)
    if facts["remote_type"] and kind is InternalError:
        kind = _rebuilt_type(facts["remote_type"], frozenset(allowed_modules)) or RemoteError
    error = kind(_text(body, "message"), **facts)
    original_arguments = error.details.pop("arguments", None)
    if isinstance(original_arguments, list) and not type(error).__module__.startswith("orbit_zmq"):
        error.args = tuple(original_arguments)
    if error.remote_traceback:
        error.__cause__ = RemoteTraceback(error.remote_traceback)
    return error


def _sendable(text: str) -> str:
    """File names may hold what is no text; it is shown escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    return value if isinstance(value, str) else ""


@lru_cache(maxsize=256)
def _rebuilt_type(qualified: str, allowed_modules: frozenset[str]) -> type[OrbitError] | None:
    """A class that is both RemoteError and the named exception, or None where that is not allowed or not possible."""
    module_name, _, name = qualified.rpartition(".")
    if module_name == "builtins":
        original = getattr(builtins, name, None)
    else:
        module = sys.modules.get(module_name)
        if module is None and module_name in allowed_modules:
            module = __import__(module_name, fromlist=[name])
        original = getattr(module, name, None)
    if not isinstance(original, type) or not issubclass(original, Exception) or issubclass(original, OrbitError):
        return None
    try:
        rebuilt = type(name, (RemoteError, original), {"__module__": module_name, "__init__": OrbitError.__init__})
        rebuilt("a message")  # a constructor of its own may want something else
    except Exception:  # noqa: BLE001 - two C layouts that cannot be one object, or code of whoever wrote that class
        return None
    return rebuilt

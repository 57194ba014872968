"""Values and errors as HTTP answers: JSON, or msgpack where that is asked for, and one envelope for every error.

It knows nothing of endpoints and makes no call.
"""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orbit_zmq.errors import Canceled, InternalError, InvalidArgument, NotFound, OrbitError, RemoteError, TooLarge
from orbit_zmq.log import get_logger
from orbit_zmq.wire.body import pack_body

JSON = "application/json"
MSGPACK = "application/msgpack"
MSGPACK_TYPES = (MSGPACK, "application/x-msgpack", "application/vnd.msgpack")
OCTETS = "application/octet-stream"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
RETRY_AFTER_S = 1
ABOUT_ARGUMENTS = (ArithmeticError, ValueError)  # of the code that was called; other exceptions are faults of it
CODE = "orbit.error"  # in the scope, for whoever counts

Handler = Callable[[Request], Awaitable[Response]]
log = get_logger("orbit_gateway")


def to_json(value: object) -> bytes:
    """A value as JSON: bytes as base64 text, what is no number as null. TooLarge for one that is nested too deeply."""
    try:
        try:
            return _dumps(value)
        except (ValueError, TypeError):
            return _dumps(_presentable(value))
    except RecursionError:
        raise TooLarge(
            "the answer is nested too deeply for JSON", hint="Ask for it with Accept: application/msgpack."
        ) from None


def answer(value: object, request: Request, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value in the form that the request accepts."""
    if any(kind in request.headers.get("accept", "") for kind in MSGPACK_TYPES):
        return Response(pack_body(value)[0], status, headers, MSGPACK)
    return Response(to_json(value), status, headers, JSON)


def error_answer(error: OrbitError, request: Request, *, status: int = 0, headers: Mapping[str, str] | None = None) -> Response:
    """The envelope of an error."""
    status = status or status_of(error)
    request.scope[CODE] = error.code
    envelope: dict[str, Any] = {
        "error": True,
        "status_code": status,
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
        "transient": error.transient,
    }
    if error.details:
        envelope["details"] = error.details
    if error.remote_type:  # else the traceback is of our own code, which nobody can do anything about
        envelope |= {"type": error.remote_type, "traceback": error.remote_traceback}
    more = dict(headers or {})
    if status == 503:
        more["Retry-After"] = str(RETRY_AFTER_S)
    elif status == 401:
        more["WWW-Authenticate"] = 'Bearer realm="orbit"'
    return answer(envelope, request, status, more)


def status_of(error: OrbitError) -> int:
    """The HTTP status of an error: its code's, or what the plugin has said, or 422 for a part that is missing."""
    said = error.details.get("status_code")
    if type(said) is int and 400 <= said <= 599:
        return said
    if error.details.get("missing"):
        return 422
    if isinstance(error, RemoteError) and isinstance(error, ABOUT_ARGUMENTS):
        return 422  # the code that was called did not like its arguments
    return error.http_status


def answering(handler: Handler) -> Handler:
    """The handler with errors as answers, and the request's id on whatever it answers."""

    async def answered(request: Request) -> Response:
        request.state.request_id = request_id_of(request)
        try:
            response = await handler(request)
        except ClientDisconnect:
            response = error_answer(Canceled("the caller has gone"), request)
        except OrbitError as error:
            response = error_answer(error, request)
        except Exception as error:  # the loop's task: a fault here ends this request alone
            log.exception("request-failed", path=request.url.path, request_id=request.state.request_id)
            response = error_answer(InternalError(f"the gateway has failed: {type(error).__name__}"), request)
        response.headers["X-Request-ID"] = request.state.request_id
        return response

    return answered


async def unrouted(request: Request, error: Exception) -> Response:
    """What no part has a route for, or not by this method."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = error.headers if isinstance(error, HTTPException) else None
    if status == 405:
        said: OrbitError = InvalidArgument(f"{request.url.path} does not take {request.method}", hint="Use another method.")
    else:
        said = NotFound(f"there is nothing at {request.url.path!a}", hint="GET /openapi.json describes what there is.")
    return error_answer(said, request, status=status, headers=headers)


def request_id_of(request: Request) -> str:
    """The caller's X-Request-ID, or one of our own."""
    said = request.headers.get("x-request-id", "")
    return said if REQUEST_ID.fullmatch(said) else secrets.token_hex(8)


def _dumps(value: object) -> bytes:
    text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _plain(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _presentable(value: object) -> object:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else _text(key): _presentable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_presentable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(key: object) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)

"""Request and response, for operations that want to see the request itself and not arguments by name.

A call that comes over HTTP brings its parts under `_request`; in any other call the arguments stand for them: those that the
path names are its parameters, the rest are the query of a GET and the JSON body of a POST. No server is known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from orbit_zmq.errors import (
    AuthRequired,
    Busy,
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
    NotPermitted,
    OrbitError,
    SessionClosed,
    TooLarge,
)

PARTS = "_request"  # the one argument of a call that comes over HTTP
PARAMETER = re.compile(r"\{([^{}]*)\}")
ERRORS: dict[int, type[OrbitError]] = {
    400: InvalidArgument, 401: AuthRequired, 403: NotPermitted, 404: NotFound, 409: Conflict, 410: SessionClosed,
    413: TooLarge, 422: InvalidArgument, 503: Busy,
}  # fmt: skip


class Request:
    """What an operation with a parameter of this type is called with."""

    def __init__(
        self,
        *,
        path_params: Mapping[str, str] | None = None,
        query_params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        value: Any = None,
    ) -> None:
        self.path_params = dict(path_params or {})
        self.query_params = dict(query_params or {})
        self.headers = {name.lower(): text for name, text in (headers or {}).items()}
        self._body = body
        self._value = value

    async def json(self) -> Any:
        """The body as plain values; InvalidArgument where it is no JSON."""
        if self._value is not None:
            return self._value
        try:
            return json.loads(self._body) if self._body else {}
        except ValueError as error:
            raise InvalidArgument(f"the body is no JSON: {error}") from None

    async def body(self) -> bytes:
        """The body as bytes."""
        if self._body or self._value is None:
            return self._body
        try:
            return json.dumps(self._value).encode()
        except TypeError as error:
            raise InvalidArgument(f"the arguments cannot be written as JSON: {error}") from None


class Response:
    """An answer with a status; from 400 on it is an error at the caller. InvalidArgument for a status that is none."""

    media_type = "application/octet-stream"

    def __init__(
        self,
        content: Any = b"",
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        if not isinstance(status_code, int) or not 100 <= status_code <= 599:
            raise InvalidArgument(
                f"{type(self).__name__}: status_code is {status_code!r}, not a number from 100 to 599",
                hint="Write status_code=400.",
                details={"fields": ["status_code"]},
            )
        self.content = content
        self.status_code = status_code
        self.headers = dict(headers or {})
        self.media_type = media_type or self.media_type


class JSONResponse(Response):
    """An answer of plain values."""

    media_type = "application/json"


def request_of(method: str, path: str, session: str, arguments: dict[str, Any]) -> Request:
    """The request that a call stands for."""
    parts = arguments.get(PARTS)
    if isinstance(parts, dict):
        named = {"sid": session, **_map_of(parts, "path_params")}
        body = parts.get("body") or b""
        return Request(
            path_params={name: str(value) for name, value in named.items() if value},
            query_params=_map_of(parts, "query_params"),
            headers={str(name): str(text) for name, text in _map_of(parts, "headers").items()},
            body=body if isinstance(body, bytes) else str(body).encode(),
        )
    rest = dict(arguments)
    named = {name: rest.pop(name) for name in PARAMETER.findall(path) if name in rest}
    if session:
        named["sid"] = session
    texts = {name: str(value) for name, value in named.items()}
    if method == "GET":
        return Request(path_params=texts, query_params=rest)
    return Request(path_params=texts, value=rest)


def answer_of(result: Any, arguments: Mapping[str, Any]) -> Any:
    """What goes back to the caller; a response of status 400 or more is raised as the error that it stands for."""
    if not isinstance(result, Response):
        return result
    if result.status_code >= 400:
        raise _error_of(result)
    if PARTS not in arguments:
        return result.content
    headers = {"content-type": result.media_type, **result.headers}
    return {"status_code": result.status_code, "headers": headers, "body": result.content}


def _error_of(response: Response) -> OrbitError:
    content = response.content
    message = content.get("detail") or content.get("error") if isinstance(content, dict) else content
    kind = ERRORS.get(response.status_code, InternalError)
    return kind(str(message or f"status {response.status_code}"), details={"status_code": response.status_code})


def _map_of(parts: dict[str, Any], key: str) -> dict[str, Any]:
    value = parts.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"{PARTS}.{key} is no map")
    return value

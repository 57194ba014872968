"""What a request says: its path, headers, query and body, as what a call needs of them. No call is made here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request

from orbit_gateway.answers import MSGPACK_TYPES
from orbit_zmq.client.facts import OperationFacts
from orbit_zmq.errors import InvalidArgument, ProtocolError, TooLarge
from orbit_zmq.wire.body import unpack_map
from orbit_zmq.wire.limits import MAX_LEFT_S, Limits

DEADLINE = "orbit-deadline-s"
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
BODY_BYTES = Limits().body_bytes
WITHHELD = ("authorization", "cookie", "host", "connection", "transfer-encoding", "content-length", "x-csrf-token")


def segments_of(request: Request) -> list[str]:
    """The parts of a path. One that is empty, a dot or two, or hides a slash is refused: it would be another path elsewhere."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    parts = [unquote(part) for part in raw.decode("ascii", "replace").split("/")[1:]]
    if parts and parts[-1] == "" and len(parts) > 1:
        parts.pop()
    if parts != [""] and any(part in ("", ".", "..") or "/" in part or not part.isprintable() for part in parts):
        raise InvalidArgument(f"the path has a part that it cannot have: {raw.decode('ascii', 'replace')!a}")
    return parts


def deadline_of(request: Request) -> float | None:
    """The caller's deadline in seconds; None: the operation's."""
    said = request.headers.get(DEADLINE)
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= MAX_LEFT_S:
        raise InvalidArgument(f"the header Orbit-Deadline-S is {said!r}", hint=f"It is 0.001 to {MAX_LEFT_S:g} seconds.")
    return seconds


def trace_of(request: Request) -> str:
    """What the endpoint's log calls the request: its id, and its place in a trace if it has one."""
    said = request.headers.get("traceparent", "")
    return f"{request.state.request_id} {said}" if TRACEPARENT.fullmatch(said) else str(request.state.request_id)


def query_of(request: Request, known: OperationFacts) -> dict[str, Any]:
    if not request.scope["query_string"]:
        return {}
    schemas = known.parameters.get("properties", {})
    query = request.query_params
    return {name: typed(query.getlist(name), schemas.get(name)) for name in query}


def typed(texts: list[str], schema: Any) -> Any:
    """What a query or a path says, as the type that the schema asks for; what does not fit it is refused over there."""
    options = schema.get("anyOf", [schema]) if isinstance(schema, dict) else []
    types = {option.get("type") for option in options if isinstance(option, dict)}
    if "array" in types:
        return texts
    if types & {"integer", "number", "boolean"} and "string" not in types:
        with suppress(ValueError, RecursionError):
            return json.loads(texts[-1])
    return texts[-1]


async def read_body(request: Request) -> bytes:
    said = request.headers.get("content-length", "")
    pieces, size = [], int(said) if said.isdigit() else 0
    if size <= BODY_BYTES:
        size = 0
        async for piece in request.stream():
            pieces.append(piece)
            size += len(piece)
            if size > BODY_BYTES:
                break
    if size > BODY_BYTES:
        raise TooLarge(f"the body is larger than {BODY_BYTES} bytes")
    return b"".join(pieces)


async def arguments_of(request: Request) -> dict[str, Any]:
    """The body: a map in JSON or msgpack, or nothing."""
    body = await read_body(request)
    if not body:
        return {}
    if kind_of(request) in MSGPACK_TYPES:
        try:
            return unpack_map(body)
        except ProtocolError as error:
            raise InvalidArgument(error.message, hint="The body is a msgpack map of arguments.") from None
    value = from_json(body)
    if not isinstance(value, dict):
        raise InvalidArgument(f"the body is a {type(value).__name__}, not an object", hint="It is a JSON object of arguments.")
    return value


def kind_of(request: Request) -> str:
    """What the body is said to be."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def from_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is no JSON: {error}", hint="It is a JSON object of arguments.") from None


async def parts_of(request: Request, said: Mapping[str, str]) -> dict[str, Any]:
    """The whole request, for an operation that wants to see it; never the caller's secrets."""
    return {
        "path_params": dict(said),
        "query_params": dict(request.query_params),
        "headers": {name: text for name, text in request.headers.items() if name not in WITHHELD},
        "body": await read_body(request),
    }

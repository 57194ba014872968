"""REST: every route of every plugin under `/{endpoint}/{plugin}/`, and what the broker itself can be asked.

Routes are looked up in the catalogues, so a plugin is reachable the moment its endpoint is. A request becomes one call on
behalf of its user; bodies of bytes are passed on as they come, both ways. Users, pages and figures are no matter of this
module.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from orbit_gateway.answers import JSON, OCTETS, Handler, answer, answering, error_answer
from orbit_gateway.arguments import (
    arguments_of,
    deadline_of,
    from_json,
    kind_of,
    parts_of,
    query_of,
    read_body,
    segments_of,
    trace_of,
    typed,
)
from orbit_gateway.backend import AWAY_S
from orbit_gateway.identity import Identity
from orbit_gateway.views import endpoint_list, endpoint_rows
from orbit_zmq import AsyncClient
from orbit_zmq.client.facts import EndpointFacts, OperationFacts
from orbit_zmq.client.routes import SESSION, find_route
from orbit_zmq.errors import Canceled, InvalidArgument, NotFound, OrbitError, ProtocolError
from orbit_zmq.plugin.request import PARTS
from orbit_zmq.wire.body import pack_body, unpack_body

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway

CALL = "orbit.call"  # in the scope, for whoever counts: (endpoint, plugin, operation)
LOOK_S = 0.5  # a call that takes longer is ended when its caller goes away
DEFAULT = "default"  # the session of a call that names none


@dataclass(frozen=True, slots=True)
class Target:
    """The operation that a request is for, and what its path says."""

    facts: EndpointFacts
    plugin: str
    name: str
    operation: OperationFacts
    session: str
    said: dict[str, str]


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The routes of the broker, and the one that takes all others."""

    def post(path: str, handler: Callable[[Gateway, Request], Awaitable[Response]]) -> Route:
        return _route(gateway, path, "POST", handler)

    return [
        post("/endpoint/list", _list),
        _route(gateway, "/endpoints", "GET", _endpoints),
        post("/endpoint/disconnect/{name}", _disconnect),
        post("/broker/terminate", _terminate),
        Rest("/{path:path}", Proxy(gateway)),
    ]


class Rest(Route):
    """Takes what no other route takes, not even by another method."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.PARTIAL if match is Match.FULL else match), child


class Proxy:
    """The application that passes requests on to operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._answered = answering(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answered(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        identity = await self._gateway.identify(request)
        parts = segments_of(request)
        deadline_s = deadline_of(request)
        client = await self._gateway.backend.client(identity.user, deadline_s or AWAY_S)
        try:
            target = await _target_of(client, identity, request.method, parts)
        except _NotAllowedError as refused:
            return error_answer(refused.error, request, status=405, headers={"Allow": refused.allowed})
        request.scope[CALL] = (target.facts.name, target.plugin, target.name)
        request.state.uploaded = asyncio.Event()
        if not target.operation.stream_in:
            request.state.uploaded.set()
        result = await _while_connected(_begun(_call(client, target, request)), request, target.operation)
        if target.name == "register_session" and isinstance(result, dict):
            self._gateway.identifier.on_registered(request, target.facts.name, target.plugin, str(result.get(SESSION)))
        return _response_of(result, request)


async def _target_of(client: AsyncClient, identity: Identity, method: str, parts: list[str]) -> Target:
    if len(parts) < 3:
        raise NotFound(
            f"there is nothing at /{'/'.join(parts)}",
            hint="Operations are at /{endpoint}/{plugin}/...; GET /endpoints lists them.",
        )
    endpoint, plugin, path = parts[0], parts[1], "/".join(parts[2:])
    if not identity.may_reach(endpoint):
        raise NotFound(f"there is no endpoint {endpoint}", details={"endpoint": endpoint})
    facts = await client.resolve(endpoint)
    try:
        return await _find(client, identity, facts, plugin, method, path)
    except NotFound:  # its plugins may have changed since it was looked up
        return await _find(client, identity, await client.resolve(endpoint, refresh=True), plugin, method, path)


async def _find(client: AsyncClient, identity: Identity, facts: EndpointFacts, plugin: str, method: str, path: str) -> Target:
    instance = facts.instance(plugin)
    operations = (await client.operations(facts)).get(instance, {})
    name, said = _find_operation(operations, "GET" if method == "HEAD" else method, path)
    known = operations[name]
    kind = facts.plugins[instance].get("plugin", instance)
    identity.check(known.effect, facts.name, kind if identity.may_reach(facts.name, kind) else instance)
    session = said.pop(SESSION, "")
    return Target(facts, instance, name, known, session or (DEFAULT if known.needs_session else ""), said)


class _NotAllowedError(Exception):
    """There is such a path, under another method."""

    def __init__(self, error: OrbitError, allowed: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.allowed = allowed


def _find_operation(operations: Mapping[str, OperationFacts], method: str, path: str) -> tuple[str, dict[str, str]]:
    """By the route; else by the same route without its session, which is then the user's default one."""
    with suppress(NotFound):
        return find_route(operations, method, path)
    short = {
        name: OperationFacts(method=facts.method, path=facts.path.replace(f"/{{{SESSION}}}", ""))
        for name, facts in operations.items()
        if facts.needs_session
    }
    with suppress(NotFound):
        return find_route(short, method, path)
    others = {facts.method for facts in operations.values()} - {method}
    if allowed := sorted(other for other in others if _has_route(operations, other, path) or _has_route(short, other, path)):
        refused = InvalidArgument(f"{path} takes {' and '.join(allowed)}, not {method}", hint="Use that method.")
        raise _NotAllowedError(refused, ", ".join(allowed))
    raise NotFound(f"there is no operation {path}", hint="GET /{endpoint}/{plugin}/openapi.json lists them.")


def _has_route(operations: Mapping[str, OperationFacts], method: str, path: str) -> bool:
    with suppress(NotFound):
        find_route(operations, method, path)
        return True
    return False


async def _call(client: AsyncClient, target: Target, request: Request) -> Any:
    known, where = target.operation, (target.facts.name, target.plugin, target.name)
    more: dict[str, Any] = {"session": target.session, "deadline_s": deadline_of(request), "trace": trace_of(request)}
    if known.raw:
        return await _call_raw(client, where, request, more)
    schemas = known.parameters.get("properties", {})
    said = {name: typed([text], schemas.get(name)) for name, text in target.said.items()}
    arguments: dict[str, Any] = {**query_of(request, known), **said}
    if known.stream_in:
        arguments[known.stream_in] = _upload(request)
    elif not known.parameters:
        arguments = {PARTS: await parts_of(request, target.said)}
    else:
        arguments = {**arguments, **await arguments_of(request), **said}
    return await client.call(*where, arguments, **more)


async def _call_raw(client: AsyncClient, where: tuple[str, str, str], request: Request, more: dict[str, Any]) -> Any:
    """Bytes as they are, both ways; a body in JSON goes as msgpack, which such operations read, and so comes the answer."""
    body = await read_body(request)
    if kind_of(request) != JSON:
        return await client.call_raw(*where, body, **more)
    packed, _ = pack_body(from_json(body))
    return _unpacked(await client.call_raw(*where, packed, **more))


def _unpacked(result: bytes) -> Any:
    try:
        return unpack_body(result)
    except ProtocolError:
        return result  # something else


async def _upload(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    finally:
        request.state.uploaded.set()


class Download(StreamingResponse):
    """A stream of bytes. That its caller has gone is looked for once the caller's own stream has been read."""

    def __init__(self, content: AsyncIterator[bytes], uploaded: asyncio.Event) -> None:
        super().__init__(content, media_type=OCTETS)
        self._uploaded = uploaded

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await self._uploaded.wait()
        await super().listen_for_disconnect(receive)


async def _begun(call: Awaitable[Any]) -> Any:
    """The result of a call; of a stream the first piece has come, so that an error before it is answered as one."""
    result = await call
    if not isinstance(result, AsyncIterator):
        return result
    first = await anext(result, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in result:
            yield piece

    return pieces()


async def _while_connected(call: Awaitable[Any], request: Request, known: OperationFacts) -> Any:
    """The result of a call, which is ended when its caller has gone."""
    calling = asyncio.ensure_future(call)
    try:
        await asyncio.wait((calling,), timeout=LOOK_S)
        if calling.done() or known.stream_in:  # who reads the stream sees that its sender has gone
            return await calling
        gone = asyncio.ensure_future(_gone(request))
        await asyncio.wait((calling, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not calling.done():
            raise Canceled("the caller has gone")
        return await calling
    finally:
        calling.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response_of(result: Any, request: Request) -> Response:
    if isinstance(result, AsyncIterator):
        return Download(result, request.state.uploaded)
    if isinstance(result, bytes) and JSON in request.headers.get("accept", ""):
        result = _unpacked(result)
    if isinstance(result, bytes):
        return Response(result, media_type=OCTETS)
    if isinstance(result, dict) and result.keys() == {"status_code", "headers", "body"}:
        content, headers = result["body"], result["headers"]
        if isinstance(content, (str, bytes)):
            return Response(content, result["status_code"], headers)
        return answer(content, request, result["status_code"])
    return answer(result, request)


# What the broker is asked


def _route(gateway: Gateway, path: str, method: str, handler: Callable[[Gateway, Request], Awaitable[Response]]) -> Route:
    async def handle(request: Request) -> Response:
        return await handler(gateway, request)

    answered: Handler = answering(handle)
    return Route(path, answered, methods=[method])


async def _list(gateway: Gateway, request: Request) -> Response:
    identity = await gateway.identify(request)
    return answer({"data": await endpoint_list(gateway.backend, identity, with_ui=True)}, request)


async def _endpoints(gateway: Gateway, request: Request) -> Response:
    identity = await gateway.identify(request)
    rows = await endpoint_rows(gateway.backend, identity)
    return answer({"endpoints": rows, "total": len(rows)}, request)


async def _disconnect(gateway: Gateway, request: Request) -> Response:
    identity = await gateway.identify(request)
    name = request.path_params["name"]
    if name == "broker":
        raise InvalidArgument("the broker cannot be disconnected", hint="POST /broker/terminate ends it.")
    identity.check_end("run", name)
    await (await gateway.backend.client(identity.user)).disconnect(name)
    return answer({"status": "shutdown", "endpoint": name}, request)


async def _terminate(gateway: Gateway, request: Request) -> Response:
    identity = await gateway.identify(request)
    identity.check_end("admin")
    await (await gateway.backend.client("")).drain()
    return answer({"status": "terminating", "message": "the broker ends now"}, request)

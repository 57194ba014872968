"""OpenAPI 3.1 of what a user can reach now, whole and of one plugin, made from the catalogues of the endpoints.

Schemas come as the plugins' signatures give them; only their references are turned, for one document has one place for
definitions. The routes that are the gateway's own are in `openapi_own`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orbit_gateway.answers import MSGPACK, OCTETS, answer, answering
from orbit_gateway.identity import Identity
from orbit_gateway.openapi_own import ERRORS, RESPONSES, SCHEMAS, SECURITY, own_paths
from orbit_zmq import AsyncClient, __version__
from orbit_zmq.client.facts import EndpointFacts, OperationFacts
from orbit_zmq.client.routes import SESSION
from orbit_zmq.errors import NotFound, OrbitError
from orbit_zmq.plugin.request import PARAMETER

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway

JSON = "application/json"
LOCAL = "#/$defs/"
SHARED = "#/components/schemas/"
SID = {
    "type": "string",
    "minLength": 1,
    "description": "A session's id; `default` is one that is always there.",
    "example": "default",
}
UNFIT = re.compile(r"[^A-Za-z0-9._-]")

Document = dict[str, Any]


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The document, whole and of one plugin."""

    async def whole(request: Request) -> Response:
        identity = await gateway.identify(request)
        client = await gateway.backend.client(identity.user)
        found = sorted((handle.facts for handle in await client.endpoints()), key=lambda facts: facts.name)
        return answer(await _document_of(client, identity, found), request)

    async def of_plugin(request: Request) -> Response:
        identity = await gateway.identify(request)
        client = await gateway.backend.client(identity.user)
        endpoint, plugin = request.path_params["endpoint"], request.path_params["plugin"]
        if not _reaches(identity, endpoint):
            raise NotFound(f"there is no endpoint {endpoint}", details={"endpoint": endpoint})
        facts = await client.resolve(endpoint, refresh=True)
        return answer(await _document_of(client, identity, [facts], facts.instance(plugin)), request)

    return [
        Route("/openapi.json", answering(whole), methods=["GET"]),
        Route("/{endpoint}/{plugin}/openapi.json", answering(of_plugin), methods=["GET"]),
    ]


async def _document_of(client: AsyncClient, identity: Identity, found: list[EndpointFacts], only: str = "") -> Document:
    catalogues = []
    for facts in found:
        if _reaches(identity, facts.name):
            try:
                operations = await client.operations(facts)
            except OrbitError:
                continue  # it has gone since
            plugins = {name: one for name, one in operations.items() if only in ("", name)}
            catalogues.append(
                (facts, {name: one for name, one in plugins.items() if _reaches(identity, facts.name, facts, name)})
            )
    if only and not any(plugins for _, plugins in catalogues):
        raise NotFound(f"there is no plugin {only}", details={"plugin": only})
    return document(identity, catalogues, with_own=not only)


def document(
    identity: Identity, catalogues: list[tuple[EndpointFacts, dict[str, dict[str, OperationFacts]]]], *, with_own: bool
) -> Document:
    """The document of these plugins, as far as the identity may call their operations."""
    schemas = Schemas()
    paths: Document = own_paths(identity) if with_own else {}
    tags = [{"name": "gateway"}] if with_own else []
    for facts, plugins in catalogues:
        for plugin, operations in plugins.items():
            tags.append({"name": f"{facts.name}/{plugin}"})
            for name, operation in operations.items():
                if operation.effect in identity.rights or identity.is_admin:
                    _add(paths, schemas, facts.name, plugin, name, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ORBIT-ZMQ", "version": __version__, "description": f"What {identity.user} can reach now."},
        "security": [{name: []} for name in SECURITY],
        "tags": tags,
        "paths": paths,
        "components": {"schemas": {**SCHEMAS, **schemas.shared}, "responses": RESPONSES, "securitySchemes": SECURITY},
    }


class Schemas:
    """The definitions of all operations in one place: what is the same stands there once."""

    def __init__(self) -> None:
        self.shared: Document = {}

    def take(self, schema: Document) -> Document:
        """The schema with its definitions moved to where all of them are."""
        definitions = schema.get("$defs")
        if not isinstance(definitions, dict):
            return schema
        text = json.dumps(definitions, sort_keys=True)
        names = {name: self._name_for(name, f"{name}{text}") for name in definitions}
        for name, definition in definitions.items():
            self.shared[names[name]] = _turned(definition, names)
        rest: Document = _turned({key: value for key, value in schema.items() if key != "$defs"}, names)
        return rest

    def _name_for(self, name: str, content: str) -> str:
        return f"{UNFIT.sub('_', name)}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _turned(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_turned(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    turned = {key: _turned(item, names) for key, item in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith(LOCAL):
        turned["$ref"] = SHARED + names.get(reference.removeprefix(LOCAL), "Error")
    return turned


def _add(paths: Document, schemas: Schemas, endpoint: str, plugin: str, name: str, operation: OperationFacts) -> None:
    path = f"/{endpoint}/{plugin}/{operation.path}"
    described = _operation(schemas, name, operation)
    method = operation.method.lower()
    label = f"{endpoint}.{plugin}.{name}"
    named = PARAMETER.findall(operation.path)
    entry = {**described, "tags": [f"{endpoint}/{plugin}"], "operationId": label}
    entry["parameters"] = [*(_in_path(parameter, schemas, operation) for parameter in named), *described["parameters"]]
    paths.setdefault(path, {})[method] = entry
    short = path.replace(f"/{{{SESSION}}}", "")
    if short != path and method not in paths.get(short, {}):
        again = {**entry, "operationId": f"{label}.default", "summary": f"{entry['summary']} (in the session `default`)"}
        again["parameters"] = [parameter for parameter in entry["parameters"] if parameter["name"] != SESSION]
        paths.setdefault(short, {})[method] = again


def _operation(schemas: Schemas, name: str, operation: OperationFacts) -> Document:
    """Everything but the parameters in the path."""
    summary, _, more = operation.doc.partition("\n")
    described: Document = {
        "summary": summary or name,
        "description": more.strip(),
        "x-effect": operation.effect,
        "x-deadline-s": operation.deadline_s,
        "parameters": [],
        "responses": {"200": _result(schemas, operation), **ERRORS},
    }
    arguments = schemas.take(operation.parameters)
    in_path = set(PARAMETER.findall(operation.path))
    if operation.method == "GET":
        described["parameters"] = _query(arguments, in_path)
    elif (body := _body(arguments, in_path, operation)) is not None:
        described["requestBody"] = body
        if operation.stream_in:
            described["parameters"] = _query(arguments, in_path | {operation.stream_in})
    return described


def _result(schemas: Schemas, operation: OperationFacts) -> Document:
    if operation.stream_out or operation.raw or operation.returns.get("format") == "binary":
        return {"description": "The bytes.", "content": {OCTETS: {}}}
    if not operation.parameters:  # a handler of requests may answer anything
        return {"description": "What the plugin answers.", "content": {"*/*": {}}}
    schema = schemas.take(operation.returns)
    return {"description": "The result.", "content": {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}}


def _query(arguments: Document, in_path: set[str]) -> list[Document]:
    required = arguments.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _as_text(schema)}
        for name, schema in arguments.get("properties", {}).items()
        if name not in in_path
    ]


def _as_text(schema: Any) -> Any:
    """As a query can say it: there is no null in it."""
    options = schema.get("anyOf") if isinstance(schema, dict) else None
    if not isinstance(options, list):
        return schema
    left = [option for option in options if option != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**rest, **left[0]} if len(left) == 1 else {**rest, "anyOf": left}


def _in_path(name: str, schemas: Schemas, operation: OperationFacts) -> Document:
    schema = SID if name == SESSION else schemas.take(operation.parameters).get("properties", {}).get(name, {"type": "string"})
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _body(arguments: Document, in_path: set[str], operation: OperationFacts) -> Document | None:
    if operation.stream_in or operation.raw:
        return {"required": True, "content": {OCTETS: {}}}
    if not arguments:
        return {"content": {"*/*": {}}}
    properties = {name: schema for name, schema in arguments.get("properties", {}).items() if name not in in_path}
    required = [name for name in arguments.get("required", []) if name not in in_path]
    schema = {**arguments, "properties": properties, "required": required}
    return {"required": bool(required), "content": {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}}


def _reaches(identity: Identity, endpoint: str, facts: EndpointFacts | None = None, plugin: str = "") -> bool:
    kind = facts.plugins.get(plugin, {}).get("plugin", plugin) if facts is not None else plugin
    return identity.may_reach(endpoint, plugin) or identity.may_reach(endpoint, kind)

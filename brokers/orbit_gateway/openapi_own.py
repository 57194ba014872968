"""The gateway's own routes, as OpenAPI describes them, and what all descriptions share. Facts only."""

from __future__ import annotations

from typing import Any

from orbit_gateway.identity import Identity

JSON = "application/json"
SECURITY: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "description": "From `orbit token create NAME`."},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "orbit_session", "description": "From POST /auth."},
}
FLAG = {"type": "boolean"}
TEXT = {"type": "string"}
SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error", "status_code", "detail", "code", "hint", "transient"],
        "properties": {
            "error": {"const": True},
            "status_code": {"type": "integer"},
            "detail": {"type": "string", "description": "One sentence that names what is at fault."},
            "code": {"type": "string", "description": "Stable; docs/errors.md lists them."},
            "hint": {"type": "string", "description": "What to do next."},
            "transient": {"type": "boolean", "description": "Whether the same request may succeed later."},
            "details": {"type": "object"},
            "type": {"type": "string", "description": "The exception's type, where code of a plugin has raised it."},
            "traceback": {"type": "string"},
        },
    },
    "Auth": {
        "type": "object",
        "required": ["user", "token", "rights", "csrf"],
        "properties": {
            "ok": {"const": True},
            "user": TEXT,
            "token": {"type": "string", "description": "The name of the token."},
            "rights": {"type": "array", "items": TEXT},
            "csrf": {"type": ["string", "null"], "description": "For the line X-CSRF-Token of what changes something."},
            "expires": {"type": "number", "description": "When the cookie ends, seconds since 1970."},
        },
    },
}
SENTENCES = {
    "400": "An argument, the path or the request is not what it has to be.",
    "401": "The line `Authorization: Bearer <token>` is missing, or what it says is not known.",
    "403": "This user, this token or this page may not do that.",
    "404": "There is no such endpoint, plugin, operation or session.",
    "405": "The operation takes another method.",
    "409": "It contradicts something that exists, or the session is not ready yet.",
    "410": "The session or the result is gone.",
    "413": "The body or the result is too large.",
    "422": "A required part is missing, or the code that was called has refused its values.",
    "431": "The head of the request is too large.",
    "501": "The endpoint does not know how to do this.",
    "502": "The endpoint went away.",
    "503": "Busy, or not there at the moment; Retry-After says when to come again.",
    "504": "It did not end within its deadline.",
}
RESPONSES: dict[str, Any] = {
    f"E{status}": {"description": sentence, "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    for status, sentence in SENTENCES.items()
}
ERRORS: dict[str, Any] = {status: {"$ref": f"#/components/responses/E{status}"} for status in SENTENCES}

ROWS = {
    "type": "object",
    "required": ["endpoints", "total"],
    "properties": {
        "total": {"type": "integer"},
        "endpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "plugins", "connected", "plugin_count"],
                "properties": {
                    "name": TEXT,
                    "plugins": {"type": "array", "items": TEXT},
                    "connected": FLAG,
                    "plugin_count": {"type": "integer"},
                },
            },
        },
    },
}
LIST = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {
            "type": "object",
            "required": ["broker", "endpoints"],
            "properties": {"broker": {"type": "object"}, "endpoints": {"type": "object"}},
        }
    },
}
STATUS = {"type": "object", "required": ["status"], "properties": {"status": TEXT}}
AUTH = {"$ref": "#/components/schemas/Auth"}
OK = {"type": "object", "required": ["ok"], "properties": {"ok": {"const": True}}}


def own_paths(identity: Identity) -> dict[str, Any]:
    """The routes by path, as far as the identity may use them."""
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    paths: dict[str, Any] = {
        "/auth": {
            "post": _entry("auth_begin", "A browser shows its token and gets a cookie.", AUTH),
            "get": _entry("auth_tell", "Who the request comes from.", AUTH),
            "delete": _entry("auth_end", "The cookie counts no more.", OK),
        },
        "/endpoint/list": {"post": _entry("endpoint_list", "Endpoints and plugins, with their pages.", LIST)},
        "/endpoints": {"get": _entry("endpoints", "Endpoints and the names of their plugins.", ROWS)},
        "/events": {"get": _entry("events", "Events as they happen: server-sent events.", TEXT, "text/event-stream")},
        "/metrics": {"get": _entry("metrics", "Figures in the text format of Prometheus.", TEXT, "text/plain")},
        "/healthz": {"get": {**_entry("healthz", "Whether the gateway runs.", STATUS), "security": []}},
        "/readyz": {"get": {**_entry("readyz", "Whether it reaches its broker.", STATUS), "security": []}},
        "/openapi.json": {"get": _entry("openapi", "This document.", {"type": "object"})},
    }
    if {"run", "admin"} & identity.rights and "*" in identity.plugins:
        entry = _entry("endpoint_disconnect", "Stop an endpoint for good.", STATUS)
        paths["/endpoint/disconnect/{name}"] = {"post": {**entry, "parameters": [name]}}
    if identity.is_admin and identity.may_end():
        paths["/broker/terminate"] = {"post": _entry("broker_terminate", "Stop the broker for good.", STATUS)}
    return paths


def _entry(name: str, summary: str, schema: dict[str, Any], kind: str = JSON) -> dict[str, Any]:
    answer = {"description": summary, "content": {kind: {"schema": schema}}}
    return {"operationId": name, "summary": summary, "tags": ["gateway"], "responses": {"200": answer, **ERRORS}}

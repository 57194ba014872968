"""The pages: a status page at `/`, and the API at `/docs`. Plain files of this package, nothing from elsewhere.

They hold no secret, so everybody gets them; what they show they ask for with the reader's own cookie.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orbit_gateway.answers import Handler, answering
from orbit_gateway.protection import OURS

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway

FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/status.js": ("status.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


def routes(gateway: Gateway) -> list[BaseRoute]:
    """One for each file."""
    directory = files("orbit_gateway") / "static"
    return [
        Route(path, answering(_sender((directory / name).read_bytes(), kind)), methods=["GET"])
        for path, (name, kind) in FILES.items()
    ]


def _sender(content: bytes, kind: str) -> Handler:
    async def send(request: Request) -> Response:
        request.scope[OURS] = True
        return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})

    return send

"""`/auth`: a browser shows its token once and gets a cookie; it asks who it is; it leaves.

POST begins, GET tells, DELETE ends. Who may come at all is decided by the users, not here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orbit_gateway.answers import answer, answering
from orbit_gateway.browsers import csrf_of
from orbit_gateway.identity import Identity
from orbit_gateway.users import COOKIE, Users, cookie_of

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The route of all three."""
    users = gateway.identifier
    if not isinstance(users, Users):
        return []

    async def begin(request: Request) -> Response:
        identity = await gateway.identify(request)
        if "authorization" not in request.headers:  # it has a cookie already
            return answer({"ok": True, **_facts(identity, cookie_of(request))}, request)
        cookie, expires = users.login(request)
        response = answer({"ok": True, **_facts(identity, cookie), "expires": expires}, request)
        age_s = max(0, int(expires - time.time()))
        response.set_cookie(COOKIE, cookie, max_age=age_s, httponly=True, samesite="strict", secure=gateway.options.tls)
        return response

    async def tell(request: Request) -> Response:
        identity = await gateway.identify(request)
        return answer(_facts(identity, cookie_of(request)), request)

    async def end(request: Request) -> Response:
        await gateway.identify(request)
        users.logout(request)
        response = answer({"ok": True}, request)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=gateway.options.tls)
        return response

    handlers = {"POST": begin, "GET": tell, "HEAD": tell, "DELETE": end}

    async def handle(request: Request) -> Response:
        return await handlers[request.method](request)

    return [Route("/auth", answering(handle), methods=["GET", "POST", "DELETE"])]


def _facts(identity: Identity, cookie: str) -> dict[str, Any]:
    return {
        "user": identity.user,
        "token": identity.name,
        "rights": sorted(identity.rights),
        "csrf": csrf_of(cookie) if cookie else None,
    }

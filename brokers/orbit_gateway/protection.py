"""What stands between every request and the application: is it addressed to us, does it come from a page of ours, is it one
request only; and the headers that every answer bears. It knows no users.

A page of somebody else whose name suddenly means this machine (DNS rebinding) gives itself away by the name in Host. Pages
of other origins may ask for nothing; there is no CORS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orbit_gateway.answers import error_answer
from orbit_gateway.users import ENDED
from orbit_zmq.errors import AuthRequired, InvalidArgument, NotPermitted, OrbitError, ShuttingDown
from orbit_zmq.log import get_logger

if TYPE_CHECKING:
    from orbit_gateway.app import Gateway

log = get_logger("orbit_gateway")

LAST_WORDS = "orbit.last_words"  # in the scope: from the reason why a stream is ended to what it says at its end
OURS = "orbit.page"  # in the scope: the answer is a page of ours, or a part of one
INERT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FIXED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
HSTS = "max-age=31536000"
SINGLE = ("host", "authorization", "origin", "content-length", "transfer-encoding")  # lines that come once at most


def middleware(gateway: Gateway) -> list[Middleware]:
    """The one of this module."""
    return [Middleware(Protection, gateway=gateway)]


class Protection:
    """Refuses, or passes on and sees the answer off."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in gateway.options.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        has_begun = False

        async def send_protected(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._mark(MutableHeaders(scope=message), scope)
            await send(message)

        app = self._app
        if (fault := refusal(Headers(scope=scope), scope, self._names)) is not None:
            app = error_answer(fault, Request(scope, receive), headers={"Connection": "close"})  # what follows is not believed
        try:
            await app(scope, receive, send_protected)
        except asyncio.CancelledError:
            if ENDED in scope:
                error: OrbitError = AuthRequired("the token has been revoked or has expired", hint="Ask for a new one.")
            elif self._gateway.hub.is_closed:
                error = ShuttingDown("the gateway is ending")
            else:
                raise
            await _finish(scope, receive, send_protected, error, has_begun)
        except OrbitError as error:  # of a stream in its middle
            log.warning("answer-broken-off", path=scope["path"], code=error.code, reason=error.message)
            await _finish(scope, receive, send_protected, error, has_begun)
        finally:
            self._gateway.identifier.on_end(scope)

    def _mark(self, headers: MutableHeaders, scope: Scope) -> None:
        is_ours = OURS in scope
        if not is_ours and scope["path"] != "/auth":
            del headers["set-cookie"]  # a plugin has none to give
        for name, text in FIXED.items():
            headers[name] = text
        headers["Content-Security-Policy"] = PAGE if is_ours else INERT
        headers.setdefault("Cache-Control", "no-store")
        if self._gateway.options.tls:
            headers["Strict-Transport-Security"] = HSTS


async def _finish(scope: Scope, receive: Receive, send: Send, error: OrbitError, has_begun: bool) -> None:
    """The end of a request in the middle. Of an answer that has begun nothing more comes: the connection ends before its end,
    so that nobody takes it for a whole one, unless it has last words."""
    if (task := asyncio.current_task()) is not None and task.cancelling():
        task.uncancel()
    if not has_begun:
        await error_answer(error, Request(scope, receive))(scope, receive, send)
    elif LAST_WORDS in scope:
        await send({"type": "http.response.body", "body": scope[LAST_WORDS](error.code), "more_body": False})


def refusal(headers: Headers, scope: Scope, names: Collection[str]) -> OrbitError | None:
    """Why a request is not listened to, or None."""
    said = {name: headers.getlist(name) for name in SINGLE}
    twice = next((name for name, texts in said.items() if len(texts) > 1), None)
    if twice or (said["content-length"] and said["transfer-encoding"]):
        return InvalidArgument(f"the request says twice what {twice or 'its length'} is", hint="Send each line once.")
    host = said["host"][0].lower() if said["host"] else ""
    if not is_ours(host, names):
        return NotPermitted(
            f"this gateway is not called {host!a}",
            hint="Use localhost, its address, or its host name; --allow-host NAME adds a name.",
        )
    origin = said["origin"][0].lower() if said["origin"] else ""
    if origin and origin.partition("://")[2] != host:
        return NotPermitted(f"pages of {origin!a} may not call this gateway", hint="Only its own pages may.")
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
    if site not in ("same-origin", "none") and not (mode == "navigate" and scope["method"] == "GET"):
        return NotPermitted("pages of other origins may not call this gateway", hint="Only its own pages may.")
    return None


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host line is an address, or a name that is ours. No page can have an address for its name."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name.rstrip(".") in names
    return True

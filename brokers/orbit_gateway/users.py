"""The users of HTTP: who a bearer token or a browser's cookie stands for, and what ends with it.

The lists of tokens and of cookies are looked at with every request, so what is revoked is refused at once. Nothing here knows
what is called.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from orbit_gateway.backend import Backend
from orbit_gateway.browsers import Logins, Visits, csrf_of, key_of
from orbit_gateway.identity import Identifier, Identity
from orbit_zmq.errors import AuthRequired, NotFound, NotPermitted, OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.security.tokens import TokenEntry, TokenList

log = get_logger("orbit_gateway")

COOKIE = "orbit_session"
SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
ENDED = "orbit.ended"  # in the scope: what it came with counts no more
VISITOR = "orbit.browser"  # in the scope: the hash of the cookie that it came with
SWEEP_S = 2.0
CLOSE_S = 10.0  # for an endpoint to answer
MISSING = "the request has no line `Authorization: Bearer <token>`"
HINT = "Make a token with `orbit token create NAME` on the gateway's machine; a browser shows it once to POST /auth."


class Users:
    """Knows them by the files of one directory."""

    def __init__(self, directory: Path) -> None:
        self._tokens = TokenList(directory)
        self._logins = Logins(directory)
        self._visits = Visits(time.monotonic)
        self._open: dict[int, tuple[Scope, str, asyncio.Task[Any] | None]] = {}  # requests, with the hashes of their tokens

    async def identify(self, request: HTTPConnection) -> Identity:
        """By the token, else by the cookie; AuthRequired, or NotPermitted where a page does not show that it is ours."""
        if "authorization" in request.headers:
            return self._begin(request, self._by_token(request))
        cookie = cookie_of(request)
        if not cookie:
            raise AuthRequired(MISSING, hint=HINT)
        identity = self._begin(request, self._by_cookie(cookie))
        if request.scope["method"] not in SAFE and not _shows_csrf(request, cookie):
            raise NotPermitted(
                "the request comes with a cookie and without its line `X-CSRF-Token`",
                hint="GET /auth answers the text that belongs there.",
            )
        if VISITOR not in request.scope:
            request.scope[VISITOR] = key_of(cookie)
            self._visits.begin(key_of(cookie), identity.user)
        return identity

    def login(self, request: HTTPConnection) -> tuple[str, float]:
        """A cookie for a browser that shows a token, and until when it counts (wall-clock seconds)."""
        entry = self._by_token(request)
        return self._logins.begin(entry.hash, time.time(), entry.expires)

    def logout(self, request: HTTPConnection) -> None:
        """The cookie that the request came with counts no more."""
        self._logins.end(cookie_of(request))

    def on_registered(self, request: HTTPConnection, endpoint: str, plugin: str, session: str) -> None:
        """A session was opened; it is closed some time after the browser that did it has gone."""
        if VISITOR in request.scope and session != "default":
            self._visits.note(request.scope[VISITOR], endpoint, plugin, session)

    def on_end(self, scope: Scope) -> None:
        """A request has ended, and its answer with it."""
        self._open.pop(id(scope), None)
        if VISITOR in scope:
            self._visits.end(scope[VISITOR])

    async def run(self, backend: Backend) -> None:
        """Close what browsers have left behind, for as long as this is awaited."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._end_refused()
            for visit in self._visits.gone():
                for opened in visit.sessions:
                    await _close(backend, visit.user, *opened)

    def _begin(self, request: HTTPConnection, entry: TokenEntry) -> Identity:
        # Kept from the first time: a stream asks again in a task of its own, whose end would not be that of the request.
        self._open.setdefault(id(request.scope), (request.scope, entry.hash, asyncio.current_task()))
        return Identity(entry.user, entry.name, frozenset(entry.rights), entry.endpoints, entry.plugins)

    def _end_refused(self) -> None:
        """End the requests and streams whose token counts no more."""
        now = time.time()
        for scope, hash_, task in list(self._open.values()):
            entry = self._tokens.entry_of(hash_)
            if task is not None and ENDED not in scope and (entry is None or not entry.is_valid(now)):
                scope[ENDED] = True
                task.cancel()

    def _by_token(self, request: HTTPConnection) -> TokenEntry:
        said = request.headers.getlist("authorization")
        scheme, _, token = said[0].partition(" ") if len(said) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise AuthRequired(MISSING, hint=HINT)
        entry = self._tokens.lookup(token.strip())
        if entry is None:
            raise AuthRequired("the token in the line `Authorization: Bearer <token>` is not known", hint=HINT)
        if not entry.is_valid(time.time()):
            raise AuthRequired(f"the token {entry.name} has expired", hint=HINT)
        return entry

    def _by_cookie(self, cookie: str) -> TokenEntry:
        now = time.time()
        login = self._logins.find(cookie, now)
        entry = self._tokens.entry_of(login.token_hash) if login is not None else None
        if entry is None or not entry.is_valid(now):
            raise AuthRequired(f"{MISSING}, and its cookie has expired or is not known", hint=HINT)
        return entry


def make_identifier(directory: Path) -> Identifier:
    """Who knows the users of the gateway with that state directory."""
    return Users(directory)


def cookie_of(request: HTTPConnection) -> str:
    """The cookie that a request came with, or nothing."""
    return request.cookies.get(COOKIE, "")


def _shows_csrf(request: HTTPConnection, cookie: str) -> bool:
    said = request.headers.get("x-csrf-token", "")
    return hmac.compare_digest(said.encode("utf-8", "replace"), csrf_of(cookie).encode())


async def _close(backend: Backend, user: str, endpoint: str, plugin: str, session: str) -> None:
    client = backend.client_of(user)
    try:
        status = await client.call(endpoint, plugin, "session_status", session=session, deadline_s=CLOSE_S)
        if status.get("lifetime") != "persistent":
            await client.call(endpoint, plugin, "unregister_session", session=session, deadline_s=CLOSE_S)
            log.info("browser-session-closed", endpoint=endpoint, plugin=plugin, session=session)
    except NotFound:
        pass  # it is closed
    except OrbitError as error:  # it ends with its holder at the latest
        log.warning("browser-session-left", endpoint=endpoint, plugin=plugin, session=session, code=error.code)

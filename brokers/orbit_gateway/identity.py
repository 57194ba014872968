"""Who a request comes from, and what it may do: the seam between the shim and whatever knows the users.

The shim asks an `Identifier` once for each request, before anything is read of its body. How a user proves who it is
(bearer token, cookie) is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from starlette.requests import HTTPConnection
from starlette.types import Scope

from orbit_zmq.errors import NotPermitted

if TYPE_CHECKING:
    from orbit_gateway.backend import Backend

EVERYTHING = ("*",)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as one token or cookie lets it act. `rights` are of read, write, run and admin; the rest are patterns."""

    user: str
    name: str = ""  # of the token, for logs
    rights: frozenset[str] = frozenset(("read", "write", "run"))
    endpoints: tuple[str, ...] = EVERYTHING
    plugins: tuple[str, ...] = EVERYTHING

    @property
    def is_admin(self) -> bool:
        return "admin" in self.rights

    def may_reach(self, endpoint: str, plugin: str = "") -> bool:
        """Whether it may call that plugin on that endpoint at all; without a plugin, anything there."""
        return any(fnmatchcase(endpoint, pattern) for pattern in self.endpoints) and (
            not plugin or any(fnmatchcase(plugin, pattern) for pattern in self.plugins)
        )

    def check(self, effect: str, endpoint: str, plugin: str) -> None:
        """NotPermitted where a call of that effect is not allowed; an effect that is not known counts as `run`."""
        if not self.may_reach(endpoint, plugin):
            raise NotPermitted(
                f"this token may not call {plugin} on {endpoint}", hint="Ask for a token that names this endpoint and plugin."
            )
        needed = effect or "run"
        if needed not in self.rights and not self.is_admin:
            have = ", ".join(sorted(self.rights)) or "none"
            raise NotPermitted(
                f"this needs the right {needed}; this token has {have}",
                hint="Ask for a token with that right.",
                details={"needed": needed},
            )

    def may_end(self, endpoint: str = "") -> bool:
        """Whether that endpoint, or the broker, is not more than it may reach: who has a part may not end the whole."""
        reaches = self.may_reach(endpoint) if endpoint else "*" in self.endpoints
        return reaches and "*" in self.plugins

    def check_end(self, right: str, endpoint: str = "") -> None:
        """NotPermitted where it may not end that endpoint, or the broker."""
        if not self.may_end(endpoint):
            raise NotPermitted(
                "this token may reach only a part of what this would end", hint="Ask for a token without limits."
            )
        if right not in self.rights and not self.is_admin:
            raise NotPermitted(f"this needs the right {right}", hint="Ask for a token with that right.")


class Identifier(Protocol):
    """Knows the users."""

    async def identify(self, request: HTTPConnection) -> Identity:
        """Who it is. AuthRequired where it does not say, or is not known; NotPermitted where the request may not come so."""

    def on_registered(self, request: HTTPConnection, endpoint: str, plugin: str, session: str) -> None:
        """A request has opened a session there."""

    def on_end(self, scope: Scope) -> None:
        """A request has been answered to its end."""

    async def run(self, backend: Backend) -> None:
        """Close what belonged to users who have left, for as long as this is not canceled."""

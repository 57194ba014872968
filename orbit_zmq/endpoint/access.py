"""Access: whom an endpoint serves, and what each of them may do here.

Its own user may do what the caller's key allows; others only what the endpoint shares with them, and that within their key's
rights. The broker checks the same; this is the second lock, at the machine that it protects. Rules only: no I/O, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from orbit_zmq.errors import InvalidArgument, NotPermitted
from orbit_zmq.plugin.operation import Operation
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.wire.header import ALL_RIGHTS, RIGHT_OF, Header
from orbit_zmq.wire.limits import NAME_CHARS

EVERYBODY = "*"
SHARED_USERS = 256  # the broker takes no more
HINT = "Write USER, USER:plugin,plugin or USER:plugin,plugin:read,write,run; * stands for everybody."


@dataclass(frozen=True, slots=True)
class Share:
    """What one user who is not the endpoint's own may use, and how. To run code is shared only by saying so."""

    plugins: tuple[str, ...] = ("*",)  # patterns of instances or types
    rights: tuple[str, ...] = ("read", "write")

    def allows(self, plugin: Plugin, effect: str) -> bool:
        names = (plugin.instance_name, plugin.plugin_name)
        return effect in self.rights and any(fnmatchcase(name, pattern) for name in names for pattern in self.plugins)


def parse_shares(texts: Iterable[str]) -> dict[str, Share]:
    """From `USER[:PLUGINS[:RIGHTS]]` each; InvalidArgument says which one is wrong."""
    shares: dict[str, Share] = {}
    for text in texts:
        user, *rest = text.split(":")
        lists = [tuple(filter(None, (word.strip() for word in part.split(",")))) for part in rest]
        if not user or len(user) > NAME_CHARS or len(lists) > 2 or not all(lists):
            raise InvalidArgument(f"{text!r} does not say what is shared with whom.", hint=HINT)
        if user in shares:
            raise InvalidArgument(f"{text!r} names the user {user} for the second time.", hint=HINT)
        shares[user] = Share(*lists)
        if not set(shares[user].rights) <= RIGHT_OF.keys():
            raise InvalidArgument(f"{text!r} names a right that there is not.", hint=f"Rights are {', '.join(RIGHT_OF)}.")
    if len(shares) > SHARED_USERS:
        raise InvalidArgument(f"An endpoint is shared with {SHARED_USERS} users at most.", hint="Share it with * instead.")
    return shares


class Access:
    """What the callers of one endpoint may do."""

    def __init__(self, endpoint: str, shares: dict[str, Share], own_user: Callable[[], str]) -> None:
        self.shares = shares
        self._endpoint = endpoint
        self._own_user = own_user  # known once the broker has welcomed the endpoint

    def check(self, header: Header, plugin: Plugin, operation: Operation) -> None:
        """Raise NotPermitted unless the caller may call this operation here."""
        right = RIGHT_OF.get(operation.effect, ALL_RIGHTS)
        if header.rights & right != right:
            raise NotPermitted(
                f"{operation.label} needs the right {operation.effect}, which {header.user} does not have on {self._endpoint}",
                hint="Use a key that has the right; `orbit key show` lists those of yours.",
            )
        if header.user == self._own_user() or self._shares_with(header.user, plugin, operation.effect):
            return
        raise NotPermitted(
            f"{self._endpoint} does not serve {operation.label} to {header.user}",
            hint=f"Its owner may start it with --share {header.user}:{plugin.plugin_name}:{operation.effect}",
        )

    def shared_with(self, user: str, plugin: Plugin) -> list[str]:
        """The effects of what is shared with a user at a plugin; none for the endpoint's own user, who needs no share."""
        return [] if user == self._own_user() else [effect for effect in RIGHT_OF if self._shares_with(user, plugin, effect)]

    def still_shares(self, user: str, plugin: Plugin, effects: Iterable[str]) -> bool:
        """Whether all of these are shared now, as they were when `shared_with` named them."""
        return all(self._shares_with(user, plugin, effect) for effect in effects)

    def _shares_with(self, user: str, plugin: Plugin, effect: str) -> bool:
        return any(known in (user, EVERYBODY) and share.allows(plugin, effect) for known, share in self.shares.items())

    def to_body(self) -> dict[str, Any]:
        """What hello says of it."""
        return {user: {"plugins": list(share.plugins), "rights": list(share.rights)} for user, share in self.shares.items()}

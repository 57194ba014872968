"""The topology as a subscriber keeps it: from whole views and changes to the whole views that callbacks are given.

An endpoint that goes appears once as lost. When a broker has been started anew its endpoints need a while to find it; until
then those that are missing are shown as suspect. No sockets and no clock here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LOST = "lost"
SETTLE_S = 15.0  # longer than an endpoint's longest pause between two attempts to connect
View = dict[str, dict[str, Any]]


class Topology:
    """What is known of all endpoints: `{name: {role, state, plugins}}`."""

    def __init__(self) -> None:
        self.endpoints: View = {}
        self.epoch = b""
        self._awaited: dict[str, float] = {}  # endpoints that a new broker does not know yet, and until when

    def replace(self, epoch: bytes, endpoints: Mapping[str, Any], now: float) -> list[View]:
        """The whole view of the broker is this; the views to tell."""
        is_new_broker = self.epoch not in (b"", epoch)
        changes: list[tuple[str, Any]] = []
        for name in self.endpoints.keys() - endpoints.keys():
            if is_new_broker or name in self._awaited:
                self._awaited.setdefault(name, now + SETTLE_S)
                changes.append((name, {**self.endpoints[name], "state": "suspect"}))
            else:
                changes.append((name, {**self.endpoints[name], "state": LOST}))
        self.epoch = epoch
        return self.change([*endpoints.items(), *changes])

    def change(self, changes: Iterable[tuple[str, Any]]) -> list[View]:
        """These endpoints are different now; the views to tell, more than one if an endpoint was lost and came back."""
        views: list[View] = []
        lost: set[str] = set()
        for name, facts in changes:
            if not isinstance(name, str) or not isinstance(facts, dict):
                continue
            if name in lost:
                views.append(self._told(lost))
                lost = set()
            if facts.get("state") == LOST:
                lost.add(name)
            if facts.get("state") != "suspect":
                self._awaited.pop(name, None)
            self.endpoints[name] = {key: facts.get(key) for key in ("role", "state", "plugins")}
        return [*views, self._told(lost)]

    def tick(self, now: float) -> list[View]:
        """Endpoints that a new broker has not seen again in time are lost."""
        late = [name for name, until in self._awaited.items() if now >= until]
        return self.change([(name, {**self.endpoints[name], "state": LOST}) for name in late]) if late else []

    def whole(self) -> View:
        return {name: dict(facts) for name, facts in self.endpoints.items()}

    def _told(self, lost: set[str]) -> View:
        view = self.whole()
        for name in lost:
            self.endpoints.pop(name, None)
            self._awaited.pop(name, None)
        return view

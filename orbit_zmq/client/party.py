"""What a client says of itself at hello: that it is one. No sockets here."""

from __future__ import annotations

from typing import Any

from orbit_zmq.environment import environment_facts


class ClientParty:
    """A participant that serves nothing."""

    def hello(self) -> dict[str, Any]:
        return {"role": "client", "environment": environment_facts()}

    def catalogue(self) -> bytes:
        return b""

    def pulse(self) -> dict[str, Any]:
        return {}

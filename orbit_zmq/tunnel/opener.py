"""The login side of a reverse tunnel: waits for a child's request, opens the tunnel to it, and keeps it until the job ends.

`look` is to be called about once a second, from a thread that may block for a moment. What a job is, is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.tunnel.keeping import KeptTunnel
from orbit_zmq.tunnel.rendezvous import Rendezvous, Request
from orbit_zmq.tunnel.ssh import Forward, Ssh
from orbit_zmq.tunnel.way import report_of

REACH_S = 120.0  # to open the first tunnel: on some machines ssh is let in only some time after the job has started

log = get_logger(__name__)


class ReverseTunnel:
    """One child's tunnel. `broker` has host and port of its requests and of its events, as this machine reaches them."""

    def __init__(self, name: str, broker: Sequence[tuple[str, int]], directory: Path | None = None) -> None:
        self._name, self._broker = name, broker
        self.rendezvous = Rendezvous(name, directory)
        self._request: Request | None = None
        self._kept: KeptTunnel | None = None
        self._is_over = False

    def look(self) -> None:
        """Answer a request that is new."""
        request = self.rendezvous.request()
        if self._is_over or request is None or request == self._request:
            return
        if self._kept is not None:
            self._kept.close()
        self._request = request
        kept = self._kept = KeptTunnel(self._name, lambda _: self._ssh(request), lambda kept: self._tell(request, kept))
        threading.Thread(target=self._open, args=(kept,), name=f"orbit-tunnel-to-{self._name}", daemon=True).start()

    def leave(self) -> None:
        """End it, but leave the request: who comes after opens it again."""
        self._is_over = True
        if self._kept is not None:
            self._kept.close()

    def close(self) -> None:
        """End it, and take its files away."""
        self.leave()
        self.rendezvous.clear()

    def _open(self, kept: KeptTunnel) -> None:
        try:
            kept.open(REACH_S)
        except OrbitError as error:
            log.warning("tunnel-failed", tunnel=self._name, reason=error.message)

    def _ssh(self, request: Request) -> Ssh:
        ports = (request.port, request.events_port)
        forwards = [Forward(port, *target) for port, target in zip(ports, self._broker, strict=True)]
        return Ssh("R", request.hostname, forwards)

    def _tell(self, request: Request, kept: KeptTunnel) -> None:
        if not self._is_over:
            self.rendezvous.report(report_of(kept, "reverse", request.number, request.port, request.hostname))

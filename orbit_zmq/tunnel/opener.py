"""The login side of a reverse tunnel: waits for a child's request, opens the tunnel to it, and keeps it until the job ends.

`look` is to be called about once a second, from a thread that may block for a moment. What a job is, is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.tunnel.deadlines import OPEN_S
from orbit_zmq.tunnel.keeping import KeptTunnel
from orbit_zmq.tunnel.rendezvous import REQUESTS, Rendezvous, Report, Request
from orbit_zmq.tunnel.ssh import Forward, Ssh
from orbit_zmq.tunnel.way import report_of

log = get_logger(__name__)


class ReverseTunnel:
    """One child's tunnel. `broker` has host and port of its requests and of its events, as this machine reaches them."""

    def __init__(
        self, name: str, broker: Sequence[tuple[str, int]], directory: Path | None = None, within_s: float = OPEN_S
    ) -> None:
        self._name, self._broker, self._within_s = name, broker, within_s
        self.rendezvous = Rendezvous(name, directory)
        self._request: Request | None = None
        self._kept: KeptTunnel | None = None
        self._is_over = False

    def look(self) -> None:
        """Answer a request that is new; one that is withdrawn, or replaced, has no tunnel any more."""
        request = self.rendezvous.request()
        if self._is_over or request == self._request:
            return
        self._request, old, self._kept = request, self._kept, None
        if old is not None:
            old.close()
        if request is not None:
            self._answer(request)

    def leave(self) -> None:
        """End it, but leave the request: who comes after opens it again."""
        self._is_over = True
        if self._kept is not None:
            self._kept.close()

    def close(self) -> None:
        """End it, and take its files away."""
        self.leave()
        self.rendezvous.clear()

    def _answer(self, request: Request) -> None:
        """Say at once that it was read. A tunnel that an earlier process had opened is in use: it is tried for ever."""
        before = self.rendezvous.reported()
        was_open = before is not None and before.answers(request) and before.state in ("active", "reconnecting")
        kept = self._kept = KeptTunnel(
            self._name, lambda _: self._ssh(request), lambda kept: self._tell(request, kept), was_open
        )
        self._tell(request, kept)
        if was_open:
            kept.keep()
        else:
            threading.Thread(target=self._open, args=(kept,), name=f"orbit-tunnel-to-{self._name}", daemon=True).start()

    def _open(self, kept: KeptTunnel) -> None:
        try:
            kept.open(self._within_s)
        except OrbitError as error:
            log.warning("tunnel-failed", tunnel=self._name, reason=error.message)

    def _ssh(self, request: Request) -> Ssh:
        ports = (request.port, request.events_port)
        forwards = [Forward(port, *target) for port, target in zip(ports, self._broker, strict=True)]
        return Ssh("R", request.hostname, forwards)

    def _tell(self, request: Request, kept: KeptTunnel) -> None:
        if self._is_over or kept is not self._kept:
            return
        report = report_of(kept, "reverse", request.number, request.port, request.hostname)
        if report.state == "failed":
            report = _last_word(report, request)
        self.rendezvous.report(report)


def _last_word(report: Report, request: Request) -> Report:
    """A failure that other ports may mend is none before the last request; one that is, says what else was tried."""
    if report.wants_other_port and request.number < REQUESTS:
        return replace(report, state="pending")
    return replace(report, reason=f"{report.reason}; before that {request.tried}" if request.tried else report.reason)

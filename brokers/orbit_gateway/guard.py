"""The HTTP of one connection, as uvicorn reads it, for peers that mean no good: slow ones, endless ones, and no HTTP at all.

A head has to come whole within seconds and within a size, a body has to go on coming; what is refused is told in the
envelope of every error. Nothing here knows what a request is for.
"""

from __future__ import annotations

import asyncio
import json
import sys
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from orbit_gateway.answers import RETRY_AFTER_S
from orbit_zmq.errors import Busy, InvalidArgument, OrbitError

CONNECTIONS = 2_048
HEAD_S = 10.0  # from a connection, or the first byte of a request, to the end of its head
BODY_S = 30.0  # without a byte of a body that somebody reads


class GuardedProtocol(H11Protocol):
    """One connection."""

    most = CONNECTIONS  # at once; the next ones are refused
    _timer: asyncio.TimerHandle | None = None
    _heard_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(503, "as many connections are open as the gateway takes", Busy)
            return
        self._heard_at = self.loop.time()
        self._timer = self.loop.call_later(HEAD_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        expected = self.conn.their_state
        if expected is h11.SEND_BODY:
            self._heard_at = self.loop.time()
            self._begin(BODY_S)
        elif expected is h11.IDLE and self.conn.trailing_data[0]:
            self._begin(HEAD_S)
        else:
            self._stop()

    def send_400_response(self, msg: str) -> None:
        """Called for what is no HTTP, where the error can still be looked at."""
        fault = sys.exception()
        status = fault.error_status_hint if isinstance(fault, h11.RemoteProtocolError) else 400
        if status == 431:
            self._refuse(431, f"the head of the request is larger than {self.config.h11_max_incomplete_event_size} bytes")
        else:
            self._refuse(400, "this is no HTTP request")

    def _begin(self, within_s: float) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._heard_at = self.loop.time()
            self._timer = self.loop.call_later(within_s, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Something was to have come by now."""
        self._timer = None
        if self.conn.their_state is not h11.SEND_BODY:
            self._refuse(408, f"the head of the request has not come within {HEAD_S:g} s")
            return
        left_s = self._heard_at + BODY_S - self.loop.time()
        if left_s <= 0 and not self.flow.read_paused:
            self.transport.close()  # whoever reads the body is told that its sender has gone
        else:
            self._timer = self.loop.call_later(max(left_s, 1.0), self._look)

    def _refuse(self, status: int, detail: str, kind: type[OrbitError] = InvalidArgument) -> None:
        self._stop()
        error = kind(detail, hint="" if kind.transient else "Send a whole HTTP/1.1 request.")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-type", "application/json"), ("connection", "close"), ("x-content-type-options", "nosniff")]
            headers += [("retry-after", str(RETRY_AFTER_S))] if kind.transient else []
            response = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
            body = h11.Data(data=_envelope(status, error))
            for event in (response, body, h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _envelope(status: int, error: OrbitError) -> bytes:
    said = {"error": True, "status_code": status, "detail": error.message, "code": error.code}
    return json.dumps({**said, "hint": error.hint, "transient": error.transient}).encode()

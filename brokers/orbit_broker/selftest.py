"""A look from outside before anybody else may: does the broker refuse a key that is on no list?

An authentication that is set up wrongly lets everybody in and looks like one that works. The broker does not start so.
"""

from __future__ import annotations

import time

import zmq

from orbit_broker.loop import Loop
from orbit_zmq.addresses import host_of, port_of, tcp_address
from orbit_zmq.errors import InternalError
from orbit_zmq.security.keys import make_keypair
from orbit_zmq.transport.monitor import REACHED, next_event
from orbit_zmq.transport.sockets import Sockets, close_monitored

PATIENCE_S = 10.0  # the handshake is over in milliseconds on an idle machine
WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}


def refuse_to_start_open(sockets: Sockets, loop: Loop, tcp: str, server_key: str, *, is_for_events: bool = False) -> None:
    """Drive the loop while a throw-away key knocks; InternalError unless it is turned away."""
    host = host_of(tcp)
    knock = sockets.subscriber if is_for_events else sockets.dealer
    dealer, monitor = knock(tcp_address(WILDCARDS.get(host, host), port_of(tcp)), server_key=server_key, keys=make_keypair())
    try:
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            loop.turn()
            event, _ = next_event(monitor) or (REACHED, 0)
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                raise InternalError("the broker accepts keys that are on no list", hint="Do not run it; report this.")
            if event != REACHED:
                break
        raise InternalError(f"the self-test at {tcp} had no answer", hint="Is a firewall between this machine and itself?")
    finally:
        close_monitored(dealer, monitor)

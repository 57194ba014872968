"""What libzmq tells of a connection that is being made, in our words, and a look at who is there where it does not say.

It decides nothing.
"""

from __future__ import annotations

import socket
import struct

import zmq

from orbit_zmq.addresses import host_and_port
from orbit_zmq.rules.obstacles import Obstacle
from orbit_zmq.transport.sockets import has_arrived

ZAP_REFUSED = 400  # the status that our brokers answer for a key that they do not admit
REACHED, GREETED = int(zmq.EVENT_CONNECTED), int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
OBSTACLES: dict[int, Obstacle] = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Obstacle.FOREIGN,
    zmq.EVENT_DISCONNECTED: Obstacle.FOREIGN,  # before any handshake: libzmq hangs up on what is not ZeroMQ
}

REFUSED_S = 2.0  # a connection that nobody takes ends after three seconds, one that is refused at once
LOOK_S = 0.3  # for an answer to a greeting; whoever waits for the connection waits for it, too
OUR_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03"  # ZMTP: the signature and the version; the peer then says its mechanism
GREETING_BYTES = 64
MECHANISM = slice(12, 32)


def next_event(monitor: zmq.Socket[bytes]) -> tuple[int, int] | None:
    """The next event and its value, or None where there is none."""
    if not has_arrived(monitor):
        return None
    event, value = struct.unpack("=HI", monitor.recv_multipart()[0][:6])
    return event, value


def obstacle_of(event: int, value: int, elapsed_s: float) -> Obstacle:
    """What an event says of an attempt that began that long ago and has failed."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and value == ZAP_REFUSED:
        return Obstacle.NOT_ADMITTED
    if event == zmq.EVENT_CLOSED:  # without a connection before
        return Obstacle.NOTHING_LISTENS if elapsed_s < REFUSED_S else Obstacle.UNREACHABLE
    return OBSTACLES.get(event, Obstacle.NO_HANDSHAKE)


def is_foreign(address: str) -> bool:
    """Whether what listens at a TCP address greets as ZeroMQ without CURVE. Of such a peer libzmq often sees only the end."""
    said = b""
    try:
        with socket.create_connection(host_and_port(address), LOOK_S) as connection:
            connection.sendall(OUR_GREETING)
            while len(said) < GREETING_BYTES and (part := connection.recv(GREETING_BYTES)):
                said += part
    except (OSError, ValueError):
        return False
    return len(said) >= GREETING_BYTES and said[MECHANISM].rstrip(b"\0") != b"CURVE"

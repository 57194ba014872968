"""The one place that makes, binds and connects sockets, and that sets their options.

Nothing listens without CURVE under our ZAP domain (TCP) or a directory that only its owner may enter (ipc). Every option
stands here once, with its reason. Sockets belong to the thread that uses them; this module starts none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket as socketlib
from urllib.parse import urlsplit

import zmq

from orbit_zmq.errors import AddressTaken, InvalidArgument, OrbitError
from orbit_zmq.security.keys import KeyPair
from orbit_zmq.wire.limits import FRAME_BYTES

ZAP_DOMAIN = b"orbit"
ZAP_ADDRESS = "inproc://zeromq.zap.01"  # fixed by ZeroMQ RFC 27
MAPPED_IPV4 = re.compile(r"\[::ffff:([0-9.]+)\]")  # how libzmq names an IPv4 address on a socket for both
OLDEST_LIBZMQ = (4, 3, 3)  # older ones can be brought down before the handshake (CVE-2020-15166)

COMMON: dict[int, int] = {
    zmq.LINGER: 0,  # closing never waits for a peer that is away
    zmq.MAXMSGSIZE: FRAME_BYTES,  # libzmq cuts a peer that sends a longer frame
    zmq.HEARTBEAT_IVL: 2_000,  # without it a dead line is noticed after 15 minutes
    zmq.HEARTBEAT_TIMEOUT: 10_000,  # 1 MiB passes within it down to 1.7 Mbit/s
    zmq.HEARTBEAT_TTL: 10_000,  # the same for the other side
    zmq.IPV6: 1,  # names that resolve to either
    zmq.SNDHWM: 1_000,  # messages; our own queues, bounded in bytes too, stand above it
    zmq.RCVHWM: 1_000,
}
ROUTER: dict[int, int] = {
    zmq.ROUTER_MANDATORY: 1,  # a peer that is gone or full is an error, not a silent drop
    zmq.HANDSHAKE_IVL: 3_000,  # a silent stranger holds a file descriptor no longer than this
    zmq.BACKLOG: 1_024,  # a thousand endpoints come back at once after a restart
}
DEALER: dict[int, int] = {
    zmq.IMMEDIATE: 1,  # nothing is queued for a broker that is not there
    zmq.RECONNECT_IVL: -1,  # one socket is one connection: libzmq's own reconnect loses what was in flight
    zmq.CONNECT_TIMEOUT: 3_000,
    zmq.HANDSHAKE_IVL: 3_000,
}
PUBLISHER: dict[int, int] = {
    zmq.SNDHWM: 256,  # messages to one subscriber; one that is slower loses some, and asks for them again
    zmq.MAXMSGSIZE: 1_024,  # of what subscribers send, a CURVE handshake (300 bytes) included; what is published has no limit
    zmq.XPUB_VERBOSER: 1,  # every subscription and its end is seen, so that they can be counted for each connection
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.BACKLOG: 1_024,
}
SUBSCRIBER: dict[int, int] = {
    zmq.RECONNECT_IVL: -1,  # as for requests: a new connection begins with a new look at what was missed
    zmq.CONNECT_TIMEOUT: 3_000,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.RCVHWM: 10_000,  # messages; a burst that fits needs no replay
}
MONITORED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
DONTWAIT = int(zmq.DONTWAIT)  # a plain integer: pyzmq's flags cost a microsecond each time
plain_send = zmq.backend.Socket.send  # what zmq.Socket's own adds is not for our kinds of sockets, and costs as much again


class Sockets:
    """The sockets of one party, in a context of their own. Not to be used after a fork."""

    def __init__(self) -> None:
        if zmq.zmq_version_info() < OLDEST_LIBZMQ:
            raise OrbitError(f"libzmq {zmq.zmq_version()} is too old", hint="Upgrade pyzmq.")
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_536)
        self._pid = os.getpid()
        self._made = 0
        self._locks: list[int] = []
        self._paths: list[str] = []  # where we listen, one for each lock

    def zap(self) -> zmq.Socket[bytes]:
        """The socket that libzmq asks about each handshake; has to exist before anything listens."""
        socket = self._make(zmq.ROUTER)
        socket.bind(ZAP_ADDRESS)
        return socket

    def router(self, *, ipc_path: str | None, tcp: str | None, keys: KeyPair | None) -> tuple[zmq.Socket[bytes], str | None]:
        """The broker's socket and the TCP address it got; ipc needs no keys, TCP does. AddressTaken when in use."""
        return self._listening(self._make(zmq.ROUTER, ROUTER), ipc_path, tcp, keys)

    def publisher(self, *, ipc_path: str | None, tcp: str | None, keys: KeyPair | None) -> tuple[zmq.Socket[bytes], str | None]:
        """The socket that the broker publishes events on, under the same conditions."""
        return self._listening(self._make(zmq.XPUB, PUBLISHER), ipc_path, tcp, keys)

    def _listening(
        self, socket: zmq.Socket[bytes], ipc_path: str | None, tcp: str | None, keys: KeyPair | None
    ) -> tuple[zmq.Socket[bytes], str | None]:
        socket.set(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        bound = None
        try:
            if ipc_path is not None:
                self._lock(ipc_path)
                _bind(socket, f"ipc://{ipc_path}")
            if tcp is not None:
                if keys is None:
                    raise InvalidArgument("listening on TCP needs a key pair")
                socket.curve_server = True
                socket.curve_secretkey = keys.secret.encode()
                socket.curve_publickey = keys.public.encode()
                _bind(socket, tcp)
                bound = MAPPED_IPV4.sub(r"\1", socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        except OrbitError:
            socket.close()
            raise
        return socket, bound

    def dealer(
        self, address: str, *, server_key: str | None, keys: KeyPair | None
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """A fresh connection under a fresh routing id, and the monitor that tells what becomes of it."""
        socket = self._make(zmq.DEALER, DEALER)
        socket.set(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(15))
        return self._connected(socket, address, server_key, keys)

    def subscriber(
        self, address: str, *, server_key: str | None, keys: KeyPair | None
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """A fresh connection to where events are published, and its monitor."""
        return self._connected(self._make(zmq.SUB, SUBSCRIBER), address, server_key, keys)

    def _connected(
        self, socket: zmq.Socket[bytes], address: str, server_key: str | None, keys: KeyPair | None
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        if urlsplit(address).scheme == "tcp":
            if server_key is None or keys is None:
                socket.close()
                raise InvalidArgument(f"connecting to {address} needs the broker's key and a key pair")
            socket.curve_serverkey = server_key.encode()
            socket.curve_publickey = keys.public.encode()
            socket.curve_secretkey = keys.secret.encode()
        monitor = self._monitor(socket)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            close_monitored(socket, monitor)
            raise InvalidArgument(f"{address!r} is not an address to connect to: {error.strerror}") from None
        return socket, monitor

    def close(self) -> None:
        """Close all sockets without waiting for anybody."""
        if os.getpid() == self._pid:
            self._context.destroy(linger=0)
            for path in self._paths:  # which libzmq leaves behind
                with contextlib.suppress(OSError):
                    os.unlink(path)
            self._paths.clear()
            while self._locks:
                os.close(self._locks.pop())

    def _lock(self, ipc_path: str) -> None:
        """libzmq takes an ipc path away from whoever listens there; this lock is what makes a place taken."""
        descriptor = os.open(f"{ipc_path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._locks.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AddressTaken(f"another process listens at ipc://{ipc_path}") from None
        self._paths.append(ipc_path)

    def _make(self, kind: int, options: dict[int, int] | None = None) -> zmq.Socket[bytes]:
        if os.getpid() != self._pid:
            raise OrbitError("the process has forked", hint="Make a new client in the child process.")
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in (COMMON | (options or {})).items():
            socket.set(option, value)
        return socket

    def _monitor(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """The receiving end is set up first and without a bound, for libzmq blocks when a monitor is not drained."""
        self._made += 1
        address = f"inproc://monitor-{id(self)}-{self._made}"
        monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        monitor.set(zmq.RCVHWM, 0)
        monitor.set(zmq.LINGER, 0)
        socket.monitor(address, MONITORED)
        monitor.connect(address)
        return monitor


def has_arrived(socket: zmq.Socket[bytes]) -> bool:
    """Whether there is a message. The descriptor tells of changes only, so this has to be asked."""
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)


def next_frames(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """The rest of a message whose first frame was received. A frame knows whether more follow; asking the socket is slower."""
    frames = [socket.recv(DONTWAIT, False)]
    while frames[-1].more:
        frames.append(socket.recv(DONTWAIT, False))
    return frames


def descriptor_of(socket: zmq.Socket[bytes]) -> int:
    """What becomes readable when something changes at the socket."""
    return int(socket.get(zmq.FD))


def cut_connection(descriptor: int, inode: int) -> bool:
    """End a peer's connection, which nothing in libzmq does. Descriptors are given out again, inodes of sockets are not."""
    try:
        with socketlib.socket(fileno=os.dup(descriptor)) as connection:
            if os.fstat(connection.fileno()).st_ino != inode:
                return False
            connection.shutdown(socketlib.SHUT_RDWR)
    except OSError:
        return False
    return True


def origin_of(frame: zmq.Frame) -> tuple[int, int] | None:
    """Descriptor and inode of the connection that a message came over, if it is still that connection."""
    try:
        descriptor = int(frame.get(zmq.SRCFD))
        with socketlib.socket(fileno=os.dup(descriptor)) as connection:
            inode = os.fstat(connection.fileno()).st_ino
            if connection.family in (socketlib.AF_INET, socketlib.AF_INET6):
                there, said = connection.getpeername()[0], frame.get("Peer-Address")
                if plain_host(there) != plain_host(str(said)):
                    return None
    except (zmq.ZMQError, OSError):
        return None
    return descriptor, inode


def plain_host(address: str) -> str:
    """An address of a peer as it is written in one way only: IPv4 where it is that, without the name of an interface."""
    return address.strip("[]").partition("%")[0].removeprefix("::ffff:")


def local_port(descriptor: int) -> int | None:
    """The TCP port at which a peer is connected to us; None for whatever else a descriptor is."""
    try:
        with socketlib.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family not in (socketlib.AF_INET, socketlib.AF_INET6):
                return None
            connection.getpeername()  # fails where the socket only listens
            return int(connection.getsockname()[1])
    except OSError:
        return None


def close_monitored(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
    """Close a connection and its monitor, in the one order that cannot block."""
    socket.disable_monitor()
    monitor.close(linger=0)
    socket.close(linger=0)


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise AddressTaken(f"another process listens at {address}") from None
        raise InvalidArgument(f"cannot listen at {address!r}: {error.strerror}") from None

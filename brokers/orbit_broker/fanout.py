"""The socket that events are published on, and what its subscribers send.

Publications go out to whoever has subscribed to their beginning; a subscriber that is slow loses some and finds out. A
subscription to a barrier is echoed at once, so that a subscriber knows that all it subscribed to before is in force. A
connection with too many subscriptions is cut.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

import zmq

from orbit_broker.counters import Counters
from orbit_zmq.log import get_logger
from orbit_zmq.transport.sockets import cut_connection, has_arrived
from orbit_zmq.wire.seal import BARRIER

log = get_logger("orbit_broker")

BUDGET = 256  # messages of subscribers looked at in one round of the loop
SUBSCRIPTIONS = 256  # of one connection
CONNECTIONS = 4_096  # remembered before it is looked which of them are gone
SUBSCRIBE: Final = 1
DONTWAIT = int(zmq.DONTWAIT)


class Fanout:
    """The XPUB of a broker."""

    def __init__(self, publisher: zmq.Socket[bytes], counters: Counters) -> None:
        self.socket = publisher
        self._counters = counters
        self._subscriptions: dict[int, list[int]] = {}  # inode of a connection -> [its descriptor, how many it has]

    def publish(self, publications: list[tuple[bytes, bytes, bytes]]) -> None:
        """Send what the rules have sealed. libzmq leaves out subscribers whose queues are full."""
        send = self.socket.send_multipart
        for frames in publications:
            try:
                send(frames, DONTWAIT)
            except zmq.Again:
                self._counters.drop("publication")
        publications.clear()

    def on_readable(self) -> None:
        """Look at what subscribers have sent, within the budget; the rest has its turn in the next round."""
        for _ in range(BUDGET):
            frame = self.socket.recv(DONTWAIT, copy=False)
            while frame.more:  # only one frame can be a subscription
                frame = self.socket.recv(DONTWAIT, copy=False)
            self._on_frame(frame)
            if not has_arrived(self.socket):
                return

    def _on_frame(self, frame: zmq.Frame) -> None:
        data = frame.bytes
        if len(data) == 0 or data[0] not in (0, SUBSCRIBE):
            self._counters.drop("not-a-subscription")
            return
        if self._is_too_many(frame, data[0] == SUBSCRIBE):
            return
        if data[0] == SUBSCRIBE and data.startswith(BARRIER, 1):
            with contextlib.suppress(zmq.Again):
                self.socket.send(data[1:], DONTWAIT)

    def _is_too_many(self, frame: zmq.Frame, is_new: bool) -> bool:
        """Count for the connection that a subscription came over; cut it when it has too many."""
        try:
            descriptor = int(frame.get(zmq.SRCFD))
            inode = os.fstat(descriptor).st_ino
        except (zmq.ZMQError, OSError):  # libzmq itself unsubscribes for a connection that is gone
            return False
        if inode not in self._subscriptions and len(self._subscriptions) >= CONNECTIONS:
            self._forget_closed()
        known = self._subscriptions.setdefault(inode, [descriptor, 0])
        known[1] += 1 if is_new else -1
        if known[1] <= SUBSCRIPTIONS:
            return False
        self._cut(descriptor, inode)
        return True

    def _cut(self, descriptor: int, inode: int) -> None:
        self._subscriptions.pop(inode, None)
        if cut_connection(descriptor, inode):
            self._counters.drop("too-many-subscriptions")
            log.warning("subscriber-cut", subscriptions=SUBSCRIPTIONS)

    def _forget_closed(self) -> None:
        for inode, (descriptor, _) in tuple(self._subscriptions.items()):
            try:
                is_open = os.fstat(descriptor).st_ino == inode
            except OSError:
                is_open = False
            if not is_open:
                del self._subscriptions[inode]

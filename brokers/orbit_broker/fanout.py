"""The socket that events are published on, and what its subscribers send.

Publications go out to whoever has subscribed to their beginning; a subscriber that is slow loses some and finds out. A
subscription to a barrier is echoed at once, so that a subscriber knows that all it subscribed to before is in force. A
connection with too many subscriptions is cut, and so are those of a key that is listed no more.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import zmq

from orbit_broker.counters import Counters
from orbit_zmq.log import get_logger
from orbit_zmq.transport.sockets import cut_connection, has_arrived, origin_of
from orbit_zmq.wire.seal import BARRIER

log = get_logger("orbit_broker")

BUDGET = 256  # messages of subscribers looked at in one round of the loop
SUBSCRIPTIONS = 256  # of one connection
CONNECTIONS = 16_384  # that have subscribed to something, in all
CONNECTIONS_OF_A_KEY = 4_096
SUBSCRIBE: Final = 1
DONTWAIT = int(zmq.DONTWAIT)


@dataclass(slots=True)
class Subscriber:
    """One connection. Its record stays until the connection is closed."""

    descriptor: int
    user_id: str
    subscriptions: int = 0


class Fanout:
    """The XPUB of a broker."""

    def __init__(self, publisher: zmq.Socket[bytes], counters: Counters, is_listed: Callable[[str], bool]) -> None:
        self.socket = publisher
        self._counters = counters
        self._is_listed = is_listed
        self._subscribers: dict[int, Subscriber] = {}  # by inode
        self._of_key: Counter[str] = Counter()

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

    def inodes(self) -> set[int]:
        """The connections that have subscribed to something."""
        return set(self._subscribers)

    def cut_unlisted(self) -> None:
        """End the connections of keys that are listed no more."""
        for inode, subscriber in tuple(self._subscribers.items()):
            if not self._is_listed(subscriber.user_id):
                self._cut(inode, "unlisted-subscriber")

    def forget_closed(self) -> None:
        """Nobody tells when a connection is closed."""
        for inode, subscriber in tuple(self._subscribers.items()):
            try:
                is_open = os.fstat(subscriber.descriptor).st_ino == inode
            except OSError:
                is_open = False
            if not is_open:
                self._forget(inode)

    def _on_frame(self, frame: zmq.Frame) -> None:
        data = frame.bytes
        if len(data) == 0 or data[0] not in (0, SUBSCRIBE):
            self._counters.drop("not-a-subscription")
            return
        if self._is_too_much(frame, data[0] == SUBSCRIBE):
            return
        if data[0] == SUBSCRIBE and data.startswith(BARRIER, 1):
            with contextlib.suppress(zmq.Again):
                self.socket.send(data[1:], DONTWAIT)

    def _is_too_much(self, frame: zmq.Frame, is_new: bool) -> bool:
        """Count for the connection that a subscription came over; cut it when it has too many."""
        try:
            descriptor = int(frame.get(zmq.SRCFD))
            inode = os.fstat(descriptor).st_ino
        except (zmq.ZMQError, OSError):  # libzmq itself unsubscribes for a connection that is gone
            return False
        subscriber = self._subscribers.get(inode)
        if subscriber is None:
            if origin_of(frame) != (descriptor, inode):
                return False  # it is another connection by now
            subscriber = self._subscribers[inode] = Subscriber(descriptor, user_id_of(frame))
            self._of_key[subscriber.user_id] += 1
            if not self._is_listed(subscriber.user_id):
                return self._cut(inode, "unlisted-subscriber")
            if len(self._subscribers) > CONNECTIONS or self._of_key[subscriber.user_id] > CONNECTIONS_OF_A_KEY:
                return self._cut(inode, "too-many-subscribers")
        subscriber.subscriptions += 1 if is_new else -1
        return subscriber.subscriptions > SUBSCRIPTIONS and self._cut(inode, "too-many-subscriptions")

    def _cut(self, inode: int, cause: str) -> bool:
        if cut_connection(self._subscribers[inode].descriptor, inode):
            self._counters.drop(cause)
            log.warning("subscriber-cut", cause=cause)
        self._forget(inode)
        return True

    def _forget(self, inode: int) -> None:
        subscriber = self._subscribers.pop(inode)
        self._of_key[subscriber.user_id] -= 1
        if not self._of_key[subscriber.user_id]:
            del self._of_key[subscriber.user_id]


def user_id_of(frame: zmq.Frame) -> str:
    """Who ZAP said this is."""
    try:
        user_id: Any = frame.get("User-Id")
    except zmq.ZMQError:
        return ""
    return user_id if isinstance(user_id, str) else ""

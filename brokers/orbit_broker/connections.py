"""The broker's TCP connections: which belong to participants, and how one is ended.

Nothing in libzmq cuts a connection; `shutdown` on its descriptor does. Messages tell their descriptor, connections that never
say anything do not, so all descriptors of this process are looked through from time to time. What has connected to one of
our ports and is nobody's some seconds later goes: it never shook hands, never said hello, or was refused. It holds a
descriptor that others may need.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterable

import zmq

from orbit_zmq.transport.sockets import cut_connection, local_port, origin_of

SILENT_S = 3.2  # libzmq ends handshakes after 3 s; with twice LOOK_S all are gone within 5 s
LOOK_S = 0.5
DESCRIPTORS = 256  # looked at in one round of the loop, some microseconds each
GOODBYE_S = 0.1  # for the last word to leave before the connection is cut


class Connections:
    """Connections by routing id, and those that are to be cut."""

    def __init__(self, ports: Iterable[int]) -> None:
        self.reaped = 0
        self.due_at = 0.0  # when `tick` has something to do
        self._ports = frozenset(ports)
        self._known: dict[bytes, tuple[int, int]] = {}  # routing id -> (descriptor, inode)
        self._doomed: list[tuple[float, int, int]] = []  # (when, descriptor, inode)
        self._nobodys: dict[int, float] = {}  # inode -> since when
        self._round: list[int] = []  # descriptors still to be looked at
        self._seen: set[int] = set()  # inodes of this look
        self._look_at = 0.0

    def note(self, routing_id: bytes, frame: zmq.Frame) -> None:
        """Somebody without a record has said something; this is where from."""
        origin = origin_of(frame)
        if origin is not None:
            self._known[routing_id] = origin

    def cut(self, routing_id: bytes, now: float) -> None:
        """End a connection as soon as its last word is out."""
        origin = self._known.pop(routing_id, None)
        if origin is not None:
            self._doomed.append((now + GOODBYE_S, *origin))
            self.due_at = min(self.due_at, now + GOODBYE_S)

    def tick(self, present: Iterable[bytes], others: set[int], now: float) -> None:
        """Cut what is due, and look on. `present` are routing ids that belong to somebody, `others` such inodes."""
        while self._doomed and self._doomed[0][0] <= now:
            _, descriptor, inode = self._doomed.pop(0)
            cut_connection(descriptor, inode)
        if not self._round and now >= self._look_at:
            self._look_at = now + LOOK_S
            self._begin(present)
        if self._round:
            batch, self._round = self._round[:DESCRIPTORS], self._round[DESCRIPTORS:]
            owned = {inode for _, inode in self._known.values()} | others
            for descriptor in batch:
                self._look(descriptor, owned, now)
            if not self._round:
                self._nobodys = {inode: since for inode, since in self._nobodys.items() if inode in self._seen}
        self.due_at = min(self._look_at if not self._round else now, *(doomed[0] for doomed in self._doomed[:1]), math.inf)

    def _begin(self, present: Iterable[bytes]) -> None:
        here = set(present)
        self._known = {routing_id: origin for routing_id, origin in self._known.items() if routing_id in here}
        self._seen = set()
        with contextlib.suppress(OSError):
            self._round = [int(name) for name in os.listdir("/proc/self/fd")]

    def _look(self, descriptor: int, owned: set[int], now: float) -> None:
        try:
            found = os.fstat(descriptor)
        except OSError:
            return
        inode = found.st_ino
        if not stat.S_ISSOCK(found.st_mode) or inode in owned or local_port(descriptor) not in self._ports:
            return
        self._seen.add(inode)
        if now - self._nobodys.setdefault(inode, now) >= SILENT_S and cut_connection(descriptor, inode):
            self.reaped += 1

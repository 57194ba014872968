"""Publishing: from plugins in any thread to the publisher's rules, and from there to the broker.

Whoever tells an event numbers and keeps it, under a lock of its own that is held for microseconds; the link sends what may
leave, so that telling costs the line nothing but that. A thread that is far ahead of the line waits. A loop must not be made
to wait: it rests for a moment between two turns, so that it does not keep a processor from others, what it tells too fast
overruns what is kept, and subscribers are told how much they missed.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from orbit_zmq.rules.outbox import CONTROL
from orbit_zmq.rules.publisher import EVENTS_PER_S, Publisher, Wanted
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import Header, Kind, decode_header

if TYPE_CHECKING:
    from orbit_zmq.transport.link import Link

AHEAD = 1_000  # events that may wait to leave before a thread that tells more has to wait, too: a tenth of a second
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.001, 0.1
REST_AFTER = 10  # events that a loop tells too fast: whoever waits for its processor gets it then, not at the next tick
REST_S = 0.0001
GRACE_S = 0.01  # for who floods to send by itself, before the link's thread does and takes the turn of calls


class Publishing:
    """The events of one endpoint, on their way out."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._publisher = Publisher()
        self._lock = threading.Lock()
        self._since_rest = 0  # events that a loop has told too fast since it rested
        self._is_told_more = False  # since events left last
        self._send_at = math.inf  # whoever tells an event then sends those that wait

    def publish(self, header: Header, body: bytes) -> None:
        """Send an event to whoever hears its audience; its header lacks nothing but the number. From any thread."""
        now = time.monotonic()
        with self._lock:
            is_due = not self._publisher.waiting or now >= self._send_at
            if is_due:
                self._send_at = math.inf
            self._is_told_more = True
            self._publisher.add(header, body, now)
            ahead = self._publisher.waiting - AHEAD
        if is_due:
            self._link.post(self._send)
        elif ahead > 0 and self._link.is_up:
            self._hold_back(ahead)

    def _hold_back(self, ahead: int) -> None:
        """Let others have the processor, and the interpreter: a thread until the line has caught up, a loop for a moment
        between two of its turns."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            time.sleep(min(max(ahead / EVENTS_PER_S, SHORTEST_WAIT_S), LONGEST_WAIT_S))
            return
        self._since_rest += 1
        if self._since_rest == REST_AFTER:  # one rest at a time, so that a burst within one turn is followed by one
            loop.call_soon(self._rest)

    def _rest(self) -> None:
        self._since_rest = 0
        time.sleep(REST_S)

    def replay(self, audience: str, wanted: Wanted) -> dict[str, Any]:
        """What a subscriber has not heard; the shape is that of the rules. From any thread."""
        with self._lock:
            return self._publisher.replay(audience, wanted, decode_header)

    # In the link's thread

    def on_hello(self) -> dict[str, int]:
        """The tips that hello says."""
        with self._lock:
            return self._publisher.on_hello()

    def forget(self, now: float) -> None:
        """Forget what is too old to be replayed."""
        with self._lock:
            self._publisher.tick(now)

    def tick(self, now: float) -> float:
        """Send what may leave now, and the tips that are due; when there will be more."""
        with self._lock:
            self._publisher.flush(self._link.send_event, now)
            tips = self._publisher.due_tips(now)
            due_at = self._publisher.next_due(now)
            self._send_at = math.inf
            if self._publisher.waiting and self._is_told_more:
                self._send_at, due_at = due_at, due_at + GRACE_S
            self._is_told_more = False
        if tips:
            body, flags = pack_body(tips)
            self._link.send(CONTROL, Header(Kind.TIP, flags=flags), body)
        return due_at

    def _send(self) -> None:
        if self._link.is_up:
            self._link.hurry(self.tick(time.monotonic()))

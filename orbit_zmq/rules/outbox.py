"""The queue of one link: what waits to be sent, in the order of its importance, bounded in messages and in bytes.

Control goes before calls, calls before events, events before bulk. Each of the four has a bound of its own, so that bulk
never makes a heartbeat or a call wait for room. What "full" means to the sender is the caller's matter: `push` says no,
and nothing is ever thrown out to make room. No sockets and no clock here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

CONTROL: Final = 0  # hello, welcome, heartbeats, bye, resend
CALLS: Final = 1  # requests, replies, errors, and what must not overtake them: credits and cancels
EVENTS: Final = 2
BULK: Final = 3  # chunks

QUEUE_MESSAGES = 1000  # as many again as libzmq holds by SNDHWM
QUEUE_BYTES = 8 << 20  # eight streams with their whole initial credit

T = TypeVar("T")


class Budget:
    """The bytes that several queues hold together, and how many these may be."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class Outbox(Generic[T]):
    """Four queues, one for each priority, each of at most `max_messages` and `max_bytes`.

    Outboxes that share a budget hold no more than that in all; control is counted, and never refused for it.
    """

    __slots__ = ("_budget", "_bytes", "_count", "_max_bytes", "_max_messages", "_queues")

    def __init__(self, max_messages: int = QUEUE_MESSAGES, max_bytes: int = QUEUE_BYTES, budget: Budget | None = None) -> None:
        self._budget = Budget(max_bytes * 4) if budget is None else budget
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queues: tuple[deque[tuple[int, T]], ...] = (deque(), deque(), deque(), deque())
        self._bytes = [0, 0, 0, 0]
        self._count = 0

    def push(self, priority: int, size: int, item: T) -> bool:
        """Add an item of that many bytes; False, and nothing changed, when there is no room for it."""
        queue = self._queues[priority]
        queued = self._bytes[priority]
        if len(queue) >= self._max_messages or queued + size > self._max_bytes:
            return False
        budget = self._budget
        if priority and budget.used_bytes + size > budget.limit_bytes:
            return False
        budget.used_bytes += size
        queue.append((size, item))
        self._bytes[priority] = queued + size
        self._count += 1
        return True

    def peek(self, lowest: int = BULK) -> T | None:
        """The first item of the highest priority; priorities below `lowest` are left alone."""
        if self._count:
            for queue in self._queues[: lowest + 1]:
                if queue:
                    return queue[0][1]
        return None

    def pop(self) -> T | None:
        """Take the first item of the highest priority: what `peek` gave, if it gave any."""
        for priority, queue in enumerate(self._queues):
            if queue:
                size, item = queue.popleft()
                self._bytes[priority] -= size
                self._budget.used_bytes -= size
                self._count -= 1
                return item
        return None

    def keep(self, is_wanted: Callable[[T], bool]) -> int:
        """Throw out everything else; the number of items thrown out."""
        before, bytes_before = self._count, self.bytes
        for priority, queue in enumerate(self._queues):
            kept = [entry for entry in queue if is_wanted(entry[1])]
            queue.clear()
            queue.extend(kept)
            self._bytes[priority] = sum(size for size, _ in kept)
        self._count = sum(map(len, self._queues))
        self._budget.used_bytes -= bytes_before - self.bytes
        return before - self._count

    def clear(self) -> int:
        """Throw out everything; the number of items thrown out."""
        return self.keep(lambda item: False)

    def __len__(self) -> int:
        return self._count

    @property
    def bytes(self) -> int:
        return sum(self._bytes)

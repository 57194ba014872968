"""Mailboxes: from the link's thread to whoever takes events, bounded, so that one who is slow delays nobody.

`Mailbox` blocks a thread, `AsyncMailbox` suspends a coroutine. What does not fit is counted for each endpoint and told as one
`Missed` in its place. Nothing in here knows what an event says.
"""

from __future__ import annotations

import asyncio
import queue
import threading

from orbit_zmq.rules.heard import Heard, Missed
from orbit_zmq.rules.topology import View
from orbit_zmq.transport.handover import Handover

ITEMS = 65_536
BYTES = 64 << 20


Item = Heard | Missed | View | None  # None: nothing follows


class _Bounds:
    """How much is in a mailbox. What is put is counted in the link's thread, what is taken in the taker's."""

    def __init__(self) -> None:
        self._put = [0, 0]
        self._taken = [0, 0]
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()  # for `_lost` alone
        self.is_closed = False

    def put(self, item: Item) -> bool:
        """In the link's thread: put an item in, or count it as lost (False)."""
        size = len(item.body) if isinstance(item, Heard) else 0
        if isinstance(item, Heard) and (self._put[0] - self._taken[0] >= ITEMS or self._put[1] - self._taken[1] + size > BYTES):
            with self._lock:
                self._lost[item.endpoint] = self._lost.get(item.endpoint, 0) + 1
            return False
        if self._lost:
            for missed in self._take_lost():
                self._put_in(missed, 0)
        self._put_in(item, size)
        return True

    def _put_in(self, item: Item, size: int) -> None:
        self._put[0] += 1
        self._put[1] += size
        self._hand_over(item)

    def _hand_over(self, item: Item) -> None:
        raise NotImplementedError

    def _took(self, item: Item) -> None:
        """In the taker's thread."""
        self._taken[0] += 1
        self._taken[1] += len(item.body) if isinstance(item, Heard) else 0

    def _overdue(self) -> list[Missed]:
        """In the taker's thread: what was lost at the end of a burst, once everything before it has been taken."""
        return self._take_lost() if self._lost and self._put[0] <= self._taken[0] else []

    def _take_lost(self) -> list[Missed]:
        with self._lock:
            lost, self._lost = self._lost, {}
        return [Missed(endpoint, count) for endpoint, count in lost.items()]


class Mailbox(_Bounds):
    """For a thread."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def take(self) -> list[Item]:
        """Wait for items; all that are there."""
        items = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        for item in items:
            self._took(item)
        return [*items, *self._overdue()]

    def close(self) -> None:
        """Nothing follows. From any thread."""
        self.is_closed = True
        self._put[0] += 1
        self._queue.put(None)

    def _hand_over(self, item: Item) -> None:
        self._queue.put(item)


class AsyncMailbox(_Bounds):
    """For a coroutine; to be made in its loop."""

    def __init__(self, handover: Handover) -> None:
        super().__init__()
        self._handover = handover
        self._queue: asyncio.Queue[Item] = asyncio.Queue()

    async def take(self) -> list[Item]:
        """Wait for items; all that are there."""
        items = [await self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get_nowait())
        for item in items:
            self._took(item)
        return [*items, *self._overdue()]

    def close(self) -> None:
        """Nothing follows. In the loop."""
        self.is_closed = True
        self._put[0] += 1
        self._queue.put_nowait(None)

    def _hand_over(self, item: Item) -> None:
        self._handover.put(self._queue.put_nowait, item)

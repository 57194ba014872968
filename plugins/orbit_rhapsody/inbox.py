"""Results on their way to those who wait for them: rules of one client object, used from any thread.

A task is open from its submission until its record arrives; a record for which nobody waits yet is kept until somebody
asks for it; a record of a task that was not submitted here is dropped. So what is held is what is open or was never asked
for. This module must not fetch, decode values, or wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


class Waiter:
    """One caller's wish: the uids that are still missing, and the records that came."""

    def __init__(self, uids: Iterable[str]) -> None:
        self.missing = set(uids)
        self.records: dict[str, Record] = {}


class Inbox:
    """Open tasks, records that nobody has asked for yet, and those who wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._ready: dict[str, Record] = {}
        self._waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._open) + len(self._ready)

    @property
    def open_uids(self) -> list[str]:
        with self._lock:
            return list(self._open)

    def expect(self, uids: Iterable[str]) -> list[bool]:
        """Open tasks before they are sent; False for a uid that is open or has a record already."""
        fresh = []
        with self._lock:
            for uid in uids:
                fresh.append(uid not in self._open and uid not in self._ready)
                if fresh[-1]:
                    self._open.add(uid)
        return fresh

    def withdraw(self, uids: Iterable[str]) -> None:
        """These will not come after all."""
        with self._lock:
            self._open.difference_update(uids)

    def unknown(self, uids: Iterable[str]) -> list[str]:
        with self._lock:
            return [uid for uid in dict.fromkeys(uids) if uid not in self._open and uid not in self._ready]

    def deliver(self, records: Iterable[Record]) -> None:
        """Hand records to those who wait for them, and keep those of open tasks that nobody waits for."""
        with self._lock:
            for record in records:
                uid = record["uid"]
                if uid in self._open:
                    self._open.remove(uid)
                    if not self._hand_over(uid, record):
                        self._ready[uid] = record

    def _hand_over(self, uid: str, record: Record) -> bool:
        handed = False
        for waiter in self._waiters:
            if uid in waiter.missing:
                waiter.missing.remove(uid)
                waiter.records[uid] = dict(record) if handed else record
                handed = True
        return handed

    def join(self, uids: Iterable[str]) -> Waiter:
        """Wait for these tasks; what is there already is handed over at once."""
        waiter = Waiter(uids)
        with self._lock:
            for uid in waiter.missing & self._ready.keys():
                waiter.missing.remove(uid)
                waiter.records[uid] = self._ready.pop(uid)
            self._waiters.append(waiter)
        return waiter

    def take(self, waiter: Waiter) -> list[Record]:
        """The records that have come for this waiter since it took the last ones."""
        with self._lock:
            records, waiter.records = waiter.records, {}
        return list(records.values())

    def leave(self, waiter: Waiter) -> None:
        """Stop waiting; what came and was not taken is there for the next who asks."""
        with self._lock:
            self._waiters.remove(waiter)
            self._ready.update(waiter.records)

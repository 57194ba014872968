"""Results on their way to those who wait for them: rules of one client object, used from any thread.

A task is open from its submission until its record arrives; a record for which nobody waits yet is kept until somebody
asks for it; a record of a task that was neither submitted nor asked for here is dropped. What a wait has shown at its timeout
is kept for the next wait for the same tasks, as far as SHOWN_BYTES reach. So what is held is what is open, was never asked
for, or was shown lately. This module must not fetch, decode values, or wait.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]

SHOWN_BYTES = 256 << 20  # about; of records that were shown at a timeout, so that asking again and again for all works
RECORD_BYTES = 1 << 10  # of one without its output and its value


class Waiter:
    """One caller's wish: the uids that are still missing, and the records that came."""

    def __init__(self, uids: Iterable[str]) -> None:
        self.missing = set(uids)
        self.total = len(self.missing)
        self.only = next(iter(self.missing)) if self.total == 1 else ""
        self.records: dict[str, Record] = {}
        self.sought: list[str] = []  # those that nobody has submitted here, while it is asked whether they exist


class Inbox:
    """Open tasks, records that nobody has asked for yet, and those who wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._sought: Counter[str] = Counter()  # open because somebody who waits asks about them; by how many
        self._ready: dict[str, Record] = {}
        self._shown: dict[str, Record] = {}
        self._shown_bytes = 0
        self._waiters: list[Waiter] = []
        self._single: dict[str, list[Waiter]] = {}  # those who wait for one task, by its uid: they may be many

    def __len__(self) -> int:
        return len(self._open) + len(self._ready)

    @property
    def open_uids(self) -> list[str]:
        with self._lock:
            return list(self._open)

    @property
    def uids_to_come(self) -> list[str]:
        """Those of open tasks, and of records that nobody has asked for yet."""
        with self._lock:
            return [*self._ready, *(self._open - self._ready.keys())]

    def state_of(self, uid: str) -> str:
        """`open`, `here` once its record has come and while it is kept, else nothing."""
        with self._lock:
            return "here" if uid in self._ready or uid in self._shown else "open" if uid in self._open else ""

    def expect(self, uids: Iterable[str], fresh: list[bool] | None = None) -> list[bool]:
        """Open tasks before they are sent; False for a uid that is open or has a record already.

        They are opened at once, after all is in `fresh`: who is interrupted knows by that list what may be open.
        """
        fresh = [] if fresh is None else fresh
        opened: dict[str, None] = {}
        with self._lock:
            is_open, ready, shown = self._open, self._ready, self._shown
            for uid in uids:
                is_fresh = uid not in is_open and uid not in ready and uid not in shown and uid not in opened
                fresh.append(is_fresh)
                if is_fresh:
                    opened[uid] = None
            is_open.update(opened)
        return fresh

    def withdraw(self, uids: Iterable[str]) -> None:
        """These will not come after all."""
        with self._lock:
            self._open.difference_update(uids)

    def drop(self, uid: str, error: object) -> None:
        """The record that says so of a task need not be kept any more: whoever submitted it has been told."""
        with self._lock:
            record = self._ready.get(uid)
            if record is not None and record.get("exception") is error:
                del self._ready[uid]

    def deliver(self, records: Iterable[Record]) -> None:
        """Hand records to those who wait for them, and keep those of open tasks that nobody waits for."""
        with self._lock:
            for record in records:
                uid = record["uid"]
                if uid in self._open:
                    if not self._hand_over(uid, record):
                        self._ready[uid] = record
                    self._open.discard(uid)  # last: an interrupt before it leaves the task open, and its record comes again

    def _hand_over(self, uid: str, record: Record) -> bool:
        handed = False
        for waiter in (*self._waiters, *self._single.get(uid, ())) if self._single else self._waiters:
            if uid in waiter.missing:
                waiter.missing.remove(uid)
                waiter.records[uid] = dict(record) if handed else record
                handed = True
        return handed

    def join(self, uids: Iterable[str]) -> Waiter:
        """Wait for these tasks; what is there already is handed over at once.

        Those that nobody has heard of here are `sought`: open until they are found, or until this waiter leaves.
        """
        waiter = Waiter(wanted := dict.fromkeys(uids))
        with self._lock:
            for uid in waiter.missing & self._ready.keys():
                waiter.missing.remove(uid)
                waiter.records[uid] = self._ready.pop(uid)
            for uid in waiter.missing & self._shown.keys():
                waiter.missing.remove(uid)
                waiter.records[uid] = self._hide(uid)
            unknown = waiter.missing - self._open
            if self._sought:
                unknown |= waiter.missing & self._sought.keys()
            if unknown:
                waiter.sought = [uid for uid in wanted if uid in unknown]
                self._sought.update(waiter.sought)
                self._open |= unknown
            if waiter.total == 1:
                self._single.setdefault(waiter.only, []).append(waiter)
            else:
                self._waiters.append(waiter)
        return waiter

    def note_found(self, waiter: Waiter) -> None:
        """What this waiter sought exists, and will come if it has not."""
        with self._lock:
            self._end_search(waiter)

    def _end_search(self, waiter: Waiter) -> None:
        self._sought.subtract(waiter.sought)
        for uid in waiter.sought:
            if not self._sought[uid]:
                del self._sought[uid]
        waiter.sought = []

    def take(self, waiter: Waiter) -> list[Record]:
        """The records that have come for this waiter since it took the last ones."""
        with self._lock:
            records, waiter.records = waiter.records, {}
        return list(records.values())

    def take_ready(self) -> list[Record]:
        """The records that nobody has asked for yet."""
        with self._lock:
            records, self._ready = self._ready, {}
        return list(records.values())

    def put_back(self, records: Iterable[Record]) -> None:
        """These were taken, and are there for the next who asks."""
        with self._lock:
            self._ready.update((record["uid"], record) for record in records)

    def leave(self, waiter: Waiter, returned: Iterable[Record] = ()) -> None:
        """Stop waiting; what came and was not taken, or is returned here, is there for the next who asks."""
        with self._lock:
            self._forget(waiter)
            self._ready.update(waiter.records)
            self._ready.update((record["uid"], record) for record in returned)
            in_vain = [uid for uid in waiter.sought if uid in waiter.missing]
            self._end_search(waiter)
            self._open.difference_update(uid for uid in in_vain if not self._is_wanted(uid))

    def _is_wanted(self, uid: str) -> bool:
        return uid in self._single or any(uid in waiter.missing for waiter in self._waiters)

    def _forget(self, waiter: Waiter) -> None:
        if waiter.total != 1:
            self._waiters.remove(waiter)
            return
        waiting = self._single[waiter.only]
        waiting.remove(waiter)
        if not waiting:
            del self._single[waiter.only]

    def keep_shown(self, records: Iterable[Record]) -> None:
        """These were shown by a wait that has timed out, and will be asked for again with the others."""
        with self._lock:
            for record in records:
                if record["uid"] in self._shown:
                    self._hide(record["uid"])
                self._shown[record["uid"]] = dict(record)  # the caller has the other one
                self._shown_bytes += _size_of(record)
            while self._shown_bytes > SHOWN_BYTES:
                self._hide(next(iter(self._shown)))

    def _hide(self, uid: str) -> Record:
        record = self._shown.pop(uid)
        self._shown_bytes -= _size_of(record)
        return record


def _size_of(record: Record) -> int:
    large = (record.get(name) for name in ("stdout", "stderr", "return_value", "return_pickle"))
    return RECORD_BYTES + sum(len(value) for value in large if isinstance(value, (str, bytes)))

"""The journal: what a lasting session keeps of its tasks and results, and finds again after the endpoint was started anew.

A batch is kept as it came, before its tasks may run; that a task starts is kept before it does; a result is kept before anybody
can fetch it. So what was answered is there again, and a task whose start is known and whose end is not is one of unknown fate.
This module must not run tasks or read their contents.

Keys: `b/<batch>` facts of a batch and `c/<batch>` its body, `f/<batch>/<uid>` a task that is over and forgotten, `t/<uid>` how
often a task was started, `r/<number>` facts of a result and `v/<number>` its record, `w/<uid>` of how many pieces a large value
is made and `l/<uid>/<piece>` these, `k/<consumer>` a cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orbit_zmq.plugin.store import SessionStore

Record = tuple[str, str, bytes]  # uid, final state, packed record


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """One call of `submit`. `number` is its place, `at` when it came."""

    number: int
    at: float
    on_unknown: str


@dataclass(frozen=True, slots=True)
class KeptResult:
    """Everything but the record."""

    number: int
    uid: str
    state: str
    at: float
    size_bytes: int


@dataclass(slots=True)
class Kept:
    """What a session finds again."""

    batches: list[KeptBatch] = field(default_factory=list)
    results: list[KeptResult] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)  # of tasks without a result
    forgotten: set[tuple[int, str]] = field(default_factory=set)  # batch and uid
    is_complete: bool = True  # else tasks may have been started of which nothing is said here


class Journal:
    """One session's. All but `read`, `body`, `record` and `piece` return at once; callers serialize what they write."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._next_batch = 1
        self._last_result = 0
        self._batch_of: dict[str, int] = {}
        self._tasks: dict[int, list[str]] = {}  # of a batch
        self._left: dict[int, int] = {}  # how many of them are not forgotten
        self._starts: dict[str, int] = {}
        self._pieces: dict[str, int] = {}  # of large values
        self.when_kept: Callable[[Callable[[], None]], None] = store.when_kept
        self.flush = store.flush
        self.set_complete = store.set_complete

    @property
    def fault(self) -> str:
        """Why nothing is kept at present, or nothing."""
        return self._store.fault

    @property
    def is_over_limit(self) -> bool:
        return self._store.is_over_limit

    def batch(self, body: bytes, at: float, on_unknown: str, uids: Iterable[str]) -> None:
        """A batch has been taken in; `uids` are its new tasks."""
        number, self._next_batch = self._next_batch, self._next_batch + 1
        self._store.keep_all({f"b/{number:012d}": [at, on_unknown], f"c/{number:012d}": body})
        self.assign(number, uids, ())

    def assign(self, number: int, uids: Iterable[str], forgotten: Iterable[str]) -> None:
        """These tasks belong to that batch, which is kept as long as one of them is remembered."""
        mine = list(uids)
        self._left[number] = len(mine)
        self._batch_of.update(dict.fromkeys(mine, number))
        self._tasks[number] = [*mine, *forgotten]
        if not mine:
            self._drop_batch(number)

    async def starting(self, uids: Sequence[str]) -> bool:
        """These are about to start; answers when that is on disk. False: nothing is kept any more, so they must not start."""
        for uid in uids:
            self._starts[uid] = self._starts.get(uid, 0) + 1
        self._store.keep_all({f"t/{uid}": self._starts[uid] for uid in uids})
        await self._store.flush()
        return self._store.is_kept

    def results(self, records: Sequence[Record]) -> None:
        """Results, in the order of their numbers."""
        values: dict[str, Any] = {}
        for uid, state, record in records:
            self._last_result += 1
            values[f"v/{self._last_result:012d}"] = record
            values[f"r/{self._last_result:012d}"] = [uid, state, time.time(), len(record)]
        self._store.keep_all(values)
        self._store.drop(*[f"t/{uid}" for uid, _, _ in records if self._starts.pop(uid, 0)])

    def value(self, uid: str, pieces: Iterable[bytes]) -> None:
        """The return value of a task, which is too large for its record."""
        self.drop_values((uid,))
        total = 0
        for total, piece in enumerate(pieces, 1):
            self._store.keep(f"l/{uid}/{total - 1:06d}", piece)
        self._pieces[uid] = total
        self._store.keep(f"w/{uid}", total)

    def drop_values(self, uids: Iterable[str]) -> None:
        """These values are not wanted any more."""
        for uid in uids:
            pieces = self._pieces.pop(uid, None)
            if pieces is not None:
                self._store.drop(f"w/{uid}", *[f"l/{uid}/{number:06d}" for number in range(pieces)])

    def cursor(self, consumer: str, after: int) -> None:
        """A consumer has got that far."""
        self._store.keep(f"k/{consumer}", after)

    def drop_cursor(self, consumer: str) -> None:
        """A consumer reads no more."""
        self._store.drop(f"k/{consumer}")

    def forget(self, numbers: range, uids: Iterable[str]) -> None:
        """The results of these numbers, and their tasks, are not remembered any more."""
        over = [uid for uid in uids if uid in self._batch_of]
        self._store.keep_all({f"f/{self._batch_of[uid]:012d}/{uid}": True for uid in over})
        self._store.drop(*[f"{kind}/{number:012d}" for number in numbers for kind in "rv"])
        for uid in over:
            number = self._batch_of[uid]
            self._left[number] -= 1
            if not self._left[number]:
                self._drop_batch(number)

    def _drop_batch(self, number: int) -> None:
        del self._left[number]
        uids = self._tasks.pop(number)
        keys = [f"b/{number:012d}", f"c/{number:012d}", *[f"f/{number:012d}/{uid}" for uid in uids]]
        for uid in uids:
            if self._batch_of.get(uid) == number:
                del self._batch_of[uid]
                keys.append(f"t/{uid}")
        self._store.drop(*keys)

    # From the disk

    def read(self) -> Kept:
        """What there is of the session's earlier life."""
        kept = Kept()
        for key, (at, on_unknown) in self._rows("b/"):
            kept.batches.append(KeptBatch(int(key), at, on_unknown))
        for key, (uid, state, at, size_bytes) in self._rows("r/"):
            kept.results.append(KeptResult(int(key), uid, state, at, size_bytes))
        for key, _ in self._rows("f/"):
            batch, _, uid = key.partition("/")
            kept.forgotten.add((int(batch), uid))
        kept.starts = dict(self._rows("t/"))
        kept.cursors = dict(self._rows("k/"))
        kept.is_complete = not self._store.may_lack_something()
        self._starts = dict(kept.starts)
        self._pieces = dict(self._rows("w/"))
        self._next_batch = kept.batches[-1].number + 1 if kept.batches else 1
        self._last_result = max([*kept.cursors.values(), kept.results[-1].number if kept.results else 0], default=0)
        return kept

    def body(self, batch: int) -> bytes:
        """The body of a batch."""
        return bytes(self._store.get(f"c/{batch:012d}") or b"")

    def record(self, number: int) -> bytes | None:
        """The record of a result."""
        found: bytes | None = self._store.get(f"v/{number:012d}")
        return found

    def pieces(self, uid: str) -> int:
        """Of how many pieces a large value is made; 0 where there is none."""
        return self._pieces.get(uid, 0)

    def piece(self, uid: str, number: int) -> bytes | None:
        """One piece of a large value."""
        found: bytes | None = self._store.get(f"l/{uid}/{number:06d}")
        return found

    def _rows(self, prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in self._store.items(prefix).items():
            yield key.removeprefix(prefix), value

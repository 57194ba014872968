"""What a session remembers: the table of its tasks and the log of their results. Rules only.

The log numbers results 1, 2, 3, ... and remembers for each consumer how far it has come; what all consumers are past is
kept for a while, for those who ask again, and then forgotten together with the task. Time is passed in as `now`; this
module must not know threads, loops or sockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from orbit_rhapsody.codec import FINAL_STATES, STATES, SUBMITTED, Portion
from orbit_zmq.errors import Busy, InvalidArgument

RETENTION_S = 600.0  # results that everybody has: long enough to ask again after a crash of the asking program
RETAINED_BYTES = 64 << 20  # of results that everybody has; beyond it the oldest go before their time
RETAINED_RESULTS = 65_536  # likewise, for small results too take memory, and so do their tasks
CONSUMER_AWAY_S = 3_600.0  # a consumer that is silent for longer holds nothing back any more
MAX_CONSUMERS = 1_024
AGE_STEP_S = 60.0  # fine enough for days
KEPT_S = 7 * 86_400.0  # results of lasting sessions that nobody has acknowledged
DEFAULT_RETENTION_S = 86_400.0  # of those that everybody has in a session `default`: shells come back to it the next day


class Spilled(NamedTuple):
    """In place of a record that is on disk alone."""

    number: int
    uid: str
    size_bytes: int


@dataclass(slots=True)
class _Consumer:
    after: int
    heard: float


class ResultLog:
    """Packed results by number, and the cursors of those who read them."""

    def __init__(
        self,
        *,
        retention_s: float = RETENTION_S,
        retained_bytes: int = RETAINED_BYTES,
        consumer_away_s: float = CONSUMER_AWAY_S,
    ) -> None:
        self.retention_s = retention_s
        self.retained_bytes = retained_bytes
        self.consumer_away_s = consumer_away_s
        self.held_bytes = 0  # in memory
        self._records: dict[int, tuple[str, bytes | Spilled]] = {}
        self._spilled = 0  # all up to this number are on disk alone
        self._ages: deque[tuple[int, float]] = deque()  # number, and when it came; later ones less than AGE_STEP_S after
        self._last = 0  # the newest number
        self._oldest = 1  # the oldest number that is still there, if any is
        self._acknowledged = 0  # all consumers are past this number
        self._acknowledged_bytes = 0
        self._marks: deque[tuple[int, float]] = deque()  # acknowledged up to this number at this time
        self._consumers: dict[str, _Consumer] = {}

    def __len__(self) -> int:
        return len(self._records)

    @property
    def consumers(self) -> int:
        return len(self._consumers)

    @property
    def unfetched_bytes(self) -> int:
        """In memory, of results that not everybody has acknowledged."""
        return self.held_bytes - self._acknowledged_bytes

    @property
    def unfetched(self) -> int:
        """How many results not everybody has acknowledged."""
        return self._last - max(self._acknowledged, self._oldest - 1)

    @property
    def oldest(self) -> int:
        """The number of the oldest result that is still there."""
        return self._oldest

    @property
    def last(self) -> int:
        """The number of the newest result."""
        return self._last

    def append(self, uid: str, record: bytes) -> int:
        """Take a result in; answers its number."""
        self._last += 1
        self._records[self._last] = (uid, record)
        self.held_bytes += len(record)
        return self._last

    def resume(self, kept: list[tuple[int, str, int, float]], cursors: dict[str, int], now: float) -> None:
        """Go on from results that are on disk, (number, uid, bytes, age in seconds), and from what consumers had read."""
        for number, uid, size_bytes, age_s in kept:
            self._records[number] = (uid, Spilled(number, uid, size_bytes))
            self.note_age(number, now - age_s)
        self._last = self._spilled = max([kept[-1][0] if kept else 0, *cursors.values()])
        self._oldest = kept[0][0] if kept else self._last + 1
        self._consumers = {name: _Consumer(after, now) for name, after in cursors.items()}
        self._acknowledged = self._oldest - 1
        self._acknowledge(now)

    def note_age(self, number: int, now: float) -> None:
        """The result of this number came now, and others after it until the next note."""
        if not self._ages or now - self._ages[-1][1] >= AGE_STEP_S:
            self._ages.append((number, now))

    def spill(self, held_bytes: int) -> None:
        """Let go of the oldest records in memory, which are on disk, until so many bytes are left."""
        while self.held_bytes > held_bytes and self._spilled < self._last:
            self._spilled = max(self._spilled + 1, self._oldest)
            uid, record = self._records[self._spilled]
            if isinstance(record, bytes):
                self._let_go(self._spilled, record)
                self._records[self._spilled] = (uid, Spilled(self._spilled, uid, len(record)))

    def _let_go(self, number: int, record: bytes | Spilled) -> None:
        if isinstance(record, bytes):
            self.held_bytes -= len(record)
            if number <= self._acknowledged:
                self._acknowledged_bytes -= len(record)

    def cursor_of(self, consumer: str) -> int:
        """How far a consumer has got."""
        known = self._consumers.get(consumer)
        return known.after if known is not None else 0

    def expire(self, now: float, *, is_over_limit: bool) -> list[str]:
        """Give up results that were kept for KEPT_S without being fetched, and a tenth of all where there are too many."""
        upto = self._oldest - 1
        while self._ages and now - self._ages[0][1] >= KEPT_S + AGE_STEP_S:
            self._ages.popleft()
            upto = self._ages[0][0] - 1 if self._ages else self._last
        if is_over_limit:
            upto = max(upto, self._oldest + len(self._records) // 10)
        return self._forget_upto(min(upto, self._last))

    def _forget_upto(self, upto: int) -> list[str]:
        forgotten = []
        while self._oldest <= upto:
            uid, record = self._records.pop(self._oldest)
            self._let_go(self._oldest, record)
            self._oldest += 1
            forgotten.append(uid)
        return forgotten

    def read(self, consumer: str, after: int, max_bytes: int, now: float) -> Portion:
        """What comes after number `after`, at least one result if there is one. All up to `after` is acknowledged."""
        if not 0 <= after <= self._last:
            raise InvalidArgument(
                f"a cursor at {after}, but the last result has number {self._last}",
                hint="Begin at 0; a cursor is valid in its own session only.",
                details={"last": self._last},
            )
        self._hear(consumer, after, now)
        first = max(after + 1, self._oldest)
        records: list[bytes | Spilled] = []
        size = 0
        for number in range(first, self._last + 1):
            record = self._records[number][1]
            size += _size_of(record)
            if records and size > max_bytes:
                break
            records.append(record)
        reached = first + len(records) - 1
        return Portion(first, reached, reached < self._last, records)

    def _hear(self, consumer: str, after: int, now: float) -> None:
        known = self._consumers.get(consumer)
        if known is None:
            if len(self._consumers) >= MAX_CONSUMERS:
                raise Busy(f"{MAX_CONSUMERS} consumers read the results of this session already")
            self._consumers[consumer] = _Consumer(after, now)
        else:
            known.after = max(known.after, after)
            known.heard = now
        self._acknowledge(now)

    def leave(self, consumer: str, now: float) -> None:
        """A consumer reads no more: nothing is kept for it."""
        if self._consumers.pop(consumer, None) is not None:
            self._acknowledge(now)

    def _acknowledge(self, now: float) -> None:
        if not self._consumers:
            return
        reached = min(consumer.after for consumer in self._consumers.values())
        if reached <= self._acknowledged:
            return
        for number in range(max(self._acknowledged + 1, self._oldest), reached + 1):
            record = self._records[number][1]
            self._acknowledged_bytes += len(record) if isinstance(record, bytes) else 0
        self._acknowledged = reached
        self._marks.append((reached, now))

    def record(self, number: int) -> bytes | Spilled | None:
        """The result of that number, unless it is forgotten."""
        found = self._records.get(number)
        return found[1] if found is not None else None

    def forget(self, now: float) -> list[str]:
        """Let go of what has been kept for its time; answers the uids."""
        self._forget_consumers(now)
        upto = self._oldest - 1
        while self._marks and now - self._marks[0][1] >= self.retention_s:
            upto = self._marks.popleft()[0]
        forgotten = self._forget_upto(upto)
        forgotten += self._forget_upto(self._acknowledged - RETAINED_RESULTS)
        while self._acknowledged_bytes > self.retained_bytes and self._oldest <= self._acknowledged:
            forgotten += self._forget_upto(self._oldest)
        return forgotten

    def _forget_consumers(self, now: float) -> None:
        away = [name for name, known in self._consumers.items() if now - known.heard > self.consumer_away_s]
        for name in away:
            del self._consumers[name]
        if away:
            self._acknowledge(now)


def _size_of(record: bytes | Spilled) -> int:
    return len(record) if isinstance(record, bytes) else record.size_bytes


@dataclass(slots=True)
class TaskEntry:
    """One task as the session knows it; `number` is that of its result, 0 until it has one."""

    content: int
    submitted: float
    state: str = SUBMITTED
    number: int = 0


class Admissible(Protocol):
    """A task that wants to be taken in."""

    @property
    def uid(self) -> str: ...

    @property
    def content(self) -> int: ...


T = TypeVar("T", bound=Admissible)


class TaskTable:
    """All tasks of a session by uid, and how many there are in each state."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(STATES, 0)
        self.submitted_total = 0
        self._entries: dict[str, TaskEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, TaskEntry]]:
        return iter(self._entries.items())

    def get(self, uid: str) -> TaskEntry | None:
        return self._entries.get(uid)

    def admit(self, uid: str, content: int, wall_time: float) -> TaskEntry | None:
        """Take a new task in, or answer the entry that has the uid already."""
        known = self._entries.get(uid)
        if known is not None:
            return known
        self._entries[uid] = TaskEntry(content, wall_time)
        self.submitted_total += 1
        self.counts[SUBMITTED] += 1
        return None

    def admit_all(self, tasks: Iterable[T], wall_time: float, new: list[T]) -> list[tuple[int, TaskEntry, bool]]:
        """The same for many, which are added to `new`; answers the others by index, and whether they are the same tasks."""
        entries, known, before = self._entries, [], len(new)
        for index, task in enumerate(tasks):
            content = task.content
            entry = entries.get(task.uid)
            if entry is None:
                entries[task.uid] = TaskEntry(content, wall_time)
                new.append(task)
            else:
                known.append((index, entry, entry.content == content))
        self.submitted_total += len(new) - before
        self.counts[SUBMITTED] += len(new) - before
        return known

    def move(self, uid: str, state: str, number: int = 0) -> bool:
        """Bring a task into another state; one that has ended stays as it is, and the answer is False."""
        entry = self._entries.get(uid)
        if entry is None or entry.state in FINAL_STATES:
            return False
        self.counts[entry.state] -= 1
        self.counts[state] += 1
        entry.state = state
        entry.number = number
        return True

    def forget(self, uid: str) -> None:
        self.counts[self._entries.pop(uid).state] -= 1

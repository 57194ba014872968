"""The book: every job that has been submitted at this endpoint and is not forgotten yet, and where it is.

It is kept in the endpoint's store, so that it outlives the process and all sessions. Of a job's environment nothing is in it.
It decides nothing and asks nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from orbit_jobs.models import Array, JobHandle, JobSpec, JobStatus, JobStatusResult
from orbit_zmq.errors import NotFound, OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.plugin.store import SessionStore

log = get_logger(__name__)

# held: waits here for other jobs.  handing: is being handed over, or was when the process ended.  handed: the runner has it.
Stage = Literal["held", "handing", "handed", "ended"]
PREFIX = "job/"


@dataclass(slots=True, eq=False)
class Entry:
    """One job. `handle` is the runner's once that has the job."""

    user: str
    handle: JobHandle
    stage: Stage
    fingerprint: str
    status: JobStatus = JobStatus.PENDING
    detail: dict[str, Any] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    cancel_reason: str | None = None
    ended_at: float | None = None  # wall clock
    problem: str = ""  # why nobody can say where it is at present
    refused: OrbitError | None = None  # why it was not handed over; it is in the book no more
    handed: asyncio.Event = field(default_factory=asyncio.Event)  # over, or not at all
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def job_id(self) -> str:
        return self.handle.job_id

    def result(self) -> JobStatusResult:
        """What is known of it now."""
        more = {"after": self.after, "cancel_reason": self.cancel_reason, "problem": self.problem}
        return JobStatusResult.of(
            self.handle, self.status, **{**self.detail, **{name: one for name, one in more.items() if one}}
        )

    def kept(self) -> dict[str, Any]:
        """As the store has it."""
        return {
            "user": self.user,
            "handle": self.handle.model_dump(mode="json"),
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "status": self.status.value,
            "detail": self.detail,
            "after": self.after,
            "cancel_reason": self.cancel_reason,
            "ended_at": self.ended_at,
        }

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Entry:
        entry = cls(**{**kept, "handle": JobHandle.model_validate(kept["handle"]), "status": JobStatus(kept["status"])})
        if entry.stage in ("handed", "ended"):
            entry.handed.set()
        if entry.stage == "ended":
            entry.over.set()
        return entry


class Book:
    """All entries. `store` gives what they are kept in; used from the loop's thread, but for `read`."""

    def __init__(self, store: Callable[[], SessionStore]) -> None:
        self._store = store
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def read(self) -> dict[str, Entry]:
        """What earlier processes have kept. It reads from the disk: call it in a thread."""
        found = {}
        for key, kept in self._store().items(PREFIX).items():
            try:
                entry = Entry.of(kept)
            except (TypeError, KeyError, ValueError, ValidationError) as error:
                log.error("job-not-restored", key=key, reason=f"{type(error).__name__}: {error}")
                continue
            found[entry.job_id] = entry
        return found

    def take(self, entries: dict[str, Entry]) -> None:
        """Put in what has been read."""
        self._entries = {**entries, **self._entries}

    def find(self, job_id: str, user: str) -> Entry:
        """A user's job; another user's is as unknown as one that never was."""
        entry = self._entries.get(job_id)
        if entry is None or entry.user != user:
            raise NotFound(f"There is no job {job_id}.", hint="It may have been forgotten; `list` shows those that there are.")
        return entry

    def get(self, job_id: str) -> Entry | None:
        """Whosever it is."""
        return self._entries.get(job_id)

    def keep(self, entry: Entry) -> None:
        """Write an entry down, a new one too."""
        self._entries[entry.job_id] = entry
        self._store().keep(PREFIX + entry.job_id, entry.kept())

    @property
    def fault(self) -> str:
        """Why nothing is written down at present; empty while all is well."""
        return self._store().fault

    async def flush(self) -> None:
        """Return once all of it is on disk, or cannot be."""
        await self._store().flush()

    def drop(self, entry: Entry) -> None:
        """The one place where an entry leaves the book."""
        self._entries.pop(entry.job_id, None)
        self._store().drop(PREFIX + entry.job_id)

    def of_stage(self, *stages: Stage) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.stage in stages]

    def expired(self, keep_s: float) -> list[Entry]:
        """Those that ended longer ago than that."""
        before = time.time() - keep_s
        return [entry for entry in self._entries.values() if entry.ended_at is not None and entry.ended_at < before]


def id_of_key(endpoint: str, instance: str, user: str, key: str) -> str:
    """The id of the job that a user submits under a key: whoever submits it again means the same job."""
    text = "\0".join((endpoint, instance, user, key))
    return f"job.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def fingerprint_of(spec: JobSpec, target: str | None, after: list[str], array: Array | None) -> str:
    """What tells one request from another, and nothing of what is in it."""
    facts = [spec.model_dump(mode="json"), target, after, str(array) if array else None]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

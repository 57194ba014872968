"""The endpoint's side: a session is an engine with its results; the operations hand batches in and portions out.

No task passes through a model here: a batch is looked at as a whole, and each task when its turn comes. This module must
not run tasks or block the endpoint's loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from orbit_rhapsody.backends import chosen_backends
from orbit_rhapsody.codec import RUNNING, SUBMITTED, decode_batch
from orbit_rhapsody.engine import Engine
from orbit_rhapsody.news import News
from orbit_rhapsody.preparation import Batch, Functions, PackedTask
from orbit_rhapsody.results import MAX_PORTION_BYTES, MAX_WAIT_S, Results
from orbit_rhapsody.ui_config import UI_CONFIG
from orbit_zmq.errors import NotFound
from orbit_zmq.plugin import Plugin, PluginSession, Raw, operation

INLINE_BYTES = 32 << 10  # a smaller batch is taken in faster than a thread is woken
MAX_UIDS = 10_000  # in one question about tasks

Consumer = Annotated[str, Field(min_length=1, max_length=64)]
WaitSeconds = Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)]
PortionBytes = Annotated[int, Field(ge=1, le=MAX_PORTION_BYTES)]
BatchWindow = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Uids = Annotated[list[str], Field(max_length=MAX_UIDS)]
State = Literal["SUBMITTED", "RUNNING", "DONE", "FAILED", "CANCELED"]


class RhapsodySession(PluginSession):
    """Tasks of one user on one or more Rhapsody backends."""

    def __init__(
        self,
        sid: str,
        backends: list[str] | None = None,
        allow_pickled_tasks: bool = True,
        notify_batch_window: BatchWindow | None = None,
        notify_batch_size: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(sid)
        self.backends = chosen_backends(backends)
        self.allow_pickled_tasks = allow_pickled_tasks  # narrows what the endpoint allows, and never widens it
        self.notify_batch_window = notify_batch_window  # upper bounds for events; fetching needs neither
        self.notify_batch_size = notify_batch_size
        self._results = Results()
        self._functions = Functions()
        news = News(self.notify_packed, longest_wait_s=notify_batch_window, most_tasks=notify_batch_size)
        self._engine = Engine(self.backends, self._results, news)

    async def initialize(self) -> None:
        """Start the backends; Dragon takes many seconds."""
        await self._engine.start()

    @operation(effect="run", idempotent=True, deadline_s=120)
    async def submit(self, batch: Raw) -> Raw:
        """Take a batch of tasks in. The answer lists by position what was known already and what was refused.

        A uid that comes again with the same task is answered from memory, so a batch may be sent twice.
        """
        if len(batch) <= INLINE_BYTES:
            return self._accept(batch)
        return await asyncio.to_thread(self._accept, batch)

    def _accept(self, body: bytes) -> Raw:
        received = decode_batch(body)
        submitted = time.time()
        takes_pickles = self.allow_pickled_tasks and self.host.takes_pickles
        batch = Batch(received, self._functions, submitted=submitted, allow_pickled=takes_pickles)
        new, answer = self._results.admit(received.tasks, submitted)
        self._engine.submit([PackedTask(uid, kind, packed, batch) for uid, kind, packed in new])
        return Raw(answer.encode())

    @operation(effect="read", deadline_s=MAX_WAIT_S + 30, waits=True)
    async def fetch(
        self, consumer: Consumer, after: int = 0, max_bytes: PortionBytes = 1 << 20, wait_s: WaitSeconds = 0.0
    ) -> Raw:
        """The results after number `after`, in the order in which they came; all up to there are acknowledged.

        Answers at once when there is any result, else when the first one comes, at the latest after `wait_s`.
        """
        portion = await self._results.fetch(consumer, after, max_bytes, wait_s)
        return Raw(portion.encode())

    @operation(effect="read", method="POST")
    async def wait(self, uids: Uids, timeout: float | None = None) -> list[dict[str, Any]]:
        """What is known of these tasks now, without waiting. Unknown ones are left out; `timeout` has no effect."""
        return self._results.snapshot(uids)

    @operation(effect="read")
    async def list_tasks(
        self, state: State | None = None, after: str = "", limit: Annotated[int, Field(ge=1, le=MAX_UIDS)] = 1_000
    ) -> dict[str, Any]:
        """The tasks of the session in the order of their submission, without results; go on after the last uid."""
        return {"tasks": self._results.list_tasks(state, after, limit)}

    @operation(effect="read", path="task/{sid}/{uid}")
    async def task(self, uid: str) -> dict[str, Any]:
        """Everything that is known of one task."""
        found = self._results.snapshot((uid,))
        if not found:
            raise _unknown(uid)
        return found[0]

    @operation(effect="run", idempotent=True, path="cancel/{sid}/{uid}")
    async def cancel(self, uid: str) -> dict[str, str]:
        """End a task: its processes are gone when this answers. One that had ended before keeps its state."""
        if await self._engine.cancel(uid):
            return {"uid": uid, "status": "canceled"}
        found = self._results.snapshot((uid,))
        if not found:
            raise _unknown(uid)
        return {"uid": uid, "status": str(found[0]["state"]).lower()}

    @operation(effect="run", idempotent=True)
    async def cancel_all(self) -> dict[str, int]:
        """End all tasks. `unstoppable` counts functions that run on in their thread, though their task is canceled."""
        return await self._engine.cancel_all()

    @operation(effect="read")
    async def statistics(self) -> dict[str, Any]:
        """Tasks by state and by backend, and what is held in memory."""
        return self._results.statistics() | self._engine.statistics()

    def unfinished_tasks(self) -> int:
        states = self._results.statistics()["states"]
        return int(states[SUBMITTED] + states[RUNNING])

    async def close(self) -> dict[str, Any]:
        """End all tasks and the backends."""
        self._results.close()
        await self._engine.close()
        return await super().close()


class RhapsodyPlugin(Plugin):
    """Runs tasks where the endpoint runs."""

    plugin_name = "rhapsody"
    session_class = RhapsodySession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = UI_CONFIG


def _unknown(uid: str) -> NotFound:
    return NotFound(
        f"no task {uid!r} in this session",
        hint="It was never submitted, or it ended and everybody fetched its result some time ago.",
    )

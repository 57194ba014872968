"""AsyncRhapsodyClient: submit tasks by the thousand, and get each result once it is there.

Results are fetched by cursor: all who wait share one long poll, so a result is here as soon as it exists, and nothing is
lost when the connection breaks meanwhile. This module must not interpret what a task does; a task that fails is data.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from orbit_rhapsody._waiting import AsyncFetchTurn
from orbit_rhapsody.codec import (
    FAILED,
    FINAL_STATES,
    MAX_UID_CHARS,
    SUBMITTED,
    Acknowledgement,
    EncodedBatch,
    Portion,
    encode_batches,
    task_result,
)
from orbit_rhapsody.inbox import Inbox, Waiter
from orbit_zmq.client._async.plugin import AsyncPluginClient
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, OrbitError, ResultExpired

POLL_S = 20.0  # one long poll; the endpoint answers the moment a result exists
FETCH_BYTES = 1 << 20
FETCH_GRACE_S = 30.0  # of a fetch beyond its wait: for the way there and back
SNAPSHOT_UIDS = 5_000  # asked about in one call
LIST_TASKS = 5_000
INIT_TIMEOUT_S = 120.0  # Dragon takes many seconds to start
NEVER_S = float("inf")


class AsyncRhapsodyClient(AsyncPluginClient):
    """One Rhapsody session on one endpoint.

    A task is a dict, or a Rhapsody task object, with `function` (a callable, or "package.module:function"), `args`,
    `kwargs`, or with `executable`, `arguments`, `cwd`, `env`, `shell`; a `uid` is given where there is none.
    """

    _inbox: Inbox
    _turn: AsyncFetchTurn

    async def register_session(
        self,
        *,
        backends: Sequence[str] | None = None,
        init_timeout: float = INIT_TIMEOUT_S,
        notify_batch_window: float | None = None,
        notify_batch_size: int | None = None,
        **arguments: Any,
    ) -> str:
        """Open a session on these backends (default: the endpoint's) and wait until they run; answers its id."""
        self._inbox = Inbox()
        self._turn = AsyncFetchTurn()
        self._after = 0
        self._consumer = secrets.token_hex(8)
        self._numbers = count(1)
        wanted = {
            "backends": list(backends) if isinstance(backends, tuple) else backends,
            "notify_batch_window": notify_batch_window,
            "notify_batch_size": notify_batch_size,
        }
        arguments |= {name: value for name, value in wanted.items() if value is not None}
        return await super().register_session(init_timeout=init_timeout, **arguments)

    async def submit_tasks(self, tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Send tasks; answers `{uid, state}` for each, in order. The tasks themselves are not changed.

        A task that cannot be sent, or whose uid belongs to another task, is FAILED with its `exception` there, and the
        others go on. The same task under the same uid is not run again.
        """
        named = [(self._uid_for(task), task) for task in _checked(tasks)]
        answers: list[dict[str, Any]] = [{"uid": uid, "state": SUBMITTED} for uid, _ in named]
        fresh = self._inbox.expect(uid for uid, _ in named)
        reached = 0
        try:
            for batch in encode_batches(named):
                await self._submit(batch, answers, fresh)
                reached += len(batch.sent) + len(batch.refused)
        except BaseException:
            unsent = zip(answers[reached:], fresh[reached:], strict=True)
            self._inbox.withdraw(answer["uid"] for answer, is_fresh in unsent if is_fresh)
            raise
        return answers

    async def wait_tasks(self, tasks: Iterable[str | Mapping[str, Any]], timeout: float | None = None) -> list[dict[str, Any]]:
        """The results of these tasks (uids, or anything with a `uid`), in the order asked, once all have ended.

        After `timeout` seconds those that have not ended are there with their present state. A task that failed has its
        `exception` (an object where it can be rebuilt here, else text) and `traceback`; nothing is raised for it. A uid
        that was never submitted is InvalidArgument.
        """
        uids = [_uid_of(task) for task in tasks]
        waiter = await self._join(uids)
        deadline = time.monotonic() + (NEVER_S if timeout is None else timeout)
        try:
            while waiter.missing and (left_s := deadline - time.monotonic()) > 0:
                await self._receive(left_s)
            states = await self._snapshot(list(waiter.missing)) if waiter.missing else []
            self._inbox.deliver(_ended(states))
            ended = self._inbox.take(waiter)
        finally:
            self._inbox.leave(waiter)
        results = {record["uid"]: task_result(record) for record in (*states, *ended)}
        return [results[uid] for uid in uids]

    async def as_completed(
        self, tasks: Iterable[str | Mapping[str, Any]], timeout: float | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Each result as it comes. DeadlineExceeded when some are missing after `timeout` seconds."""
        waiter = await self._join([_uid_of(task) for task in tasks])
        deadline = time.monotonic() + (NEVER_S if timeout is None else timeout)
        try:
            while True:
                for record in self._inbox.take(waiter):
                    yield task_result(record)
                if not waiter.missing and not waiter.records:
                    return
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceeded(f"{len(waiter.missing)} tasks have not ended within {timeout:g} s")
                if waiter.missing:
                    await self._receive(left_s)
        finally:
            self._inbox.leave(waiter)

    async def get_task(self, uid: str) -> dict[str, Any]:
        """What the endpoint knows of one task now; NotFound when that is nothing."""
        return task_result(await self.call("task", uid=uid))

    async def list_tasks(self, state: str | None = None) -> dict[str, Any]:
        """All tasks of the session as `{"tasks": [...]}`, in the order of their submission, without results."""
        tasks: list[dict[str, Any]] = []
        while True:
            after = tasks[-1]["uid"] if tasks else ""
            page = (await self.call("list_tasks", state=state, after=after, limit=LIST_TASKS))["tasks"]
            tasks += page
            if len(page) < LIST_TASKS:
                return {"tasks": tasks}

    async def cancel_task(self, uid: str) -> dict[str, Any]:
        """End a task; `status` is "canceled", or how it had ended before."""
        answer: dict[str, Any] = await self.call("cancel", uid=uid)
        return answer

    async def cancel_all_tasks(self) -> dict[str, Any]:
        """End all tasks of the session: how many were canceled, and how many run on because threads cannot be ended."""
        answer: dict[str, Any] = await self.call("cancel_all")
        return answer

    async def get_statistics(self) -> dict[str, Any]:
        """Tasks by state and by backend, and what the endpoint holds in memory for the session."""
        answer: dict[str, Any] = await self.call("statistics")
        return answer

    def _uid_for(self, task: Mapping[str, Any]) -> str:
        uid = task.get("uid")
        if uid is None:
            return f"task.{self._consumer[:8]}.{next(self._numbers):06d}"
        if not isinstance(uid, str) or not 0 < len(uid) <= MAX_UID_CHARS:
            raise InvalidArgument(f"a task's uid is text of 1 to {MAX_UID_CHARS} characters, not {uid!r}")
        return uid

    async def _submit(self, batch: EncodedBatch, answers: list[dict[str, Any]], fresh: list[bool]) -> None:
        refused = dict(batch.refused)
        if batch.sent:
            answer = Acknowledgement.decode(await self.call_raw("submit", batch.body))
            for index, state in answer.known.items():
                position = batch.sent[index]
                answers[position]["state"] = state
                if state in FINAL_STATES and fresh[position]:
                    self._inbox.withdraw((answers[position]["uid"],))  # it may be behind the cursor; wait_tasks asks
            refused |= {batch.sent[index]: error for index, error in answer.refused.items()}
        for position, error in refused.items():
            failed = {"uid": answers[position]["uid"], "state": FAILED, "exception": error}
            answers[position] = failed
            if fresh[position]:  # else the uid stands for another task of this client, whose result is to come
                self._inbox.deliver((_local_record(failed["uid"], error),))

    async def _join(self, uids: list[str]) -> Waiter:
        """Start to wait; a uid that nobody knows is an error here and not a wait without end."""
        unknown = self._inbox.unknown(uids)
        if unknown:
            self._inbox.expect(unknown)  # before asking: they may end while the answer is on its way
            try:
                found = {record["uid"]: record for record in await self._snapshot(unknown)}
                never = [uid for uid in unknown if uid not in found]
                if never:
                    raise InvalidArgument(
                        f"{len(never)} of these tasks were never submitted in this session: {', '.join(never[:5])}",
                        hint="Or their results were fetched long ago, and have been forgotten.",
                        details={"uids": never[:100]},
                    )
            except BaseException:
                self._inbox.withdraw(unknown)
                raise
            self._inbox.deliver(_ended(found.values()))
        return self._inbox.join(uids)

    async def _receive(self, left_s: float) -> None:
        """Wait for more results, by asking for them or through somebody who does."""
        if not await self._turn.take(left_s):
            return
        try:
            wait_s = min(left_s, POLL_S)
            body = await self.call(
                "fetch",
                deadline_s=wait_s + FETCH_GRACE_S,
                consumer=self._consumer,
                after=self._after,
                max_bytes=FETCH_BYTES,
                wait_s=wait_s,
            )
            portion = Portion.decode(body)
            has_gap = portion.first > self._after + 1 and self._after > 0
            self._after = portion.after
            self._inbox.deliver(portion.records)
            if has_gap:
                await self._repair()
        finally:
            await self._turn.give_back()

    async def _repair(self) -> None:
        """The endpoint has forgotten results that were not fetched in time: find out which of ours are among them."""
        open_uids = self._inbox.open_uids
        found = {record["uid"]: record for record in await self._snapshot(open_uids)}
        expired = ResultExpired("the task ended, and its result was not fetched in time")
        lost = [_local_record(uid, expired) for uid in open_uids if uid not in found]
        self._inbox.deliver(_ended(found.values()) + lost)

    async def _snapshot(self, uids: list[str]) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for start in range(0, len(uids), SNAPSHOT_UIDS):
            for record in await self.call("wait", uids=uids[start : start + SNAPSHOT_UIDS]):
                records.append(await self.call("task", uid=record["uid"]) if record.get("partial") else record)
        return records


def _checked(tasks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if isinstance(tasks, (str, bytes, Mapping)) or not isinstance(tasks, Iterable):
        raise InvalidArgument(f"submit_tasks takes a list of tasks, not a {type(tasks).__name__}")
    checked = list(tasks)
    for task in checked:
        if not isinstance(task, Mapping):
            raise InvalidArgument(f"a task is a dict or a Rhapsody task object, not a {type(task).__name__}")
    return checked


def _uid_of(task: str | Mapping[str, Any]) -> str:
    uid = task.get("uid") if isinstance(task, Mapping) else task
    if not isinstance(uid, str):
        raise InvalidArgument(f"a task is named by its uid or by a dict that has one, not by {task!r}")
    return uid


def _ended(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["state"] in FINAL_STATES]


def _local_record(uid: str, error: OrbitError) -> dict[str, Any]:
    """The record of a task that failed here, in the form of those that are fetched."""
    return {"uid": uid, "state": FAILED, "exception": error}

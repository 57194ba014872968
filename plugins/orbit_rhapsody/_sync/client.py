# Made by scripts/unasync from plugins/orbit_rhapsody/_async/client.py: change that file, not this one.
"""RhapsodyClient: submit tasks by the thousand, and get each result once it is there.

Results are fetched by cursor: all who wait share one long poll, so a result is here as soon as it exists, and nothing is
lost when the connection breaks meanwhile. While the endpoint or the broker is away, waiting goes on; what is lost ends as such.
This module must not interpret what a task does; a task that fails is data.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from orbit_rhapsody._waiting import FetchTurn
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
    with_value,
)
from orbit_rhapsody.inbox import Inbox, Waiter
from orbit_zmq.client._sync.plugin import PluginClient
from orbit_zmq.client.patience import AWAY, Patience
from orbit_zmq.errors import (
    BrokerUnreachable,
    Busy,
    DeadlineExceeded,
    EndpointLost,
    InvalidArgument,
    NotFound,
    OrbitError,
    ResultExpired,
)
from orbit_zmq.log import get_logger

POLL_S = 20.0  # one long poll; the endpoint answers the moment a result exists
FETCH_BYTES = 1 << 20
FETCH_GRACE_S = 30.0  # of a fetch beyond its wait: for the way there and back
LAST_GRACE_S = 1.0  # the same at the end of somebody's timeout; what has begun to come may take longer
ACKNOWLEDGE_S = 5.0
PRESENT_STATES_S = 5.0  # for the states that a wait answers at its timeout
SNAPSHOT_UIDS = 5_000  # asked about in one call
LIST_TASKS = 5_000
INIT_TIMEOUT_S = 120.0  # Dragon takes many seconds to start
SUBMIT_AWAY_S = 30.0  # how long a batch is sent again while nobody takes it
BUSY_PAUSE_S = 0.05  # at least, before a batch is sent again that there was no room for
ROOM_S = 1.0  # how long results are waited for meanwhile
NEVER_S = float("inf")

log = get_logger(__name__)


class RhapsodyClient(PluginClient):
    """One Rhapsody session on one endpoint.

    A task is a dict, or a Rhapsody task object, with `function` (a callable, or "package.module:function"), `args`,
    `kwargs`, or with `executable`, `arguments`, `cwd`, `env`, `shell`; a `uid` is given where there is none.
    """

    _inbox: Inbox
    _turn: FetchTurn

    def register_session(
        self,
        *,
        backends: Sequence[str] | None = None,
        init_timeout: float = INIT_TIMEOUT_S,
        notify_batch_window: float | None = None,
        notify_batch_size: int | None = None,
        consumer: str | None = None,
        **arguments: Any,
    ) -> str:
        """Open a session on these backends (default: the endpoint's) and wait until they run; answers its id.

        `consumer` names who reads results here: another process that registers with the `sid` of this session under the same
        name goes on where this one got to, and `open_tasks` are those whose results it has not read.
        """
        self._inbox = Inbox()
        self._turn = FetchTurn()
        self._patience = Patience(self.endpoint, self._client.endpoint_away_s, self._client.broker_away_s)
        self._after = 0
        self._consumer = consumer or secrets.token_hex(8)
        self._prefix = secrets.token_hex(4)  # of the uids that are given here
        self._numbers = count(1)
        self._sending: set[str] = set()  # tasks that the endpoint need not know yet
        wanted = {
            "backends": list(backends) if isinstance(backends, tuple) else backends,
            "notify_batch_window": notify_batch_window,
            "notify_batch_size": notify_batch_size,
        }
        arguments |= {name: value for name, value in wanted.items() if value is not None}
        sid = super().register_session(init_timeout=init_timeout, **arguments)
        self._incarnation = (self._client.resolve(self.endpoint)).incarnation
        if consumer is not None:
            left = self.call("unfetched", consumer=consumer)
            self._after = left["after"]
            self._inbox.expect(left["uids"])
        return sid

    @property
    def open_tasks(self) -> list[str]:
        """The uids of the tasks whose results have not come: those submitted here, and those that `consumer` had not read."""
        return self._inbox.open_uids

    def submit_tasks(self, tasks: Iterable[Mapping[str, Any]], *, on_unknown: str = "") -> list[dict[str, Any]]:
        """Send tasks; answers `{uid, state}` for each, in order. The tasks themselves are not changed.

        A task that cannot be sent, or whose uid belongs to another task, is FAILED with its `exception` there, and the
        others go on. The same task under the same uid is not run again. `on_unknown` says what becomes of a task that had been
        started when its endpoint ended, in a session that outlives that: `fail` (with OutcomeUnknown) or `rerun`; the session's
        own where it is left out. While there is no room over there this waits, and takes results in meanwhile.
        """
        named = [(self._uid_for(task), task) for task in _checked(tasks)]
        answers: list[dict[str, Any]] = [{"uid": uid, "state": SUBMITTED} for uid, _ in named]
        fresh = self._inbox.expect(uid for uid, _ in named)
        python_there = (self._client.resolve(self.endpoint)).environment.get("python_version", "")
        self._sending.update(uid for uid, _ in named)
        reached = 0
        try:
            for batch in encode_batches(named, on_unknown=on_unknown, python_there=python_there):
                self._submit(batch, answers, fresh)
                reached += len(batch.sent) + len(batch.refused)
        except BaseException:
            unsent = zip(answers[reached:], fresh[reached:], strict=True)
            self._inbox.withdraw(answer["uid"] for answer, is_fresh in unsent if is_fresh)
            raise
        finally:
            self._sending.difference_update(uid for uid, _ in named)
        return answers

    def wait_tasks(self, tasks: Iterable[str | Mapping[str, Any]], timeout: float | None = None) -> list[dict[str, Any]]:
        """The results of these tasks (uids, or anything with a `uid`), in the order asked, once all have ended.

        After `timeout` seconds those that have not ended are there with their present state. A task that failed has its
        `exception` (an object where it can be rebuilt here, else text) and `traceback`; nothing is raised for it. A uid
        that was never submitted is InvalidArgument. While the endpoint or the broker is away this goes on waiting. What cannot
        come any more ends too: FAILED, with OutcomeUnknown, EndpointLost, BrokerUnreachable or ResultExpired as `exception`.
        """
        uids = [_uid_of(task) for task in tasks]
        waiter = self._join(uids)
        deadline = time.monotonic() + (NEVER_S if timeout is None else timeout)
        try:
            while waiter.missing and (left_s := deadline - time.monotonic()) > 0:
                self._receive(left_s)
            states = self._present_states(list(waiter.missing)) if waiter.missing else []
            self._inbox.deliver(_ended(states))
            ended = self._inbox.take(waiter)
        finally:
            self._inbox.leave(waiter)
        results = {record["uid"]: self._result_of(record) for record in (*states, *ended)}
        return [results[uid] for uid in uids]

    def as_completed(
        self, tasks: Iterable[str | Mapping[str, Any]] | None = None, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Each result as it comes; of `open_tasks` where no tasks are named. DeadlineExceeded when some are missing after
        `timeout` seconds."""
        waiter = self._join(self.open_tasks if tasks is None else [_uid_of(task) for task in tasks])
        deadline = time.monotonic() + (NEVER_S if timeout is None else timeout)
        try:
            while True:
                for record in self._inbox.take(waiter):
                    yield self._result_of(record)
                if not waiter.missing and not waiter.records:
                    return
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceeded(f"{len(waiter.missing)} tasks have not ended within {timeout:g} s")
                if waiter.missing:
                    self._receive(left_s)
        finally:
            self._inbox.leave(waiter)

    def acknowledge(self) -> None:
        """Say that what has come need not come again: to the next process that reads under this `consumer`."""
        with suppress(OrbitError):  # then it comes again
            self.call("fetch", consumer=self._consumer, after=self._after, max_bytes=1, deadline_s=ACKNOWLEDGE_S)

    def get_task(self, uid: str) -> dict[str, Any]:
        """What the endpoint knows of one task now; NotFound when that is nothing."""
        return self._result_of(self.call("task", uid=uid))

    def list_tasks(self, state: str | None = None) -> dict[str, Any]:
        """All tasks of the session as `{"tasks": [...]}`, in the order of their submission, without results."""
        tasks: list[dict[str, Any]] = []
        while True:
            after = tasks[-1]["uid"] if tasks else ""
            page = (self.call("list_tasks", state=state, after=after, limit=LIST_TASKS))["tasks"]
            tasks += page
            if len(page) < LIST_TASKS:
                return {"tasks": tasks}

    def cancel_task(self, uid: str, reason: str = "") -> dict[str, Any]:
        """End a task; `status` is "canceled", or how it had ended before. `reason` is kept in its result.

        `unstoppable` is 1 where its function runs on in its thread, which cannot be ended, though the task is canceled.
        """
        answer: dict[str, Any] = self.call("cancel", uid=uid, reason=reason)
        return answer

    def cancel_all_tasks(self, reason: str = "") -> dict[str, Any]:
        """End all tasks of the session: how many were `requested` to end, how many are `canceled`, and of how many of these the
        function runs on because threads cannot be ended: `unstoppable`."""
        answer: dict[str, Any] = self.call("cancel_all", reason=reason)
        return answer

    def get_statistics(self) -> dict[str, Any]:
        """Tasks by state and by backend, and what the endpoint holds in memory for the session."""
        answer: dict[str, Any] = self.call("statistics")
        return answer

    def _result_of(self, record: dict[str, Any]) -> dict[str, Any]:
        """What a user sees of a record; a value that was too large for it is fetched now."""
        if "return_ref" not in record:
            return task_result(record)
        try:
            value = bytearray()
            for chunk in self.call("value", uid=record["uid"]):
                value += chunk
            return task_result(with_value(record, bytes(value)))
        except OrbitError as error:  # the task is done; what it returned cannot be had
            return {**task_result(record), "exception": error}

    def _uid_for(self, task: Mapping[str, Any]) -> str:
        uid = task.get("uid")
        if uid is None:
            return f"task.{self._prefix}.{next(self._numbers):06d}"
        if not isinstance(uid, str) or not 0 < len(uid) <= MAX_UID_CHARS:
            raise InvalidArgument(f"a task's uid is text of 1 to {MAX_UID_CHARS} characters, not {uid!r}")
        return uid

    def _submit(self, batch: EncodedBatch, answers: list[dict[str, Any]], fresh: list[bool]) -> None:
        refused = dict(batch.refused)
        if batch.sent:
            answer = Acknowledgement.decode(self._send_batch(batch.body))
            self._sending.difference_update(answers[position]["uid"] for position in batch.sent)
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

    def _send_batch(self, body: bytes) -> bytes:
        """A batch may be sent twice, so it is sent again where nobody answers for it."""
        patience = Patience(self.endpoint, SUBMIT_AWAY_S, SUBMIT_AWAY_S)
        while True:
            try:
                return self.call_raw("submit", body)
            except Busy:  # room comes from results that are fetched and from tasks that end
                self._receive(ROOM_S)
                self._turn.pause(BUSY_PAUSE_S)
            except OrbitError as error:
                pause_s = patience.on_failure(error, time.monotonic(), broker_is_there=self._client.is_connected)
                self._turn.pause(pause_s)

    def _present_states(self, uids: list[str]) -> list[dict[str, Any]]:
        """What the endpoint says of tasks that have not ended; while it is away, what was known last."""
        if self._client.is_connected:
            with suppress(*AWAY, NotFound):
                return self._snapshot(uids, PRESENT_STATES_S)
        return [{"uid": uid, "state": SUBMITTED} for uid in uids]

    def _join(self, uids: list[str]) -> Waiter:
        """Start to wait; a uid that nobody knows is an error here and not a wait without end."""
        unknown = self._inbox.unknown(uids)
        if unknown:
            self._inbox.expect(unknown)  # before asking: they may end while the answer is on its way
            try:
                found = {record["uid"]: record for record in self._snapshot(unknown)}
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

    def _receive(self, left_s: float) -> None:
        """Wait for more results, by asking for them or through somebody who does."""
        if not self._turn.take(left_s):
            return
        try:
            wait_s = min(left_s, POLL_S)
            self._fetch(wait_s, min(wait_s + FETCH_GRACE_S, left_s + LAST_GRACE_S))
        except OrbitError as error:
            self._be_patient(error, left_s)
        finally:
            self._turn.give_back()

    def _fetch(self, wait_s: float, deadline_s: float) -> None:
        body = self.call(
            "fetch",
            deadline_s=deadline_s,
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
            self._repair(ResultExpired("the task ended, and its result was not fetched in time"))
        incarnation = (self._client.resolve(self.endpoint)).incarnation
        if incarnation != self._incarnation:
            self._repair(EndpointLost(f"endpoint {self.endpoint} has come back without the task", transient=False))
            self._incarnation = incarnation
        self._patience.on_answer()

    def _be_patient(self, error: OrbitError, left_s: float) -> None:
        """A fetch has failed: pause before the next one, or end what will not come any more."""
        if isinstance(error, InvalidArgument) and "last" in error.details:  # the endpoint lost what it could not keep
            self._after = 0
            return
        now = time.monotonic()
        try:
            pause_s = self._patience.on_failure(error, now, broker_is_there=self._client.is_connected)
        except (EndpointLost, BrokerUnreachable) as lost:
            self._inbox.deliver(_local_record(uid, lost) for uid in self._settled_uids())
            return
        away_s = self._patience.warning_due(now)
        if away_s is not None:
            log.warning("broker-away", away_s=round(away_s), given_up_after_s=self._patience.broker_away_s)
        self._turn.pause(min(pause_s, left_s))

    def _repair(self, error: OrbitError) -> None:
        """The endpoint has forgotten tasks or results: find out which of ours are among them, and end those."""
        uids = self._settled_uids()
        found = {record["uid"]: record for record in self._snapshot(uids)}
        lost = [_local_record(uid, error) for uid in uids if uid not in found]
        self._inbox.deliver(_ended(found.values()) + lost)

    def _settled_uids(self) -> list[str]:
        """Open tasks that the endpoint has taken in."""
        return [uid for uid in self._inbox.open_uids if uid not in self._sending]

    def _snapshot(self, uids: list[str], deadline_s: float | None = None) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for start in range(0, len(uids), SNAPSHOT_UIDS):
            for record in self.call("wait", deadline_s=deadline_s, uids=uids[start : start + SNAPSHOT_UIDS]):
                records.append(self.call("task", uid=record["uid"]) if record.get("partial") else record)
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

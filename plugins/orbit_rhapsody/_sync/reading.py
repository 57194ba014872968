# Made by scripts/unasync from plugins/orbit_rhapsody/_async/reading.py: change that file, not this one.
"""The reading half of a client: results are fetched by cursor, and handed to those who wait for them.

All who wait share one long poll, so a result is here as soon as it exists, and nothing is lost when the connection breaks
meanwhile. While the endpoint or the broker is away, waiting goes on; what is lost ends as such. This module must not submit
tasks or interpret what they do.
"""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from orbit_rhapsody._waiting import FetchTurn
from orbit_rhapsody.codec import FAILED, FINAL_STATES, SUBMITTED, Portion, plain_result, task_result
from orbit_rhapsody.handed_in import TasksOrUids, given_back, is_task_object, named_tasks, refusal_of, uid_of
from orbit_rhapsody.inbox import Inbox, Waiter
from orbit_rhapsody.large import ArrivingValue, reference_in
from orbit_rhapsody.output import Line
from orbit_rhapsody.progress import shown_progress
from orbit_rhapsody.submissions import Submissions
from orbit_zmq.client._sync.plugin import PluginClient
from orbit_zmq.client.patience import AWAY, Patience
from orbit_zmq.errors import (
    BrokerUnreachable,
    Canceled,
    DeadlineExceeded,
    EndpointLost,
    InvalidArgument,
    NotFound,
    OrbitError,
    ResultExpired,
    SessionClosed,
    SessionExpired,
)
from orbit_zmq.log import get_logger

POLL_S = 20.0  # one long poll; the endpoint answers the moment a result exists
UNSURE_POLL_S = 1.0  # the same while there are tasks of an interrupted call, which are asked about each time
FETCH_BYTES = 1 << 20
FETCH_GRACE_S = 30.0  # of a fetch beyond its wait: for the way there and back
LAST_GRACE_S = 1.0  # the same at the end of somebody's timeout; what has begun to come may take longer
ACKNOWLEDGE_S = 5.0
PRESENT_STATES_S = 2.0  # for the states that a wait answers at its timeout; of those that it misses, what was known last
SNAPSHOT_UIDS = 5_000  # asked about in one call
VALUE_S = 3_600.0  # for a large value, on the slowest of lines; it ends earlier where nothing moves
NEVER_S = float("inf")

log = get_logger(__name__)


class ResultReader(PluginClient):
    """Reads the results of one session under the name of one consumer."""

    _inbox: Inbox
    _turn: FetchTurn

    def _begin_reading(self, consumer: str | None) -> None:
        """Once the session is open: from where the consumer has got to, if it has a name."""
        self._inbox = Inbox()
        self._objects: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # Rhapsody's, by the uid sent
        self._turn = FetchTurn()
        self._patience = Patience(self.endpoint, self._client.endpoint_away_s, self._client.broker_away_s)
        self._after = 0
        self._consumer = consumer or secrets.token_hex(8)
        self._submissions = Submissions(self._inbox)
        self._incarnation = (self._client.resolve(self.endpoint)).incarnation
        if consumer is not None:
            left = self.call("unfetched", consumer=consumer)
            self._after = left["after"]
            self._inbox.expect(left["uids"])

    @property
    def open_tasks(self) -> list[str]:
        """The uids of the tasks whose results have not come: those submitted here, and those that `consumer` had not read."""
        self._submissions.clear_up(time.monotonic())
        return self._inbox.open_uids

    def wait_tasks(self, tasks: TasksOrUids, timeout: float | None = None, *, progress: bool = False) -> list[dict[str, Any]]:
        """The results of these tasks (uids, or anything with a `uid`), in the order asked, once all have ended.

        After `timeout` seconds those that have not ended are there with their present state. A task that failed has its
        `exception` (an object where it can be rebuilt here, else text) and `traceback`; nothing is raised for it. A uid
        that was never submitted is InvalidArgument. While the endpoint or the broker is away this goes on waiting. What cannot
        come any more ends too: FAILED, with OutcomeUnknown, EndpointLost, BrokerUnreachable or ResultExpired as `exception`.
        For one of Rhapsody's task objects the answer is that object, with its result in it; who waits for its answer
        or uid has it filled as well. An answer of `submit_tasks` that is FAILED already is given back as that failure.
        `progress` shows how many have ended, on stderr.
        """
        wanted = named_tasks(tasks)
        uids = [uid_of(task) for task in wanted]
        deadline = _deadline(timeout)
        refused = _refused(wanted)
        waiter = self._join([uid for at, uid in enumerate(uids) if at not in refused] if refused else uids)
        ended: list[dict[str, Any]] = []
        try:
            with shown_progress(progress, waiter.total) as show:
                show(waiter.total - len(waiter.missing))
                while waiter.missing and (left_s := deadline - time.monotonic()) > 0:
                    self._receive(left_s, waiter)
                    show(waiter.total - len(waiter.missing))
            states = self._present_states(list(waiter.missing)) if waiter.missing else []
            self._inbox.deliver(_ended(states))
            ended = self._inbox.take(waiter)
            results = {record["uid"]: self._result_of(record) for record in (*states, *ended)}
            if states:
                self._inbox.keep_shown(ended)
            ended = []
        finally:
            self._inbox.leave(waiter, ended)
        if not refused:
            return [self._given_back(task, results[uid]) for task, uid in zip(wanted, uids, strict=True)]
        return [
            self._refusal(task, refused[at]) if at in refused else self._given_back(task, results[uids[at]])
            for at, task in enumerate(wanted)
        ]

    def as_completed(
        self, tasks: TasksOrUids | None = None, timeout: float | None = None, *, progress: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Each result as it comes. Where no tasks are named, all that this client has not handed out yet: of `open_tasks`, and
        what has come already. DeadlineExceeded when some are missing after `timeout` seconds: those can be waited
        for again. `progress` as in `wait_tasks`."""
        self._submissions.clear_up(time.monotonic())
        wanted = self._inbox.uids_to_come if tasks is None else named_tasks(tasks)
        uids = [uid_of(task) for task in wanted]
        refused = _refused(wanted)
        handed_in = {uid: task for at, (uid, task) in enumerate(zip(uids, wanted, strict=True)) if at not in refused}
        deadline = _deadline(timeout)
        waiter = self._join(list(handed_in))
        taken: list[dict[str, Any]] = []
        try:
            for at, error in refused.items():
                yield self._refusal(wanted[at], error)
            with shown_progress(progress, waiter.total) as show:
                while True:
                    show(waiter.total - len(waiter.missing))
                    taken = self._inbox.take(waiter)[::-1]
                    while taken:
                        result = self._result_of(taken[-1])
                        record = taken.pop()
                        yield self._given_back(handed_in[record["uid"]], result)
                    if not waiter.missing and not waiter.records:
                        return
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        raise DeadlineExceeded(f"{len(waiter.missing)} tasks have not ended within {timeout:g} s")
                    if not waiter.records:
                        self._receive(left_s, waiter)
        finally:
            self._inbox.leave(waiter, taken)

    def next_results(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """The results that have come and that nobody has been given yet; where there are none, those that come first.

        For who hands all results of a session on, whenever their tasks were submitted. There are none after `timeout` seconds,
        and at once where nothing is open. What cannot come any more ends as in `wait_tasks`.
        """
        deadline = _deadline(timeout)
        taken: list[dict[str, Any]] = []
        try:
            while True:
                self._submissions.clear_up(time.monotonic())
                taken = self._inbox.take_ready()
                left_s = deadline - time.monotonic()
                if taken or not len(self._inbox) or left_s <= 0:
                    break
                self._receive(left_s)
            results = [self._given_back(record["uid"], self._result_of(record)) for record in taken]
            taken = []
            return results
        finally:
            self._inbox.put_back(taken)

    def acknowledge(self) -> None:
        """Say that what has come need not come again: to the next process that reads under this `consumer`."""
        with suppress(OrbitError):  # then it comes again
            self.call("fetch", consumer=self._consumer, after=self._after, max_bytes=1, deadline_s=ACKNOWLEDGE_S)

    def get_task(self, uid: str) -> dict[str, Any]:
        """What the endpoint knows of one task now; NotFound when that is nothing."""
        return self._result_of(self.call("task", uid=uid))

    def fetch(self, reference: Mapping[str, Any]) -> Any:
        """The value that a `result_ref` stands for; a whole result will do too. It is streamed, and can be fetched again.

        ResultExpired where the value is gone: with its session, or since it was discarded. While the endpoint or the broker is
        away this waits as `wait_tasks` does, and begins anew.
        """
        found = reference_in(reference)
        patience = Patience(self.endpoint, self._client.endpoint_away_s, self._client.broker_away_s)
        while True:
            value = ArrivingValue(found)
            try:
                for chunk in self.call("value", uid=found["uid"], deadline_s=VALUE_S):
                    value.add(chunk)
                return value.value()
            except OrbitError as error:
                pause_s = patience.on_failure(error, time.monotonic(), broker_is_there=self._client.is_connected)
                self._turn.pause(pause_s)

    def output(self, task: str | Mapping[str, Any], after: int = 0) -> Iterator[Line]:
        """The lines that a task with `stream_output` writes, as it writes them, until it has ended; see `Line`.

        A line has a `number`, its `stream` (stdout or stderr), its `text` without the end of the line, and how many were
        `missed` before it because nobody read in time. `after` goes on behind a number. While the endpoint or the broker is
        away this waits as `wait_tasks` does. InvalidArgument where the output of the task is not streamed.
        """
        uid, missed = uid_of(task), 0
        patience = Patience(self.endpoint, self._client.endpoint_away_s, self._client.broker_away_s)
        while True:
            try:
                found = self.call("output", uid=uid, after=after, wait_s=POLL_S, deadline_s=POLL_S + FETCH_GRACE_S)
            except AWAY as error:
                pause_s = patience.on_failure(error, time.monotonic(), broker_is_there=self._client.is_connected)
                self._turn.pause(pause_s)
                continue
            patience.on_answer()
            missed += found["cut"]
            for number, stream, text in found["lines"]:
                yield Line(number, stream, text, missed)
                missed = 0
            after = found["after"]
            if found["ended"]:
                return

    def discard(self, references: Iterable[Mapping[str, Any]]) -> None:
        """These values are not wanted any more; until then, or until the session is closed, they lie on the endpoint's disk."""
        self.call("discard", uids=[reference_in(reference)["uid"] for reference in references])

    def _result_of(self, record: dict[str, Any]) -> dict[str, Any]:
        """What a user sees of a record; a value that was too large for it is fetched now, unless the reference was wanted."""
        result = task_result(record)
        if "return_ref" in record and "result_ref" not in result:
            try:
                result["return_value"] = self.fetch(record["return_ref"])
            except OrbitError as error:  # the task is done; what it returned cannot be had
                result["exception"] = error
        return result

    def _given_back(self, task: object, result: dict[str, Any]) -> Any:
        """The result, or the object that was waited for; an object that was handed in with this task is filled in any case."""
        if self._objects and (known := self._objects.get(result["uid"])) is not None and known is not task:
            given_back(known, result)
        return given_back(task, result)

    def _refusal(self, task: object, error: OrbitError) -> Any:
        """The failure of a task that was not taken, whatever has become of another one under its uid."""
        uid = uid_of(task)
        self._inbox.drop(uid, error)
        return task if is_task_object(task) else task_result(local_record(uid, error))

    def _present_states(self, uids: list[str]) -> list[dict[str, Any]]:
        """What the endpoint says of tasks that have not ended; while it is away, what was known last."""
        found: dict[str, dict[str, Any]] = {}
        deadline, start = time.monotonic() + PRESENT_STATES_S, 0
        with suppress(*AWAY, NotFound):
            while start < len(uids) and self._client.is_connected and (left_s := deadline - time.monotonic()) > 0:
                some = self._snapshot(uids[start : start + SNAPSHOT_UIDS], left_s)
                found |= {record["uid"]: record for record in some}
                start += SNAPSHOT_UIDS
        return [found.get(uid) or {"uid": uid, "state": SUBMITTED} for uid in uids]

    def _join(self, uids: list[str]) -> Waiter:
        """Start to wait; a uid that nobody knows is an error here and not a wait without end."""
        self._submissions.clear_up(time.monotonic())
        waiter = self._inbox.join(uids)  # before asking: what comes meanwhile is for this waiter, and for nobody else
        if waiter.sought:
            try:
                self._inbox.deliver(_ended(self._looked_up(waiter.sought)))
            except BaseException:
                self._inbox.leave(waiter)
                raise
            self._inbox.note_found(waiter)
        return waiter

    def _looked_up(self, uids: list[str]) -> Iterable[dict[str, Any]]:
        """What the endpoint knows of tasks that were not submitted here; InvalidArgument where that is nothing."""
        found = {record["uid"]: record for record in self._snapshot(uids)}
        never = [uid for uid in uids if uid not in found]
        if never:
            raise InvalidArgument(
                f"{len(never)} of these tasks were never submitted in this session: {', '.join(never[:5])}",
                hint="Or their results were fetched long ago, and have been forgotten.",
                details={"uids": never[:100]},
            )
        return found.values()

    def _receive(self, left_s: float, waiter: Waiter | None = None) -> None:
        """Wait for more results, by asking for them or through somebody who does."""
        try:
            if not self._turn.take(left_s):
                return
            if waiter is not None and not waiter.missing:  # who had the turn before has brought them
                return
            ended, unsure = self._ask_about_unsure()
            if ended:  # perhaps nobody has to wait any more
                return
            wait_s = min(left_s, UNSURE_POLL_S if unsure else POLL_S)
            self._fetch(wait_s, min(wait_s + FETCH_GRACE_S, left_s + LAST_GRACE_S))
        except OrbitError as error:
            self._be_patient(error, left_s)
        finally:
            self._turn.give_back()

    def _bring(self, uids: list[str]) -> None:
        """Have the results of tasks that had ended when they were sent again: they may be behind the cursor."""
        missing = [uid for uid in uids if self._inbox.state_of(uid) == "open"]
        self._submissions.ask_about(missing, time.monotonic())
        with suppress(OrbitError):  # then they are asked about by the next who waits
            self._inbox.deliver(_ended(self._snapshot(missing)))

    def _ask_about_unsure(self) -> tuple[int, int]:
        """Find out which tasks of interrupted calls the endpoint has, and end those that it cannot get any more; how many have
        ended by this, and how many are left to be asked about."""
        uids = self._submissions.unsure()
        if not uids:
            return 0, 0
        found = {record["uid"]: record for record in self._snapshot(uids)}
        now = time.monotonic()
        lost = [uid for uid in uids if uid not in found and self._submissions.is_lost(uid, now)]
        error = Canceled("the call that submitted the task was interrupted before it was sent", hint="Submit it again.")
        ended = _ended(found.values()) + [local_record(uid, error) for uid in lost]
        self._inbox.deliver(ended)
        self._submissions.found((*found, *lost))
        return len(ended), len(uids) - len(found) - len(lost)

    def _fetch(self, wait_s: float, deadline_s: float) -> None:
        body = self.call(
            "fetch",
            deadline_s=deadline_s,
            consumer=self._consumer,
            after=self._after,
            max_bytes=FETCH_BYTES,
            wait_s=wait_s,
        )
        self._take_in(Portion.decode(body))

    def _take_in(self, portion: Portion) -> None:
        """Results that came for this consumer."""
        has_gap = portion.first > self._after + 1 and self._after > 0
        self._inbox.deliver([plain_result(record) for record in portion.records])
        self._after = portion.after  # acknowledged by the next fetch: what an interrupt keeps from us comes again
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
        except (EndpointLost, BrokerUnreachable, SessionClosed, SessionExpired) as lost:
            uids = [*self._settled_uids(), *self._submissions.unsure()]
            self._inbox.deliver(local_record(uid, lost) for uid in uids)
            return
        away_s = self._patience.warning_due(now)
        if away_s is not None:
            log.warning("broker-away", away_s=round(away_s), given_up_after_s=self._patience.broker_away_s)
        self._turn.pause(min(pause_s, left_s))

    def _repair(self, error: OrbitError) -> None:
        """The endpoint has forgotten tasks or results: find out which of ours are among them, and end those."""
        uids = self._settled_uids()
        found = {record["uid"]: record for record in self._snapshot(uids)}
        lost = [local_record(uid, error) for uid in uids if uid not in found]
        self._inbox.deliver(_ended(found.values()) + lost)

    def _settled_uids(self) -> list[str]:
        """Open tasks that the endpoint has taken in."""
        elsewhere = self._submissions.sending().union(self._submissions.unsure())
        return [uid for uid in self._inbox.open_uids if uid not in elsewhere]

    def _snapshot(self, uids: list[str], deadline_s: float | None = None) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        for start in range(0, len(uids), SNAPSHOT_UIDS):
            for record in self.call("wait", deadline_s=deadline_s, uids=uids[start : start + SNAPSHOT_UIDS]):
                records.append(self.call("task", uid=record["uid"]) if record.get("partial") else record)
        return records


def _deadline(timeout: float | None) -> float:
    """When a wait is over; InvalidArgument for a timeout that is no time."""
    if timeout is None:
        return NEVER_S
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not timeout >= 0:
        raise InvalidArgument(f"timeout is a number of seconds, not {timeout!r}", hint="None waits for as long as it takes.")
    return time.monotonic() + timeout


def _refused(wanted: Sequence[str | Mapping[str, Any]]) -> dict[int, OrbitError]:
    """Those that were not taken when they were submitted, by their positions."""
    failed = [at for at, task in enumerate(wanted) if not isinstance(task, str) and task.get("state") == FAILED]
    return {at: error for at in failed if (error := refusal_of(wanted[at])) is not None}


def _ended(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["state"] in FINAL_STATES]


def local_record(uid: str, error: OrbitError) -> dict[str, Any]:
    """The record of a task that failed here, in the form of those that are fetched."""
    return {"uid": uid, "state": FAILED, "exception": error}

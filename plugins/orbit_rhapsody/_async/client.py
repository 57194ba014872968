"""AsyncRhapsodyClient: submit tasks by the thousand, and get each result once it is there.

This is the sending half and what a user calls beside it; results are read by the class that it extends. This module must not
interpret what a task does; a task that fails is data.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from orbit_rhapsody._async.reading import AsyncResultReader, local_record
from orbit_rhapsody.batches import EncodedBatch, encode_batches
from orbit_rhapsody.codec import FAILED, FINAL_STATES, ON_UNKNOWN, SUBMITTED, Acknowledgement
from orbit_rhapsody.handed_in import (
    async_make_awaitable,
    check_word,
    checked_tasks,
    is_task_object,
    note_refusal,
    sent_uid,
    task_error,
)
from orbit_rhapsody.large import RESULTS, LargeValue
from orbit_rhapsody.progress import shown_progress
from orbit_rhapsody.submissions import Submission
from orbit_zmq.client.facts import KnownHere
from orbit_zmq.client.patience import AWAY, Patience
from orbit_zmq.errors import Busy, InternalError, InvalidArgument, OrbitError

LIST_TASKS = 5_000
INIT_TIMEOUT_S = 120.0  # Dragon takes many seconds to start
INIT_GRACE_S = 10.0  # for the answer of an endpoint that has given up
SUBMIT_AWAY_S = 30.0  # how long a batch is sent again while nobody takes it
TAKEN_ALONG_BYTES = 4 << 20  # of results with the answer to a batch: as many as may come of the one before it
BUSY_PAUSE_S = 0.05  # at least, before a batch is sent again that there was no room for
LEAVE_S = 1.0  # when a client is closed
UPLOAD_S = 3_600.0  # for large arguments, on the slowest of lines
ROOM_S = 1.0  # how long results are waited for meanwhile
HERE = {
    "open": "The endpoint has taken it, and its result has not come to this client.",
    "here": "It has ended, and its result has come to this client.",
}


class AsyncRhapsodyClient(AsyncResultReader):
    """One Rhapsody session on one endpoint.

    A task is a dict, or a Rhapsody task object, with `function` (a callable, or "package.module:function"), `args`,
    `kwargs`, or with `executable`, `arguments`, `cwd`, `env`, `shell`; docs/rhapsody.md has all fields. A `uid` is given where
    there is none.
    """

    _leaves = False  # when it is closed, as it reads from now on

    async def register_session(
        self,
        *,
        backends: Sequence[str] | None = None,
        init_timeout: float = INIT_TIMEOUT_S,
        notify_batch_window: float | None = None,
        notify_batch_size: int | None = None,
        consumer: str | None = None,
        from_now: bool = False,
        **arguments: Any,
    ) -> str:
        """Open a session on these backends (default: the endpoint's) and wait until they run; answers its id.

        DeadlineExceeded, with the backend that was not there, after `init_timeout` seconds; Unsupported, with what to install,
        for a backend that cannot be used there.
        `consumer` names who reads results here: another process that registers with the `sid` of this session under the same
        name goes on where this one got to, and `open_tasks` are those whose results it has not read. With `from_now` it reads
        none of the results that are there, which can be asked for by uid all the same, and keeps its place no longer than
        until `close`.
        """
        self._kept: set[str] = set()  # digests of what the session has of functions and arguments
        self._prefix = secrets.token_hex(4)  # of the uids that are given here
        self._numbers = count(1)
        self._held_up = ""  # why the batch that is to be sent has not been taken
        self.submits_patiently = False  # it waits for an endpoint as long as for results, and not SUBMIT_AWAY_S alone
        wanted = {
            "backends": list(backends) if isinstance(backends, tuple) else backends,
            "notify_batch_window": notify_batch_window,
            "notify_batch_size": notify_batch_size,
            "init_timeout_s": init_timeout,
        }
        arguments |= {name: value for name, value in wanted.items() if value is not None}
        # The endpoint gives up by itself, and says which backend it waited for.
        sid = await super().register_session(init_timeout=init_timeout + INIT_GRACE_S, **arguments)
        await self._begin_reading(None if from_now else consumer)
        if from_now:
            self._consumer = consumer or self._consumer
            self._after = await self.call("from_now", consumer=self._consumer)
        self._leaves = from_now
        return sid

    async def close(self) -> None:
        """Close the session, if it is to end with this, or leave it, if nothing was to be kept for this reader."""
        if self.sid and self._leaves and not self.is_silent:
            with suppress(OrbitError):  # an endpoint that is away forgets who is silent
                await self.call("leave", consumer=self._consumer, deadline_s=LEAVE_S)
        await super().close()

    async def submit_tasks(
        self,
        tasks: Iterable[Mapping[str, Any]],
        *,
        on_unknown: str = "",
        results: str = "",
        stream_output: bool = False,
        progress: bool = False,
    ) -> list[dict[str, Any]]:
        """Send tasks; answers `{uid, state}` for each, in order. The tasks themselves are not changed.

        InvalidArgument for what is no list of tasks, and for a uid that cannot be one; then nothing is sent. After
        `submit_tasks` of an AsyncClient's plugin Rhapsody's task objects can be awaited.

        A task that cannot be sent, or whose uid belongs to another task, is FAILED with its `exception` there, and the
        others go on. The same task under the same uid is not run again. `on_unknown` says what becomes of a task that had been
        started when its endpoint ended, in a session that outlives that: `fail` (with OutcomeUnknown) or `rerun`; the session's
        own where it is left out. While there is no room over there this waits, and takes results in meanwhile.

        `results="reference"`: a return value of more than a kilobyte stays over there, and its result has a `result_ref` for
        `fetch`; "inline": it comes with its result, whatever its size; the session's own where it is left out, else inline.
        `stream_output` lets the output of all executables among them be read line by line while they run, by `output`.
        `progress` shows how many have been sent, as `wait_tasks` does.
        """
        checked = checked_tasks(tasks)
        check_word("results", results, RESULTS)
        check_word("on_unknown", on_unknown, ON_UNKNOWN)
        named = [(self._uid_for(task), task) for task in checked]
        answers: list[dict[str, Any]] = [{"uid": uid, "state": SUBMITTED} for uid, _ in named]
        submission = Submission([uid for uid, _ in named])
        try:
            python_there = (await self._client.resolve(self.endpoint)).environment.get("python_version", "")
            self._submissions.begin(submission)
            wishes: dict[str, Any] = {"on_unknown": on_unknown, "results": results, "stream_output": stream_output}
            with shown_progress(progress, len(named), "tasks sent") as show:
                for batch in encode_batches(named, python_there=python_there, kept=self._kept, **wishes):
                    submission.offered += len(batch.sent) + len(batch.refused)
                    await self._submit(batch, answers, submission)
                    submission.settled = submission.offered
                    show(submission.settled)
        except OrbitError as error:
            if not isinstance(error, AWAY):  # it says that the batch was not taken
                submission.offered = submission.settled
            raise
        finally:
            submission.has_ended = True  # before any call, within which an interrupt may come
            self._submissions.clear_up(time.monotonic())
        self._note_objects(checked, answers)
        async_make_awaitable(checked, self.wait_tasks)
        return answers

    def _note_objects(self, tasks: Iterable[Mapping[str, Any]], answers: list[dict[str, Any]]) -> None:
        """Rhapsody's own task objects are filled in when their results come."""
        for task, answer in zip(tasks, answers, strict=True):
            if type(task) is not dict and is_task_object(task):
                note_refusal(task, answer.get("exception"))
                if "exception" not in answer:
                    self._objects[answer["uid"]] = task

    async def map(
        self,
        function: Callable[..., Any] | str,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        progress: bool = False,
    ) -> AsyncIterator[Any]:
        """What `function` returns for each set of arguments, in their order, as the built-in `map`.

        The tasks are sent when the first value is asked for. One that has no value raises what it raised over there, and
        the others run on. DeadlineExceeded when a value is missing after `timeout` seconds.
        """
        if not iterables:
            raise InvalidArgument("map takes a function and at least one list of arguments")
        tasks = [{"function": function, "args": arguments} for arguments in zip(*iterables, strict=False)]
        uids = [answer["uid"] for answer in await self.submit_tasks(tasks, results="inline")]
        early: dict[str, dict[str, Any]] = {}
        following = 0
        async for result in self.as_completed(uids, timeout, progress=progress):
            early[result["uid"]] = result
            while following < len(uids) and uids[following] in early:
                next_result = early.pop(uids[following])
                following += 1
                error = task_error(next_result)
                if error is not None:
                    raise error
                yield next_result["return_value"]

    async def list_tasks(self, state: str | None = None, after: str = "", limit: int | None = None) -> dict[str, Any]:
        """Tasks of the session as `{"tasks": [{uid, state, times}]}`, in the order of their submission, without results.

        Those in `state` alone, if that is given; at most `limit`, and only those that were submitted after the uid `after`.
        """
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise InvalidArgument(f"limit is a number of tasks, or None for all, not {limit!r}")
        tasks: dict[str, dict[str, Any]] = {}
        position = after
        while limit is None or len(tasks) < limit:
            wanted = LIST_TASKS if limit is None else min(LIST_TASKS, limit - len(tasks))
            try:
                page = (await self.call("list_tasks", state=state, after=position, limit=wanted))["tasks"]
            except InvalidArgument:
                if position == after:
                    raise
                position = after  # the last task of a page was forgotten meanwhile, as its time had come
                continue
            tasks |= {task["uid"]: task for task in page}
            if len(page) < wanted:
                break
            position = page[-1]["uid"]
        return {"tasks": list(tasks.values())}

    async def cancel_task(self, uid: str, reason: str = "") -> dict[str, Any]:
        """End a task; `status` is "canceled", or how it had ended before. `reason` is kept in its result.

        `unstoppable` is 1 where its function runs on in its thread, which cannot be ended, though the task is canceled.
        """
        answer: dict[str, Any] = await self.call("cancel", uid=uid, reason=reason)
        return answer

    async def cancel_all_tasks(self, reason: str = "", *, begun: bool = True) -> dict[str, Any]:
        """End all tasks of the session, or without `begun` those that have not begun.

        How many were `requested` to end, how many are `canceled`, and of how many of these the function runs on because threads
        cannot be ended: `unstoppable`.
        """
        answer: dict[str, Any] = await self.call("cancel_all", reason=reason, begun=begun)
        return answer

    async def get_statistics(self) -> dict[str, Any]:
        """Tasks by state and by backend, rates, time spent by stage, events, bytes, and what is held for the session.

        `{states, backends, submitted, finished, fetched, rates_1s, rates_10s, stages, events, bytes, queued, in_flight,
        tasks_held, results_held, result_bytes, unfetched_bytes, spooled_bytes, consumers, store_fault}`;
        docs/rhapsody.md says what they are.
        """
        answer: dict[str, Any] = await self.call("statistics")
        return answer

    def known_here(self, item: str) -> KnownHere | None:
        """Of a task: whether the endpoint has taken it, and whether its result has come. From any thread."""
        if "_submissions" not in vars(self):  # the session is being opened
            return super().known_here(item)
        sending = self._submissions.sending()
        if item in sending:
            because = f": {self._held_up}" if self._held_up else ""
            said = f"{len(sending)} tasks of this client have not been taken by {self.endpoint} yet{because}."
            return KnownHere("task", "unsent", said, len(sending))
        state = self._inbox.state_of(item)
        if state:
            return KnownHere("task", state, HERE[state], len(sending))
        return super().known_here(item)

    def _uid_for(self, task: Mapping[str, Any]) -> str:
        uid = task.get("uid")
        if uid is None:
            return f"task.{self._prefix}.{next(self._numbers):06d}"
        return str(uid) if type(task) is dict else sent_uid(task, str(uid))

    async def _submit(self, batch: EncodedBatch, answers: list[dict[str, Any]], submission: Submission) -> None:
        refused, fresh = dict(batch.refused), submission.fresh
        if batch.sent:
            answer = await self._send_batch(batch)
            submission.acknowledged = submission.offered
            self._submissions.found(answers[position]["uid"] for position in batch.sent)
            had_ended: list[str] = []
            for index, state in answer.known.items():
                position = batch.sent[index]
                answers[position]["state"] = state
                if state in FINAL_STATES and fresh[position]:
                    had_ended.append(answers[position]["uid"])
            if had_ended:
                await self._bring(had_ended)
            refused |= {batch.sent[index]: error for index, error in answer.refused.items()}
        for position, error in refused.items():
            failed = {"uid": answers[position]["uid"], "state": FAILED, "exception": error}
            answers[position] = failed
            if fresh[position]:  # else the uid stands for another task of this client, whose result is to come
                self._inbox.deliver((local_record(failed["uid"], error),))

    async def _send_batch(self, batch: EncodedBatch) -> Acknowledgement:
        """A batch may be sent twice, so it is sent again where nobody answers for it."""
        endpoint_away_s, broker_away_s = SUBMIT_AWAY_S, SUBMIT_AWAY_S
        if self.submits_patiently:
            endpoint_away_s, broker_away_s = self._client.endpoint_away_s, self._client.broker_away_s
        patience = Patience(self.endpoint, endpoint_away_s, broker_away_s)
        while True:
            try:
                await self._send_apart(batch)
                answer = await self._send_and_receive(batch)
                self._held_up = ""
                return answer
            except Busy as error:  # room comes from results that are fetched and from tasks that end
                self._held_up = error.message
                await self._receive(ROOM_S)
                await self._turn.pause(BUSY_PAUSE_S)
            except OrbitError as error:
                self._held_up = error.message
                pause_s = patience.on_failure(error, time.monotonic(), broker_is_there=self._client.is_connected)
                await self._turn.pause(pause_s)

    async def _send_apart(self, batch: EncodedBatch) -> None:
        """Send what is too large for the batch itself; if the endpoint cannot keep it, the tasks that need it will say so."""
        for name, value in batch.apart.items():
            with suppress(InternalError):
                await self.call("upload", name=name, data=_chunks_of(value), deadline_s=UPLOAD_S)

    async def _send_and_receive(self, batch: EncodedBatch) -> Acknowledgement:
        """Send a batch, and take in the results that come with the answer, unless somebody else asks for them already."""
        try:
            reads = await self._turn.take(0.0)
            reader = {"consumer": self._consumer, "after": self._after, "max_bytes": TAKEN_ALONG_BYTES}
            body = batch.packed(reader if reads else None)
            answer = Acknowledgement.decode(await self.call_raw("submit", body))
            self._kept.update(answer.kept)
            if answer.portion is not None:
                await self._take_in(answer.portion)
            return answer
        finally:
            await self._turn.give_back()


async def _chunks_of(value: LargeValue) -> AsyncIterator[bytes]:
    for chunk in value.chunks():
        yield chunk

"""Endpoints as a backend of Rhapsody: what runs on `rhapsody.Session`, or an engine on top of it, runs on another machine.

`rhapsody.get_backend("orbit_zmq", endpoint="hpc1")` makes one. A backend is one session of the plugin on one endpoint. Results
are fetched and told as states, in order and each end once; that a task has begun is known from events, or from its result.
This module must not be imported by a client: it needs Rhapsody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from rhapsody.backends.base import BaseBackend
from rhapsody.backends.constants import BackendMainStates, StateMapper

from orbit_rhapsody.batches import TASK_FIELDS
from orbit_rhapsody.client import AsyncRhapsodyClient
from orbit_rhapsody.codec import CANCELED, FAILED, MAX_UID_CHARS, RUNNING
from orbit_rhapsody.handed_in import checked_tasks
from orbit_rhapsody.registration import NAME
from orbit_zmq.client._async.client import ANYWHERE, AsyncClient
from orbit_zmq.errors import Canceled, InvalidArgument, NotFound, OrbitError, SessionClosed
from orbit_zmq.log import get_logger

log = get_logger(__name__)

PLUGIN = "rhapsody"
EARLY_STATES = 65_536  # kept for a callback that comes after the tasks
CLOSE_S = 5.0  # for the session to end at an endpoint that may be away
ABOUT_TO_BE_SENT_S = 0.001
NOT_THERE_YET_S = 0.05  # between two attempts to cancel a task that is being sent
_NOT_SENT = frozenset({"uid", "backend"})  # `backend` is the name of this one, by which its session has chosen it
_REFUSED = frozenset({"input_files", "output_files"})  # no files are moved, and the plugin says so
_OWN = frozenset({"uid", "state"})  # of the caller's task, whatever its result says

Callback = Callable[[Any, str], Any]


class AwaitableText(str):
    """Text that may be awaited: Rhapsody's base class promises the state at once, its backends let it be awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, str]:
        yield from ()
        return str(self)


@dataclass(slots=True)
class _Open:
    """A task that has not ended."""

    task: Any
    is_running: bool = False


class OrbitZmqBackend(BaseBackend):  # type: ignore[misc]  # Rhapsody has no types
    """Runs Rhapsody's tasks on an endpoint, on backends of Rhapsody over there.

    `endpoint` is its name, `*` stands for one that has the plugin; `backends` are those over there, the endpoint's default
    where they are left out; `name` is what tasks choose this one by in a Rhapsody session that has several. It connects by
    `url`, or as `AsyncClient()` does, or uses `client`, an AsyncClient that stays open. All else are arguments of
    `get_plugin`, like `init_timeout` and `lifetime`; the session ends with the backend.

    `await` it to have it started, which raises what is in the way: NotFound, BrokerUnreachable, Unsupported,
    DeadlineExceeded. Otherwise it starts with its first tasks.
    """

    def __init__(
        self,
        endpoint: str = ANYWHERE,
        backends: Sequence[str] | None = None,
        *,
        name: str = NAME,
        url: str | None = None,
        client: AsyncClient | None = None,
        **session: Any,
    ) -> None:
        super().__init__(name=name)
        if client is not None and url is not None:
            raise InvalidArgument("a backend has a client or a url, and not both", hint="The client has its broker.")
        self.endpoint = endpoint
        self._arguments = {"backends": backends, **session}
        self._url = url
        self._client = client
        self._owns_client = client is None
        self._plugin: AsyncRhapsodyClient | None = None
        self._opening = asyncio.Lock()
        self._state = BackendMainStates.INITIALIZED
        self._early: deque[tuple[Any, str]] = deque(maxlen=EARLY_STATES)
        self._callback_func: Callback = lambda task, state: self._early.append((task, state))
        self._broken: OrbitError | None = None  # why no more results can be had
        self._open: dict[str, _Open] = {}  # by the uid sent
        self._uids: dict[str, str] = {}  # the uid sent by the caller's
        self._mark = secrets.token_hex(4)
        self._numbers = count(1)
        self._arrived = asyncio.Event()  # tasks
        self._sending: set[asyncio.Task[list[dict[str, Any]]]] = set()
        self._pump: asyncio.Task[None] | None = None
        StateMapper.register_backend_states_with_defaults(backend=self)
        StateMapper.register_backend_tasks_states_with_defaults(backend=self)

    def __repr__(self) -> str:
        return f"<backend {self.name} on endpoint {self.endpoint}: {self._state.value}, {len(self._open)} tasks open>"

    @classmethod
    async def create(cls, *arguments: Any, **more: Any) -> OrbitZmqBackend:
        """A backend that is started."""
        return await cls(*arguments, **more)

    def __await__(self) -> Generator[Any, None, OrbitZmqBackend]:
        return self._started().__await__()

    async def __aenter__(self) -> OrbitZmqBackend:
        return await self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    async def _started(self) -> OrbitZmqBackend:
        await self._session()
        return self

    async def _session(self) -> AsyncRhapsodyClient:
        """The session over there; opened by whoever comes first."""
        async with self._opening:
            if self._broken is not None:
                raise self._broken
            if self._state == BackendMainStates.SHUTDOWN:
                raise SessionClosed(f"the backend {self.name} was shut down", hint="Make a new one.")
            if self._plugin is None:
                await self._open_session()
        if self._plugin is None:
            raise SessionClosed(f"the backend {self.name} has no session")
        return self._plugin

    async def _open_session(self) -> None:
        client = self._client or AsyncClient(url=self._url)
        try:
            plugin = await client.get_plugin(self.endpoint, PLUGIN, **self._arguments)
            if not isinstance(plugin, AsyncRhapsodyClient):
                raise InvalidArgument(f"{plugin.plugin} on endpoint {plugin.endpoint} runs no tasks of Rhapsody")
            await plugin.on_notification(self._on_news, "task_status_batch")
        except BaseException:
            if self._owns_client:
                await client.close()
            raise
        self._client, self._plugin = client, plugin
        self.endpoint = plugin.endpoint
        self._pump = asyncio.create_task(self._tell_results(plugin))  # it ends with the backend

    @property
    def sid(self) -> str:
        """The id of the session over there; empty where it is not open."""
        return self._plugin.sid if self._plugin is not None else ""

    def state(self) -> AwaitableText:
        """INITIALIZED, RUNNING from the first task on, or SHUTDOWN."""
        return AwaitableText(self._state.value)

    def get_task_states_map(self) -> Any:
        """What the states of tasks are called: DONE, FAILED, CANCELED and RUNNING."""
        return StateMapper(backend=self)

    def register_callback(self, func: Callback) -> None:
        """Have `func(task, state)` called on the loop: with RUNNING at most once, and then once with a final state.

        The first one is told at once what was told to nobody yet, of the latest states.
        """
        self._callback_func = func
        while self._early:
            self._tell(*self._early.popleft())

    def task_state_cb(self, task: Any, state: str) -> None:
        """Does nothing; states are told to the callback that is registered."""

    def build_task(self, task: Any) -> None:
        """Does nothing; tasks are taken as they are."""

    async def submit_tasks(self, tasks: Iterable[Any]) -> None:
        """Send tasks; InvalidArgument for what is no list of them. A task that cannot be sent, or be taken over there, ends as
        FAILED with its `exception`, also where that is why the backend cannot be started, or that it was shut down."""
        sent = {self._begin(task): task for task in checked_tasks(tasks)}
        try:
            plugin = await self._session()
            self._state = BackendMainStates.RUNNING
            await self._send(plugin, [{**described(task), "uid": uid} for uid, task in sent.items()])
        except asyncio.CancelledError:
            self._end_unsent(sent, CANCELED, {})
            if _is_canceled():  # else it was `cancel_all_tasks`
                raise
        except OrbitError as error:
            self._end_unsent(sent, FAILED, {"exception": error})

    def _begin(self, task: Any) -> str:
        """Uids are the caller's affair, and may come again; each task has one of its own in the session."""
        more = f"{self._mark}.{next(self._numbers)}"
        own = task.setdefault("uid", f"task.{more}")
        uid = f"{own[: MAX_UID_CHARS - len(more) - 1]}.{more}"
        self._open[uid] = _Open(task)
        self._uids[own] = uid
        return uid

    async def _send(self, plugin: AsyncRhapsodyClient, tasks: list[dict[str, Any]]) -> None:
        sending = asyncio.create_task(plugin.submit_tasks(tasks))  # so that it can be stopped
        self._sending.add(sending)
        self._arrived.set()
        try:
            await sending
        finally:
            self._sending.discard(sending)

    def _end_unsent(self, uids: Iterable[str], state: str, result: dict[str, Any]) -> None:
        """Of what was sent, or may have been, the session knows."""
        known = set(self._plugin.open_tasks) if self._plugin is not None else set()
        for uid in uids:
            if uid not in known:
                self._end(uid, state, result)

    async def cancel_task(self, uid: str) -> bool:
        """End a task; whether that ended it. Its processes are gone when this answers, and CANCELED is told."""
        sent = self._uids.get(uid, "")
        while sent in self._open:
            try:
                answer = await (await self._session()).cancel_task(sent)
                return bool(answer["canceled"])
            except NotFound:
                if not self._sending:
                    return False
                await asyncio.sleep(NOT_THERE_YET_S)
        return False

    async def cancel_all_tasks(self) -> int:
        """End all tasks, and send none of those that are being submitted: how many were open."""
        were_open = len(self._open)
        if were_open:
            await self._stop_sending()
            await (await self._session()).cancel_all_tasks()
        return were_open

    async def _stop_sending(self) -> None:
        for sending in self._sending:
            sending.cancel()
        if self._sending:
            await asyncio.wait(self._sending)

    async def shutdown(self) -> None:
        """End the session over there and with it all tasks: those that have not ended are CANCELED."""
        self._state = BackendMainStates.SHUTDOWN
        await self._stop_sending()
        async with self._opening:
            plugin, self._plugin = self._plugin, None
            if self._pump is not None:
                self._pump.cancel()
                await asyncio.wait((self._pump,))
            if plugin is not None and self._client is not None:
                with suppress(OrbitError, TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await plugin.unregister_session()
                await plugin.close()
                if self._owns_client:
                    await self._client.close()
        self._end_all(CANCELED, {})

    async def _tell_results(self, plugin: AsyncRhapsodyClient) -> None:
        """Until the backend is shut down, or there is nothing to be had any more."""
        try:
            while True:
                results = await plugin.next_results()
                for result in results:
                    self._end(result["uid"], result["state"], result)
                if not results and self._open:
                    await asyncio.sleep(ABOUT_TO_BE_SENT_S)
                elif not results:
                    self._arrived.clear()
                    await self._arrived.wait()
        except OrbitError as error:
            self._broken = error
            self._end_all(FAILED, {"exception": error})

    def _on_news(self, endpoint: str, plugin: str, topic: str, data: dict[str, Any]) -> None:
        for news in data["tasks"]:
            if news["state"] == RUNNING:
                self._note_running(news["uid"])

    def _note_running(self, uid: str) -> None:
        entry = self._open.get(uid)
        if entry is not None and not entry.is_running:
            entry.is_running = True
            self._tell(entry.task, RUNNING)

    def _end_all(self, state: str, result: dict[str, Any]) -> None:
        for uid in tuple(self._open):
            self._end(uid, state, result)

    def _end(self, uid: str, state: str, result: dict[str, Any]) -> None:
        """Write the result into the caller's task, and tell its states."""
        if result.get("times", {}).get("started") is not None:
            self._note_running(uid)
        entry = self._open.pop(uid, None)
        if entry is None:
            return
        if isinstance(result.get("exception"), Canceled):  # its submission was interrupted
            state = CANCELED
        task = entry.task
        if self._uids.get(task["uid"]) == uid:
            del self._uids[task["uid"]]
        task.update({name: value for name, value in result.items() if name not in _OWN})
        if state == CANCELED:
            task["exit_code"] = None  # a Rhapsody session takes the code of a signal for a failure
        if task.get("prompt") is not None:
            task["response"] = task.get("return_value")
        self._tell(task, state)

    def _tell(self, task: Any, state: str) -> None:
        task["state"] = state
        try:
            self._callback_func(task, state)
        except Exception:  # the caller's
            log.exception("callback-failed", backend=self.name, uid=task["uid"], state=state)


def described(task: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task is sent: what Rhapsody has for a task of its kind. Other fields are the caller's own, and stay here."""
    known = _REFUSED.union(*(fields for kind, fields in TASK_FIELDS.items() if task.get(kind) is not None))
    return {name: value for name, value in task.items() if value is not None and name in known and name not in _NOT_SENT}


def _is_canceled() -> bool:
    """Whether somebody has canceled the present task of asyncio."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Endpoints as a backend of Rhapsody: its sessions, tasks and callbacks as on its own backends, with the work elsewhere."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, running_lab, wait_until

import orbit_rhapsody  # noqa: F401 - registers the backend
from orbit_zmq import AsyncClient
from orbit_zmq.errors import EndpointLost, InvalidArgument, NotFound, SessionClosed, Unsupported

rhapsody = pytest.importorskip("rhapsody")

PATIENCE_S = 60.0
FINAL = ("DONE", "FAILED", "CANCELED")
COMPARED = ("state", "return_value", "exit_code")


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with running_lab() as lab:
        for name in ("hpc1", "hpc2"):
            lab.start_endpoint(name, plugins="rhapsody")
        yield lab


class Told:
    """The states that a backend tells, by the uid of their task."""

    def __init__(self, backend: Any, then: Callable[[Any, str], None] = lambda task, state: None) -> None:
        self.states: dict[str, list[str]] = {}
        self._then = then
        backend.register_callback(self._note)

    def _note(self, task: Any, state: str) -> None:
        self.states.setdefault(task["uid"], []).append(state)
        self._then(task, state)

    async def until(self, is_so: Callable[[], object], what: str = "") -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: {self.states}"
            await asyncio.sleep(0.01)

    async def until_ended(self, *uids: str) -> None:
        await self.until(lambda: all(self.states.get(uid, [""])[-1] in FINAL for uid in uids), "all have ended")


def made(lab: Lab, *backends: str, endpoint: str = "hpc1", **more: Any) -> Any:
    return rhapsody.get_backend("orbit_zmq", endpoint=endpoint, backends=list(backends or ("concurrent",)), url=lab.url, **more)


def on_backend(lab: Lab, main: Callable[[Any, Told], Awaitable[None]], *backends: str, **more: Any) -> None:
    """Run `main(backend, told)` with a backend that is shut down after it."""

    async def run() -> None:
        async with made(lab, *backends, **more) as backend:
            await main(backend, Told(backend))

    asyncio.run(run())


def pid_of(lab: Lab, endpoint: str) -> int:
    return int(lab.client().endpoint(endpoint).facts.environment["pid"])


def program(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], **more}


def add(left: Any, right: Any = 1) -> Any:
    return left + right


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value


def complain(word: str) -> None:
    raise LookupError(word, 7)


def hold(path: str) -> None:
    while Path(path).exists():
        time.sleep(0.02)


def tasks_of(place: Path) -> dict[str, dict[str, Any]]:
    return {
        "sum": {"function": add, "args": (1, 2)},
        "words": {"function": add, "args": ["a"], "kwargs": {"right": "b"}},
        "coroutine": {"function": later, "args": (5,)},
        "error": {"function": complain, "args": ("why",)},
        "loud": program("echo out; echo err >&2", memory=1024, priority="high"),
        "three": program("echo out; exit 3"),
        "where": program("pwd", task_backend_specific_kwargs={"cwd": str(place)}),
        "nowhere": {"executable": "/no/such/program"},
    }


async def through_session(
    backend: Any, place: Path, tasks: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], Told, list[Any]]:
    async with rhapsody.Session([backend], work_dir=str(place)) as session:
        told = Told(backend, session._state_manager.update_task)
        objects = {uid: rhapsody.ComputeTask(uid=uid, **task) for uid, task in tasks.items()}
        futures = await session.submit_tasks(list(objects.values()))
        await session.wait_tasks(list(objects.values()), timeout=PATIENCE_S)
        return objects, told, await asyncio.gather(*futures, return_exceptions=True)


@pytest.mark.parametrize("name", ["concurrent", "noop"])
def test_a_session_of_rhapsody_sees_what_it_sees_of_the_backend_itself(shared: Lab, tmp_path: Path, name: str):
    async def main() -> None:
        tasks = tasks_of(tmp_path)
        theirs, their_states, their_ends = await through_session(await rhapsody.get_backend(name), tmp_path, tasks)
        ours, our_states, our_ends = await through_session(await made(shared, name), tmp_path, tasks)
        for uid, their_end, our_end in zip(tasks, their_ends, our_ends, strict=True):
            assert our_states.states[uid] == their_states.states[uid], uid
            assert {field: ours[uid][field] for field in COMPARED} == {field: theirs[uid][field] for field in COMPARED}, uid
            assert (ours[uid]["stderr"] or "") == (theirs[uid]["stderr"] or ""), uid
            assert type(our_end) is type(their_end) and getattr(our_end, "args", 0) == getattr(their_end, "args", 0), uid

    asyncio.run(main())


def test_it_has_every_method_of_a_backend(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        base = rhapsody.backends.BaseBackend
        for name, theirs in inspect.getmembers(base, inspect.isfunction):
            ours = getattr(type(backend), name)
            assert (
                name.startswith("__")
                or inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys()
            )
        assert backend.state() == "INITIALIZED" and await backend.state() == "INITIALIZED"
        await backend.submit_tasks([{"uid": "first", "function": add, "args": (1,)}])
        assert backend.state() == "RUNNING"
        assert backend.get_task_states_map().terminal_states == FINAL
        assert backend.build_task({}) is None and backend.task_state_cb({}, "DONE") is None
        await told.until_ended("first")
        assert told.states == {"first": ["RUNNING", "DONE"]}
        assert (backend.endpoint, backend.name) == ("hpc1", "orbit_zmq")

    on_backend(shared, main)


def test_a_prompt_has_its_response_and_a_dict_without_a_uid_gets_one(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        plain: dict[str, Any] = {"function": add, "args": (1,)}
        asked = rhapsody.AITask(prompt="why?", model="m")
        await backend.submit_tasks([asked, plain])
        await told.until_ended(asked.uid, plain["uid"])
        assert asked.response is True and plain["return_value"] is True

    on_backend(shared, main, "noop")


def test_a_uid_may_come_again_for_another_task(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        first, second = ({"uid": "same", "function": add, "args": (number,)} for number in (1, 2))
        await backend.submit_tasks([first])
        await told.until_ended("same")
        await backend.submit_tasks([second])
        await told.until(lambda: told.states["same"] == ["RUNNING", "DONE"] * 2)
        assert (first["return_value"], second["return_value"]) == (2, 3)

    on_backend(shared, main)


def test_many_tasks_end_once_each_and_after_they_have_begun(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        batches: list[list[dict[str, Any]]] = [
            [{"uid": f"{batch}.{number}", "function": add, "args": (number,)} for number in range(50)] for batch in range(40)
        ]
        await asyncio.gather(*map(backend.submit_tasks, batches))
        tasks = [task for batch in batches for task in batch]
        await told.until_ended(*(task["uid"] for task in tasks))
        assert all(told.states[task["uid"]] == ["RUNNING", "DONE"] for task in tasks)
        assert all(task["return_value"] == task["args"][0] + 1 for task in tasks)

    on_backend(shared, main)


def test_a_canceled_task_is_gone_and_the_others_run_on(shared: Lab, tmp_path: Path):
    async def main(backend: Any, told: Told) -> None:
        pid, tasks = tmp_path / "pid", [{"uid": "long", **program(f"echo $$ > {tmp_path}/pid; exec sleep 600")}]
        await backend.submit_tasks([*tasks, {"uid": "other", **program("sleep 0.5")}])
        await told.until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the program runs")
        assert await backend.cancel_task("long") is True
        assert not psutil.pid_exists(int(pid.read_text()))
        await told.until_ended("long", "other")
        assert told.states == {"long": ["RUNNING", "CANCELED"], "other": ["RUNNING", "DONE"]}
        assert tasks[0]["exit_code"] is None
        assert await backend.cancel_task("long") is False and await backend.cancel_task("unheard of") is False

    on_backend(shared, main)


def test_a_canceled_task_of_a_session_ends_its_future_as_on_rhapsodys_own_backend(shared: Lab, tmp_path: Path):
    async def canceled(backend: Any) -> tuple[Any, Any]:
        async with rhapsody.Session([backend], work_dir=str(tmp_path)) as session:
            task = rhapsody.ComputeTask(**program("exec sleep 600"))
            runs = Told(backend, session._state_manager.update_task)
            (future,) = await session.submit_tasks([task])
            await runs.until(lambda: runs.states.get(task.uid) == ["RUNNING"])
            assert await backend.cancel_task(task.uid)
            return task, (await asyncio.gather(future, return_exceptions=True))[0]

    async def main() -> None:
        for backend in (await rhapsody.get_backend("concurrent"), await made(shared)):
            task, end = await canceled(backend)
            assert end is task and task.state == "CANCELED"

    asyncio.run(main())


@contextmanager
def halted(pid: int) -> Iterator[Callable[[], None]]:
    """A process that stands still until this ends, or until what this gives is called."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.long
def test_canceling_all_ends_what_runs_what_waits_and_what_is_being_sent(shared: Lab, tmp_path: Path):
    async def main(backend: Any, told: Told) -> None:
        running: list[dict[str, Any]] = [
            {"uid": f"r{number}", "function": hold, "args": (str(tmp_path / "held"),)} for number in range(50)
        ]
        await backend.submit_tasks(running)
        await told.until(lambda: told.states, "some run and some wait")
        sent: list[dict[str, Any]] = [{"uid": f"s{number}", **program("exec sleep 600")} for number in range(3)]
        with halted(pid) as go_on:
            sending = asyncio.create_task(backend.submit_tasks(sent))
            await told.until(lambda: len(backend._sending) == 1)
            canceling = asyncio.create_task(backend.cancel_all_tasks())
            await sending
            go_on()
            assert await canceling == 53
        await told.until_ended(*(task["uid"] for task in (*running, *sent)))
        assert {task["state"] for task in (*running, *sent)} == {"CANCELED"}
        assert await backend.cancel_all_tasks() == 0

    pid = pid_of(shared, "hpc1")
    (tmp_path / "held").touch()
    try:
        on_backend(shared, main)
    finally:
        (tmp_path / "held").unlink()


@pytest.mark.long
def test_an_interrupted_submission_leaves_no_task_open(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        tasks: list[dict[str, Any]] = [
            {"uid": str(number), "function": add, "args": (number,)} for number in range(3_000)
        ]  # more than one batch
        with halted(pid):
            sending = asyncio.create_task(backend.submit_tasks(tasks))
            await told.until(lambda: len(backend._sending) == 1)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        await told.until_ended(*(task["uid"] for task in tasks))
        assert told.states["2999"] == ["CANCELED"]

    pid = pid_of(shared, "hpc1")
    on_backend(shared, main)


def test_shutting_down_ends_tasks_and_session_and_later_tasks_fail(
    shared: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orbit_rhapsody.backend.CLOSE_S", PATIENCE_S)
    pid = tmp_path / "pid"

    async def main() -> None:
        backend = await made(shared, lifetime="persistent")
        told, sid = Told(backend), backend.sid
        await backend.submit_tasks([{"uid": "long", **program(f"echo $$ > {pid}; exec sleep 600")}])
        await told.until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the program runs")
        await told.until(lambda: told.states.get("long") == ["RUNNING"], "that it runs is told")
        await backend.shutdown()
        await backend.shutdown()
        assert told.states["long"] == ["RUNNING", "CANCELED"]
        assert backend.state() == "SHUTDOWN"
        late = {"uid": "late", "function": add, "args": (1,)}
        await backend.submit_tasks([late])
        assert late["state"] == "FAILED" and isinstance(late["exception"], SessionClosed)
        async with AsyncClient(url=shared.url, connect_timeout_s=PATIENCE_S) as client:
            with pytest.raises((NotFound, SessionClosed)):
                await client.attach(sid, endpoint="hpc1", plugin="rhapsody")

    asyncio.run(main())
    wait_until(lambda: not psutil.pid_exists(int(pid.read_text())), what="the program has ended")


def test_several_sessions_and_backends_do_not_meet(shared: Lab, tmp_path: Path):
    async def one(word: str) -> dict[str, Any]:
        near, far = made(shared, name="near"), made(shared, endpoint="hpc2", name="far")
        async with rhapsody.Session([near, far], work_dir=str(tmp_path)) as session:
            tasks = [
                rhapsody.ComputeTask(uid="default", function=os.getpid),
                rhapsody.ComputeTask(uid="near", function=os.getpid, backend="near"),
                rhapsody.ComputeTask(uid="far", function=os.getpid, backend="far"),
                rhapsody.ComputeTask(uid="word", function=add, args=(word, ""), backend="far"),
            ]
            await session.submit_tasks(tasks)
            await asyncio.gather(*tasks)
            return {task.uid: task.return_value for task in tasks}

    async def main() -> list[dict[str, Any]]:
        return await asyncio.gather(*map(one, "abc"))

    found = asyncio.run(main())
    assert [answers["word"] for answers in found] == ["a", "b", "c"]
    assert all(answers["default"] == answers["near"] != answers["far"] for answers in found)


def test_a_backend_that_cannot_be_started_says_why_or_fails_its_tasks(shared: Lab, tmp_path: Path):
    async def main() -> None:
        with pytest.raises(NotFound, match="nowhere"):
            await made(shared, endpoint="nowhere")
        with pytest.raises(Unsupported, match="'dragon' cannot be used here"):
            await made(shared, "dragon")
        async with rhapsody.Session([made(shared, endpoint="nowhere")], work_dir=str(tmp_path)) as session:
            task = rhapsody.ComputeTask(function=add, args=(1,))
            (future,) = await session.submit_tasks([task])
            with pytest.raises(NotFound, match="nowhere"):
                await future
            assert task.state == "FAILED"
        with pytest.raises(InvalidArgument, match="a client or a url"):
            made(shared, client=object())

    asyncio.run(main())


def test_a_task_that_is_refused_fails_alone_and_what_is_no_list_is_an_error_at_the_door(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        tasks: list[Any] = [
            {"uid": "nothing"},
            {"uid": "files", **program("true"), "input_files": ["a"]},
            {"uid": "ranks", **program("true"), "ranks": 2},
            {"uid": "good", "function": add, "args": (1,)},
        ]
        await backend.submit_tasks(tasks)
        await told.until_ended("nothing", "files", "ranks", "good")
        assert [type(task["exception"]) for task in tasks] == [InvalidArgument, InvalidArgument, Unsupported, type(None)]
        assert [told.states[task["uid"]] for task in tasks[:3]] == [["FAILED"]] * 3
        for wrong in ({"uid": "a"}, ["a"], [{"uid": 7}]):
            with pytest.raises(InvalidArgument):
                await backend.submit_tasks(wrong)

    on_backend(shared, main)


def test_a_callback_that_comes_after_the_tasks_is_told_all_the_same(shared: Lab):
    async def main() -> None:
        async with made(shared) as backend:
            task = {"uid": "t", "function": add, "args": (1,)}
            await backend.submit_tasks([task])
            await asyncio.to_thread(wait_until, lambda: task.get("state") == "DONE", PATIENCE_S)
            assert Told(backend).states == {"t": ["RUNNING", "DONE"]}

    asyncio.run(main())


def test_a_callback_that_raises_keeps_no_other_state_back(shared: Lab):
    async def main(backend: Any, told: Told) -> None:
        told = Told(backend, lambda task, state: complain(state))
        await backend.submit_tasks([{"uid": str(number), "function": add, "args": (1,)} for number in range(3)])
        await told.until_ended("0", "1", "2")

    on_backend(shared, main)


def test_the_tasks_of_an_endpoint_that_was_killed_fail_with_endpoint_lost(lab: Lab, tmp_path: Path):
    async def main() -> None:
        endpoint = lab.start_endpoint("hpc1", plugins="rhapsody")
        async with made(lab) as backend:
            told = Told(backend)
            tasks = [{"uid": f"t{number}", "function": hold, "args": (str(tmp_path),)} for number in range(3)]
            await backend.submit_tasks(tasks)
            await told.until(lambda: len(told.states) == 3, "all run")
            os.kill(endpoint.pid, signal.SIGKILL)
            await asyncio.to_thread(lab.start_endpoint, "hpc1", plugins="rhapsody")
            await told.until_ended("t0", "t1", "t2")
            assert all(states == ["RUNNING", "FAILED"] for states in told.states.values())
            assert {type(task["exception"]) for task in tasks} == {EndpointLost}
            late = {"uid": "late", "function": add, "args": (1,)}
            await backend.submit_tasks([late])
            await told.until_ended("late")
            assert isinstance(late["exception"], EndpointLost)

    asyncio.run(main())


def test_tasks_of_an_endpoint_that_stays_away_fail_when_patience_is_over(lab: Lab, tmp_path: Path):
    async def main() -> None:
        endpoint = lab.start_endpoint("hpc1", plugins="rhapsody")
        async with AsyncClient(url=lab.url, connect_timeout_s=PATIENCE_S, endpoint_away_s=1.0) as client:
            backend = await rhapsody.get_backend("orbit_zmq", endpoint="hpc1", client=client)
            told, task = Told(backend), {"uid": "t", "function": hold, "args": (str(tmp_path),)}
            await backend.submit_tasks([task])
            await told.until(lambda: told.states, "it runs")
            os.kill(endpoint.pid, signal.SIGKILL)
            await told.until_ended("t")
            assert isinstance(task["exception"], EndpointLost)
            await backend.shutdown()
            assert client.is_connected

    asyncio.run(main())


def test_a_line_that_is_cut_again_and_again_loses_and_doubles_nothing(lab: Lab):
    lab.start_endpoint("hpc1", plugins="rhapsody")
    proxy = lab.proxy(lab.tcp)

    async def main() -> None:
        async with rhapsody.get_backend("orbit_zmq", endpoint="hpc1", backends=["concurrent"], url=proxy.address) as backend:
            told = Told(backend)
            batches: list[list[dict[str, Any]]] = [
                [{"uid": f"{n}.{m}", "function": add, "args": (m,)} for m in range(100)] for n in range(20)
            ]
            for batch in batches:
                sending = asyncio.create_task(backend.submit_tasks(batch))
                await asyncio.sleep(0.01)
                proxy.cut()
                await sending
            tasks = [task for batch in batches for task in batch]
            await told.until_ended(*(task["uid"] for task in tasks))
            assert all(told.states[task["uid"]] == ["RUNNING", "DONE"] for task in tasks)

    asyncio.run(main())

"""The engine with Rhapsody's own backends: real functions, real child processes, real cancellation."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import is_gone

from orbit_rhapsody import engine as engine_module
from orbit_rhapsody.batches import encode_batches
from orbit_rhapsody.codec import FINAL_STATES, Portion, decode_batch, task_result
from orbit_rhapsody.drivers import PROCESS_STARTS
from orbit_rhapsody.engine import Engine, executables_in_flight
from orbit_rhapsody.preparation import Batch, Functions
from orbit_rhapsody.results import Results
from orbit_zmq.errors import InvalidArgument, SessionClosed, Unsupported

PATIENCE_S = 60.0

hold = threading.Event()  # functions that hang wait for it

NEEDS_NO_DRAGON = pytest.mark.skipif(importlib.util.find_spec("dragon") is not None, reason="Dragon is installed")


@pytest.fixture(autouse=True)
def _release_hanging_functions():
    hold.clear()
    yield
    hold.set()


class Run:
    """An engine with its results, and the little that a client would do."""

    def __init__(self, engine: Engine, results: Results) -> None:
        self.engine = engine
        self.results = results
        self._functions = Functions()
        self._after = 0
        self._done: dict[str, dict[str, Any]] = {}

    def submit(self, **tasks: dict[str, Any]) -> None:
        self.submit_all(list(tasks.items()))

    def submit_all(self, tasks: list[tuple[str, dict[str, Any]]]) -> None:
        for encoded in encode_batches(tasks):
            assert not encoded.refused
            received = decode_batch(encoded.body)
            batch = Batch(received, self._functions, submitted=time.time(), allow_pickled=True)
            new, _ = self.results.admit(batch.tasks_of(received), time.time())
            self.engine.submit(new)

    async def wait(self, *uids: str) -> list[dict[str, Any]]:
        async with asyncio.timeout(PATIENCE_S):
            while not set(uids) <= self._done.keys():
                portion = await self.results.fetch("test", self._after, 1 << 20, PATIENCE_S)
                self._after = portion.after
                for record in Portion.decode(portion.encode()).records:
                    self._done[record["uid"]] = task_result(record)
        return [self._done[uid] for uid in uids]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - the condition lies in files and processes
                await asyncio.sleep(0.005)

    def state(self, uid: str) -> str:
        return str(self.results.snapshot([uid])[0]["state"])


@asynccontextmanager
async def running(*backends: str) -> AsyncIterator[Run]:
    results = Results()
    engine = Engine(backends or ("concurrent",), results)
    await engine.start()
    try:
        yield Run(engine, results)
    finally:
        await engine.close()


def with_engine(*backends: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    def wrap(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        async def main(*args: Any, **kwargs: Any) -> None:
            async with running(*backends) as run:
                await test(run, *args, **kwargs)

        @functools.wraps(test)
        def call(**kwargs: Any) -> None:
            asyncio.run(main(**kwargs))

        parameters = list(inspect.signature(test).parameters.values())[1:]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return call

    return wrap


def add(left: int, right: int) -> int:
    return left + right


def fail(word: str) -> None:
    raise KeyError(word)


def hang() -> None:
    hold.wait(2 * PATIENCE_S)


@with_engine()
async def test_functions_and_executables_run_and_say_how_they_ended(run: Run):
    run.submit(
        f={"function": add, "args": (1, 2)},
        p={"function": "operator:mul", "args": (6, 7)},
        e={"executable": "/bin/sh", "arguments": ["-c", "echo out; echo err >&2; exit 3"]},
        x={"executable": "/no/such/program"},
        k={"function": fail, "args": ("why",)},
    )

    f, p, e, x, k = await run.wait("f", "p", "e", "x", "k")

    assert (f["state"], f["return_value"], f["exit_code"], f["stdout"]) == ("DONE", 3, 0, "")
    assert p["return_value"] == 42
    assert (e["state"], e["exit_code"], e["stdout"], e["stderr"]) == ("FAILED", 3, "out\n", "err\n")
    assert (x["state"], type(x["exception"])) == ("FAILED", FileNotFoundError)
    assert (k["state"], repr(k["exception"])) == ("FAILED", "KeyError('why')")
    assert "in fail" in k["traceback"]
    for result in (f, p, e, k):
        times = result["times"]
        assert times["submitted"] <= times["started"] <= times["finished"]


@with_engine()
async def test_output_that_is_no_utf8_fails_no_task(run: Run):
    script = r"printf 'gr\303\274n \377 \303'; printf '\200' >&2"
    run.submit(e={"executable": "/bin/sh", "arguments": ["-c", script]})

    (result,) = await run.wait("e")

    assert (result["state"], result["exit_code"], result["exception"]) == ("DONE", 0, None)
    assert (result["stdout"], result["stderr"]) == (r"grün \xff \xc3", r"\x80")


@with_engine()
async def test_cwd_env_and_shell_reach_the_process(run: Run, tmp_path: Path):
    run.submit(
        c={"executable": "/bin/pwd", "cwd": str(tmp_path)},
        e={"executable": "/bin/sh", "arguments": ["-c", "echo $COLOUR"], "env": {"COLOUR": "red"}},
        s={"executable": "echo one &&", "arguments": ["echo two"], "shell": True},
    )

    c, e, s = await run.wait("c", "e", "s")

    assert c["stdout"].strip().endswith(tmp_path.name)
    assert e["stdout"] == "red\n"
    assert s["stdout"] == "one\ntwo\n"


@with_engine()
async def test_a_task_that_cannot_be_resolved_or_prepared_fails_alone(run: Run):
    run.submit(
        good={"function": add, "args": (1, 1)},
        nowhere={"function": "no.such.module:f"},
        backend={"function": add, "args": (1, 1), "backend": "dask"},
    )

    good, nowhere, backend = await run.wait("good", "nowhere", "backend")

    assert good["return_value"] == 2
    assert "no.such.module:f" in str(nowhere["exception"])
    assert isinstance(backend["exception"], InvalidArgument)


@with_engine()
async def test_sys_exit_in_a_function_fails_that_task_and_nothing_else(run: Run):
    run.submit(bye={"function": "sys:exit", "args": (5,)}, add={"function": add, "args": (1, 1)})

    bye, good = await run.wait("bye", "add")

    assert bye["state"] == "FAILED"
    assert isinstance(bye["exception"], SystemExit)
    assert good["state"] == "DONE"


@with_engine()
async def test_a_canceled_executable_is_dead_with_its_children_when_cancel_answers(run: Run, tmp_path: Path):
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; wait"
    run.submit(e={"executable": "/bin/sh", "arguments": ["-c", script]})
    await run.until(pids.exists)
    leader, child = map(int, pids.read_text().split())
    assert not is_gone(leader)
    await run.until(lambda: run.state("e") == "RUNNING")

    assert await run.engine.cancel("e", "no longer needed") == {"canceled": 1, "requested": 1, "unstoppable": 0}

    assert is_gone(leader)
    await run.until(lambda: is_gone(child))
    (result,) = await run.wait("e")
    assert (result["state"], result["reason"]) == ("CANCELED", "no longer needed")
    assert await run.engine.cancel("e") == {"canceled": 0, "requested": 0, "unstoppable": 0}


@with_engine()
async def test_executables_that_are_canceled_while_they_start_leave_nothing_behind(run: Run, tmp_path: Path):
    mark = f"ORBIT_TEST_{os.getpid()}_{tmp_path.name}"
    uids = [f"e{number}" for number in range(40)]
    run.submit_all([(uid, {"executable": "/bin/sleep", "arguments": ["600"], "env": {mark: "1"}}) for uid in uids])

    answer = await run.engine.cancel_all()

    assert answer["canceled"] == answer["requested"] == 40
    assert {result["state"] for result in await run.wait(*uids)} == {"CANCELED"}
    await run.until(lambda: not [p for p in psutil.Process().children(recursive=True) if _has(p, mark)])


@with_engine()
async def test_an_executable_that_waits_for_its_turn_to_start_is_canceled_and_never_starts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PROCESS_STARTS, "_patience_s", PATIENCE_S)
    trace = tmp_path / "it ran"
    async with PROCESS_STARTS.turn():  # of another session
        run.submit(e={"executable": "touch", "arguments": [str(trace)]}, other={"executable": "true"})
        await run.until(lambda: run.engine.statistics()["in_flight"] == 2)

        assert await run.engine.cancel("e", "changed my mind") == {"canceled": 1, "requested": 1, "unstoppable": 0}

    canceled, other = await run.wait("e", "other")
    assert (canceled["state"], canceled["reason"], other["state"]) == ("CANCELED", "changed my mind", "DONE")
    assert not trace.exists()


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@with_engine()
async def test_canceling_a_function_that_hangs_is_said_and_does_not_hold_others_up(run: Run):
    uids = [f"h{number}" for number in range(64)]
    run.submit_all([(uid, {"function": hang}) for uid in uids])
    await run.until(lambda: run.state("h0") == "RUNNING")

    answer = await run.engine.cancel_all()

    assert answer["canceled"] == 64
    assert answer["unstoppable"] <= 36
    run.submit(a={"function": add, "args": (1, 1)})
    (result,) = await run.wait("a")
    assert result["return_value"] == 2


@with_engine()
async def test_a_task_nobody_knows_cannot_be_canceled(run: Run):
    assert await run.engine.cancel("nobody") == {"canceled": 0, "requested": 0, "unstoppable": 0}


@with_engine()
async def test_a_function_that_runs_is_canceled_and_said_to_run_on(run: Run):
    run.submit(h={"function": hang})
    await run.until(lambda: "h" in run.engine._flights and run.engine._flights["h"].task["function"].running)

    assert await run.engine.cancel("h", "too slow") == {"canceled": 1, "requested": 1, "unstoppable": 1}

    (result,) = await run.wait("h")
    assert (result["state"], result["reason"]) == ("CANCELED", "too slow")


def test_closing_takes_bounded_time_though_functions_hang_and_processes_ignore_sigterm(tmp_path: Path):
    ready = tmp_path / "ready"

    async def main() -> float:
        async with running("concurrent") as run:
            stubborn = f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"
            run.submit(h={"function": hang}, e={"executable": "/bin/sh", "arguments": ["-c", stubborn]})
            await run.until(lambda: ready.exists() and run.state("h") == "RUNNING")
            started = time.monotonic()
            await run.engine.close()
            took = time.monotonic() - started
            assert {run.state("h"), run.state("e")} == {"CANCELED"}
            with pytest.raises(SessionClosed):
                run.submit(late={"function": add, "args": (1, 1)})
            with pytest.raises(SessionClosed):
                await run.engine.cancel_all()
            return took

    assert asyncio.run(main()) < 40  # four times what closing may take
    for thread in threading.enumerate():
        if thread.name == "orbit-rhapsody-engine":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_an_engine_that_never_started_can_be_closed():
    asyncio.run(Engine(["noop"], Results()).close())


@with_engine("noop")
async def test_thousands_of_tasks_come_back_once_each_and_leave_nothing_in_the_engine(run: Run):
    uids = [f"n{number}" for number in range(10_000)]
    run.submit_all([(uid, {"function": add, "args": (1, 2)}) for uid in uids])

    results = await run.wait(*uids)

    assert {result["state"] for result in results} == {"DONE"}
    statistics = run.results.statistics() | run.engine.statistics()
    assert statistics["states"]["DONE"] == statistics["tasks_held"] == statistics["results_held"] == 10_000
    assert statistics["queued"] == statistics["in_flight"] == 0
    assert statistics["backends"]["noop"]["DONE"] == 10_000
    assert all(not backend.held for backend in run.engine._backends.values())
    assert not run.engine._flights


@with_engine()
async def test_the_concurrent_backend_keeps_no_finished_task(run: Run):
    run.submit(f={"function": add, "args": (1, 2)}, e={"executable": "/bin/true"}, k={"function": fail, "args": ("x",)})
    await run.wait("f", "e", "k")

    backend = run.engine._backends["concurrent"]
    assert backend.driver.held == {}
    assert run.engine._loop is not None
    assert run.engine._loop.processes == {}


def test_no_more_child_processes_run_at_once_than_there_are_file_descriptors_for(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(engine_module, "executables_in_flight", lambda: 3)
    most = 0

    async def main() -> None:
        nonlocal most
        async with running("concurrent") as run:
            uids = [f"e{number}" for number in range(12)]
            run.submit_all([(uid, {"executable": "/bin/sleep", "arguments": ["0.02"]}) for uid in uids])
            waiting = asyncio.create_task(run.wait(*uids))
            while not waiting.done():
                most = max(most, run.engine.statistics()["in_flight"])
                await asyncio.sleep(0.001)
            assert {result["state"] for result in await waiting} == {"DONE"}

    asyncio.run(main())
    assert 1 <= most <= 3
    assert executables_in_flight() >= 4


@with_engine("concurrent", "noop")
async def test_a_session_may_have_several_backends_and_a_task_may_choose(run: Run):
    run.submit(c={"function": add, "args": (1, 2)}, n={"function": add, "args": (1, 2), "backend": "noop"})

    c, n = await run.wait("c", "n")

    assert (c["return_value"], n["return_value"]) == (3, True)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nonsense", InvalidArgument, "concurrent, noop"),
        pytest.param("dragon", Unsupported, "pip install 'orbit-zmq[dragon]'", marks=NEEDS_NO_DRAGON),
    ],
)
def test_a_backend_that_is_not_there_is_named_with_those_that_are_and_what_to_install(name, error, words):
    async def main() -> None:
        async with running(name):
            pass

    with pytest.raises(error) as caught:
        asyncio.run(main())
    assert name in caught.value.message
    assert "concurrent, noop" in caught.value.message
    assert words in str(caught.value)


@with_engine()
async def test_a_blocking_backend_does_not_block_the_loop_of_the_endpoint(run: Run):
    run.submit_all([(f"b{number}", {"function": hang}) for number in range(50)])
    await run.until(lambda: run.state("b0") == "RUNNING")
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert not any(run.results.statistics()["states"][state] for state in FINAL_STATES)  # all that time they hung
    hold.set()
    assert {result["state"] for result in await run.wait(*(f"b{number}" for number in range(50)))} == {"DONE"}

"""The executor on an endpoint as a program meets it: calls, cancels, the end, a lost endpoint, initializers."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, running_lab, wait_until

import orbit_zmq
from orbit_rhapsody.executor import BrokenEndpoint, CallFuture, Executor
from orbit_zmq import Client
from orbit_zmq.errors import InvalidArgument, NotFound

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with running_lab() as made:
        made.start_endpoint("hpc1", plugins="rhapsody")
        made.start_endpoint("hpc2", plugins="test")
        yield made


@pytest.fixture(scope="module")
def client(shared_lab: Lab) -> Any:
    return shared_lab.client(shared_lab.tcp)


@pytest.fixture
def executor(client: Client) -> Iterator[Executor]:
    with Executor("hpc1", client=client) as made:
        yield made


def add(left: int, right: int = 0) -> int:
    return left + right


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


def held_until(path: str) -> str:
    """Ends when there is such a file."""
    deadline = time.monotonic() + PATIENCE_S
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    return path


def test_calls_give_what_the_function_returns_and_raise_what_it_raises(executor: Executor) -> None:
    assert executor.submit(add, 2, right=3).result(PATIENCE_S) == 5
    error = executor.submit(divmod, 1, 0).exception(PATIENCE_S)
    assert isinstance(error, ZeroDivisionError)
    assert "divmod" in str(error.__cause__) or "ZeroDivisionError" in str(error.__cause__)
    assert list(executor.map(lambda left, right: left * right, range(100), range(100))) == [n * n for n in range(100)]
    assert list(executor.map(add, range(100), chunksize=7)) == list(range(100))
    assert executor.endpoint == "hpc1" and repr(executor) == "<executor on endpoint hpc1: 0 calls open>"


def test_many_threads_submit_at_once_and_each_gets_its_own(executor: Executor) -> None:
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        found[number] = [future.result(PATIENCE_S) for future in [executor.submit(add, number, n) for n in range(200)]]

    threads = [threading.Thread(target=work, args=(number * 1_000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number * 1_000: [number * 1_000 + n for n in range(200)] for number in range(8)}


def test_futures_are_those_of_concurrent_futures(executor: Executor) -> None:
    told: list[int] = []
    futures = [executor.submit(add, n) for n in range(10)]
    for future in futures:
        future.add_done_callback(lambda done: told.append(done.result()))
    assert {done.result() for done in concurrent.futures.as_completed(futures, PATIENCE_S)} == set(range(10))
    assert concurrent.futures.wait(futures).not_done == set()
    assert sorted(told) == list(range(10))


def test_a_callback_may_submit(executor: Executor) -> None:
    ended = threading.Event()
    executor.submit(add, 1).add_done_callback(lambda _: executor.submit(add, 2).add_done_callback(lambda _: ended.set()))
    assert ended.wait(PATIENCE_S)


def test_a_canceled_call_that_has_not_been_sent_never_runs(client: Client, tmp_path: Path) -> None:
    gate, log = str(tmp_path / "gate"), tmp_path / "log"
    with Executor("hpc1", client=client, max_workers=1) as executor:
        first, second = executor.submit(held_until, gate), executor.submit(note, str(log), "second")
        assert second.cancel() and second.cancelled() and second.cancel()
        assert concurrent.futures.wait([second]).done == {second}  # nobody waits for ever
        third = executor.submit(note, str(log), "third")
        Path(gate).touch()
        assert first.result(PATIENCE_S) == gate and third.result(PATIENCE_S) is None
        assert not first.cancel()
    assert log.read_text() == "third\n"


def test_a_cancel_reaches_a_call_that_waits_over_there(shared_lab: Lab, client: Client, tmp_path: Path) -> None:
    gate, log = str(tmp_path / "gate"), tmp_path / "log"
    with Executor("hpc1", client=client) as executor:
        holding = [executor.submit(held_until, gate) for _ in range(40)]  # as many as there are threads
        waiting = [executor.submit(note, str(log), "ran") for _ in range(200)]
        session = client.attach(executor.sid, hold=False)
        wait_until(lambda: sum(session.get_statistics()["states"].values()) == 240, PATIENCE_S)
        assert all(future.cancel() for future in waiting)
        wait_until(lambda: session.get_statistics()["states"]["CANCELED"] == 200, PATIENCE_S)
        session.close()
        Path(gate).touch()
        assert {future.result(PATIENCE_S) for future in holding} == {gate}
    assert not log.exists()


def test_a_call_that_somebody_else_cancels_is_canceled_here(client: Client, tmp_path: Path) -> None:
    with Executor("hpc1", client=client) as executor:
        future = executor.submit(held_until, str(tmp_path / "never"))
        assert isinstance(future, CallFuture)
        session = client.attach(executor.sid, hold=False)
        wait_until(lambda: session.get_statistics()["states"]["RUNNING"] == 1, PATIENCE_S)
        session.cancel_all_tasks("no time for it")
        assert concurrent.futures.wait([future], PATIENCE_S).done == {future}
        assert future.cancelled()
        Path(tmp_path / "never").touch()


def test_the_end_waits_for_calls_or_cancels_those_that_have_not_begun(client: Client, tmp_path: Path) -> None:
    executor = Executor("hpc1", client=client, max_workers=2)
    gate = str(tmp_path / "gate")
    futures = [executor.submit(held_until, gate) for _ in range(10)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert sum(future.cancelled() for future in futures) == 8
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(add, 1)
    Path(gate).touch()
    executor.shutdown()
    assert [future.result() for future in futures if not future.cancelled()] == [gate, gate]
    assert client.is_connected  # it belongs to who made it


def test_calls_that_wait_for_a_thread_over_there_are_canceled_at_the_end_and_those_that_have_one_are_not(
    client: Client, tmp_path: Path
) -> None:
    gate, log = str(tmp_path / "gate"), tmp_path / "log"
    executor = Executor("hpc1", client=client, backend_options={"concurrent": {"threads": 3}})
    holding = [executor.submit(held_until, gate) for _ in range(3)]
    waiting = [executor.submit(note, str(log), "ran") for _ in range(50)]
    session = client.attach(executor.sid, hold=False)
    wait_until(lambda: session.get_statistics()["states"]["RUNNING"] == 53, PATIENCE_S)  # for their backend
    executor.shutdown(wait=False, cancel_futures=True)
    assert concurrent.futures.wait(waiting, PATIENCE_S).not_done == set()
    assert all(future.cancelled() for future in waiting) and not any(future.done() for future in holding)
    Path(gate).touch()
    executor.shutdown()
    assert [future.result() for future in holding] == [gate] * 3
    assert not log.exists()


def test_what_cannot_be_is_said_when_the_executor_is_made(client: Client) -> None:
    with pytest.raises(NotFound, match="hpc9"):
        Executor("hpc9", client=client)
    with pytest.raises(NotFound, match="rhapsody"):
        Executor("hpc2", client=client)
    with pytest.raises(InvalidArgument, match="no_such"):
        Executor("hpc1", client=client, backends=["no_such"])
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor("hpc1", client=client, max_workers=0)
    with pytest.raises(TypeError, match="initializer"):
        Executor("hpc1", client=client, initializer=3)  # type: ignore[arg-type]


def test_what_cannot_be_sent_fails_alone(executor: Executor) -> None:
    lock = threading.Lock()
    bad, good = executor.submit(lambda: lock), executor.submit(add, 1)
    assert isinstance(bad.exception(PATIENCE_S), InvalidArgument)
    assert good.result(PATIENCE_S) == 1
    assert isinstance(executor.submit(threading.Lock).exception(PATIENCE_S), InvalidArgument)  # nor come back


class EndsTheProgram:
    """Where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


def test_a_value_that_would_end_the_program_ends_its_own_call_alone(executor: Executor) -> None:
    bad, good = executor.submit(lambda: EndsTheProgram()), [executor.submit(add, n) for n in range(20)]
    with pytest.raises(InvalidArgument, match="cannot be unpickled: SystemExit: 3"):
        bad.result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in good] == list(range(20))


def test_a_callback_that_would_end_the_program_keeps_no_other_call_from_ending(executor: Executor, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    futures = [executor.submit(held_until, gate) for _ in range(20)]
    futures[0].add_done_callback(lambda _: sys.exit(3))
    Path(gate).touch()
    assert [future.result(PATIENCE_S) for future in futures] == [gate] * 20
    assert executor.submit(add, 1).result(PATIENCE_S) == 1


def test_a_process_that_has_forked_is_told_to_make_an_executor_of_its_own(executor: Executor) -> None:
    assert executor.submit(add, 1).result(PATIENCE_S) == 1
    process = os.fork()
    if process == 0:
        try:
            executor.submit(add, 2)
        except BrokenEndpoint as error:
            os._exit(7 if "after a fork" in error.message else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
    assert executor.submit(add, 3).result(PATIENCE_S) == 3


def test_an_executor_without_an_endpoint_takes_one_that_has_the_plugin(
    shared_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORBIT_URL", shared_lab.url)
    with Executor() as executor:
        assert executor.endpoint == "hpc1"
        assert executor.submit(add, 1, 2).result(PATIENCE_S) == 3


def test_an_initializer_of_a_module_runs_once_before_the_first_call(client: Client, tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    with Executor("hpc1", client=client, initializer=os.mkdir, initargs=(place,)) as executor:
        list(executor.map(note, [f"{place}/log"] * 50, ["call"] * 50))
        assert executor.submit(os.listdir, place).result(PATIENCE_S) == ["log"]  # a second time it would have failed


def test_what_an_initializer_of_a_script_sets_is_seen_by_each_function_of_the_script(client: Client) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    code = (
        "def start(word):\n    global said\n    said = word\n\ndef one():\n    return said\n\ndef two():\n    return said * 2\n"
    )
    exec(code, names)
    with Executor("hpc1", client=client, initializer=names["start"], initargs=("hey",)) as executor:
        assert [executor.submit(names[name]).result(PATIENCE_S) for name in ("one", "two", "one")] == ["hey", "heyhey", "hey"]


def test_an_initializer_that_fails_breaks_the_executor(client: Client) -> None:
    with Executor("hpc1", client=client, initializer=divmod, initargs=(1, 0)) as executor:
        futures = [executor.submit(add, n) for n in range(10)]
        for future in futures:
            with pytest.raises(
                concurrent.futures.BrokenExecutor, match="initializer failed on endpoint hpc1: ZeroDivisionError"
            ):
                future.result(PATIENCE_S)
        with pytest.raises(BrokenEndpoint, match="hpc1"):
            executor.submit(add, 1)


def test_a_lost_endpoint_breaks_the_executor_and_is_named(lab: Lab) -> None:
    endpoint = lab.start_endpoint("hpc1", plugins="rhapsody")
    with Executor("hpc1", client=lab.client()) as executor:
        assert executor.submit(add, 1).result(PATIENCE_S) == 1
        futures = [executor.submit(held_until, str(lab.place / "never")) for _ in range(3)]
        wait_until(lambda: executor.submit(add, 1).result(PATIENCE_S) == 1)
        os.kill(endpoint.pid, signal.SIGKILL)
        lab.start_endpoint("hpc1", plugins="rhapsody")
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, concurrent.futures.BrokenExecutor) and "hpc1" in str(error)
        with pytest.raises(concurrent.futures.BrokenExecutor, match="hpc1"):
            wait_until(lambda: executor.submit(add, 1) is None)


def test_calls_outlast_a_broker_that_restarts(lab: Lab) -> None:
    lab.start_endpoint("hpc1", plugins="rhapsody")
    gate = lab.place / "gate"
    with Executor("hpc1", client=lab.client()) as executor:
        before = executor.submit(held_until, str(gate))
        assert executor.submit(add, 1).result(PATIENCE_S) == 1
        assert lab.broker is not None
        os.kill(lab.broker.pid, signal.SIGKILL)
        meanwhile = [executor.submit(add, n) for n in range(100)]
        lab.broker.end()
        lab.start_broker()  # on another port; who is here came by ipc
        gate.touch()
        assert [future.result(PATIENCE_S) for future in meanwhile] == list(range(100))
        assert before.result(PATIENCE_S) == str(gate)


SCRIPT = """
import atexit, sys, threading, time
import orbit_zmq

def work(path):
    time.sleep(0.2)
    open(path, "w").close()

if sys.argv[2] == "late":
    def run_last():
        try:
            executor.submit(id, None)
        except RuntimeError as error:
            print(error)
    atexit.register(run_last)
orbit = orbit_zmq.local()
executor = orbit_zmq.Executor(client=orbit.client())
executor.submit(work, sys.argv[1])
if sys.argv[2] == "dropped":
    del executor
    while any(thread.name == "orbit-executor" for thread in threading.enumerate()):
        time.sleep(0.01)
    print("ended")
if sys.argv[2] == "not waited for":
    executor.shutdown(wait=False)
"""


@pytest.mark.parametrize(
    ("how", "printed"),
    [("left", ""), ("dropped", "ended\n"), ("not waited for", ""), ("late", "cannot schedule new futures after shutdown\n")],
)
def test_a_program_ends_after_its_calls(tmp_path: Path, how: str, printed: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "done"), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")
    assert (tmp_path / "done").exists()


def test_nothing_is_loaded_for_it_before_it_is_used() -> None:
    script = "import orbit_zmq, sys; assert 'Executor' in orbit_zmq.__all__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert "orbit_rhapsody" not in done.stdout
    assert orbit_zmq.Executor is Executor

"""Threads that cannot hold a process up, and child processes that are gone when they are said to be."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from lab import is_gone

from orbit_rhapsody.workers import DaemonThreads, ProcessLoop, end_process

PATIENCE_S = 60.0


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_functions_run_and_raise_to_the_one_who_waits():
    threads = DaemonThreads(2)
    assert threads.submit(pow, 2, 5).result(PATIENCE_S) == 32
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 1, 0).result(PATIENCE_S)
    threads.shutdown()


def test_no_more_than_the_given_number_run_at_once_and_all_get_their_turn():
    threads = DaemonThreads(3)
    running, most, lock, meet = 0, 0, threading.Lock(), threading.Barrier(3)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meet.wait(PATIENCE_S)
        with lock:
            running -= 1

    for future in [threads.submit(work) for _ in range(60)]:
        future.result(PATIENCE_S)
    assert most == 3
    threads.shutdown()


def test_a_queued_function_that_is_cancelled_never_runs():
    threads, release, ran = DaemonThreads(1), threading.Event(), list[int]()
    first = threads.submit(release.wait, PATIENCE_S)
    wait_until(first.running, "the first function did not start")
    queued = threads.submit(ran.append, 1)

    assert queued.cancel()
    release.set()
    assert threads.submit(int).result(PATIENCE_S) == 0
    assert ran == []
    threads.shutdown()


def test_functions_that_hang_and_are_cancelled_do_not_keep_others_from_running():
    threads, release = DaemonThreads(2), threading.Event()
    hanging: list[Future[object]] = [threads.submit(release.wait, PATIENCE_S) for _ in range(2)]
    for future in hanging:
        wait_until(future.running, "a function did not start")
        assert not future.cancel()

    assert threads.submit(pow, 3, 2).result(PATIENCE_S) == 9
    assert threads.given_up == 2

    release.set()
    wait_until(lambda: threads.given_up == 0, "the given-up threads were not taken back")
    assert threads.submit(pow, 3, 2).result(PATIENCE_S) == 9
    threads.shutdown()


def test_a_function_has_a_thread_at_once_while_fewer_are_held_than_there_may_be():
    switching_s, before = sys.getswitchinterval(), threading.active_count()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(100):
            threads, release = DaemonThreads(4), threading.Event()
            threads.submit(int).result(PATIENCE_S)  # its thread may be about to take the next one, and counts as free no more
            held = [threads.submit(release.wait, 2 * PATIENCE_S) for _ in range(3)]
            assert threads.submit(pow, 2, 3).result(PATIENCE_S) == 8
            release.set()
            assert all(future.result(PATIENCE_S) for future in held)
            threads.shutdown()
    finally:
        sys.setswitchinterval(switching_s)
    wait_until(lambda: threading.active_count() <= before, "the threads have not ended")


def test_shutting_down_does_not_wait_and_takes_nothing_more():
    threads, release = DaemonThreads(1), threading.Event()
    threads.submit(release.wait, PATIENCE_S)

    started = time.monotonic()
    threads.shutdown(wait=True)

    assert time.monotonic() - started < PATIENCE_S / 2
    with pytest.raises(RuntimeError):
        threads.submit(int)
    release.set()


def test_a_process_with_a_function_that_hangs_ends_all_the_same():
    code = (
        "import time; from orbit_rhapsody.workers import DaemonThreads;DaemonThreads().submit(time.sleep, 600); print('ending')"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S * 3, capture_output=True, check=True)
    assert ended.stdout == b"ending\n"


def run_in_process_loop(main):
    with asyncio.Runner(loop_factory=ProcessLoop) as runner:
        return runner.run(main())


async def start(*command: str) -> asyncio.subprocess.Process:
    await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ProcessLoop)
    task = asyncio.current_task()
    assert task is not None
    return loop.processes.pop(task)


def test_ending_a_process_ends_its_group_too(tmp_path: Path):
    pid_file = tmp_path / "pid"

    async def main() -> tuple[int, int]:
        process = await start("/bin/sh", "-c", f"sleep 600 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait")
        deadline = time.monotonic() + PATIENCE_S
        while not pid_file.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert await end_process(process)
        return process.pid, int(pid_file.read_text())

    leader, child = run_in_process_loop(main)
    assert is_gone(leader)
    wait_until(lambda: is_gone(child), "the child of the process lives on")


def test_a_process_that_ignores_sigint_and_sigterm_is_killed(tmp_path: Path):
    ready = tmp_path / "ready"

    async def main() -> int | None:
        process = await start("/bin/sh", "-c", f"trap '' INT TERM; touch {ready}; while :; do sleep 0.05; done")
        deadline = time.monotonic() + PATIENCE_S
        while not ready.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert await end_process(process, grace_s=0.1)
        return process.returncode

    assert run_in_process_loop(main) == -9


def test_a_process_is_asked_to_end_before_it_is_told_to_and_told_before_it_is_killed(tmp_path: Path):
    asked = tmp_path / "asked"
    ready = tmp_path / "ready"
    traps = f"trap 'echo int >> {asked}' INT; trap 'echo term >> {asked}; exit 5' TERM"
    script = f"{traps}; touch {ready}; while :; do sleep 0.01; done"

    async def main() -> int | None:
        process = await start("/bin/sh", "-c", script)
        deadline = time.monotonic() + PATIENCE_S
        while not ready.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert await end_process(process, grace_s=4.0)
        return process.returncode

    assert run_in_process_loop(main) == 5
    assert asked.read_text().split() == ["int", "term"]


def test_children_are_waited_for_without_a_thread_for_each():
    async def main() -> tuple[int, list[int | None]]:
        processes = [await start("/bin/sleep", "600") for _ in range(20)]
        threads = threading.active_count()
        for process in processes:
            process.terminate()
        return threads, [await process.wait() for process in processes]

    before = threading.active_count()
    threads, codes = run_in_process_loop(main)

    assert threads <= before  # threads of other tests may end meanwhile
    assert codes == [-15] * 20


def test_a_child_does_not_read_the_standard_input_of_the_endpoint():
    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec("/bin/cat", stdout=asyncio.subprocess.PIPE)
        return (await asyncio.wait_for(process.communicate(), PATIENCE_S))[0]

    reader, writer = os.pipe()  # a standard input that never ends
    code = f"import sys; sys.path[:0] = {sys.path!r}; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "import asyncio; from orbit_rhapsody.workers import ProcessLoop\n"
        "async def main():\n"
        "    process = await asyncio.create_subprocess_exec('/bin/cat', stdout=asyncio.subprocess.PIPE)\n"
        "    return (await process.communicate())[0]\n"
        "with asyncio.Runner(loop_factory=ProcessLoop) as runner: print(runner.run(main()))\n"
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdin=reader, timeout=PATIENCE_S * 3, capture_output=True, check=True
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert ended.stdout == b"b''\n"
    assert run_in_process_loop(main) == b""

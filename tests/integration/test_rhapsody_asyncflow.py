"""radical.asyncflow on endpoints: its example runs as it stands, and what it does to tasks is done over there."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, running_lab, wait_until

import orbit_rhapsody  # noqa: F401 - registers the backend

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "asyncflow.py"
PATIENCE_S = 120.0


def is_installed() -> bool:
    try:
        return importlib.util.find_spec("radical.asyncflow") is not None and importlib.util.find_spec("rhapsody") is not None
    except ImportError:  # there is no package radical at all
        return False


pytestmark = pytest.mark.skipif(not is_installed(), reason="radical.asyncflow and rhapsody-py are not both installed")


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    with running_lab() as lab:
        lab.start_endpoint("hpc1", plugins="rhapsody")
        yield lab


def on_flow(lab: Lab, place: Path, main: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run `main(flow)` with an engine on the endpoint."""
    import rhapsody
    from radical.asyncflow import WorkflowEngine

    async def run() -> None:
        backend = await rhapsody.get_backend("orbit_zmq", endpoint="hpc1", backends=["concurrent"], url=lab.url)
        flow = await WorkflowEngine.create(backend=backend, work_dir=str(place))
        try:
            await asyncio.wait_for(main(flow), PATIENCE_S)
        finally:
            await flow.shutdown()

    asyncio.run(run())


def test_the_example_runs_as_it_stands(shared: Lab, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=shared.environment | {"ORBIT_URL": shared.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "The longest of 8 walks got 38 steps far.\n"


def test_tasks_of_a_flow_run_elsewhere_and_wait_for_each_other(shared: Lab, tmp_path: Path):
    async def main(flow: Any) -> None:
        @flow.function_task
        async def where() -> int:
            import os

            return os.getpid()

        @flow.executable_task
        async def parent() -> str:
            return "/bin/sh -c 'echo $PPID'"

        @flow.function_task
        async def is_same(pid: int, printed: str) -> bool:
            return int(printed) == pid

        @flow.block
        async def many(count: int) -> int:
            return len(set(await asyncio.gather(*(where() for _ in range(count)))))

        pid = where()
        assert await is_same(pid, parent())
        assert await pid != os.getpid()
        assert await many(50) == 1

    on_flow(shared, tmp_path, main)


def test_what_a_task_raises_is_raised_where_it_is_awaited(shared: Lab, tmp_path: Path):
    async def main(flow: Any) -> None:
        @flow.function_task
        async def complain() -> None:
            raise LookupError("why", 7)

        @flow.executable_task
        async def fail() -> str:
            return "/bin/sh -c 'echo because >&2; exit 3'"

        with pytest.raises(LookupError) as caught:
            await complain()
        assert caught.value.args == ("why", 7)
        with pytest.raises(RuntimeError, match="because"):
            await fail()

    on_flow(shared, tmp_path, main)


def test_a_canceled_task_of_a_flow_is_ended_over_there(shared: Lab, tmp_path: Path):
    pid = tmp_path / "pid"

    async def main(flow: Any) -> None:
        @flow.executable_task
        async def endless() -> str:
            return f"/bin/sh -c 'echo $$ > {pid}; exec sleep 600'"

        future = endless()
        await asyncio.to_thread(
            wait_until, lambda: pid.exists() and pid.read_text().endswith("\n"), PATIENCE_S, "the program runs"
        )
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    on_flow(shared, tmp_path, main)
    wait_until(lambda: not psutil.pid_exists(int(pid.read_text())), what="the program has ended")

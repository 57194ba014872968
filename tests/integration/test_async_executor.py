"""The executor for programs on asyncio: awaited futures, cancels that reach their calls, and the end of a block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, running_lab

from orbit_rhapsody.async_executor import AsyncExecutor, BrokenEndpoint
from orbit_zmq import AsyncClient
from orbit_zmq.errors import InvalidArgument, NotFound

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with running_lab() as made:
        made.start_endpoint("hpc1", plugins="rhapsody")
        yield made


def run_async(lab: Lab, main: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Run `main(client)` with a client of its own loop."""

    async def run() -> None:
        async with AsyncClient(url=lab.url, connect_timeout_s=PATIENCE_S) as client, asyncio.timeout(2 * PATIENCE_S):
            await main(client)

    asyncio.run(run())


def add(left: int, right: int = 0) -> int:
    return left + right


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


def held_until(path: str) -> str:
    """Ends when there is such a file."""
    deadline = time.monotonic() + PATIENCE_S
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path


def open_gate(path: str) -> None:
    Path(path).touch()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_calls_are_awaited_one_by_one_together_and_as_a_map(shared_lab: Lab) -> None:
    async def main(client: AsyncClient) -> None:
        async with AsyncExecutor("hpc1", client=client) as executor:
            assert await executor.submit(add, 2, right=3) == 5
            assert await asyncio.gather(*(executor.submit(add, n) for n in range(300))) == list(range(300))
            assert [value async for value in executor.map(add, range(300), range(300))] == [2 * n for n in range(300)]
            assert [value async for value in executor.map(add, range(100), chunksize=7)] == list(range(100))
            with pytest.raises(ZeroDivisionError):
                await executor.submit(divmod, 1, 0)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await executor.submit(next, iter(()))
            with pytest.raises(ValueError, match="chunksize"):
                executor.map(add, range(3), chunksize=0)
            assert repr(executor) == "<executor on endpoint hpc1: 0 calls open>"
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(add, 1)
        assert client.is_connected

    run_async(shared_lab, main)


def test_who_is_canceled_while_he_waits_cancels_the_call(shared_lab: Lab, tmp_path: Path) -> None:
    gate, log = str(tmp_path / "gate"), tmp_path / "log"

    async def call(executor: AsyncExecutor, function: Any, *arguments: Any) -> Any:
        return await executor.submit(function, *arguments)

    async def main(client: AsyncClient) -> None:
        async with AsyncExecutor("hpc1", client=client) as executor:
            holding = [executor.submit(held_until, gate) for _ in range(40)]  # as many as there are threads
            waiting = [asyncio.create_task(call(executor, note, str(log), "ran")) for _ in range(50)]
            session: Any = await client.attach(executor.sid, hold=False)

            async def all_there() -> bool:
                return sum((await session.get_statistics())["states"].values()) == 90

            async def all_canceled() -> bool:
                return bool((await session.get_statistics())["states"]["CANCELED"] == 50)

            await until(all_there)
            for task in waiting:
                task.cancel()
            assert all(
                isinstance(left, asyncio.CancelledError) for left in await asyncio.gather(*waiting, return_exceptions=True)
            )
            await until(all_canceled)
            open_gate(gate)
            assert set(await asyncio.gather(*holding)) == {gate}

    run_async(shared_lab, main)
    assert not log.exists()


def test_a_map_that_is_left_cancels_what_is_not_asked_for_any_more(shared_lab: Lab, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    async def main(client: AsyncClient) -> None:
        async with AsyncExecutor("hpc1", client=client, max_workers=1) as executor:
            with pytest.raises(TimeoutError):
                async for _ in executor.map(held_until, [gate, gate], timeout=0.2):
                    pass
            assert repr(executor) == "<executor on endpoint hpc1: 0 calls open>"
            open_gate(gate)
            assert await executor.submit(add, 1) == 1

    run_async(shared_lab, main)


def test_a_block_that_is_canceled_cancels_its_calls_and_does_not_wait_for_them(shared_lab: Lab, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    futures: list[asyncio.Future[str]] = []

    async def block(client: AsyncClient) -> None:
        async with AsyncExecutor("hpc1", client=client) as executor:
            futures.extend(executor.submit(held_until, gate) for _ in range(3))
            await asyncio.gather(*futures)

    async def main(client: AsyncClient) -> None:
        async def begun() -> bool:
            return len(futures) == 3

        task = asyncio.create_task(block(client))
        await until(begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(future.cancelled() for future in futures)

    run_async(shared_lab, main)
    open_gate(gate)


def test_the_end_waits_for_calls_and_may_cancel_those_that_have_not_begun(shared_lab: Lab, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    async def main(client: AsyncClient) -> None:
        executor = AsyncExecutor("hpc1", client=client, max_workers=2)
        with pytest.raises(InvalidArgument, match="connect"):
            executor.submit(add, 1)
        await executor.connect()
        futures = [executor.submit(held_until, gate) for _ in range(10)]
        await executor.shutdown(wait=False, cancel_futures=True)
        assert sum(future.cancelled() for future in futures) == 8
        open_gate(gate)
        await executor.shutdown()
        assert [future.result() for future in futures if not future.cancelled()] == [gate, gate]

    run_async(shared_lab, main)


def test_an_executor_of_its_own_connection_says_what_it_cannot_reach(shared_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBIT_URL", shared_lab.url)

    async def main() -> None:
        with pytest.raises(NotFound, match="hpc9"):
            await AsyncExecutor("hpc9").connect()
        async with AsyncExecutor() as executor:
            assert executor.endpoint == "hpc1"
            assert await executor.submit(add, 1, 2) == 3

    asyncio.run(main())


def test_an_initializer_that_fails_breaks_the_executor(shared_lab: Lab) -> None:
    async def main(client: AsyncClient) -> None:
        async with AsyncExecutor("hpc1", client=client, initializer=divmod, initargs=(1, 0)) as executor:
            with pytest.raises(BrokenEndpoint, match="initializer failed on endpoint hpc1: ZeroDivisionError"):
                await executor.submit(add, 1)
            with pytest.raises(BrokenEndpoint):
                await executor.submit(add, 1)

    run_async(shared_lab, main)

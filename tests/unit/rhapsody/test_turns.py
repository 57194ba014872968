"""Those who want the same thing from several threads get it in turns, and nobody waits for one that hangs."""

from __future__ import annotations

import asyncio
import threading
import time

from orbit_rhapsody.turns import Turns


def in_threads(*mains: object) -> None:
    threads = [threading.Thread(target=lambda main=main: asyncio.run(main())) for main in mains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_threads_that_always_want_a_turn_have_had_it_equally_often_when_the_first_has_enough():
    turns, meet, taken = Turns(patience_s=10), threading.Barrier(3), [0, 0, 0]
    seen: list[list[int]] = []

    def worker(number: int):
        async def main() -> None:
            meet.wait(10)
            while taken[number] < 200:
                async with turns.turn():
                    taken[number] += 1
                    time.sleep(number * 0.0002)  # noqa: ASYNC251 - work of different weight
            seen.append(list(taken))

        return main

    in_threads(*(worker(number) for number in range(3)))

    assert min(seen[0]) >= 150
    assert not turns._is_taken and not turns._waiting


def test_nobody_waits_for_a_turn_longer_than_his_patience():
    turns, is_held, is_over = Turns(patience_s=0.05), threading.Event(), threading.Event()
    waited: list[float] = []

    async def hang() -> None:
        async with turns.turn():
            is_held.set()
            is_over.wait(10)  # a loop that is blocked

    async def wait() -> None:
        is_held.wait(10)
        for _ in range(3):
            started = time.monotonic()
            async with turns.turn():
                waited.append(time.monotonic() - started)
        is_over.set()

    in_threads(hang, wait)

    assert len(waited) == 3 and max(waited) < 5

    async def again() -> None:
        async with turns.turn():
            assert turns._is_taken

    in_threads(again, again)
    assert not turns._is_taken and not turns._waiting


def test_one_who_is_canceled_while_waiting_takes_no_turn_along():
    turns = Turns(patience_s=10)

    async def main() -> None:
        async with turns.turn():
            waiting = [asyncio.create_task(turns._take()) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
        assert await waiting[1]
        turns._pass_on()

    asyncio.run(main())
    assert not turns._is_taken and not turns._waiting

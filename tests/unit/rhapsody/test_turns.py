"""Those who want the same thing from several threads get it in turns, and nobody waits for one that hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Any

from orbit_rhapsody.turns import Turns

PATIENCE_S = 60.0


def in_threads(*mains: object) -> None:
    threads = [threading.Thread(target=lambda main=main: asyncio.run(main())) for main in mains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class Line(deque[Any]):
    """Those who wait, with what the others have had when each of them began to."""

    def __init__(self, taken: list[int]) -> None:
        super().__init__()
        self._taken = taken
        self.had: dict[int, list[int]] = {}  # by thread

    def append(self, turn: Any) -> None:
        self.had[threading.get_ident()] = list(self._taken)
        super().append(turn)


def test_who_waits_for_a_turn_has_it_before_any_other_has_had_a_second_one():
    turns, taken = Turns(patience_s=PATIENCE_S), [0, 0, 0]
    line = turns._waiting = Line(taken)
    most_passed: list[int] = []

    def worker(number: int):
        async def main() -> None:
            while taken[number] < 200:
                async with turns.turn():
                    before = line.had.pop(threading.get_ident(), taken)
                    most_passed.append(max(now - then for now, then in zip(taken, before, strict=True)))
                    if taken[number] == 0:
                        until_two_wait_or_have_had_it(number)
                    taken[number] += 1
                    time.sleep(number * 0.0002)  # noqa: ASYNC251 - work of different weight

        return main

    def until_two_wait_or_have_had_it(number: int) -> None:
        deadline = time.monotonic() + PATIENCE_S / 2
        others = [taken[other] for other in range(3) if other != number]
        while len(line) + sum(had > 0 for had in others) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    in_threads(*(worker(number) for number in range(3)))

    assert len(most_passed) == 600
    assert max(most_passed) in (1, 2)  # who has a turn may count it a moment after another has begun to wait
    assert not turns._is_taken and not turns._waiting


def test_nobody_waits_for_a_turn_longer_than_his_patience():
    turns, is_held, is_over = Turns(patience_s=0.05), threading.Event(), threading.Event()
    waited: list[float] = []

    async def hang() -> None:
        async with turns.turn():
            is_held.set()
            is_over.wait(PATIENCE_S)  # a loop that is blocked

    async def wait() -> None:
        is_held.wait(PATIENCE_S)
        for _ in range(3):
            started = time.monotonic()
            async with turns.turn():
                waited.append(time.monotonic() - started)
        is_over.set()

    in_threads(hang, wait)

    assert len(waited) == 3 and max(waited) < PATIENCE_S / 2

    async def again() -> None:
        async with turns.turn():
            assert turns._is_taken

    in_threads(again, again)
    assert not turns._is_taken and not turns._waiting


def test_one_who_is_canceled_while_waiting_takes_no_turn_along():
    turns = Turns(patience_s=PATIENCE_S)

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

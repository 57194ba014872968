"""LoopWatch: a blocked loop is seen from another thread, and said once."""

import asyncio
import threading
import time
from typing import Any

import pytest
from bench import run_at_once

from orbit_zmq.endpoint import loopwatch
from orbit_zmq.endpoint.loopwatch import LoopWatch


class Lines:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))


@pytest.fixture
def lines(monkeypatch) -> Lines:
    kept = Lines()
    monkeypatch.setattr(loopwatch, "log", kept)
    return kept


def test_a_loop_that_turns_stays_young(monkeypatch, lines):
    monkeypatch.setattr(loopwatch, "STAMP_S", 0.01)
    watch = LoopWatch(busy_s=0.2)
    ages = []

    async def scenario() -> None:
        watch.start()
        for _ in range(10):
            await asyncio.sleep(0.02)
            ages.append(watch.look(time.monotonic()))
        watch.stop()

    run_at_once(scenario, monkeypatch)
    assert max(ages) < 0.2 and lines.lines == []


def test_a_blocked_loop_is_logged_once_with_its_stack_and_once_when_it_turns_again(monkeypatch, lines):
    monkeypatch.setattr(loopwatch, "STAMP_S", 0.01)
    watch = LoopWatch(busy_s=0.1)
    release = threading.Event()
    started = threading.Event()

    def hogs_the_loop() -> None:
        started.set()
        release.wait(60)

    async def scenario() -> None:
        watch.start()
        await asyncio.sleep(0.02)
        hogs_the_loop()
        async with asyncio.timeout(60):
            while watch.look(time.monotonic()) > watch.busy_s:  # noqa: ASYNC110 - nothing sets an event for it
                await asyncio.sleep(0.005)

    work = threading.Thread(target=asyncio.run, args=(scenario(),))
    work.start()
    assert started.wait(60)
    deadline = time.monotonic() + 60
    while not lines.lines and time.monotonic() < deadline:
        watch.look(time.monotonic())
    for _ in range(5):
        watch.look(time.monotonic())
    release.set()
    work.join(60)

    assert [event for event, _ in lines.lines] == ["loop-blocked", "loop-turns-again"]
    facts = lines.lines[0][1]
    assert facts["age_s"] >= 0.1
    assert "hogs_the_loop" in facts["stack"]


def test_age_is_the_time_since_the_last_turn_and_never_negative():
    watch = LoopWatch()
    now = watch._last_turn

    assert watch.age_s(now + 3) == pytest.approx(3)
    assert watch.age_s(now - 1) == 0

"""Arithmetic in a service: results, the history, and what the caller gets wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bench import Bench, served

from orbit_math.service import HISTORY, MathPlugin, MathSession
from orbit_zmq.errors import InvalidArgument, error_from_body
from orbit_zmq.plugin import Host
from orbit_zmq.wire.body import unpack_body


def in_session(scenario: Any) -> None:
    async def run() -> None:
        async with served(MathPlugin(Host(name="hpc1"))) as bench:
            await scenario(bench, await bench.session("math"))

    asyncio.run(run())


@pytest.mark.parametrize(("name", "result"), [("add", 9), ("sub", 3), ("mul", 18), ("div", 2.0)])
def test_an_operation_answers_what_it_was_asked_and_the_result(name, result):
    async def scenario(bench: Bench, sid: str) -> None:
        answer = await bench.call(name, {"a": 6, "b": 3}, plugin="math", session=sid)
        assert answer == {"op": name, "a": 6, "b": 3, "result": result}

    in_session(scenario)


def test_a_session_remembers_what_it_was_asked_and_no_more_than_that():
    async def scenario(bench: Bench, sid: str) -> None:
        for number in range(HISTORY + 5):
            await bench.call("add", {"a": number, "b": 0.5}, plugin="math", session=sid)
        other = await bench.session("math")
        history = await bench.call("history", plugin="math", session=sid)
        assert history["count"] == HISTORY + 5 and len(history["ops"]) == HISTORY
        assert history["ops"][-1] == {"op": "add", "a": HISTORY + 4, "b": 0.5, "result": HISTORY + 4.5}
        assert await bench.call("history", plugin="math", session=other) == {"count": 0, "ops": []}

    in_session(scenario)


def test_division_by_zero_is_pythons_own_exception_at_the_caller_and_no_history():
    async def scenario(bench: Bench, sid: str) -> None:
        call = bench.start("div", {"a": 1, "b": 0}, plugin="math", session=sid)
        await call.answered.wait()
        error = error_from_body(call.answers[0].to_body())
        assert isinstance(error, ZeroDivisionError)
        assert (await bench.call("history", plugin="math", session=sid))["count"] == 0

    in_session(scenario)


@pytest.mark.parametrize("wrong", ["3", True, None, [1]])
def test_what_is_no_number_is_refused_by_name(wrong):
    async def scenario(bench: Bench, sid: str) -> None:
        with pytest.raises(InvalidArgument, match=r"math\.add.*'b"):
            await bench.call("add", {"a": 1, "b": wrong}, plugin="math", session=sid)

    in_session(scenario)


def test_whole_numbers_stay_whole_whatever_their_size():
    async def scenario(bench: Bench, sid: str) -> None:
        answer = await bench.call("mul", {"a": 1 << 70, "b": 3}, plugin="math", session=sid)
        assert answer["result"] == 3 << 70

    in_session(scenario)


def test_a_result_too_large_to_travel_is_an_overflow_error_and_no_history():
    async def scenario(bench: Bench, sid: str) -> None:
        call = bench.start("mul", {"a": 1 << 8_000, "b": 1 << 8_000}, plugin="math", session=sid)
        await call.answered.wait()
        assert isinstance(error_from_body(call.answers[0].to_body()), OverflowError)
        assert await bench.call("history", plugin="math", session=sid) == {"count": 0, "ops": []}

    in_session(scenario)


def test_every_result_is_told_with_its_number():
    told: list[tuple[str, Any]] = []
    session = MathSession("session.1")
    session.notifier = lambda topic, body, flags: told.append((topic, unpack_body(body, flags)))

    async def scenario() -> None:
        await session.add(1, 2)
        with pytest.raises(ZeroDivisionError):
            await session.div(1, 0)
        await session.mul(3, 4)

    asyncio.run(scenario())
    assert told == [
        ("result", {"op": "add", "a": 1, "b": 2, "result": 3, "count": 1}),
        ("result", {"op": "mul", "a": 3, "b": 4, "result": 12, "count": 2}),
    ]


def test_the_routes_are_the_documented_ones():
    routes = {(made.method, made.path) for made in MathPlugin.operations.values()}

    assert {("POST", f"{name}/{{sid}}") for name in ("add", "sub", "mul", "div")} | {("GET", "history/{sid}")} <= routes

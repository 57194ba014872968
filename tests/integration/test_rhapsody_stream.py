"""Many tasks in one call: all come back, what is common to them travels once, and an endpoint's memory has bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab import Lab

from orbit_rhapsody.client import RhapsodyClient


@pytest.fixture
def rhapsody(rhapsody_lab: Lab) -> Iterator[RhapsodyClient]:
    plugin = rhapsody_lab.client(rhapsody_lab.tcp).get_plugin("hpc1", "rhapsody", backends=["noop", "concurrent"])
    assert isinstance(plugin, RhapsodyClient)
    yield plugin
    plugin.close()


def received_bytes(plugin: RhapsodyClient) -> int:
    return int(plugin.get_statistics()["bytes"]["in"])


def size_and(value: Any, number: int) -> tuple[int, int]:
    value = bytearray(value)
    value.append(0)  # each task has an argument of its own
    return len(value), number


def test_many_tasks_in_one_call_come_back_in_their_order(rhapsody: RhapsodyClient) -> None:
    tasks = [{"uid": f"t{number}", "executable": "/bin/true"} for number in range(100_000)]

    submitted = rhapsody.submit_tasks(tasks)
    results = rhapsody.wait_tasks([answer["uid"] for answer in submitted])

    assert [result["uid"] for result in results] == [task["uid"] for task in tasks]
    assert {result["state"] for result in results} == {"DONE"}
    assert rhapsody.get_statistics()["tasks_held"] < len(tasks)


def test_results_come_while_tasks_are_still_being_submitted(rhapsody: RhapsodyClient) -> None:
    rhapsody.submit_tasks([{"executable": "/bin/true"} for _ in range(50_000)])

    assert len(rhapsody.open_tasks) < 50_000


def test_what_tasks_have_in_common_takes_no_room_in_each(rhapsody: RhapsodyClient) -> None:
    environment = {f"VARIABLE_{number}": "x" * 100 for number in range(20)}
    rhapsody.submit_tasks([{"executable": "/bin/true", "env": dict(environment)} for _ in range(10_000)])

    assert received_bytes(rhapsody) < 10_000 * 50


@pytest.mark.parametrize("value", [b"x" * 1_000_000, bytearray(1_000_000)], ids=["plain", "pickled"])
def test_a_large_argument_travels_once_to_a_session_and_each_task_has_its_own(rhapsody: RhapsodyClient, value: Any) -> None:
    def submit(count: int) -> list[Any]:
        tasks = [{"function": size_and, "args": (value, number), "backend": "concurrent"} for number in range(count)]
        results = rhapsody.wait_tasks([answer["uid"] for answer in rhapsody.submit_tasks(tasks)])
        return [tuple(result["return_value"]) for result in results]

    assert submit(50) == [(1_000_001, number) for number in range(50)]
    assert submit(20) == [(1_000_001, number) for number in range(20)]
    assert received_bytes(rhapsody) < 1_500_000

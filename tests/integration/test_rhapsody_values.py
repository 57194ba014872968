"""What goes into a task and what comes out of it arrives as it was: of any kind, and of any size."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy
import pytest
from growth import Growth
from lab import Lab, wait_until

from orbit_rhapsody.client import RhapsodyClient
from orbit_rhapsody.large import INLINE_BYTES, REFERENCE_BYTES
from orbit_zmq.errors import InvalidArgument, RemoteError, ResultExpired, TooLarge

PATIENCE_S = 60.0
MEBIBYTE = 1 << 20
GROWTH_BYTES = 64 * MEBIBYTE  # of a process that neither makes nor wants a value


@dataclasses.dataclass
class Point:
    x: float
    y: list[int]


class NeedsTwo(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left


@pytest.fixture(scope="module")
def rhapsody(rhapsody_lab: Lab) -> Any:
    return rhapsody_lab.client(rhapsody_lab.tcp).get_plugin("hpc1", "rhapsody", backends=["concurrent"])


def result_of(rhapsody: RhapsodyClient, function: Any, *args: Any, **submitted: Any) -> dict[str, Any]:
    answers = rhapsody.submit_tasks([{"function": function, "args": args}], **submitted)
    (result,) = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)
    return result


def value_of(rhapsody: RhapsodyClient, function: Any, *args: Any) -> Any:
    result = result_of(rhapsody, function, *args)
    assert result["state"] == "DONE", result
    assert result["exception"] is None
    return result["return_value"]


def itself(value: Any) -> Any:
    return value


VALUES = [
    None, True, 0, -1, 2**63, 2**64, 2**100, -(2**100), 1.5, -0.0, math.inf, -math.inf, 1j, "", "text", "a\ud800b", "\x00", b"",
    b"\x00\xff", [], {}, (), (1, "a"), [(1,), {2}], {"a": None}, {1: "a", (2, 3): "b"}, {1, 2}, range(3), Point(0.5, [1, 2]),
    [Point(math.pi, [])], Point, numpy.float64(0.1), numpy.int8(-3), numpy.datetime64("2026-01-01"), math.sqrt,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_went(rhapsody: RhapsodyClient, value: Any) -> None:
    back = value_of(rhapsody, itself, value)

    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)  # tells -0.0 from 0.0


def test_what_is_not_a_number_stays_so(rhapsody: RhapsodyClient) -> None:
    assert math.isnan(value_of(rhapsody, itself, math.nan))
    assert math.isnan(value_of(rhapsody, itself, [math.nan])[0])


@pytest.mark.parametrize("shape", [(0,), (3,), (4, 5), (200_000,), (1_000, 1_000)], ids=repr)
def test_an_array_comes_back_with_its_type_and_may_be_written_to(rhapsody: RhapsodyClient, shape: tuple[int, ...]) -> None:
    array = numpy.arange(math.prod(shape), dtype=numpy.float32).reshape(shape)

    back = value_of(rhapsody, itself, array)

    assert (back.dtype, back.shape) == (array.dtype, shape)
    assert numpy.array_equal(back, array)
    assert back.flags.writeable


def in_place(array: Any) -> Any:
    array += 1
    return array


def test_an_argument_may_be_written_to_where_it_arrives(rhapsody: RhapsodyClient) -> None:
    assert value_of(rhapsody, in_place, numpy.zeros(500_000)).sum() == 500_000


def length(*values: Any) -> list[int]:
    return [len(value) for value in values]


def test_arguments_of_any_size_arrive_and_leave_nothing_behind(rhapsody_lab: Lab, rhapsody: RhapsodyClient) -> None:
    assert rhapsody_lab.broker is not None
    growth = Growth(broker=rhapsody_lab.broker.pid)
    before = rhapsody.get_statistics()["spooled_bytes"]
    large = b"x" * (100 * MEBIBYTE)
    tasks = [{"function": length, "args": (large, number)} for number in ("", "a", "a")] + [
        {"function": length, "args": ("ab",)}
    ]

    first, second, third, fourth = rhapsody.wait_tasks(rhapsody.submit_tasks(tasks), timeout=PATIENCE_S)

    assert [result["return_value"] for result in (first, second, third, fourth)] == [
        [len(large), 0], [len(large), 1], [len(large), 1], [2],
    ]  # fmt: skip
    wait_until(lambda: rhapsody.get_statistics()["spooled_bytes"] <= before, what="the files of the arguments are gone")
    assert max(growth.bytes().values()) < GROWTH_BYTES, growth.bytes()
    again = rhapsody.wait_tasks(rhapsody.submit_tasks([{**tasks[1], "uid": second["uid"]}]), timeout=PATIENCE_S)
    assert again[0]["return_value"] == [len(large), 1]


def test_a_large_array_may_be_written_to_where_it_arrives(rhapsody: RhapsodyClient) -> None:
    array = numpy.zeros(10_000_000)

    assert value_of(rhapsody, in_place, array).sum() == 10_000_000
    assert array.sum() == 0


def test_arguments_that_are_too_large_for_a_program_are_refused_by_name(rhapsody: RhapsodyClient) -> None:
    (answer,) = rhapsody.submit_tasks([{"executable": "/bin/true", "arguments": ["x" * (50 * MEBIBYTE)]}])

    assert isinstance(answer["exception"], TooLarge)


def many(size: int) -> Any:
    return {"array": numpy.full(size, 7, dtype=numpy.uint8), "text": "x" * size, "bytes": (b"y" * size,)}


@pytest.mark.parametrize("make", [bytes, "builtins:bytearray", lambda size: "x" * size, lambda size: [b"x" * size]])
@pytest.mark.parametrize("size", [0, 1, REFERENCE_BYTES, MEBIBYTE, INLINE_BYTES, INLINE_BYTES + 1, 20 * MEBIBYTE])
def test_a_value_of_any_size_comes_back_whole(rhapsody: RhapsodyClient, make: Any, size: int) -> None:
    back = value_of(rhapsody, make, size)

    assert len(back if not isinstance(back, list) else back[0]) == size


def test_a_large_value_of_many_parts_comes_back_whole(rhapsody: RhapsodyClient) -> None:
    back = value_of(rhapsody, many, 10 * MEBIBYTE)

    assert (int(back["array"].sum()), back["text"], back["bytes"]) == (
        70 * MEBIBYTE,
        "x" * 10 * MEBIBYTE,
        (b"y" * 10 * MEBIBYTE,),
    )
    assert back["array"].flags.writeable


def test_a_value_may_stay_over_there_and_be_fetched_by_its_reference_as_often_as_one_likes(rhapsody: RhapsodyClient) -> None:
    small = result_of(rhapsody, bytes, REFERENCE_BYTES // 2, results="reference")
    large = result_of(rhapsody, many, MEBIBYTE, results="reference")

    assert ("result_ref" in small, len(small["return_value"])) == (False, REFERENCE_BYTES // 2)
    assert (large["state"], large["return_value"]) == ("DONE", None)
    assert large["result_ref"]["bytes"] > 3 * MEBIBYTE
    for reference in (large, large["result_ref"]):
        assert int(rhapsody.fetch(reference)["array"].sum()) == 7 * MEBIBYTE
    assert rhapsody.get_task(large["uid"])["result_ref"] == large["result_ref"]

    rhapsody.discard([large])

    with pytest.raises(ResultExpired, match=large["uid"]):
        rhapsody.fetch(large)


def test_a_session_may_want_references_and_a_submit_the_values(rhapsody_lab: Lab) -> None:
    with rhapsody_lab.client(rhapsody_lab.tcp).get_plugin(
        "hpc1", "rhapsody", backends=["concurrent"], results="reference"
    ) as plugin:
        assert "result_ref" in result_of(plugin, bytes, MEBIBYTE)
        assert len(result_of(plugin, bytes, MEBIBYTE, results="inline")["return_value"]) == MEBIBYTE
        assert "result_ref" in result_of(plugin, bytes, 10 * MEBIBYTE)


@pytest.mark.parametrize("reference", [None, 5, {}, {"uid": "task"}, {"uid": "task", "return_value": 5}], ids=repr)
def test_what_is_no_reference_is_refused(rhapsody: RhapsodyClient, reference: Any) -> None:
    with pytest.raises(InvalidArgument, match="no reference"):
        rhapsody.fetch(reference)


def test_how_results_are_wanted_is_one_of_two_words(rhapsody: RhapsodyClient) -> None:
    with pytest.raises(InvalidArgument, match="results is 'nonsense'"):
        rhapsody.submit_tasks([{"function": bytes}], results="nonsense")


def raise_it(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def test_an_exception_has_its_type_its_arguments_and_the_traceback_of_over_there(rhapsody: RhapsodyClient) -> None:
    for kind, args in [
        (LookupError, ("why", 7)),
        (OSError, (2, "gone", "/file")),
        (KeyError, (("a", 1),)),
        (NeedsTwo, ("a", "b")),
    ]:
        result = result_of(rhapsody, raise_it, kind, *args)
        error, raised = result["exception"], kind(*args)

        assert (result["state"], type(error)) == ("FAILED", type(raised))
        assert (error.args, str(error), vars(error)) == (raised.args, str(raised), vars(raised))
        assert "in raise_it" in result["traceback"]


def raise_what_only_exists_here() -> None:
    import types

    module = sys.modules["made_over_there"] = types.ModuleType("made_over_there")
    exec("class Made(Exception): pass", module.__dict__)
    raise module.Made("for a reason")


def test_an_exception_of_a_class_that_is_not_here_is_a_typed_error_with_its_text(rhapsody: RhapsodyClient) -> None:
    error = result_of(rhapsody, raise_what_only_exists_here)["exception"]

    assert isinstance(error, RemoteError)
    assert error.remote_type == "made_over_there.Made"
    assert str(error) == "made_over_there.Made: for a reason"
    assert "raise_what_only_exists_here" in error.remote_traceback


def a_generator() -> Any:
    return (number for number in range(3))


async def an_async_generator() -> Any:
    yield 1


@pytest.mark.parametrize("function", [a_generator, an_async_generator, lambda: [a_generator()]])
def test_a_generator_is_an_error_that_says_what_to_do(rhapsody: RhapsodyClient, function: Any) -> None:
    result = result_of(rhapsody, function)

    assert result["state"] == "FAILED"
    assert isinstance(result["exception"], InvalidArgument)
    assert "list(...)" in result["exception"].hint


SCRIPT = """
import dataclasses, sys
import orbit_zmq

@dataclasses.dataclass
class Point:
    x: int

class Wrong(Exception):
    def __init__(self, point, why):
        super().__init__(why)
        self.point = point

def moved(point, by):
    if by < 0:
        raise Wrong(point, "backwards")
    return Point(point.x + by)

with orbit_zmq.Client(url=sys.argv[1], connect_timeout_s=60) as client:
    plugin = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    tasks = [{"function": moved, "args": (Point(1), by)} for by in (2, -1)]
    done, failed = plugin.wait_tasks(plugin.submit_tasks(tasks), timeout=60)
    assert done["return_value"] == Point(3), done
    assert type(failed["exception"]) is Wrong, failed
    assert failed["exception"].point == Point(1) and failed["exception"].args == ("backwards",)
print("whole")
"""


def test_classes_of_a_users_script_travel_both_ways_and_are_the_same_ones_when_they_are_back(
    rhapsody_lab: Lab, place: Path
) -> None:
    script = place / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script), rhapsody_lab.tcp],
        env=rhapsody_lab.environment,
        capture_output=True,
        text=True,
        timeout=250,
    )

    assert done.stdout == "whole\n", done.stderr


def a_gigabyte() -> Any:
    return numpy.arange(1 << 27)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_gigabyte_arrives_whole_and_no_process_but_the_two_ends_grows(lab: Lab) -> None:
    lab.start_endpoint("hpc1", url=lab.tcp, plugins="rhapsody")
    assert lab.broker is not None
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    value_of(plugin, bytes, 20 * MEBIBYTE)
    growth = Growth(broker=lab.broker.pid)

    back = value_of(plugin, a_gigabyte)

    assert numpy.array_equal(back, numpy.arange(1 << 27))
    print(growth.bytes())
    assert max(growth.bytes().values()) < GROWTH_BYTES, growth.bytes()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_endpoint_streams_a_gigabyte_from_its_disk(lab: Lab) -> None:
    endpoint = lab.start_endpoint("hpc1", url=lab.tcp, plugins="rhapsody")
    assert lab.broker is not None
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    result = result_of(plugin, bytes, 1 << 30, results="reference")
    growth = Growth(broker=lab.broker.pid, endpoint=endpoint.pid)

    assert len(plugin.fetch(result)) == 1 << 30
    print(growth.bytes())
    assert max(growth.bytes().values()) < GROWTH_BYTES, growth.bytes()

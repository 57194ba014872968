"""Batches, acknowledgements and portions: what one side encodes the other reads, and one bad task fails alone."""

from __future__ import annotations

import contextlib
import math
import threading
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_rhapsody import batches, codec
from orbit_rhapsody.batches import encode_batches
from orbit_rhapsody.codec import EXECUTABLE, FUNCTION, Acknowledgement, Portion, decode_batch, decode_task, task_result
from orbit_rhapsody.values import unpickle
from orbit_zmq.errors import Conflict, InvalidArgument, ProtocolError, TooLarge


def add(left: int, right: int) -> int:
    return left + right


def one_batch(*tasks: dict[str, Any]) -> codec.ReceivedBatch:
    (batch,) = encode_batches([(f"t{index}", task) for index, task in enumerate(tasks)])
    assert not batch.refused
    return decode_batch(batch.body)


def fields_of(received: codec.ReceivedBatch, index: int = 0) -> dict[str, Any]:
    _, number, own = received.tasks[index]
    return decode_task(received.parts[number][1]) | decode_task(own)


def test_a_function_is_pickled_once_for_all_its_tasks():
    received = one_batch(*({"function": add, "args": (number, 1)} for number in range(100)))

    assert len(received.functions) == 1
    (digest,) = received.functions
    assert fields_of(received, 7) == {"function": {"digest": digest}, "args": [7, 1]}
    assert unpickle(received.functions[digest], "it")(2, 3) == 5


def test_an_import_path_travels_as_it_is():
    received = one_batch({"function": "math:hypot", "args": [3, 4]})

    assert received.functions == {}
    assert fields_of(received)["function"] == "math:hypot"


@pytest.mark.parametrize(
    "value", [(1, 2), {1, 2}, 2**70, -(2**70), "\ud800", [(1,)], {"a": (1,)}, complex(1, 2), {"k": {1}}, range(3)]
)
def test_arguments_that_are_not_plain_arrive_as_they_were(value):
    task = fields_of(one_batch({"function": "m:f", "args": (value,), "kwargs": {"again": value}}))

    assert unpickle(task["pickled"], "them") == ((value,), {"again": value})


@pytest.mark.parametrize("value", [None, True, -5, 2**63, 1.5, math.inf, b"\xff", "ü", [1, [2]], {"a": {1: 2}}, []])
def test_plain_arguments_are_not_pickled(value):
    task = fields_of(one_batch({"function": "m:f", "args": (value,), "kwargs": {"again": value}}))

    assert "pickled" not in task
    assert task["args"] == [value]
    assert task["kwargs"] == {"again": value}


def test_an_executable_travels_with_its_surroundings():
    task = {"executable": "/bin/sh", "arguments": ["-c", "true"], "cwd": "/", "env": {"A": "b"}, "shell": False}
    received = one_batch(task)

    assert received.parts[0][0] == EXECUTABLE
    assert fields_of(received) == task


def test_what_tasks_have_in_common_travels_once():
    environment = {"A": "b" * 1_000}
    tasks = [{"executable": "/bin/sh", "arguments": [str(n)], "env": dict(environment), "cwd": "/"} for n in range(100)]
    objects = [{**task, "uid": f"x{n}", "state": None, "stdout": "", "backend": None} for n, task in enumerate(tasks)]

    received = one_batch(*tasks, *objects)

    assert len(received.parts) == 1
    assert fields_of(received, 99) == fields_of(received, 199) == tasks[99]


def test_values_that_are_equal_and_not_the_same_are_kept_apart():
    tasks = [{"executable": "/bin/x", "task_backend_specific_kwargs": {"n": value}} for value in (1, True, 1.0)]

    received = one_batch(*tasks)

    assert [type(fields_of(received, index)["task_backend_specific_kwargs"]["n"]) for index in range(3)] == [int, bool, float]


def test_batches_are_split_by_bytes_and_by_count_and_nothing_is_lost():
    tasks = [(f"t{number}", {"function": add, "args": (b"x" * 1_000, number)}) for number in range(100)]

    by_bytes = list(encode_batches(tasks, batch_bytes=10_000))
    by_count = list(encode_batches(tasks, batch_tasks=30))

    assert len(by_bytes) > 10
    assert all(len(batch.body) <= 12_000 for batch in by_bytes)
    assert [len(batch.sent) for batch in by_count] == [30, 30, 30, 10]
    for some in (by_bytes, by_count):
        received = [decode_batch(batch.body) for batch in some]
        assert [task[0] for batch in received for task in batch.tasks] == [uid for uid, _ in tasks]
        assert all(len(batch.functions) == 1 for batch in received)


def test_the_first_batch_is_small_so_that_work_begins_soon():
    tasks = [(f"t{number}", {"executable": "/bin/true"}) for number in range(10_000)]

    sizes = [len(batch.sent) for batch in encode_batches(tasks)]

    assert sizes == [1_024, 2_048, 4_096, 2_832]


def test_the_callers_dicts_are_not_changed():
    task = {"function": add, "args": (1, 2), "kwargs": {}, "backend": None, "state": None}
    before = dict(task)

    one_batch(task)

    assert task == before


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({}, "either 'function' or 'executable'"),
        ({"executabel": "/bin/true"}, "'executabel'"),
        ({"function": add, "executable": "/bin/true"}, "not both"),
        ({"function": 5}, "cannot be called"),
        ({"function": add, "args": "abc"}, "a list or a tuple"),
        ({"function": add, "kwargs": [1]}, "dict"),
        ({"function": add, "input_files": ["a"]}, "'input_files'"),
        ({"executable": "/bin/true", "gpus": 2}, "'gpus'"),
        ({"function": add, "args": (threading.Lock(),)}, "cannot be pickled"),
        ({"function": threading.Lock().acquire}, "cannot be pickled"),
        ({"executable": "/bin/true", "env": {"A": {1}}}, "cannot be sent"),
    ],
)
def test_a_task_that_cannot_be_sent_is_refused_alone(task, words):
    good = {"function": add, "args": (1, 2)}

    (batch,) = encode_batches([("a", good), ("b", task), ("c", good)])

    assert batch.sent == [0, 2]
    assert list(batch.refused) == [1]
    assert isinstance(batch.refused[1], InvalidArgument)
    assert words in str(batch.refused[1])


def test_arguments_that_are_too_large_for_a_batch_come_before_it_once_and_those_of_a_program_are_refused_alone(monkeypatch):
    monkeypatch.setattr(batches, "MAX_TASK_BYTES", 1_000)
    large: dict[str, Any] = {"function": "m:f", "args": (b"x" * 2_000,), "kwargs": {"a": 1}}

    tasks: list[dict[str, Any]] = [
        large,
        dict(large),
        {"executable": "/bin/true", "arguments": ["x" * 2_000]},
        {"function": "m:f"},
    ]
    (batch,) = encode_batches([(str(number), task) for number, task in enumerate(tasks)])

    assert isinstance(batch.refused[2], TooLarge)
    assert batch.sent == [0, 1, 3]
    ((name, value),) = batch.apart.items()
    assert unpickle(b"".join(value.pieces()), "them") == ((b"x" * 2_000,), {"a": 1})
    received = decode_batch(batch.packed(None))
    assert received.apart == (name,)
    assert [codec.decode_task(own).get("apart", {}).get("uid") for _, _, own in received.tasks] == [name, name, None]


def test_a_batch_of_refused_tasks_alone_has_nothing_to_send():
    (batch,) = encode_batches([("a", {})])

    assert batch.body == b""
    assert list(batch.refused) == [0]


def test_tasks_may_come_as_maps_with_their_uid_inside():
    body = msgpack.packb({"tasks": [{"uid": "a", "function": "m:f"}, {"uid": "b", "executable": "/bin/true"}]})

    received = decode_batch(body)

    assert [(uid, received.parts[number][0]) for uid, number, _ in received.tasks] == [("a", FUNCTION), ("b", EXECUTABLE)]
    assert fields_of(received, 1) == {"executable": "/bin/true"}


def test_the_second_entry_of_a_task_in_a_batch_without_parts_is_its_kind():
    received = decode_batch(msgpack.packb({"tasks": [["a", EXECUTABLE, msgpack.packb({"executable": "/bin/true"})]]}))

    assert received.parts[received.tasks[0][1]][0] == EXECUTABLE
    assert fields_of(received) == {"executable": "/bin/true"}


@given(st.binary(max_size=200))
def test_bytes_that_are_no_batch_are_refused_and_nothing_else(body):
    for decode, error in ((decode_batch, InvalidArgument), (decode_task, InvalidArgument), (Portion.decode, ProtocolError)):
        with contextlib.suppress(error):
            decode(body)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["python", "functions", "tasks"]), plain) | plain)
def test_a_batch_of_the_wrong_shape_is_refused_and_nothing_else(value):
    try:
        body = msgpack.packb(value)
    except OverflowError:
        return
    with contextlib.suppress(InvalidArgument):
        decode_batch(body)


@pytest.mark.parametrize("uid", ["", "x" * 256, 5, None])
def test_a_uid_has_to_be_text_of_some_length(uid):
    with pytest.raises(InvalidArgument):
        decode_batch(msgpack.packb({"tasks": [[uid, FUNCTION, b"\x80"]]}))


def test_an_acknowledgement_arrives_as_it_was():
    answer = Acknowledgement({3: "DONE"}, {5: Conflict("taken", hint="Use another.")})

    read = Acknowledgement.decode(answer.encode())

    assert read.known == {3: "DONE"}
    assert isinstance(read.refused[5], Conflict)
    assert read.refused[5].message == "taken"


def test_an_acknowledgement_brings_results_along():
    records = [msgpack.packb({"uid": "a"}), msgpack.packb({"uid": "b"})]

    read = Acknowledgement.decode(Acknowledgement({0: "DONE"}, {}, Portion(5, 6, False, records)).encode())

    assert read == Acknowledgement({0: "DONE"}, {}, Portion(5, 6, False, [{"uid": "a"}, {"uid": "b"}]))


@pytest.mark.parametrize(
    "reader", [{"consumer": "", "after": 0, "max_bytes": 1}, {"consumer": "c", "after": "0", "max_bytes": 1}, 5]
)
def test_a_reader_that_is_none_is_refused(reader):
    with pytest.raises(InvalidArgument):
        decode_batch(msgpack.packb({"tasks": [], "reader": reader}))


def test_a_portion_arrives_as_it_was():
    records = [msgpack.packb({"uid": "a"}), msgpack.packb({"uid": "b"})]

    read = Portion.decode(Portion(5, 6, True, records).encode())

    assert read == Portion(5, 6, True, [{"uid": "a"}, {"uid": "b"}])


def test_a_result_has_all_fields_even_where_little_is_known():
    result = task_result({"uid": "a", "state": "RUNNING"})

    assert result["return_value"] is None
    assert result["exception"] is None
    assert result["exit_code"] is None


def test_a_return_value_that_cannot_be_loaded_here_is_an_error_in_its_result():
    result = task_result({"uid": "a", "state": "DONE", "return_pickle": b"not a pickle", "python": "3.99"})

    assert result["return_value"] is None
    assert isinstance(result["exception"], InvalidArgument)
    assert "3.99" in str(result["exception"])
    assert "return_pickle" not in result

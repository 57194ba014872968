"""Loading and calling a task's function: everything that can go wrong in user code ends as that task's error."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import msgpack
import pytest

from orbit_rhapsody import invocation, large
from orbit_rhapsody.batches import encode_batches
from orbit_rhapsody.codec import EXECUTABLE, FUNCTION, ReceivedBatch, decode_batch, full_record
from orbit_rhapsody.invocation import Function, Invocation, Outcome, TaskFailed
from orbit_rhapsody.preparation import Batch, Functions
from orbit_rhapsody.records import MAX_OUTPUT_CHARS, finished_record
from orbit_rhapsody.values import PYTHON_VERSION, pickle_function, pickle_value, unpickle
from orbit_zmq.errors import InvalidArgument, NotPermitted


def run(function: object, *args: object, **kwargs: object) -> Outcome:
    made = Function(pickled=pickle_function(function))
    return Invocation(made, list(args), kwargs, None, PYTHON_VERSION)()


def failure(function: object, *args: object) -> dict[str, Any]:
    with pytest.raises(TaskFailed) as caught:
        run(function, *args)
    return caught.value.error


def test_a_plain_return_value_is_packed_and_any_other_is_pickled():
    assert msgpack.unpackb(run(lambda x, y=0: [x, y], 1, y=2).plain) == [1, 2]
    assert unpickle(run(lambda: (1, 2)).pickled or b"", "it") == (1, 2)


def test_a_coroutine_function_is_awaited():
    async def double(number: int) -> int:
        return 2 * number

    assert msgpack.unpackb(run(double, 4).plain) == 8


def test_pickled_arguments_are_loaded_where_the_function_runs():
    made = Function(pickled=pickle_function(lambda pair, extra: [*pair, extra]))

    outcome = Invocation(made, [], {}, pickle_value((((1, 2),), {"extra": 3})), PYTHON_VERSION)()

    assert msgpack.unpackb(outcome.plain) == [1, 2, 3]


def test_an_exception_carries_the_users_own_frames():
    def inner() -> None:
        raise ValueError("deep")

    error = failure(inner)

    assert error["type"] == "builtins.ValueError"
    assert "in inner" in error["traceback"]
    assert "orbit_rhapsody" not in error["traceback"]


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_a_thread_or_a_loop_is_an_ordinary_failure(raised):
    def end_it(error: BaseException) -> None:
        raise error

    assert failure(end_it, raised)["type"].endswith(type(raised).__name__)


def test_a_return_value_that_cannot_be_pickled_is_a_clear_error():
    error = run(lambda: __import__("threading").Lock()).error

    assert error is not None
    assert "cannot be pickled" in error["message"]


def test_a_return_value_beyond_the_limit_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(large, "MAX_VALUE_BYTES", 100)
    monkeypatch.setattr(invocation, "INLINE_BYTES", 50)
    error = run(lambda: b"x" * 200).error

    assert error is not None
    assert error["type"].endswith("TooLarge")


@pytest.mark.parametrize(
    "path", ["no_such_module:f", "math:nothing", "math", ":f", "math:", ":", "math:pi", "..:x", "json:decoder.nothing"]
)
def test_a_path_that_does_not_resolve_is_named(path):
    with pytest.raises(InvalidArgument):
        Function(path=path).load()


def test_a_path_may_reach_into_classes():
    assert Function(path="json:JSONDecoder.decode").load().__name__ == "decode"


def test_a_function_pickled_by_another_python_is_refused_in_so_many_words():
    with pytest.raises(InvalidArgument, match=rf"Python 3\.99 cannot run under Python {PYTHON_VERSION}"):
        Function(pickled=b"", python="3.99").load()


def test_an_invocation_can_be_sent_to_another_process():
    made = Function(pickled=pickle_function(lambda: 5))

    assert pickle.loads(pickle.dumps(made)).load()() == 5


def test_a_function_that_many_threads_ask_for_is_loaded_once():
    made = Function(pickled=pickle_function(lambda: 1))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(made.load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert all(function is found[0] for function in found)


def prepared(
    task: dict[str, Any], *, allow_pickled: bool = True, backends: tuple[str, ...] = ("concurrent",)
) -> tuple[str, dict[str, Any]]:
    kind = FUNCTION if "function" in task else EXECUTABLE
    received = ReceivedBatch([("u", kind, msgpack.packb(task))], {"d": pickle_function(len)}, PYTHON_VERSION)
    batch = Batch(received, Functions(), submitted=1.0, allow_pickled=allow_pickled)
    return batch.prepare(batch.tasks_of(received)[0], backends)


def test_an_executable_gets_its_surroundings_where_the_backend_looks_for_them(monkeypatch):
    monkeypatch.setenv("FROM_ENDPOINT", "1")
    name, task = prepared({"executable": "/bin/x", "arguments": ["a", 5], "cwd": "/", "env": {"A": "b"}, "shell": True})

    assert name == "concurrent"
    assert task["arguments"] == ["a", "5"]
    options = task["task_backend_specific_kwargs"]
    assert (options["cwd"], options["shell"], options["env"]["A"]) == ("/", True, "b")
    assert options["env"]["FROM_ENDPOINT"] == "1"


def test_a_task_names_its_backend():
    assert prepared({"executable": "/x", "backend": "noop"}, backends=("concurrent", "noop"))[0] == "noop"


@pytest.mark.parametrize(
    "task",
    [
        {"executable": "/x", "backend": "other"},
        {"executable": ""},
        {"executable": 5},
        {"executable": "/x", "arguments": "abc"},
        {"executable": "/x", "arguments": [[1]]},
        {"executable": "/x", "cwd": 5},
        {"executable": "/x", "env": {"A": 5}},
        {"executable": "/x", "env": ["A"]},
        {"executable": "/x", "shell": "yes"},
        {"executable": "/x", "task_backend_specific_kwargs": [1]},
        {"function": {"digest": "unknown"}},
        {"function": {}},
        {"function": 5},
        {"function": "m:f", "args": {}},
        {"function": "m:f", "kwargs": []},
        {"function": "m:f", "pickled": "text"},
    ],
)
def test_a_task_of_the_wrong_shape_is_refused(task):
    with pytest.raises(InvalidArgument):
        prepared(task)


@pytest.mark.parametrize("task", [{"function": {"digest": "d"}}, {"function": "m:f", "pickled": b""}])
def test_pickles_are_refused_where_they_are_not_allowed(task):
    with pytest.raises(NotPermitted, match="pickle"):
        prepared(task, allow_pickled=False)


def test_batches_that_bring_the_same_function_share_it_while_one_of_them_lives():
    functions = Functions()
    first, second = functions.pickled(b"x", "3"), functions.pickled(b"x", "3")

    assert first is second
    assert functions.pickled(b"x", "4") is not first


def test_the_record_of_a_task_leaves_out_what_says_nothing_and_has_all_fields_where_it_is_read():
    times = {"submitted": 1.0, "started": None, "finished": 3.0}
    task = {"return_value": run(lambda: {"a": 1}), "stdout": "", "stderr": None, "exit_code": 0}

    state, packed = finished_record("u", "DONE", "COMPLETED", task, times)

    record = full_record(packed)
    assert "stdout" not in msgpack.unpackb(packed)
    assert state == "DONE"
    assert record["return_value"] == {"a": 1}
    assert (record["uid"], record["state"], record["raw_state"], record["exit_code"]) == ("u", "DONE", "COMPLETED", 0)
    assert (record["stdout"], record["stderr"], record["exception"]) == ("", "", None)
    assert record["times"]["started"] > 1.0


def test_the_record_of_a_task_whose_value_cannot_travel_says_failed_in_both_places():
    state, packed = finished_record("u", "DONE", "DONE", {"return_value": threading.Lock(), "exit_code": 0}, {})

    record = msgpack.unpackb(packed)
    assert state == record["state"] == "FAILED"
    assert "cannot be pickled" in record["exception"]["message"]


def test_output_is_kept_from_its_end_with_the_number_of_characters_that_are_not():
    _, packed = finished_record("u", "DONE", "DONE", {"stdout": "x" * (MAX_OUTPUT_CHARS + 5)}, {})

    assert msgpack.unpackb(packed)["stdout"].startswith("[5 characters before this are not kept]\n")


def test_the_encoding_of_both_sides_meets():
    (batch,) = encode_batches([("u", {"function": sorted, "args": ([3, 1],), "kwargs": {"reverse": True}})])
    received = decode_batch(batch.body)
    made = Batch(received, Functions(), submitted=1.0, allow_pickled=True)
    _, task = made.prepare(made.tasks_of(received)[0], ["noop"])

    assert msgpack.unpackb(task["function"]().plain) == [3, 1]

"""Large arguments and functions travel once to a session, under the hash of their content."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from orbit_rhapsody import batches
from orbit_rhapsody.batches import encode_batches
from orbit_rhapsody.codec import decode_batch
from orbit_rhapsody.preparation import Batch, Functions
from orbit_rhapsody.sharing import KEPT_BYTES, MOST_BYTES, SHARED_BYTES, Kept, SharedArguments
from orbit_zmq.errors import InvalidArgument, NotPermitted

LARGE = b"x" * SHARED_BYTES


class Pickled:
    """Counts how often it is pickled."""

    times = 0

    def __init__(self, size: int) -> None:
        self.data = b"y" * size

    def __reduce__(self) -> tuple[Any, ...]:
        Pickled.times += 1
        return Pickled, (len(self.data),)


class Heavy:
    """As large in a pickle as it is."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Heavy) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]


def sizes(value: Any, number: int, *, key: str = "") -> Any:
    return len(value.data if isinstance(value, Heavy) else value) + number


def results_of(body: bytes, functions: Functions, *, allow_pickled: bool = True) -> list[Any]:
    received = decode_batch(body)
    batch = Batch(received, functions, submitted=0.0, allow_pickled=allow_pickled)
    functions.kept.keep(received.functions)
    calls = [batch.prepare(task, ["noop"])[1]["function"] for task in batch.tasks_of(received)]
    return [msgpack.unpackb(call().plain) for call in calls]


@pytest.mark.parametrize("value", [LARGE, Heavy(LARGE), ["z"] * SHARED_BYTES, list(range(20_000))])
def test_an_argument_that_many_tasks_have_travels_once_and_each_gets_it(value):
    tasks = [(f"t{number}", {"function": sizes, "args": (value, number), "kwargs": {"key": "k"}}) for number in range(100)]

    (batch,) = encode_batches(tasks)

    size = sizes(value, 0)
    assert len(batch.body) < 200_000
    assert results_of(batch.body, Functions()) == [size + number for number in range(100)]


def test_what_a_session_keeps_is_not_brought_again():
    value, functions, kept = Heavy(LARGE), Functions(), set[str]()
    tasks = [(f"t{number}", {"function": sizes, "args": (value, number)}) for number in range(30)]

    batches = []
    for batch in encode_batches(tasks, batch_tasks=10, kept=kept):
        batches.append(batch.body)
        kept.update(decode_batch(batch.body).functions)

    assert [len(decode_batch(body).functions) for body in batches] == [2, 0, 0]
    assert [result for body in batches for result in results_of(body, functions)] == [SHARED_BYTES + n for n in range(30)]


def test_what_is_not_kept_comes_with_every_batch_that_needs_it():
    tasks = [(f"t{number}", {"function": sizes, "args": (LARGE, number)}) for number in range(30)]

    for batch in encode_batches(tasks, batch_tasks=10):
        assert results_of(batch.body, Functions())


def test_an_argument_is_pickled_once_for_all_tasks(monkeypatch):
    monkeypatch.setattr("orbit_rhapsody.sharing.SHARED_BYTES", 1)
    monkeypatch.setattr(batches, "SHARED_BYTES", 1)
    value = Pickled(10)
    Pickled.times = 0

    list(encode_batches([(f"t{number}", {"function": "m:f", "args": (value,)}) for number in range(100)]))

    assert Pickled.times <= 2  # the first time with its task, of which nobody knew that it is one of many


def test_small_arguments_stay_with_their_tasks():
    (batch,) = encode_batches([("t", {"function": "m:f", "args": (b"x" * 100, [1, 2])})])

    assert decode_batch(batch.body).functions == {}


def test_shared_arguments_of_one_task_are_bounded():
    large = [bytes([number]) * (MOST_BYTES // 2) for number in range(3)]

    assert len(SharedArguments().take(large, {})) == 1


def test_plain_arguments_need_no_pickles_and_others_do():
    (plain,) = encode_batches([("t", {"function": "builtins:len", "args": (LARGE,)})])
    (pickled,) = encode_batches([("t", {"function": "builtins:id", "args": (Heavy(LARGE),)})])

    assert results_of(plain.body, Functions(), allow_pickled=False) == [SHARED_BYTES]
    with pytest.raises(NotPermitted):
        results_of(pickled.body, Functions(), allow_pickled=False)


def test_a_session_keeps_so_much_and_never_throws_out():
    kept = Kept(most_bytes=100)

    assert kept.keep({"a": b"x" * 60, "b": b"x" * 60}) == ["a"]
    assert kept.keep({"a": b"", "c": b"x" * 40}) == ["a", "c"]
    assert kept.get("a") == b"x" * 60
    with pytest.raises(InvalidArgument):
        kept.get("b")
    assert KEPT_BYTES > MOST_BYTES


def test_a_batch_that_names_what_the_session_does_not_keep_is_refused():
    (batch,) = encode_batches([("t", {"function": "m:f", "args": (LARGE,)})])
    received = decode_batch(batch.body)
    received.known = ("mnothing",)

    with pytest.raises(InvalidArgument):
        Batch(received, Functions(), submitted=0.0, allow_pickled=True)

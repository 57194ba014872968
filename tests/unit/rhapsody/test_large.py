"""Large values: in pieces, and together again."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orbit_rhapsody.large import ArrivingValue, LargeValue, reference_in, taken_apart
from orbit_rhapsody.spool import Spool
from orbit_rhapsody.values import LEAST_APART_BYTES, pack_plain
from orbit_zmq.errors import InternalError, InvalidArgument, ResultExpired

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)
ANY = st.recursive(
    PLAIN | st.complex_numbers() | st.text(st.characters(categories=["Cs"])) | st.sets(st.integers(), max_size=1),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.integers(), inner, max_size=3),
    max_leaves=12,
)


def arrived(large: LargeValue, chunk_bytes: int = 1 << 20) -> Any:
    """What comes of it when it is sent in chunks."""
    data = b"".join(large.pieces())
    value = ArrivingValue(large.reference("task"))
    for start in range(0, len(data), chunk_bytes):
        value.add(data[start : start + chunk_bytes])
    return value.value()


@given(value=ANY, is_known=st.booleans(), chunk_bytes=st.integers(1, 200))
def test_a_value_comes_together_as_it_was(value: Any, is_known: bool, chunk_bytes: int) -> None:
    large = taken_apart(value, pack_plain(value) if is_known else None)

    back = arrived(large, chunk_bytes)

    assert repr(back) == repr(value)  # nan is equal to nothing
    assert repr(arrived(pickle.loads(pickle.dumps(large)), chunk_bytes)) == repr(value)  # by way of another process


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 3 * LEAST_APART_BYTES), max_size=4), fixed=st.lists(st.booleans(), min_size=4, max_size=4))
def test_arrays_keep_their_contents_and_whether_they_may_be_written_to(sizes: list[int], fixed: list[bool]) -> None:
    arrays = [numpy.arange(size, dtype=numpy.uint8) for size in sizes]
    for array, is_fixed in zip(arrays, fixed, strict=False):
        array.flags.writeable = not is_fixed

    for large in (taken_apart(arrays), pickle.loads(pickle.dumps(taken_apart(arrays)))):
        back = arrived(large)
        assert all(numpy.array_equal(one, other) for one, other in zip(back, arrays, strict=True))
        assert [array.flags.writeable for array in back] == [array.flags.writeable for array in arrays]


def test_a_value_of_another_length_than_was_said_is_an_error_and_no_value() -> None:
    large = taken_apart(b"x" * 100)
    short, long = ArrivingValue(large.reference("task")), ArrivingValue(large.reference("task"))
    short.add(b"x" * 99)

    with pytest.raises(InternalError, match="99 of the 100 bytes of the value of task"):
        short.value()
    with pytest.raises(InternalError, match="more than the 100 bytes"):
        long.add(b"x" * 101)


@pytest.mark.parametrize("change", [{"uid": 5}, {"bytes": -1}, {"bytes": 1 << 50}, {"form": "other"}, {"buffers": 5}], ids=repr)
def test_what_is_no_reference_is_refused(change: dict[str, Any]) -> None:
    reference = taken_apart(b"x").reference("task")

    assert reference_in({"result_ref": reference}) == reference_in(reference) == reference
    with pytest.raises(InvalidArgument, match="no reference"):
        reference_in(reference | change)


def read(spool: Spool, uid: str) -> bytes:
    async def all_of_it() -> bytes:
        return b"".join([chunk async for chunk in spool.read(uid)])

    return asyncio.run(all_of_it())


def directory_of(spool: Spool) -> Path:
    assert spool._directory is not None
    return spool._directory


def test_the_spool_keeps_values_until_their_tasks_are_forgotten_and_those_that_were_asked_for_until_they_are_discarded() -> (
    None
):
    spool = Spool()
    spool.put("a", taken_apart(b"a" * 3_000_000))
    spool.put("b/../\ud800", taken_apart(b"b", by_request=True))
    assert (read(spool, "a"), read(spool, "b/../\ud800"), spool.held_bytes) == (b"a" * 3_000_000, b"b", 3_000_001)

    spool.drop(["a", "b/../\ud800", "c"])

    with pytest.raises(ResultExpired, match="task a"):
        read(spool, "a")
    assert (read(spool, "b/../\ud800"), spool.held_bytes) == (b"b", 1)
    spool.discard(["b/../\ud800"])
    assert list(directory_of(spool).iterdir()) == []

    directory = directory_of(spool)
    spool.close()
    assert not directory.exists()
    with pytest.raises(InternalError, match="closed"):
        spool.put("d", taken_apart(b"d"))


async def one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


def test_arguments_that_came_stay_until_a_batch_holds_them_and_then_as_long_as_it_does() -> None:
    spool = Spool()
    large = taken_apart(((b"x" * 1_000,), {}))
    name, data = large.digest(), b"".join(large.pieces())
    asyncio.run(spool.take(name, one_chunk(data)))

    first = spool.hold(name)
    asyncio.run(spool.take(name, one_chunk(data)))  # for another batch, while the first one runs
    del first
    second = spool.hold(name)

    assert second.load(large.reference(name)) == ((b"x" * 1_000,), {})
    assert [path.stat().st_size for path in directory_of(spool).iterdir()] == [spool.held_bytes] == [len(data)]
    del second
    assert (list(directory_of(spool).iterdir()), spool.held_bytes) == ([], 0)
    with pytest.raises(InvalidArgument, match="are not there"):
        spool.hold(name).load(large.reference(name))
    spool.close()


def test_arguments_that_were_cut_off_on_their_way_leave_nothing() -> None:
    spool = Spool()

    async def cut_off() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError("cut")

    with pytest.raises(InternalError, match="1 bytes"):
        asyncio.run(spool.take("a", cut_off()))

    assert (list(directory_of(spool).iterdir()), spool.held_bytes) == ([], 0)
    spool.close()


def test_a_value_that_the_disk_does_not_take_is_an_error_that_says_what_to_do_and_leaves_nothing(monkeypatch) -> None:
    spool = Spool()
    spool.put("a", taken_apart(b"a"))

    def full(file: Any, piece: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbit_rhapsody.spool._write", full)
    with pytest.raises(InternalError, match="No space left") as caught:
        spool.put("b", taken_apart(b"b" * 10))

    assert "TMPDIR" in caught.value.hint
    assert len(list(directory_of(spool).iterdir())) == 1
    spool.close()


def test_arguments_that_the_disk_did_not_take_say_so_when_their_task_needs_them(monkeypatch) -> None:
    spool = Spool()
    large = taken_apart(((b"x" * 1_000,), {}))

    def full(file: Any, piece: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbit_rhapsody.spool._write", full)
    with pytest.raises(InternalError, match="No space left"):
        asyncio.run(spool.take("a", one_chunk(b"x")))

    with pytest.raises(InvalidArgument, match=r"are not there: .*No space left on device"):
        spool.hold("a").load(large.reference("a"))
    spool.close()

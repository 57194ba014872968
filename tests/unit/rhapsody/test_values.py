"""Values and exceptions as bytes: plain where that loses nothing, pickled where it would."""

from __future__ import annotations

import copyreg
import dataclasses
import math
import socket
import sys
import threading
import types

import msgpack
import numpy
import pytest

from orbit_rhapsody.values import (
    LEAST_APART_BYTES,
    MAX_PICKLED_ERROR_BYTES,
    describe,
    pack_error,
    pack_plain,
    pickle_apart,
    pickle_value,
    unpack_error,
    unpickle,
)
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, RemoteError, RemoteTraceback


@dataclasses.dataclass
class Point:
    x: int


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


class NeedsTwo(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left}{right}")


@pytest.mark.parametrize("value", [None, True, 0, 2**64 - 1, -(2**63), 0.5, math.inf, "text", b"bytes", [1, "a"], {"a": [1]}])
def test_plain_values_travel_as_msgpack(value):
    packed = pack_plain(value)

    assert packed is not None
    assert msgpack.unpackb(packed) == value


@pytest.mark.parametrize("value", [(1,), {1: 2}, [{1: 2}], 2**64, "\udcff", {1}, Point(1), [Point(1)], object()])
def test_values_that_would_come_back_changed_do_not(value):
    assert pack_plain(value) is None


@pytest.mark.parametrize("value", [(1,), {1: 2}, 2**64, "\udcff", {1}, Point(1), 1j, lambda: 1])
def test_everything_else_is_pickled(value):
    back = unpickle(pickle_value(value), "it")

    assert back() == 1 if callable(value) else back == value


def test_a_class_that_exists_in_no_module_travels_by_its_definition():
    class Local:
        value = 7

    assert unpickle(pickle_value(Local()), "it").value == 7


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(InvalidArgument, match="lock"):
        pickle_value(threading.Lock())


def test_a_pickle_of_another_python_that_does_not_load_says_both_versions():
    with pytest.raises(InvalidArgument, match=r"pickled by Python 2\.7, read by Python 3"):
        unpickle(b"rubbish", "a value", "2.7")


def test_an_exception_comes_back_with_its_arguments_and_the_remote_traceback():
    try:
        raise KeyError("a", 5)
    except KeyError as error:
        packed = pack_error(error)

    back = unpack_error(packed)

    assert isinstance(back, KeyError)
    assert back.args == ("a", 5)
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "test_values.py" in str(back.__cause__)
    assert packed["type"] == "builtins.KeyError"


def test_an_error_of_ours_keeps_its_hint_and_its_type():
    back = unpack_error(pack_error(NotFound("nothing", hint="look elsewhere")))

    assert isinstance(back, NotFound)
    assert back.hint == "look elsewhere"


@pytest.mark.parametrize("pickled", [None, b"rubbish", pickle_value(5)])
def test_an_exception_whose_pickle_does_not_load_is_a_typed_error_with_its_text(pickled):
    back = unpack_error({"type": "m.E", "message": "why", "traceback": "there", "pickled": pickled})

    assert isinstance(back, RemoteError)
    assert (back.remote_type, str(back), back.remote_traceback) == ("m.E", "m.E: why", "there")
    assert isinstance(unpack_error({"type": "builtins.KeyError", "message": "why", "pickled": pickled}), KeyError)


def test_an_exception_whose_constructor_wants_something_else_comes_back_all_the_same():
    back = unpack_error(pack_error(NeedsTwo("a", "b")))

    assert type(back) is NeedsTwo
    assert back.args == ("ab",)


def test_an_exception_that_holds_what_cannot_be_pickled_comes_back_without_it():
    error = NeedsTwo("a", "b")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    back = unpack_error(pack_error(error))

    assert (type(back), back.args, vars(back)) == (NeedsTwo, ("ab",), {})


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ((number for number in range(3)), "list(...)"),
        ([(number for number in range(3))], "list(...)"),
        (threading.Lock(), "A lock"),
        (socket.socket(), "A socket"),
        (open(__file__, "rb"), "An open file"),  # noqa: SIM115 - it is not to be closed
        (threading.local(), "Pass plain values"),
    ],
    ids=["generator", "generators", "lock", "socket", "file", "other"],
)
def test_what_cannot_be_pickled_comes_with_advice(value, advice):
    with pytest.raises(InvalidArgument) as caught:
        pickle_value(value)

    assert advice in caught.value.hint


def test_a_class_of_a_script_travels_by_its_definition():
    script = types.ModuleType("__main__")
    exec("class Made:\n    value = 7", script.__dict__)
    sys.modules["__main__"], before = script, sys.modules["__main__"]
    try:
        pickled, (pieces, _) = pickle_value(script.Made()), pickle_apart(script.Made())
    finally:
        sys.modules["__main__"] = before

    assert unpickle(pickled, "it").value == unpickle(b"".join(pieces), "it").value == 7


def test_large_buffers_and_byte_strings_are_taken_apart_without_a_copy():
    small, large, text = numpy.arange(4), numpy.arange(LEAST_APART_BYTES), b"x" * (1 << 20)

    pieces, (buffer,) = pickle_apart([small, large, text])

    assert numpy.shares_memory(numpy.frombuffer(buffer, large.dtype), large)
    assert any(piece is text for piece in pieces)
    back = unpickle(b"".join(pieces), "it", buffers=[buffer])
    assert numpy.shares_memory(back[1], large)
    assert back[2] == text


def test_an_exception_that_cannot_be_pickled_printed_or_carried_still_travels():
    assert pack_error(ValueError(threading.Lock()))["pickled"] is None
    assert "cannot be printed" in pack_error(Unprintable())["message"]
    assert "cannot be printed" in describe(Unprintable())
    assert pack_error(ValueError(b"x" * (MAX_PICKLED_ERROR_BYTES + 1)))["pickled"] is None
    msgpack.packb(pack_error(ValueError("\ud800")))


def test_an_exception_is_pickled_in_its_own_way_where_a_library_has_set_up_another(monkeypatch):
    def unloadable(error: BaseException) -> tuple[object, ...]:
        return exec, ("raise ImportError('no such library here')",)

    for kind in (DeadlineExceeded, LookupError):
        monkeypatch.setitem(copyreg.dispatch_table, kind, unloadable)
    late = unpack_error(pack_error(DeadlineExceeded("late", details={"a": 1})))
    lost = unpack_error(pack_error(LookupError("lost", 7)))

    assert isinstance(late, DeadlineExceeded) and late.details == {"a": 1}
    assert type(lost) is LookupError and lost.args == ("lost", 7)

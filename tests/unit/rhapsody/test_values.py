"""Values and exceptions as bytes: plain where that loses nothing, pickled where it would."""

from __future__ import annotations

import dataclasses
import math
import threading

import msgpack
import pytest

from orbit_rhapsody.values import (
    MAX_PICKLED_ERROR_BYTES,
    describe,
    pack_error,
    pack_plain,
    pickle_value,
    unpack_error,
    unpickle,
)
from orbit_zmq.errors import InvalidArgument, NotFound, RemoteTraceback


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
def test_an_exception_whose_pickle_does_not_load_is_text(pickled):
    assert unpack_error({"type": "m.E", "message": "why", "pickled": pickled}) == "m.E: why"


def test_an_exception_that_cannot_be_rebuilt_from_its_arguments_is_text():
    back = unpack_error(pack_error(NeedsTwo("a", "b")))

    assert isinstance(back, str)
    assert back.endswith("NeedsTwo: ab")


def test_an_exception_that_cannot_be_pickled_printed_or_carried_still_travels():
    assert pack_error(ValueError(threading.Lock()))["pickled"] is None
    assert "cannot be printed" in pack_error(Unprintable())["message"]
    assert "cannot be printed" in describe(Unprintable())
    assert pack_error(ValueError(b"x" * (MAX_PICKLED_ERROR_BYTES + 1)))["pickled"] is None
    msgpack.packb(pack_error(ValueError("\ud800")))

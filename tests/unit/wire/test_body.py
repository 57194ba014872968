"""Plain values travel as they are, and anything else is an error at the door."""

from __future__ import annotations

import datetime
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.errors import InvalidArgument, ProtocolError
from orbit_zmq.wire.body import pack_body, unpack_body, unpack_map
from orbit_zmq.wire.header import TAGGED

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value):
    frame, flags = pack_body(value)
    assert unpack_body(frame, flags) == value


def test_integers_outside_64_bits_are_tagged_and_strings_that_look_like_it_are_not_mistaken():
    value = {"big": 1 << 100, "small": -(1 << 90), "text": "\0i:ff", "other": "\0s:"}
    frame, flags = pack_body(value)

    assert flags == TAGGED
    assert unpack_body(frame, flags) == value


@given(st.binary(max_size=100), st.sampled_from([0, TAGGED]))
def test_any_bytes_are_a_body_or_a_protocol_error(frame, flags):
    with suppress(ProtocolError):
        unpack_body(frame, flags)


@dataclass
class Point:
    x: int
    y: int


def test_common_types_of_python_travel_as_plain_values():
    frame, flags = pack_body({"a": Point(1, 2), "b": Path("/tmp"), "c": datetime.date(2020, 1, 2), "d": (1, 2)})

    assert unpack_body(frame, flags) == {"a": {"x": 1, "y": 2}, "b": "/tmp", "c": "2020-01-02", "d": [1, 2]}


def test_what_cannot_travel_is_refused_by_its_type():
    with pytest.raises(InvalidArgument, match=r"builtins\.object"):
        pack_body({"a": object()})


def test_a_body_that_has_to_be_a_map_is_one_or_a_protocol_error():
    assert unpack_map(b"") == {}
    with pytest.raises(ProtocolError, match="list"):
        unpack_map(pack_body([1])[0])


@dataclass
class PerDevice:
    load: dict[Any, float]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({0: "gpu0"}, "0 is int"),
        ({"a": [{"b": ({None: 1},)}]}, "None is NoneType"),
        ([PerDevice({0.5: 1.0})], "0.5 is float"),
        ({"a": MappingProxyType({True: 1})}, "True is bool"),
        ({"big": 1 << 100, "a": {(1, 2): 1}}, r"\(1, 2\) is tuple"),
    ],
)
def test_a_key_that_no_receiver_would_take_is_refused_by_the_sender_who_is_told_which(value, key):
    with pytest.raises(InvalidArgument, match=f"its key {key}, not text") as caught:
        pack_body(value)
    assert "text keys" in str(caught.value.hint)


@given(
    st.recursive(
        st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text() | st.binary(), inner),
        max_leaves=20,
    )
)
def test_what_is_packed_can_be_unpacked_whatever_its_keys_are(value):
    with suppress(InvalidArgument):
        assert unpack_body(*pack_body(value)) == value

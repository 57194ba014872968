"""A header is what the page docs/protocol.md says, and any other bytes are a ProtocolError and nothing else."""

from __future__ import annotations

import os
import random
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.errors import ProtocolError
from orbit_zmq.wire.header import FIELDS, Header, Kind, decode_header, encode_header
from orbit_zmq.wire.limits import MAX_ID, SETTLED_IDS

NAMES = st.text(min_size=1, max_size=40)
IDS = st.integers(1, MAX_ID)
SIXTEEN = st.binary(min_size=16, max_size=16)
VALUES = {
    "kind": st.sampled_from(Kind),
    "id": IDS,
    "caller": SIXTEEN,
    "target": SIXTEEN,
    "left_s": st.floats(0.001, 604_800),
    "flags": st.integers(1, 2047),
    "settled_below": IDS,
    "happened_at": st.floats(1e-3, 1e11),
    "settled": st.lists(IDS, min_size=1, max_size=SETTLED_IDS).map(tuple),
    "rights": st.integers(1, 7),
    "channel": st.integers(1, 3),
    "chunk": IDS,
    "up_to": IDS,
}
headers = st.fixed_dictionaries(
    {"kind": VALUES["kind"]},
    optional={attribute: VALUES.get(attribute, NAMES) for attribute in FIELDS.values() if attribute != "kind"},
).map(lambda fields: Header(**fields))


def packed(**fields: object) -> bytes:
    return msgpack.packb({"k": 7, **fields})


@given(headers)
def test_every_header_comes_back_as_it_was(header):
    assert decode_header(encode_header(header)) == header


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_protocol_error(frame):
    with suppress(ProtocolError):
        decode_header(frame)


@given(headers, st.data())
def test_a_header_with_one_byte_changed_is_a_header_or_a_protocol_error(header, data):
    frame = bytearray(encode_header(header))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        decode_header(bytes(frame))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        msgpack.packb([]),
        msgpack.packb({"i": 1}),
        msgpack.packb({1: 2, "k": 7}),
        packed(l=0),
        packed(l=-1.0),
        packed(l=float("nan")),
        packed(l=float("inf")),
        packed(l=True),
        packed(l=604_801),
        packed(i=-1),
        packed(i=True),
        packed(c=b"short"),
        packed(e=""),
        packed(e="x" * 256),
        packed(e=b"bytes"),
        packed(g=[1, -1]),
        packed(g=[1] * (SETTLED_IDS + 1)),
        packed(a=4),
        packed(f=1 << 16),
        packed(Z=[[[]]]),
        packed(Z=msgpack.Timestamp(1)),
        packed(Z=msgpack.ExtType(5, b"x")),
        packed(Z="x" * 5000),
        msgpack.packb({"k": 7, **{f"z{n}": 0 for n in range(32)}}),
        b"\x81\xa1k\xdd\xff\xff\xff\xff",
        b"\x91" * 3000,
        packed()[:-1],
        packed() + b"\x00",
    ],
)
def test_what_the_rules_forbid_is_a_protocol_error(frame):
    with pytest.raises(ProtocolError):
        decode_header(frame)


def test_fields_of_a_newer_version_are_kept_and_passed_on():
    header = decode_header(packed(Z={"a": [1]}, i=3))

    assert header.extra == {"Z": {"a": [1]}}
    assert decode_header(encode_header(header)) == header


def test_of_a_repeated_key_the_last_value_counts():
    assert decode_header(b"\x83\xa1k\x07\xa1i\x01\xa1i\x02").id == 2


def test_a_header_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="4096"):
        encode_header(Header(Kind.REQUEST, extra={"Z": "x" * 5000}))


def test_a_million_random_and_mutated_frames_raise_protocol_error_or_nothing():
    seed = int(os.environ.get("ORBIT_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"ORBIT_FUZZ_SEED={seed}")
    draw = random.Random(seed)
    corpus = [
        encode_header(Header(Kind.REQUEST, id=7, endpoint="hpc1", plugin="p", operation="o", left_s=3.5, settled=(1, 2))),
        encode_header(Header(Kind.CHUNK, id=7, caller=b"c" * 16, channel=3, chunk=9, flags=9)),
        encode_header(Header(Kind.HELLO, extra={"Z": {"a": [1, 2]}})),
    ]
    for turn in range(1_000_000):
        if turn % 4 == 0:
            frame = draw.randbytes(draw.randrange(40))
        else:
            mutated = bytearray(corpus[turn % 3])
            for _ in range(draw.randrange(1, 4)):
                mutated[draw.randrange(len(mutated))] = draw.randrange(256)
            frame = bytes(mutated)
        with suppress(ProtocolError):
            decode_header(frame)

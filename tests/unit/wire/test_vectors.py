"""The frames in tests/vectors/, which other implementations use too, mean what they say, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orbit_zmq.errors import ProtocolError
from orbit_zmq.wire.body import pack_body, unpack_body
from orbit_zmq.wire.header import FIELDS, RAW, Header, Kind, decode_header, encode_header
from orbit_zmq.wire.seal import Opener, Sealer

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "frames.json").read_text())


def plain(value: Any) -> Any:
    """JSON has no bytes: they stand as {"hex": ...}."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if value.keys() == {"hex"} else {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def header_of(fields: dict[str, Any]) -> Header:
    values = {FIELDS[key]: plain(value) for key, value in fields.items()}
    return Header(**values | {"settled": tuple(values.get("settled", ()))})


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_a_frame_means_what_it_says_both_ways(vector):
    header, body = header_of(vector["header"]), plain(vector["body"])

    assert decode_header(bytes.fromhex(vector["header_frame"])) == header
    assert encode_header(header).hex() == vector["header_frame"]
    frame = bytes.fromhex(vector["body_frame"])
    if header.flags & RAW:
        assert frame == body
    elif frame:
        assert unpack_body(frame, header.flags) == body
        assert pack_body(body)[0] == frame


@pytest.mark.parametrize("vector", VECTORS["not_headers"], ids=lambda vector: vector["meaning"])
def test_what_is_no_header_is_refused(vector):
    with pytest.raises(ProtocolError):
        decode_header(bytes.fromhex(vector["header_frame"]))


def test_every_kind_of_this_version_has_a_vector():
    assert {vector["header"]["k"] for vector in VECTORS["frames"]} == set(Kind)


@pytest.mark.parametrize("vector", VECTORS["publications"], ids=lambda vector: vector["name"])
def test_a_publication_is_sealed_and_opened_as_it_says(vector):
    topic, mark, sealed = (bytes.fromhex(frame) for frame in vector["frames"])
    key, header, body = (bytes.fromhex(vector[name]) for name in ("key", "header_frame", "body_frame"))

    assert Opener(key).open(topic, mark, sealed) == (header, body)
    assert Sealer(bytes.fromhex(vector["key_id"]), key).seal(topic, header, body) == (topic, mark, sealed)
    for changed in ((topic + b"x", mark, sealed), (topic, mark, sealed[:-1]), (topic, b"", sealed)):
        with pytest.raises(ProtocolError):
            Opener(key).open(*changed)

"""Values as JSON, also those that JSON cannot say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orbit_gateway.answers import to_json
from orbit_zmq.errors import TooLarge


def test_bytes_are_base64_and_what_is_no_number_is_null() -> None:
    value = {"bytes": b"\x00\xff", "inside": [float("nan"), float("inf"), 1.5], b"key": {1: "a"}, "text": "\ud800"}

    assert json.loads(to_json(value)) == {"bytes": "AP8=", "inside": [None, None, 1.5], "key": {"1": "a"}, "text": "\ud800"}


@pytest.mark.parametrize("innermost", [1, float("nan")])
def test_what_is_nested_too_deeply_is_refused(innermost: float) -> None:
    deep: Any = innermost
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(TooLarge, match="too deeply"):
        to_json(deep)

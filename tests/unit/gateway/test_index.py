"""The index of running numbers, over starts and kills of its process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orbit_gateway import index as module
from orbit_gateway.index import Index

ONE, TWO = b"1" * 16, b"2" * 16


def numbered(index: Index, user: str, incarnation: bytes, first: int, count: int) -> list[int]:
    ids = [index.number(user, incarnation, number)[0] for number in range(first, first + count)]
    index.flush()
    return ids


def test_events_get_one_running_number_for_all_users_and_streams(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.begin("ann", {ONE: 5})

    assert numbered(index, "ann", ONE, 6, 3) == [1, 2, 3]
    assert numbered(index, "bob", ONE, 1, 1) == [4]
    assert numbered(index, "ann", TWO, 1, 1) == [5]
    assert index.cursor_of("ann") == {ONE: 8, TWO: 1}


def test_another_process_gives_the_same_numbers_and_goes_on_after_them(tmp_path: Path) -> None:
    first = Index(tmp_path)
    first.begin("ann", {ONE: 5})
    numbered(first, "ann", ONE, 6, 3)
    numbered(first, "ann", TWO, 1, 2)
    second = Index(tmp_path)

    assert (second.last, second.users) == (5, ["ann"])
    assert second.cursor_of("ann") == {ONE: 5, TWO: 0}
    assert list(second.ids_of("ann")) == [1, 2, 3, 4, 5]
    assert [second.number("ann", ONE, number) for number in (6, 7, 8, 9)] == [(1, False), (2, False), (3, False), (6, True)]
    assert second.number("ann", TWO, 2) == (5, False)


def test_what_has_come_again_is_not_asked_for_again(tmp_path: Path) -> None:
    first = Index(tmp_path)
    first.begin("ann", {ONE: 5})
    numbered(first, "ann", ONE, 6, 3)
    second = Index(tmp_path)
    second.settle("ann")

    assert second.cursor_of("ann") == {ONE: 8}
    assert list(second.ids_of("ann")) == []


def test_a_user_who_was_only_listened_to_is_known_again(tmp_path: Path) -> None:
    Index(tmp_path).begin("ann", {ONE: 7})

    assert Index(tmp_path).cursor_of("ann") == {ONE: 7}


def test_a_torn_end_is_cut_off_and_the_rest_is_kept(tmp_path: Path) -> None:
    first = Index(tmp_path)
    first.begin("ann", {})
    numbered(first, "ann", ONE, 1, 3)
    numbered(first, "ann", TWO, 1, 1)
    (segment,) = tmp_path.glob("*.index")
    for cut in range(1, 8):
        os.truncate(segment, segment.stat().st_size - 1)
        again = Index(tmp_path)
        assert again.last == 3, cut
        again.close()
        for other in set(tmp_path.glob("*.index")) - {segment}:
            other.unlink()


def test_old_segments_go_and_the_newest_says_where_every_stream_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_S", 0.0)
    index = Index(tmp_path)
    index.begin("ann", {ONE: 0})
    for number in range(1, 6):
        numbered(index, "ann", ONE, number, 1)
    segments = sorted(tmp_path.glob("*.index"))
    assert len(segments) > 4
    for segment in segments:
        os.utime(segment, (0, 0))
    numbered(index, "ann", ONE, 6, 1)
    index.close()

    assert len(list(tmp_path.glob("*.index"))) == 2
    again = Index(tmp_path)
    assert again.last == 6 and again.cursor_of("ann")[ONE] >= 5


def test_a_user_who_is_forgotten_is_not_in_the_next_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path)
    index.begin("ann", {ONE: 3})
    index.begin("bob", {ONE: 3})
    index.forget("ann")
    monkeypatch.setattr(module, "SEGMENT_S", 0.0)
    numbered(index, "bob", ONE, 4, 1)
    for segment in sorted(tmp_path.glob("*.index"))[:-1]:
        segment.unlink()

    assert Index(tmp_path).users == ["bob"]

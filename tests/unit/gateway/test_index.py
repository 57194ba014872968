"""The index of running numbers, over starts and kills of its process."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def no_file_may_grow_beyond(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room_bytes", [0, 7, 60])
def test_while_the_disk_is_full_numbers_go_on_and_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    first = Index(tmp_path)
    first.begin("ann", {})
    (segment,) = tmp_path.glob("*.index")
    with no_file_may_grow_beyond(segment.stat().st_size + room_bytes):
        given = [number for one in range(1, 6) for stream in (ONE, TWO) for number in numbered(first, "ann", stream, one, 1)]
    given += numbered(first, "ann", ONE, 6, 1)

    assert given == list(range(1, 12))
    second = Index(tmp_path)
    assert list(second.ids_of("ann")) == given and second.number("ann", TWO, 5) == (10, False)


def test_a_new_segment_for_which_there_is_no_room_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    monkeypatch.setattr(module, "SEGMENT_S", 0.0)
    first = Index(tmp_path)
    with no_file_may_grow_beyond(1):
        first.begin("ann", {})
        numbered(first, "ann", ONE, 1, 2)
    assert len(list(tmp_path.glob("*.index"))) == 1
    numbered(first, "ann", ONE, 3, 1)

    assert Index(tmp_path).last == 3


def test_what_waits_for_a_full_disk_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    monkeypatch.setattr(module, "PENDING", 10)
    first = Index(tmp_path)
    with no_file_may_grow_beyond(1):
        for number in range(1, 40):
            numbered(first, "ann", (ONE, TWO)[number % 2], number, 1)
    numbered(first, "ann", ONE, 41, 1)
    (segment,) = tmp_path.glob("*.index")

    assert segment.stat().st_size < 1_000 and Index(tmp_path).last == 40


def test_damage_anywhere_is_survived(tmp_path: Path) -> None:
    first = Index(tmp_path)
    first.begin("ann", {ONE: 5})
    numbered(first, "ann", ONE, 6, 300)
    numbered(first, "bob", TWO, 1, 2)
    first.close()
    (segment,) = tmp_path.glob("*.index")
    whole, chance = segment.read_bytes(), random.Random(17)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] = chance.randrange(256)
        segment.write_bytes(damaged)
        again = Index(tmp_path)
        for user in again.users:
            assert len(again.ids_of(user)) <= module.MAX_COUNT * 2
            assert all(isinstance(incarnation, bytes) for incarnation in again.cursor_of(user))
        numbered(again, "ann", ONE, 1_000, 2)
        again.close()
        for other in set(tmp_path.glob("*.index")) - {segment}:
            other.unlink()


def test_an_empty_newest_segment_does_not_begin_the_numbers_again(tmp_path: Path) -> None:
    first = Index(tmp_path)
    first.begin("ann", {})
    numbered(first, "ann", ONE, 1, 3)
    (segment,) = tmp_path.glob("*.index")
    os.utime(segment, (0, 0))
    (tmp_path / f"{2:016}.index").touch()

    assert Index(tmp_path).last == 3

"""What programs write: the end of it, and its lines by number."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_rhapsody import output
from orbit_rhapsody.output import KEPT_BYTES, LEAST_KEPT_BYTES, LINE_BYTES, OutputLines, Tail, kept_bytes


def read(lines: OutputLines, uid: str = "u", after: int = 0, max_bytes: int = 1 << 30, wait_s: float = 0.0) -> Any:
    return asyncio.run(lines.read(uid, after, max_bytes, wait_s))


def written(*blocks: bytes, is_over: bool = True) -> OutputLines:
    lines = OutputLines()
    lines.begin("u")
    for block in blocks:
        lines.add("u", "stdout", block)
    if is_over:
        lines.end("u")
    return lines


@given(blocks=st.lists(st.binary(min_size=1, max_size=50), max_size=50), limit=st.integers(1, 500))
def test_the_end_of_what_was_written_is_kept_and_the_rest_counted(blocks: list[bytes], limit: int) -> None:
    tail = Tail()
    for block in blocks:
        tail.add(block, limit)

    text, everything = tail.text(), b"".join(blocks)
    dropped = 0
    if text.startswith("[") and " bytes before this are not kept]\n" in text:
        first, _, text = text.partition("\n")
        dropped = int(first[1:].split()[0])
    assert text == everything[dropped:].decode("utf-8", "backslashreplace")
    assert len(everything) - dropped >= min(limit, len(everything))
    assert len(everything) - dropped < limit + 50


def test_a_program_waits_for_a_reader_that_is_behind_and_not_for_one_that_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINES_BYTES", 10 * (output.ENTRY_BYTES + 2))
    lines = written(b"12\n" * 8, is_over=False)
    assert read(lines, max_bytes=1)["after"] == 1

    assert not lines.add("u", "stdout", b"34\n" * 4)  # of which only one has room
    assert read(lines, after=1)["after"] == 8
    assert not lines.add("u", "stdout", b"34\n" * 4)  # these lines may be on their way
    assert read(lines, after=8)["lines"] == []
    assert lines.add("u", "stdout", b"34\n" * 4)
    assert (read(lines, after=8)["cut"], read(lines, after=8)["after"]) == (0, 12)

    monkeypatch.setattr(output, "FOLLOWED_S", 0.0)
    assert lines.add("u", "stdout", b"56\n" * 9)
    assert read(lines, after=8)["cut"] > 0


def test_without_a_reader_a_program_waits_for_a_moment_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LINES_BYTES", output.ENTRY_BYTES + 5)
    lines = written(b"1\n", is_over=False)

    assert not lines.add("u", "stdout", b"2\n")
    monkeypatch.setattr(output, "FIRST_READER_S", 0.0)
    assert lines.add("u", "stdout", b"2\n")
    assert lines.add("u", "stdout", b"3\n" * 100)


def test_the_more_programs_run_the_less_is_kept_of_each() -> None:
    assert [kept_bytes(running) for running in (0, 1, 100, 1_000, 100_000)] == [
        KEPT_BYTES, KEPT_BYTES, KEPT_BYTES, (256 << 20) // 2_000, LEAST_KEPT_BYTES,
    ]  # fmt: skip


@given(text=st.text(st.characters(exclude_categories=["Cs"])), cuts=st.lists(st.integers(0, 200)))
def test_lines_are_the_same_whatever_pieces_they_came_in(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    lines = written(*[data[start:end] for start, end in pairwise(places)])

    found = read(lines)

    expected = text.split("\n") if text else []
    assert [line for _, _, line in found["lines"]] == (expected if expected[-1:] != [""] else expected[:-1])
    assert [number for number, _, _ in found["lines"]] == list(range(1, len(found["lines"]) + 1))
    assert (found["cut"], found["ended"]) == (0, True)


def test_a_reader_goes_on_from_its_number_in_portions() -> None:
    lines = written(b"".join(b"%d\n" % number for number in range(1, 11)))
    seen, after = [], 0
    while True:
        found = read(lines, after=after, max_bytes=3 * (output.ENTRY_BYTES + 2))
        assert 0 < len(found["lines"]) <= 3
        seen += [text for _, _, text in found["lines"]]
        after = found["after"]
        if found["ended"]:
            break

    assert seen == [str(number) for number in range(1, 11)]
    assert read(lines, after=10) == {"lines": [], "after": 10, "cut": 0, "ended": True}


def test_what_there_is_no_room_for_is_counted_for_each_reader_by_where_it_is(monkeypatch) -> None:
    monkeypatch.setattr(output, "LINES_BYTES", 4 * (output.ENTRY_BYTES + 1))
    lines = written(b"1\n2\n3\n4\n5\n6\n7\n8\n", is_over=False)

    def summary(after: int) -> tuple[int, list[str]]:
        found = read(lines, after=after)
        return found["cut"], [text for _, _, text in found["lines"]]

    assert summary(0) == (4, ["5", "6", "7", "8"])
    assert summary(3) == (1, ["5", "6", "7", "8"])
    assert summary(6) == (0, ["7", "8"])
    assert summary(8) == (0, [])


def test_of_programs_that_have_ended_the_oldest_lines_go_first(monkeypatch) -> None:
    monkeypatch.setattr(output, "LINES_ROOM_BYTES", 3 * (output.ENTRY_BYTES + 1))
    lines = OutputLines()
    for uid in "bacd":
        lines.begin(uid)
        lines.add(uid, "stdout", b"x\n")
        lines.end(uid)

    assert read(lines, "b") == {"lines": [], "after": 1, "cut": 1, "ended": True}
    assert [read(lines, uid)["cut"] for uid in "acd"] == [0, 0, 0]
    lines.drop(["a", "b", "x"])
    assert read(lines, "a") is None
    assert "c" in lines


def test_a_line_without_an_end_comes_when_the_program_ends_or_in_pieces_when_it_is_long() -> None:
    lines = written(b"x" * (LINE_BYTES + 10), is_over=False)
    assert [len(text) for _, _, text in read(lines)["lines"]] == [LINE_BYTES]

    lines.end("u")

    assert [len(text) for _, _, text in read(lines, after=1)["lines"]] == [10]


def test_who_waits_hears_of_a_line_and_of_the_end_from_another_thread() -> None:
    lines = OutputLines()

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(lines.read("u", 0, 1_000, 60.0))
        await asyncio.sleep(0)
        await loop.run_in_executor(None, lines.begin, "u")
        await loop.run_in_executor(None, lines.add, "u", "stderr", b"a\n")
        first = await waiting
        waiting = asyncio.create_task(lines.read("u", 1, 1_000, 60.0))
        await asyncio.sleep(0)
        await loop.run_in_executor(None, lines.end, "u")
        return [first, await waiting]

    assert asyncio.run(main()) == [
        {"lines": [(1, "stderr", "a")], "after": 1, "cut": 0, "ended": False},
        {"lines": [], "after": 1, "cut": 0, "ended": True},
    ]

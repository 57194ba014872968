"""Where a job of Slurm writes its output, by the patterns of sbatch."""

from __future__ import annotations

import pytest

from orbit_queue_info.slurm_files import output_file

KNOWN: dict[str, str | None] = {"j": "47", "J": "47", "A": "45", "x": "a job", "u": "ann"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "/work/slurm-47.out"),
        ("out.txt", "/work/out.txt"),
        ("/scratch/%u/%x-%j.out", "/scratch/ann/a job-47.out"),
        ("%5j-%012j", "/work/00047-0000000047"),
        ("100%%-%N", "/work/100%-%N"),
        ("%q%", "/work/%q%"),
        (r"/work/\%j", r"/work/\%j"),
    ],
)
def test_patterns_are_filled_in_and_what_stands_for_nothing_yet_is_left(given: str | None, expected: str) -> None:
    assert output_file(given, "/work/", KNOWN) == expected


def test_a_member_of_an_array_has_a_name_of_its_own() -> None:
    assert output_file(None, "/work", {**KNOWN, "a": "3"}) == "/work/slurm-45_3.out"
    assert output_file(None, "/work", {**KNOWN, "a": None}) == "/work/slurm-45_%a.out"


def test_without_a_directory_a_name_is_what_was_given() -> None:
    assert output_file("out", None, KNOWN) == "out"
    assert output_file(None, None, KNOWN) is None

"""What people see of a result while a session is followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from orbit_zmq.cli.following import _brief, follow_results
from orbit_zmq.errors import DeadlineExceeded


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"return_value": 7, "exit_code": None}, "7"),
        ({"return_value": 0}, "0"),
        ({"return_value": None, "exit_code": 0, "stdout": "hello\n"}, "exit code 0; hello"),
        ({"return_value": None, "exit_code": 3, "stdout": ""}, "exit code 3"),
        ({"return_value": None, "reason": "no longer needed"}, "no longer needed"),
        ({"return_value": None, "exception": "ValueError: x"}, "ValueError: x"),
    ],
)
def test_a_result_is_shown_by_what_came_of_it(result: dict[str, Any], text: str) -> None:
    assert _brief(result) == text


def test_when_time_is_over_the_option_is_named() -> None:
    class Slow:
        open_tasks: ClassVar[list[str]] = []

        def as_completed(self, tasks: None = None, timeout: float | None = None) -> Iterator[dict[str, Any]]:
            raise DeadlineExceeded("1 of 1 tasks are still open")

        def acknowledge(self) -> None: ...

    with pytest.raises(DeadlineExceeded, match="--timeout"):
        follow_results(Slow(), lambda item: None, 0.1)

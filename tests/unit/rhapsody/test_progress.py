"""What is seen of a wait: a bar on a terminal, some lines in a pipe, nothing where it was not asked for. The notebook is tried
with a kernel of its own elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from orbit_rhapsody import progress
from orbit_rhapsody.progress import shown_progress

SCRIPT = """
from orbit_rhapsody.progress import shown_progress
with shown_progress(True, 1_000) as show:
    for done in range(1_001):
        show(done)
"""


def lines_of(steps: list[int], total: int, monkeypatch: pytest.MonkeyPatch, seconds_apart: float = 0.0) -> list[str]:
    clock = iter(range(1_000_000))
    monkeypatch.setattr("orbit_rhapsody.progress.time.monotonic", lambda: next(clock) * seconds_apart)
    page = io.StringIO()
    monkeypatch.setattr(sys, "stderr", page)
    with shown_progress(True, total) as show:
        for done in steps:
            show(done)
    return page.getvalue().splitlines()


def test_a_pipe_gets_a_line_for_each_tenth(monkeypatch: pytest.MonkeyPatch):
    lines = lines_of(list(range(1_001)), 1_000, monkeypatch)

    assert lines == [f"tasks: {done} of 1000 done, 0 s" for done in range(100, 1_001, 100)]


def test_a_pipe_gets_one_line_where_all_comes_at_once_and_none_where_nothing_comes(monkeypatch: pytest.MonkeyPatch):
    assert lines_of([0, 0, 7], 7, monkeypatch) == ["tasks: 7 of 7 done, 0 s"]
    assert lines_of([0, 0, 0], 7, monkeypatch, seconds_apart=60) == []
    assert lines_of([], 0, monkeypatch) == []


def test_a_pipe_gets_a_line_after_some_seconds_though_it_is_less_than_a_tenth(monkeypatch: pytest.MonkeyPatch):
    lines = lines_of([1, 2, 3], 1_000, monkeypatch, seconds_apart=progress.LINE_S)

    assert lines == [f"tasks: {done} of 1000 done, {done * 10} s" for done in (1, 2, 3)]


def test_nothing_is_shown_where_it_was_not_asked_for_and_where_there_is_no_stderr(monkeypatch: pytest.MonkeyPatch):
    page = io.StringIO()
    monkeypatch.setattr(sys, "stderr", page)
    with shown_progress(False, 10) as show:
        show(10)
    assert page.getvalue() == ""

    monkeypatch.setattr(sys, "stderr", None)
    with shown_progress(True, 10) as show:
        show(10)


def test_a_reader_that_has_gone_does_not_end_the_wait(monkeypatch: pytest.MonkeyPatch):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with shown_progress(True, 1) as show:
        show(1)


def test_a_pipe_gets_lines_on_stderr_and_nothing_on_stdout():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 10
    assert "\x1b" not in done.stderr


def test_a_terminal_gets_a_bar_that_ends_full():
    near, far = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=far, stderr=far, env=environment)
    os.close(far)
    written = b""
    while True:
        try:
            portion = os.read(near, 65_536)
        except OSError:  # the other end is closed
            break
        if not portion:
            break
        written += portion
    os.close(near)

    assert process.wait(60) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    assert "1000/1000" in shown and "━" in shown

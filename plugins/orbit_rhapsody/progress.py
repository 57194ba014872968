"""Progress of a wait: a bar on a terminal, lines in a pipe or a file, one line that changes in a notebook; all on stderr.

Rich is imported for a terminal alone. This module must not know what is waited for, and a display that fails must not end the
wait: who has closed stderr sees nothing.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LINE_S = 10.0  # at the latest there is a line so long after the one before, if anything has changed
STEPS = 10  # lines on the way from nothing to all
NOTEBOOK_S = 0.25

Show = Callable[[int], None]  # told how many are done
BROKEN = (OSError, ValueError)  # a pipe whose reader has gone, a stream that was closed


@contextmanager
def shown_progress(is_wanted: bool, total: int, what: str = "tasks") -> Iterator[Show]:
    """Show how many of `total` are done while the body runs."""
    if not is_wanted or sys.stderr is None:
        yield lambda done: None
    elif _is_notebook():
        yield from _in_a_notebook(total, what)
    elif sys.stderr.isatty():
        yield from _on_a_terminal(total, what)
    else:
        yield from _as_lines(total, what)


def _on_a_terminal(total: int, what: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _as_lines(total: int, what: str) -> Iterator[Show]:
    began = told_at = time.monotonic()
    told = 0

    def show(done: int) -> None:
        nonlocal told, told_at
        now = time.monotonic()
        if done == told or (done * STEPS // max(total, 1) == told * STEPS // max(total, 1) and now - told_at < LINE_S):
            return
        told, told_at = done, now
        with suppress(*BROKEN):
            sys.stderr.write(_line(done, total, what, now - began) + "\n")
            sys.stderr.flush()

    yield show


def _in_a_notebook(total: int, what: str) -> Iterator[Show]:
    """A display that is updated in its place, and needs no widgets."""
    began, told_at = time.monotonic(), 0.0
    display = importlib.import_module("IPython.display").display
    handle = display(_Shown(0, total, what, 0.0), display_id=True)

    def show(done: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= NOTEBOOK_S or done >= total:
            told_at = now
            handle.update(_Shown(done, total, what, now - began))

    yield show


class _Shown:
    """Done of total, as a page and as text."""

    def __init__(self, done: int, total: int, what: str, seconds: float) -> None:
        self._done, self._total = done, total
        self._line = _line(done, total, what, seconds)

    def __repr__(self) -> str:
        return self._line

    def _repr_html_(self) -> str:
        return f'<progress value="{self._done}" max="{max(self._total, 1)}"></progress> {self._line}'


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _line(done: int, total: int, what: str, seconds: float) -> str:
    return f"{what}: {done} of {total} done, {seconds:.0f} s"

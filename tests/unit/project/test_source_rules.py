"""What all sources have in common: an opening paragraph, sizes that can be read, annotated returns, no notes to self."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for shelf in ("orbit_zmq", "brokers", "plugins") for path in (ROOT / shelf).rglob("*.py"))
FUNCTION_LINES = 50
P90_LINES = 20
FILE_LINES = 600

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def lines_of(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_a_module_opens_by_saying_what_it_is_for(path: Path) -> None:
    assert not path.read_text().strip() or ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_files_and_functions_can_be_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES
    assert [f"{f.name}: {lines_of(f)}" for f in functions_of(path) if lines_of(f) > FUNCTION_LINES] == []


def test_most_functions_are_short() -> None:
    sizes = [lines_of(function) for path in SOURCES for function in functions_of(path)]

    assert statistics.quantiles(sizes, n=10)[-1] <= P90_LINES


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_every_return_is_annotated(path: Path) -> None:
    assert [function.name for function in functions_of(path) if function.returns is None] == []


def says_that_something_is_there(test: ast.expr) -> bool:
    """`x is not None`, which tells the type checker what the code knows."""
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_no_assert_judges_a_value(path: Path) -> None:
    asserts = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]

    assert [node.lineno for node in asserts if not says_that_something_is_there(node.test)] == []

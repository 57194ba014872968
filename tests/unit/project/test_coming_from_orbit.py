"""docs/coming-from-orbit.md claims only what is there: each name that it gives can be imported, each that is to come cannot."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "coming-from-orbit.md"
Row = tuple[str, str, str]


def rows() -> list[Row]:
    """The rows of all tables, without their heads."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| there |"):
            there, here, remark = (cell.strip() for cell in line.strip("|").split("|"))
            found.append((there, here, remark))
    return found


def names_where(is_to_come: bool) -> list[str]:
    """The names of the middle column that are there, or that are to come."""
    cells = {here for _, here, _ in rows() if here.startswith("not yet") is is_to_come}
    return sorted(name for cell in cells for name in re.findall(r"`([^`]+)`", cell))


def is_there(name: str) -> bool:
    """Whether a dotted name leads from a module to something, be it what an object's __init__ gives to it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is not None and ".".join(parts[:length]).startswith(error.name):
                continue
            raise
        for part in parts[length:]:
            if not hasattr(found, part):
                return isinstance(found, type) and part == parts[-1] and part in attributes_of(found)
            found = getattr(found, part)
        return True
    return False


def attributes_of(kind: type) -> set[str]:
    """What the classes annotate, and what their __init__ sets on self."""
    found: set[str] = set()
    for ancestor in kind.__mro__[:-1]:
        found |= set(inspect.get_annotations(ancestor))
        if "__init__" in vars(ancestor):
            tree = ast.parse(textwrap.dedent(inspect.getsource(vars(ancestor)["__init__"])))
            found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_set_on_self(node)}
    return found


def _is_set_on_self(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


@pytest.mark.parametrize("name", names_where(is_to_come=False))
def test_a_name_that_is_claimed_is_there(name: str) -> None:
    assert is_there(name)


def test_a_name_that_is_to_come_has_not_come() -> None:
    come = [name for name in names_where(is_to_come=True) if is_there(name)]

    assert come == [], "they are there now: drop the words `not yet: ` before them"


def test_every_row_says_where_it_is_or_that_it_is_not() -> None:
    for there, here, remark in rows():
        assert re.fullmatch(r"`[\w.]+`|not yet(: `[\w.]+`)?|gone", here), there
        assert remark or here != "gone", f"{there}: why is it gone?"


def test_no_name_is_mapped_twice() -> None:
    names = [name for there, _, _ in rows() for name in re.findall(r"`([^`]+)`", there)]

    assert sorted({name for name in names if names.count(name) > 1}) == []

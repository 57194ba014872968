"""The table of environment variables is the only place that reads one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import orbit_zmq.settings
from orbit_zmq.settings import SET_FOR_PROGRAMS, VARIABLES, environment

LIBRARY = Path(orbit_zmq.settings.__file__).parent


def test_a_variable_is_read_when_asked_and_empty_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBIT_URL", "")
    assert environment("ORBIT_URL") is None
    monkeypatch.setenv("ORBIT_URL", "ipc:///x")
    assert environment("ORBIT_URL") == "ipc:///x"


def test_a_variable_that_is_not_in_the_table_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        environment("ORBIT_COLOUR")


def test_every_variable_that_the_library_names_is_in_a_table() -> None:
    named = {name for file in LIBRARY.rglob("*.py") for name in re.findall(r"\bORBIT_[A-Z_]+\b", file.read_text())}

    assert named <= {*VARIABLES, *SET_FOR_PROGRAMS}

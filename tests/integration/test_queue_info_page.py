"""docs/queue_info.md: its examples run as they stand, and it names every key and every operation."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from orbit_queue_info.models import Allocation, Job, Queue, Reservation
from orbit_queue_info.service import QueueInfoPlugin
from orbit_zmq.plugin import Plugin

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "queue_info.md").read_text()


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / "example.py").write_text(example)
        done = subprocess.run(
            [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    ("part", "record"), [("queue", Queue), ("job", Job), ("allocation", Allocation), ("reservation", Reservation)]
)
def test_every_key_is_named(part: str, record: type) -> None:
    (row,) = re.findall(rf"^\| {part} \| .*$", PAGE, re.MULTILINE)

    assert {one.name for one in fields(record)} == set(re.findall(r"`(\w+)`", row))


def test_every_operation_of_its_own_is_named() -> None:
    rows = re.findall(r"^\| (.*) \| (?:no|yes) \|", PAGE, re.MULTILINE)
    inherited = set(vars(Plugin)) | {"version", "health", "ui_config", "ui_module"}

    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == (QueueInfoPlugin.operations.keys() - inherited) | {"is_enabled"}

"""docs/psij.md: its examples run as they stand, and it names every operation, every field, and every key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from lab import directories

from orbit_psij.defaults import Site
from orbit_psij.jobs import Job
from orbit_psij.models import Attributes, JobSpec, Resources
from orbit_psij.service import PSIJPlugin
from orbit_zmq.plugin import Plugin

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "psij.md").read_text()
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
WORDS = {word for quoted in re.findall(r"`([^`]+)`", PROSE) for word in re.findall(r"[\w.]+", quoted)}


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_run_as_they_stand(tmp_path: Path, example: str) -> None:
    (tmp_path / "example.py").write_text(example)
    tmp_path.chmod(0o700)
    environment = {**os.environ, **directories(tmp_path)}
    words = [sys.executable, "example.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_every_operation_of_its_own_is_named() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:no|yes) \|", PAGE, re.MULTILINE)
    assert set(rows) == PSIJPlugin.operations.keys() - set(vars(Plugin)) - {"version", "health", "ui_config", "ui_module"}


def test_every_field_of_a_job_is_named() -> None:
    known = {part for name in WORDS for part in name.split(".")}
    assert {*JobSpec.model_fields, *Attributes.model_fields, *Resources.model_fields} - known == set()


def test_every_key_of_a_status_is_named() -> None:
    assert {one.name for one in fields(Job)} - {"owner", "end_reason"} - WORDS == set()


def test_the_example_of_a_site_is_one() -> None:
    example = next(text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[defaults]" in text)
    assert Site.model_validate(tomllib.loads(example)).defaults.account == "physics"

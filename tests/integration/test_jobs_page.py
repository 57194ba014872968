"""docs/jobs.md: its examples run as they stand, and it names every operation, status, runner and fact."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orbit_jobs.models import JobStatus
from orbit_jobs.runner import runner_names
from orbit_jobs.service import JobsPlugin
from orbit_jobs.targets import checked_targets
from orbit_zmq.children import environment_of_child
from orbit_zmq.plugin import Plugin

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "jobs.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_run_as_they_stand(tmp_path: Path, example: str) -> None:
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=environment_of_child(ORBIT_STATE_DIR=str(tmp_path / "state")),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_example_says_what_the_page_says(tmp_path: Path) -> None:
    settings = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])["plugins"]["jobs"]["jobs"]

    assert set(checked_targets(settings["targets"])) == {"gpu", "scratch"} and settings["default_target"] in settings["targets"]


def test_every_operation_status_and_runner_is_named() -> None:
    rows = re.findall(r"^\| (.*) \| (?:no|yes) \|", PAGE, re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == JobsPlugin.operations.keys() - Plugin.__dict__.keys() - {
        "version", "health", "ui_config", "ui_module"
    }  # fmt: skip
    for word in (*JobStatus, *runner_names()):
        assert f"`{word}`" in PAGE

"""The guides to plugins and to events are one program each, and run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orbit_zmq.children import environment_of_child
from orbit_zmq.plugin.ui import Choice, Field, Form, Monitor, Notifications, Submit, UIConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = DOCS / "plugins.md"


def run_program_of(document: Path, folder: Path) -> str:
    """Run the Python blocks of a document as one program, beside its other files; what it has printed."""
    text = document.read_text()
    (folder / "guide.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    for name, module in re.findall(r"`([a-z]+\.js)`:\n\n```js\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(module)
    done = subprocess.run(
        [sys.executable, "guide.py"],
        cwd=folder,
        env=environment_of_child(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(700)
def test_the_program_of_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    printed = run_program_of(GUIDE, tmp_path)

    assert "has called <plugin myservice on testing, session session." in printed
    assert "ZeroDivisionError: division by zero" in printed and "InvalidArgument: calculator.div: argument 'a" in printed
    assert "say which param" in printed
    assert "session closed: mine" in printed and "unknown session id: nobodys" in printed


@pytest.mark.timeout(700)
def test_the_program_of_the_guide_to_events_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_program_of(DOCS / "events.md", tmp_path) == ""


def test_the_guide_names_every_key_of_a_page() -> None:
    text = GUIDE.read_text()
    for part in (UIConfig, Form, Field, Submit, Monitor, Notifications):
        for key in part.model_fields:
            assert f"`{key}`" in text, key
    assert set(Choice.model_fields) == {"value", "label"}

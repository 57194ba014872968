"""The plugin guide is one program, and runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from orbit_zmq.children import environment_of_child
from orbit_zmq.plugin.ui import Choice, Field, Form, Monitor, Notifications, Submit, UIConfig

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def test_the_program_of_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    (tmp_path / "guide.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    for name, module in re.findall(r"`([a-z]+\.js)`:\n\n```js\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(module)
    done = subprocess.run(
        [sys.executable, "guide.py"],
        cwd=tmp_path,
        env=environment_of_child(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "has called <plugin myservice on testing, session session." in done.stdout
    assert "say which param" in done.stdout
    assert "session closed: mine" in done.stdout and "unknown session id: nobodys" in done.stdout


def test_the_guide_names_every_key_of_a_page() -> None:
    text = GUIDE.read_text()
    for part in (UIConfig, Form, Field, Submit, Monitor, Notifications):
        for key in part.model_fields:
            assert f"`{key}`" in text, key
    assert set(Choice.model_fields) == {"value", "label"}

"""The examples of the page about executors are one program, and run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from orbit_zmq.children import environment_of_child

PAGE = Path(__file__).resolve().parents[2] / "docs" / "executor.md"
PRINTED = [
    "5.0",
    "661650",
    "512",
    "['hello one', 'hello two']",
    "5.0",
    "[1, 2, 4, 8, 16]",
    "20584",
    "given up, here and there",
]


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    command = [sys.executable, "example.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment_of_child(), capture_output=True, text=True, timeout=250, check=False
    )

    assert done.returncode == 0, done.stderr
    assert (done.stdout.splitlines(), done.stderr) == (PRINTED, "")

"""docs/http.md: its commands print what it says, and its Python hears what happens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from lab import directories, lasting_port

from orbit_zmq.children import environment_of_child

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text()
PORT = "8000"  # on the page
MARK = "@@@"


def examples(port: str) -> list[tuple[str, list[str]]]:
    """Each command, and the beginnings of the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)).replace(PORT, port).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.timeout(700)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")
def test_the_examples_run_as_they_stand() -> None:
    place, port = Path(tempfile.mkdtemp(prefix="orbit-test-")), str(lasting_port())
    (place / "bin").mkdir()
    (place / "bin" / "orbit").write_text(f'#!/bin/sh\nexec {sys.executable} -m orbit_zmq.cli "$@"\n')
    (place / "bin" / "orbit").chmod(0o755)
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (place / "hear.py").write_text(python.replace(PORT, port))
    environment = environment_of_child(**directories(place), HOME=str(place), PYTHONUNBUFFERED="1")
    environment["PATH"] = f"{place}/bin:{os.environ['PATH']}"
    commands = examples(port)
    steps = [f"{line}\necho; echo {MARK}" for line, _ in commands]
    multiply = f"get -o {place}/x -X POST 'http://127.0.0.1:{port}/laptop/math/mul?a=2&b=3'"
    hear = (
        f"{sys.executable} hear.py > heard &\nfor _ in {{1..500}}; do grep -q mul heard && break; {multiply}; sleep 0.2; done"
    )
    script = "\n".join(["shopt -s expand_aliases", "set -m", *steps, hear, "kill %2; kill %1; wait %1"])
    try:
        with (place / "printed").open("w") as printed, (place / "errors").open("w") as errors:  # no pipe that a job keeps open
            subprocess.run(
                ["bash", "-c", script], cwd=place, env=environment, stdout=printed, stderr=errors, timeout=600, check=False
            )
        said_wrong = (place / "errors").read_text()
        parts = (place / "printed").read_text().split(f"{MARK}\n")
        for (line, expected), said in zip(commands, parts, strict=False):
            for one in expected:
                assert one in said, f"{line}\n{said}\n{said_wrong}"
        assert len(parts) == len(commands) + 1, said_wrong
        assert "'topic': 'result'" in (place / "heard").read_text() and "'endpoint': 'laptop'" in (place / "heard").read_text()
    finally:
        shutil.rmtree(place, ignore_errors=True)

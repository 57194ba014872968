"""The examples of the README run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from shell import Shell

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "local serves jobs, psij, rhapsody, sysinfo",
        str(sum(number * number for number in range(1000))),
        "hello from a process - exit code 0",
    ]
    assert len(example.splitlines()) <= 20


def test_the_commands_by_hand_run_as_they_stand(shell: Shell, place: Path) -> None:
    (block,) = re.findall(r"By hand, on one machine:\n\n```\n(.*?)```", README, re.DOTALL)
    first, *others, last = block.splitlines()
    assert (first.split()[:2], last.split()[:2]) == (["orbit", "up"], ["orbit", "top"])
    for name, script in (
        ("orbit", f'exec {sys.executable} -m orbit_zmq.cli "$@"'),
        ("simulate", "exit $((ORBIT_TASK_NUMBER > 100))"),
    ):
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
    environment = {**shell.environment, "PATH": f"{place}:{os.environ['PATH']}", "ORBIT_BATCH_SYSTEM": "none"}
    script = "\n".join(
        ["set -em", f"{first.partition('#')[0]} > up.log 2>&1 &", "orbit broker wait --timeout 120s",
         "until orbit endpoint list -q | grep -q .; do sleep 0.1; done", *others, "kill %1", "wait %1 || true"]
    )  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, timeout=250, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout.splitlines()
    assert len(re.findall(r"\bDONE\b", done.stdout)) == 100

"""docs/cli.md: its examples run as they stand, they show every command, and the reference is what the commands say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
from lab import directories

from orbit_zmq.children import environment_of_child
from orbit_zmq.cli.main import NOUNS, cli

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "cli.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
MARK = "@@@"


def examples() -> list[tuple[str, list[str], int]]:
    """Each command, what it is said to print, and its exit code."""
    found: list[tuple[str, list[str], int]] = []
    for line in "".join(BLOCKS).splitlines():
        if line.startswith("$ "):
            code = re.search(r"# exit code (\d+)", line)
            found.append((line[2:], [], int(code[1]) if code else 0))
        else:
            found[-1][1].append(line)
    return found


def commands() -> list[str]:
    root = click.Context(cli)
    found = []
    for noun in sorted(NOUNS):
        command = cli.get_command(root, noun)
        verbs = sorted(command.commands) if isinstance(command, click.Group) else [""]
        found += [f"orbit {noun} {verb}".strip() for verb in verbs]
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_has_an_example(command: str) -> None:
    assert any(re.search(rf"\b{command}\b", line) for line, _, _ in examples())


@pytest.mark.timeout(600)  # a hundred commands, each of which is a process
def test_the_examples_run_as_they_stand() -> None:
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    (place / "bin").mkdir()
    (place / "bin" / "orbit").write_text(f'#!/bin/sh\nexec {sys.executable} -m orbit_zmq.cli "$@"\n')
    (place / "bin" / "orbit").chmod(0o755)
    environment = environment_of_child(**directories(place), ORBIT_OUTPUT="", ORBIT_BATCH_SYSTEM="none", HOME=str(place))
    environment["PATH"] = f"{place}/bin:{os.environ['PATH']}"
    script = "set -m\n" + "".join(f"{line}\ncode=$?; echo; echo {MARK} $code\n" for line, _, _ in examples())
    try:
        done = subprocess.run(
            ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, timeout=560, check=False
        )
    finally:
        subprocess.run(
            [str(place / "bin" / "orbit"), "endpoint", "stop", "hpc1"], env=environment, capture_output=True, check=False
        )
        subprocess.run([str(place / "bin" / "orbit"), "broker", "stop"], env=environment, capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)
    parts = re.split(rf"^{MARK} (\d+)\n", done.stdout, flags=re.MULTILINE)

    for (line, expected, code), said, ended in zip(examples(), parts[::2], parts[1::2], strict=False):
        assert int(ended) == code, f"{line}\n{said}\n{done.stderr}"
        assert [one for one in expected if one not in said] == [], line
    assert len(parts[1::2]) == len(examples())
    assert "Traceback" not in done.stderr


def test_the_reference_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "_cli_reference.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr

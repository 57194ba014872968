"""The demo as a user runs it: on a machine with Slurm, without a home, with the usual ports taken, in a pipe."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import wait_until

from orbit_zmq import demo

USUAL_PORTS = (5670, 5671, 8000)


@pytest.fixture
def usual_ports_taken() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for port in USUAL_PORTS:
            with contextlib.suppress(OSError):  # somebody else has it: as good
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def processes_with(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.usefixtures("usual_ports_taken")
def test_the_demo_checks_every_result_stops_everything_and_exits_with_0(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sinfo", "squeue", "sbatch", "scontrol"):
        (commands / name).write_text("#!/bin/sh\nexit 1\n")
        (commands / name).chmod(0o755)
    mark = f"ORBIT_DEMO_TEST_{os.getpid()}"
    environment = os.environ | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": "/nonexistent",
        "ORBIT_URL": "tcp://127.0.0.1:1",
        "ORBIT_RHAPSODY_BACKEND": "dragon",
        "PYTHONIOENCODING": "ascii",
        mark: "1",
    }

    ended = subprocess.run(
        [sys.executable, "-m", "orbit_zmq.demo", "--tasks", "200"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=250,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout + ended.stderr
    for words in ("250 of 250 tasks", "functions of this script", "executables", "p99 ms", "All results are right"):
        assert words in ended.stdout
    assert "LookupError('no sample', 'b7')" in ended.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]
    wait_until(lambda: processes_with(mark) == [], what="nothing is left")


def test_the_demo_exits_with_1_when_a_result_is_not_what_it_should_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = demo.Kind("sums", [{"function": "operator:add", "args": [1, 1]}], [{"state": "DONE", "return_value": 3}])
    monkeypatch.setattr(demo, "kinds", lambda tasks: [wrong])

    assert demo.main(["--tasks", "1"]) == 1
    assert "return_value is 2, expected 3" in capsys.readouterr().out


def test_wrong_usage_of_the_demo_exits_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(["--tasks", "0"])
    assert caught.value.code == 2

"""From nothing to a remote call between two machines: the three commands of the README, in two network namespaces."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import directories, wait_until

from orbit_zmq.children import environment_of_child

README = Path(__file__).resolve().parents[2] / "README.md"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


@contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them."""
    tag = secrets.token_hex(3)
    machines, ends = [f"orbit-{tag}-{name}" for name in "ab"], [f"o{tag}{name}" for name in "ab"]
    made: list[str] = []
    try:
        for machine in machines:
            ip("netns", "add", machine)
            made.append(machine)
        ip("link", "add", ends[0], "netns", machines[0], "type", "veth", "peer", "name", ends[1], "netns", machines[1])
        for machine, end, address in zip(machines, ends, ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            ip("-n", machine, "address", "add", address, "dev", end)
            for device in ("lo", end):
                ip("-n", machine, "link", "set", device, "up")
        yield machines[0], machines[1]
    finally:
        for machine in made:
            subprocess.run(["ip", "netns", "delete", machine], check=False, timeout=60)


def commands_of_the_readme() -> list[str]:
    (block,) = re.findall(r"Across machines.*?```\n(.*?)```", README.read_text(), re.DOTALL)
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="makes network namespaces: needs root and ip")
def test_the_three_commands_of_the_readme_lead_from_nothing_to_a_call_on_another_machine(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "orbit"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m orbit_zmq.cli "$@"\n')
    shim.chmod(0o755)
    place = {**directories(tmp_path / "bridge"), "PATH": f"{shim.parent}:{os.environ['PATH']}"}
    environment = environment_of_child(**place)
    remote = " ".join(f"{name}={shlex.quote(value)}" for name, value in directories(tmp_path / "hpc1").items())
    start, join, call = commands_of_the_readme()
    log = tmp_path / "endpoint.log"

    with two_machines() as (bridge, hpc1):

        def shell(command: str) -> list[str]:
            return ["ip", "netns", "exec", bridge, "sh", "-c", command]

        def run(command: str) -> str:
            done = subprocess.run(shell(command), env=environment, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run(start)
        joined = join.replace("ssh hpc1", f"ip netns exec {hpc1} env {remote}")
        assert joined != join
        try:
            with log.open("wb") as output:
                serving = subprocess.Popen(shell(joined), env=environment, stdout=output, stderr=output, process_group=0)
            try:
                wait_until(lambda: '"name": "hpc1"' in log.read_text() or serving.poll() is not None)
                assert run(call).strip() == "{}"
            finally:
                os.killpg(serving.pid, 15)
                serving.wait(60)
        finally:
            run("orbit broker stop")

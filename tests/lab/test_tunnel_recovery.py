"""A tunnel that breaks while tasks run: it is opened anew, and every task has run once and has one result.

What has run is counted by a line that each task writes to a file. Laptop, bridge, login and compute node are machines of
their own.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import wait_until
from sitelab import CAN_RUN, WHY_NOT, Site, site
from slurmlab.cluster import SlurmLab

from orbit_zmq.tunnel.ssh import ALIVE_MISSED, ALIVE_S

PATIENCE_S = 180.0
TASKS = 300
KINDS = ("forward", "reverse")
pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.timeout(600)]


@pytest.fixture(params=KINDS)
def there(request: pytest.FixtureRequest, slurm: SlurmLab, tmp_path: Path) -> Iterator[Site]:
    with site(request.param, slurm, tmp_path) as made:
        yield made


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["there"])


def test_ssh_is_killed(there: Site, kind: str, tmp_path: Path) -> None:
    def kill(psij: Any) -> None:
        os.killpg(psij.tunnel_status("login.1")["pid"], signal.SIGKILL)

    stream(there, kind, tmp_path, kill)


def test_sshd_is_restarted(there: Site, kind: str, tmp_path: Path) -> None:
    def restart(psij: Any) -> None:
        there.ssh.stop()
        reconnecting(psij)
        there.ssh.start()

    stream(there, kind, tmp_path, restart)


@pytest.mark.parametrize("seconds", [3.0, pytest.param(20.0, marks=pytest.mark.long)])
def test_the_link_is_down_for_seconds(there: Site, kind: str, tmp_path: Path, seconds: float) -> None:
    def pull(psij: Any) -> None:
        there.net.pull(there.compute_cable)
        pulled_at = time.monotonic()
        if kind == "reverse" and seconds > ALIVE_S * ALIVE_MISSED:  # by then ssh has ended, at both ends
            reconnecting(psij)
        wait_until(lambda: time.monotonic() > pulled_at + seconds, PATIENCE_S, what="it has been down for so long")
        there.net.plug(there.compute_cable)

    stream(there, kind, tmp_path, pull, task_s=seconds / 60)  # they run all the while


def test_the_login_endpoint_is_killed_and_started_again(there: Site, kind: str, tmp_path: Path) -> None:
    def kill(psij: Any) -> None:
        ssh = psij.tunnel_status("login.1")["pid"]
        os.kill(there.login.pid, signal.SIGKILL)
        wait_until(lambda: there.login.exit_code() is not None, PATIENCE_S, what="it is dead")
        there.start_login()
        if kind == "reverse":  # ssh ended with who ran it
            wait_until(lambda: psij.tunnel_status("login.1")["pid"] != ssh, PATIENCE_S, what="there is a new one")

    stream(there, kind, tmp_path, kill)


def reconnecting(psij: Any) -> None:
    wait_until(lambda: psij.tunnel_status("login.1")["status"] == "reconnecting", PATIENCE_S, what="it is noticed")


def active(psij: Any) -> None:
    wait_until(lambda: psij.tunnel_status("login.1")["status"] == "active", PATIENCE_S, what="the tunnel is open")


def stream(there: Site, kind: str, place: Path, hurt: Callable[[Any], None], task_s: float = 0.05) -> None:
    """Tasks before, while and after something is done to the tunnel; then the job is canceled, and nothing is left of it."""
    client, name, journal = there.client, "login.1", place / "journal"
    with client.get_plugin("login", "psij") as psij:
        job_id = psij.start_worker(there.job(name), "slurm", kind)["job_id"]
        wait_until(lambda: any(one.name == name for one in client.endpoints()), PATIENCE_S, what="the worker is there")
        active(psij)
        with client.get_plugin(name, "rhapsody", backends=["concurrent"]) as session:
            first = session.submit_tasks([task(number, journal, task_s) for number in range(TASKS)])
            wait_until(journal.exists, PATIENCE_S, what="they run")
            hurt(psij)
            active(psij)
            then = session.submit_tasks([task(number, journal) for number in range(TASKS, 2 * TASKS)])
            results = session.wait_tasks([*first, *then], timeout=PATIENCE_S)
        assert [result["state"] for result in results] == ["DONE"] * 2 * TASKS
        assert Counter(journal.read_text().split()) == Counter(map(str, range(2 * TASKS)))

    with client.get_plugin("login", "psij") as psij:  # one that was started anew knows no session of before
        assert there.processes_of(name)
        ssh = psij.tunnel_status(name)["pid"]
        psij.cancel_job(job_id)

        psij.wait_job(job_id, timeout=PATIENCE_S)
        wait_until(lambda: psij.tunnel_status(name)["status"] == "done", PATIENCE_S, what="its end is told of")
    keys = client.keys
    wait_until(lambda: name not in [key["name"] for key in keys()], PATIENCE_S, what="no key is left")
    wait_until(lambda: not psutil.pid_exists(ssh), PATIENCE_S, what="no ssh is left")
    wait_until(lambda: not there.processes_of(name), PATIENCE_S, what="no process is left")
    wait_until(lambda: not there.files_of(name), PATIENCE_S, what="no file is left")


def task(number: int, journal: Path, task_s: float = 0.05) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", f"sleep {task_s}; echo {number} >> {journal}"]}

"""Endpoints inside jobs of a real Slurm, over tunnels of a real sshd: none, forward and reverse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, wait_until
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab
from sshlab import CAN_RUN, WHY_NOT, SshLab, ssh_lab

from orbit_zmq.errors import Conflict, InvalidArgument

TASKS = 10_000
PATIENCE_S = 120.0
pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshLab]:
    with ssh_lab(tmp_path_factory.mktemp("site") / "ssh") as made:
        yield made


@pytest.fixture(scope="module")
def lab(slurm: SlurmLab, site: SshLab) -> Iterator[Lab]:
    with broker_at(slurm, PATH=site.environment["PATH"]) as made:
        made.start_endpoint("login", url=made.tcp, plugins="psij,test")
        yield made


@pytest.fixture
def psij(lab: Lab) -> Iterator[Any]:
    with lab.client().get_plugin("login", "psij") as session:
        yield session
        session.close(cancel=True)


def worker(lab: Lab, name: str, **more: Any) -> dict[str, Any]:
    return {
        "executable": "orbit-endpoint-wrapper.sh",
        "arguments": ["-n", name, "--plugins", "rhapsody"],
        "environment": {"PATH": lab.environment["PATH"]},
        "attributes": {"duration": 600},
        **more,
    }


def joins(lab: Lab, name: str) -> None:
    client = lab.client()
    wait_until(
        lambda: any(one.name == name and one.facts.state == "present" for one in client.endpoints()),
        PATIENCE_S,
        what=f"{name} has joined",
    )


def files_of(lab: Lab, name: str) -> list[str]:
    directory = Path(lab.environment["ORBIT_STATE_DIR"]) / "tunnels"
    return [one.name for one in directory.iterdir() if one.name.startswith(f"{name}.")]


@pytest.mark.parametrize("tunnel", ["none", "forward", "reverse"])
def test_tasks_run_inside_a_job_and_nothing_is_left_when_it_is_canceled(lab: Lab, psij: Any, tunnel: str) -> None:
    name = f"login.{tunnel}"
    submitted = psij.submit_tunneled(worker(lab, name), executor="slurm", tunnel=tunnel)
    assert submitted["endpoint_name"] == name
    joins(lab, name)

    wanted = "no_tunnel" if tunnel == "none" else "active"
    wait_until(lambda: psij.tunnel_status(name)["status"] == wanted, PATIENCE_S, what="the tunnel is told of")
    status = psij.tunnel_status(name)
    with lab.client().get_plugin(name, "rhapsody", backends=["noop"]) as session:
        answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
        assert {result["state"] for result in session.wait_tasks(answers, timeout=PATIENCE_S)} == {"DONE"}
    assert lab.client().call(name, "rhapsody", "ping") == {}
    assert f"{name}.join" in files_of(lab, name)
    with pytest.raises(Conflict, match="under way already"):
        psij.submit_tunneled(worker(lab, name), executor="slurm", tunnel=tunnel)

    psij.cancel_job(submitted["job_id"])

    psij.wait_job(submitted["job_id"], timeout=PATIENCE_S)
    wait_until(lambda: files_of(lab, name) == [], PATIENCE_S, what="no file is left")
    wanted = "no_tunnel" if tunnel == "none" else "done"
    wait_until(lambda: psij.tunnel_status(name)["status"] == wanted, PATIENCE_S, what="its end is told of")
    keys = lab.client().keys
    wait_until(lambda: name not in [key["name"] for key in keys()], PATIENCE_S, what="no key is left")
    if status["pid"]:
        wait_until(lambda: not psutil.pid_exists(status["pid"]), PATIENCE_S, what="no ssh is left")


def test_what_cannot_be_is_refused_before_anything_is_submitted(lab: Lab, psij: Any) -> None:
    for tunnel, words in ((True, "says nothing of the direction"), ("both", "tunnel is 'both'")):
        with pytest.raises(InvalidArgument, match=words) as caught:
            psij.submit_tunneled(worker(lab, "login.x"), executor="slurm", tunnel=tunnel)
        assert isinstance(caught.value, ValueError)
        with pytest.raises(InvalidArgument, match=words):
            psij.call("submit_tunneled", job_spec=worker(lab, "login.x"), executor="slurm", tunnel=tunnel)
    with pytest.raises(InvalidArgument, match="give the endpoint no name"):
        psij.submit_tunneled(worker(lab, "", arguments=["--plugins", "rhapsody"]), executor="slurm")
    with pytest.raises(InvalidArgument, match="no name of an endpoint"):
        psij.submit_tunneled(worker(lab, "../../x"), executor="slurm", tunnel="reverse")
    own = worker(lab, "login.x") | {"environment": {"ORBIT_JOIN_FILE": "/nowhere"}}
    with pytest.raises(InvalidArgument, match="needs a key that is minted here"):
        psij.submit_tunneled(own, executor="slurm", tunnel="reverse")
    assert psij.tunnel_status("login.never")["status"] == "no_tunnel"
    assert psij.list_jobs()["jobs"] == []


def test_a_worker_from_one_command_over_what_the_site_allows_which_is_remembered(lab: Lab, site: SshLab) -> None:
    def orbit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "orbit_zmq.cli", "worker", *words, "--url", lab.url]
        return subprocess.run(command, env=lab.environment, capture_output=True, text=True, timeout=300, check=False)

    started = orbit("start", "--endpoint", "login", "--duration", "10m")
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()
    assert started.stderr.splitlines()[-1] == "connected"

    def listed(name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(orbit("list", "--endpoint", "login", "--json").stdout)["items"]
        (item,) = [one for one in found if one["endpoint_name"] == name]
        return item

    wait_until(lambda: listed(name)["tunnel"] == "none", PATIENCE_S, what="it reaches the broker, which is told")
    assert listed(name)["state"] == "ACTIVE"

    stopped = orbit("stop", name, "--endpoint", "login")

    assert stopped.stdout == f"stopped {name}\n", stopped.stderr
    wait_until(lambda: files_of(lab, name) == [], PATIENCE_S, what="no file is left")
    again = orbit("start", "--endpoint", "login", "--name", "login.again", "--duration", "10m", "--no-wait")
    assert again.stdout == "login.again\n", again.stderr
    assert listed("login.again")["tunnel"] == "none"  # from memory: the job has hardly begun
    orbit("stop", "login.again", "--endpoint", "login")

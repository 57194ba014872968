"""What keeps a tunnel from being opened, in both directions; it is told in `tunnel_status`, by the job and to the caller.

The job is ended then, and nothing is left of it. Faults that may pass are tried for as long as docs/tunnels.md says; those have
short variants in test_tunnel.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, lasting_port, wait_until
from sitelab import CAN_RUN as CAN_RUN_SITE
from sitelab import WHY_NOT as WHY_NO_SITE
from sitelab import site
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab
from sshlab import CAN_RUN, WHY_NOT, SshLab, ssh_lab

from orbit_zmq.children import Child
from orbit_zmq.errors import Conflict
from orbit_zmq.tunnel.deadlines import HEARD_S

PATIENCE_S = 120.0
COMMAND_S = 300.0
pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshLab]:
    with ssh_lab(tmp_path_factory.mktemp("site") / "ssh") as ssh:
        yield ssh


@pytest.fixture
def ssh(made: SshLab) -> Iterator[SshLab]:
    yield made
    made.mend()


@pytest.fixture(scope="module")
def lab(slurm: SlurmLab, made: SshLab) -> Iterator[Lab]:
    with broker_at(slurm, PATH=made.environment["PATH"]) as lab:
        lab.start_endpoint("login", url=lab.tcp, plugins="psij")
        yield lab


@pytest.fixture
def psij(lab: Lab) -> Iterator[Any]:
    with lab.client().get_plugin("login", "psij") as session:
        yield session
        session.close(cancel=True)


def worker(lab: Lab, name: str) -> dict[str, Any]:
    return {
        "executable": "orbit-endpoint-wrapper.sh",
        "arguments": ["-n", name, "--plugins", "rhapsody"],
        "environment": {"PATH": lab.environment["PATH"]},
        "attributes": {"duration": 600},
    }


def command(lab: Lab, name: str, tunnel: str) -> list[str]:
    words = [sys.executable, "-P", "-m", "orbit_zmq.cli", "worker", "start", "--endpoint", "login", "--name", name]
    return [*words, "--tunnel", tunnel, "--duration", "10m", "--url", lab.url]


def start(lab: Lab, name: str, tunnel: str) -> subprocess.CompletedProcess[str]:
    words = command(lab, name, tunnel)
    return subprocess.run(words, env=lab.environment, capture_output=True, text=True, timeout=COMMAND_S, check=False)


def wrong_host_key(ssh: SshLab) -> None:
    ssh.know_host_key((ssh.place / "user_key.pub").read_text())


def refused_port(ssh: SshLab) -> None:
    ssh.point_at(ssh.address, lasting_port())


def unknown_host(ssh: SshLab) -> None:
    ssh.point_at("no-such-host.invalid", ssh.port)


def nothing_forwarded(ssh: SshLab) -> None:
    ssh.stop()
    ssh.configure("AllowTcpForwarding no")
    ssh.start()


def leads_nowhere(ssh: SshLab) -> None:
    ssh.stop()
    ssh.configure("PermitOpen 127.0.0.1:1")
    ssh.start()


HOST_KEY = "its host key is not the one that is known here"
WORDS: dict[Callable[[SshLab], None], str] = {
    wrong_host_key: HOST_KEY,
    unknown_host: "nobody knows that name",
    leads_nowhere: "the tunnel is open, and nothing answers",
    nothing_forwarded: "it does not forward the port",
    refused_port: "nothing takes ssh connections there",
}


@pytest.mark.parametrize(
    ("tunnel", "fault"),
    [
        ("forward", wrong_host_key),
        ("reverse", wrong_host_key),
        ("forward", unknown_host),
        ("reverse", unknown_host),
        ("forward", leads_nowhere),
        ("reverse", nothing_forwarded),
        pytest.param("forward", refused_port, marks=pytest.mark.long),  # it may pass, and is tried until the deadline
        pytest.param("reverse", refused_port, marks=pytest.mark.long),
    ],
)
def test_a_tunnel_that_cannot_be_opened_is_said_to_everybody_and_ends_the_job(
    lab: Lab, psij: Any, ssh: SshLab, tunnel: str, fault: Callable[[SshLab], None]
) -> None:
    words = WORDS[fault]
    name = f"login.{tunnel}-{fault.__name__.replace('_', '-')}"
    fault(ssh)

    started = start(lab, name, tunnel)

    assert started.returncode != 0
    assert words in started.stderr
    wait_until(lambda: psij.tunnel_status(name)["status"] == "failed", PATIENCE_S, what="that is told of")
    status = psij.tunnel_status(name)
    assert (status["status"], words in status["reason"], bool(status["hint"])) == ("failed", True, True), status
    job = psij.wait_job(status["job_id"], timeout=PATIENCE_S)
    assert job["state"] in ("FAILED", "CANCELED")
    wait_until(lambda: words in psij.get_job_status(status["job_id"])["message"], PATIENCE_S, what="the job says so")
    nothing_is_left_of(lab, name)
    assert psij.tunnel_status(name)["status"] == "failed"


def nothing_is_left_of(lab: Lab, name: str) -> None:
    directory, keys = Path(lab.environment["ORBIT_STATE_DIR"]) / "tunnels", lab.client().keys

    def left() -> list[str]:
        return sorted(path.name for path in directory.glob(f"*{name}*"))

    try:
        wait_until(lambda: not left(), PATIENCE_S)
    except AssertionError:
        raise AssertionError(f"there is still {left()}") from None
    wait_until(lambda: name not in [key["name"] for key in keys()], PATIENCE_S, what="no key is left")


@pytest.mark.skipif(not CAN_RUN_SITE, reason=WHY_NO_SITE)
def test_where_no_kind_of_tunnel_can_be_opened_the_reason_of_each_is_said(slurm: SlurmLab, tmp_path: Path) -> None:
    with site("reverse", slurm, tmp_path) as there, there.client.get_plugin("login", "psij") as psij:
        wrong_host_key(there.ssh)

        job_id = psij.start_worker(there.job("login.1"), "slurm", "auto")["job_id"]

        wait_until(lambda: psij.tunnel_status("login.1")["status"] == "failed", PATIENCE_S, what="that is told of")
        reason = psij.tunnel_status("login.1")["reason"]
        assert WORDS[refused_port] in reason
        assert HOST_KEY in reason
        psij.wait_job(job_id, timeout=PATIENCE_S)


def test_of_two_children_of_one_name_at_once_one_is_refused_and_the_other_is_not_touched(lab: Lab, psij: Any) -> None:
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(psij.submit_tunneled, worker(lab, "login.twin"), "slurm", "reverse") for _ in range(2)]
    (error,) = [one.exception() for one in both if one.exception() is not None]
    (job,) = [one.result() for one in both if one.exception() is None]

    assert isinstance(error, Conflict)
    assert "login.twin" in error.message
    wait_until(lambda: psij.tunnel_status("login.twin")["status"] == "active", PATIENCE_S, what="the first has its tunnel")
    third = start(lab, "login.twin", "reverse")
    assert third.returncode != 0
    assert "login.twin" in third.stderr
    assert "under way already" in third.stderr
    assert psij.tunnel_status("login.twin")["status"] == "active"
    psij.cancel_job(job["job_id"])
    psij.wait_job(job["job_id"], timeout=PATIENCE_S)
    nothing_is_left_of(lab, "login.twin")


def gone(lab: Lab, child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: child.exit_code() is not None, PATIENCE_S, what="it is dead")


def test_a_command_that_waits_for_a_worker_says_so_when_the_login_endpoint_goes_away(slurm: SlurmLab, ssh: SshLab) -> None:
    with broker_at(slurm, PATH=ssh.environment["PATH"]) as lab:
        ssh.stop()  # so the worker is not there before
        login = lab.start_endpoint("login", url=lab.tcp, plugins="psij")
        said = lab.place / "said"
        with said.open("w") as file:
            started = subprocess.Popen(command(lab, "login.1", "reverse"), env=lab.environment, stderr=file)
        wait_until(lambda: "queued" in said.read_text() or "started" in said.read_text(), PATIENCE_S, what="it waits")

        gone(lab, login)

        assert started.wait(COMMAND_S) != 0
        assert "endpoint login has ended" in said.read_text()
        lab.start_endpoint("login", url=lab.tcp, plugins="psij")
        with lab.client().get_plugin("login", "psij") as psij:
            psij.cancel_job(psij.tunnel_status("login.1")["job_id"])
        nothing_is_left_of(lab, "login.1")


def key_file(lab: Lab, name: str) -> Path:
    return Path(lab.environment["ORBIT_STATE_DIR"]) / "tunnels" / f"{name}.join"


@pytest.mark.long
def test_a_worker_whose_login_endpoint_is_gone_gives_up_and_both_say_why(slurm: SlurmLab, made: SshLab) -> None:
    words = "nobody has read the request for a tunnel"
    with broker_at(slurm, PATH=made.environment["PATH"]) as lab:
        login = lab.start_endpoint("login", url=lab.tcp, plugins="psij")
        with lab.client().get_plugin("login", "psij") as psij:
            job_id = psij.start_worker(worker(lab, "login.1"), "slurm", "reverse")["job_id"]
            gone(lab, login)
        report = key_file(lab, "login.1").with_suffix(".port")

        wait_until(lambda: report.exists() and words in report.read_text(), HEARD_S + PATIENCE_S, what="it gives up")

        lab.start_endpoint("login", url=lab.tcp, plugins="psij")
        with lab.client().get_plugin("login", "psij") as psij:
            wait_until(lambda: psij.tunnel_status("login.1")["status"] == "failed", PATIENCE_S, what="that is told of")
            assert words in psij.tunnel_status("login.1")["reason"]
            wait_until(lambda: words in psij.get_job_status(job_id)["message"], PATIENCE_S, what="the job says so")
        nothing_is_left_of(lab, "login.1")

"""Endpoints that reach the broker by ssh: forward and reverse, over a real sshd that is cut, killed and configured wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, running_lab, wait_until
from sshlab import CAN_RUN, WHY_NOT, SshLab, ssh_lab

from orbit_zmq.children import Child
from orbit_zmq.errors import TunnelFailed
from orbit_zmq.place import find_broker
from orbit_zmq.tunnel.opener import ReverseTunnel
from orbit_zmq.tunnel.rendezvous import Rendezvous
from orbit_zmq.tunnel.ssh import Forward, Ssh
from orbit_zmq.tunnel.way import broker_of, free_ports

pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.timeout(240)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshLab]:
    with ssh_lab(tmp_path / "ssh") as made:
        monkeypatch.setenv("PATH", made.environment["PATH"])
        yield made


def ssh_processes() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.name() in ("ssh", "sh")]


def test_ssh_says_when_its_ports_are_forwarded_and_ends_with_who_started_it(site: SshLab) -> None:
    for side in ("L", "R"):
        (port,) = free_ports(1)
        ssh = Ssh(side, "login", [Forward(port, "127.0.0.1", site.port)])
        ssh.wait_until_up()
        assert not ssh.has_ended
        ssh.end()
        assert ssh.has_ended
    wait_until(lambda: not ssh_processes(), what="no ssh is left")


@pytest.mark.parametrize(
    ("host", "words"),
    [("refused", "nothing takes ssh connections"), ("no-such-host.invalid", "nobody knows that name")],
)
def test_a_host_that_cannot_be_reached_is_said_in_a_sentence(site: SshLab, host: str, words: str) -> None:
    ssh = Ssh("L", host, [Forward(free_ports(1)[0], "127.0.0.1", site.port)])

    with pytest.raises(TunnelFailed, match=words):
        ssh.wait_until_up()


def test_another_host_key_than_the_known_one_is_refused_and_nothing_is_asked(site: SshLab) -> None:
    site.know_host_key((site.place / "user_key.pub").read_text())
    ssh = Ssh("L", "login", [Forward(free_ports(1)[0], "127.0.0.1", site.port)])

    with pytest.raises(TunnelFailed, match="host key is not the one that is known") as caught:
        ssh.wait_until_up()
    assert "ssh login" in caught.value.hint


HERE = ["127.0.0.1"]
TASKS = 10_000


@pytest.fixture
def bridge(site: SshLab) -> Iterator[Lab]:
    """A broker, on whose host the sshd is."""
    with running_lab() as made:
        made.environment |= site.environment
        yield made


@pytest.fixture
def join_file(bridge: Lab) -> Path:
    path = bridge.place / "worker.join"
    path.write_text(bridge.client().invite("worker", "endpoint", hosts=HERE).encode())
    path.chmod(0o600)
    return path


def start_worker(bridge: Lab, join_file: Path, *options: str) -> Any:
    place = bridge.place / "worker"
    place.mkdir(exist_ok=True)
    own = {"ORBIT_CONFIG_DIR": str(place / "config"), "ORBIT_RUNTIME_DIR": str(place / "run")}
    environment = {**bridge.environment, **own, "ORBIT_JOIN_FILE": str(join_file)}
    child = Child(
        "orbit_zmq.endpoint",
        ["--join", str(join_file), "--plugins", "rhapsody", *options],
        environment,
        bridge.place / "worker.log",
    )
    bridge.stack.callback(child.end)
    child.wait_until_ready()
    return child


def state_of(tunnel: ReverseTunnel) -> str:
    report = tunnel.rendezvous.reported()
    return report.state if report is not None else ""


def tunnels_of(bridge: Lab) -> Path:
    return Path(bridge.environment["ORBIT_STATE_DIR"]) / "tunnels"


def forwarded_through(child: Any) -> list[int]:
    """The processes of ssh below a process."""
    return [one.pid for one in psutil.Process(child.pid).children(recursive=True) if one.name() == "ssh"]


def test_forward_ten_thousand_tasks_while_ssh_is_killed_and_sshd_restarted(site: SshLab, bridge: Lab, join_file: Path) -> None:
    child = start_worker(bridge, join_file, "--tunnel", "forward", "--tunnel-via", "login")
    (first,) = forwarded_through(child)
    with bridge.client().get_plugin("worker", "rhapsody", backends=["noop"]) as session:
        answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
        os.kill(first, signal.SIGKILL)
        results = session.wait_tasks(answers, timeout=120)
        assert [result["state"] for result in results] == ["DONE"] * TASKS

        answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
        site.stop()
        site.start()
        results = session.wait_tasks(answers, timeout=120)
        assert [result["state"] for result in results] == ["DONE"] * TASKS
    report = Rendezvous("worker", tunnels_of(bridge)).reported()
    assert report is not None and report.state == "active" and report.ssh_host == "login"

    child.end()

    wait_until(lambda: not psutil.pid_exists(report.pid or 0), what="no ssh is left")


def test_a_worker_that_is_killed_takes_its_ssh_along(site: SshLab, bridge: Lab, join_file: Path) -> None:
    child = start_worker(bridge, join_file, "--tunnel", "forward", "--tunnel-via", "inner")
    below = psutil.Process(child.pid).children(recursive=True)
    assert any(one.name() == "ssh" for one in below)

    os.kill(child.pid, signal.SIGKILL)

    wait_until(lambda: not any(one.is_running() and one.name() in ("ssh", "sh") for one in below), what="no ssh is left")


def test_reverse_ten_thousand_tasks_while_ssh_is_killed_and_sshd_restarted(site: SshLab, bridge: Lab, join_file: Path) -> None:
    place = find_broker(join=str(join_file))
    tunnel = ReverseTunnel("worker", broker_of(place), directory=tunnels_of(bridge))
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            tunnel.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        child = start_worker(bridge, join_file, "--tunnel", "reverse")
        report = tunnel.rendezvous.reported()
        assert report is not None and report.state == "active"
        with bridge.client().get_plugin("worker", "rhapsody", backends=["noop"]) as session:
            answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
            os.killpg(report.pid or 0, signal.SIGKILL)
            results = session.wait_tasks(answers, timeout=120)
            assert [result["state"] for result in results] == ["DONE"] * TASKS

            answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
            site.stop()
            wait_until(lambda: state_of(tunnel) == "reconnecting", what="it is noticed")
            site.start()
            results = session.wait_tasks(answers, timeout=120)
            assert [result["state"] for result in results] == ["DONE"] * TASKS
        child.end()
    finally:
        stop.set()
        looking.join()
        tunnel.close()
    wait_until(lambda: not ssh_processes(), what="no ssh is left")
    assert os.listdir(tunnels_of(bridge)) == []


def test_a_worker_whose_tunnel_cannot_be_opened_says_why(site: SshLab, bridge: Lab, join_file: Path) -> None:
    (site.place / "authorized_keys").write_text("")

    with pytest.raises(TunnelFailed, match="accepts none of this user's keys"):
        start_worker(bridge, join_file, "--tunnel", "forward", "--tunnel-via", "login")

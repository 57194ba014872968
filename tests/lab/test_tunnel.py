"""Endpoints that reach the broker by ssh: forward and reverse, over a real sshd that is cut, killed and configured wrong."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, is_gone, lasting_port, running_lab, wait_until
from processes import names_below
from sshlab import CAN_RUN, WHY_NOT, SshLab, ssh_lab

from orbit_zmq.children import Child
from orbit_zmq.errors import TunnelFailed
from orbit_zmq.place import Place, find_broker
from orbit_zmq.tunnel.opener import ReverseTunnel
from orbit_zmq.tunnel.rendezvous import REQUESTS, Rendezvous, Report, Request
from orbit_zmq.tunnel.ssh import Forward, Ssh
from orbit_zmq.tunnel.way import broker_of, forward, reverse

PATIENCE_S = 120.0
WITHIN_S = 8.0  # in which an ssh that is refused at once ends for sure
REFUSED = "nothing takes ssh connections there"
pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.timeout(600)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshLab]:
    with ssh_lab(tmp_path / "ssh") as made:
        monkeypatch.setenv("PATH", made.environment["PATH"])
        yield made


def ssh_processes() -> list[str]:
    return [name for name in names_below(os.getpid()).values() if name in ("ssh", "sh")]


def test_ssh_says_when_its_ports_are_forwarded_and_ends_with_who_started_it(site: SshLab) -> None:
    for side in ("L", "R"):
        ssh = Ssh(side, "login", [Forward(lasting_port(), "127.0.0.1", site.port)])
        ssh.wait_until_up()
        assert not ssh.has_ended
        ssh.end()
        assert ssh.has_ended
    wait_until(lambda: not ssh_processes(), PATIENCE_S, what="no ssh is left")


@pytest.mark.parametrize(
    ("host", "words"),
    [("refused", "nothing takes ssh connections"), ("no-such-host.invalid", "nobody knows that name")],
)
def test_a_host_that_cannot_be_reached_is_said_in_a_sentence(site: SshLab, host: str, words: str) -> None:
    ssh = Ssh("L", host, [Forward(lasting_port(), "127.0.0.1", site.port)])

    with pytest.raises(TunnelFailed, match=words):
        ssh.wait_until_up()


def test_another_host_key_than_the_known_one_is_refused_and_nothing_is_asked(site: SshLab) -> None:
    site.know_host_key((site.place / "user_key.pub").read_text())
    ssh = Ssh("L", "login", [Forward(lasting_port(), "127.0.0.1", site.port)])

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
    child.wait_until_ready(PATIENCE_S)
    return child


def state_of(tunnel: ReverseTunnel) -> str:
    report = tunnel.rendezvous.reported()
    return report.state if report is not None else ""


def tunnels_of(bridge: Lab) -> Path:
    return Path(bridge.environment["ORBIT_STATE_DIR"]) / "tunnels"


def forwarded_through(child: Any) -> list[int]:
    """The processes of ssh below a process."""
    return [pid for pid, name in names_below(child.pid).items() if name == "ssh"]


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
    report = told("active", directory=tunnels_of(bridge))
    assert report.ssh_host == "login"

    child.end()

    wait_until(lambda: not psutil.pid_exists(report.pid or 0), PATIENCE_S, what="no ssh is left")


def test_a_worker_that_is_killed_takes_its_ssh_along(site: SshLab, bridge: Lab, join_file: Path) -> None:
    child = start_worker(bridge, join_file, "--tunnel", "forward", "--tunnel-via", "inner")
    below = psutil.Process(child.pid).children(recursive=True)
    assert forwarded_through(child)

    os.kill(child.pid, signal.SIGKILL)

    wait_until(lambda: all(is_gone(one.pid) for one in below if one.is_running()), PATIENCE_S, what="no ssh is left")


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
            wait_until(lambda: state_of(tunnel) == "reconnecting", PATIENCE_S, what="it is noticed")
            site.start()
            results = session.wait_tasks(answers, timeout=120)
            assert [result["state"] for result in results] == ["DONE"] * TASKS
        child.end()
    finally:
        stop.set()
        looking.join()
        tunnel.close()
    wait_until(lambda: not ssh_processes(), PATIENCE_S, what="no ssh is left")
    assert os.listdir(tunnels_of(bridge)) == []


def test_a_worker_whose_tunnel_cannot_be_opened_says_why(site: SshLab, bridge: Lab, join_file: Path) -> None:
    (site.place / "authorized_keys").write_text("")

    with pytest.raises(TunnelFailed, match="accepts none of this user's keys"):
        start_worker(bridge, join_file, "--tunnel", "forward", "--tunnel-via", "login")


@pytest.fixture
def here(site: SshLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Something that speaks first, as a broker does: the sshd. Both sides meet in a directory of the test."""
    monkeypatch.setenv("ORBIT_STATE_DIR", str(tmp_path / "state"))
    return place_at(site.port)


def place_at(port: int) -> Place:
    return Place(f"tcp://127.0.0.1:{port}", None, None, "the test", events=f"tcp://127.0.0.1:{port}")


@contextmanager
def looked_after(tunnel: ReverseTunnel) -> Iterator[ReverseTunnel]:
    """The login endpoint, as far as tunnels go."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            tunnel.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield tunnel
    finally:
        stop.set()
        looking.join()
        tunnel.leave()


def told(state: str, words: str = "", directory: Path | None = None) -> Report:
    """The report of that state and reason, once there is one."""

    def found() -> Report | None:
        report = Rendezvous("worker", directory).reported()
        return report if report is not None and report.state == state and words in report.reason else None

    found_one = wait_until(found, PATIENCE_S, what=f"{state} {words}")
    assert found_one is not None
    return found_one


def test_forward_to_a_port_that_refuses_is_tried_until_the_deadline_and_then_told(site: SshLab, here: Place) -> None:
    with pytest.raises(TunnelFailed, match=REFUSED), forward(here, "worker", "refused", within_s=WITHIN_S):
        pass

    assert told("failed", REFUSED).ssh_host == "refused"


def test_reverse_to_a_port_that_refuses_is_tried_until_the_deadline_and_then_told(site: SshLab, here: Place) -> None:
    site.point_at(site.address, lasting_port())

    with looked_after(ReverseTunnel("worker", broker_of(here), within_s=WITHIN_S)):
        with pytest.raises(TunnelFailed, match=REFUSED), reverse(here, "worker"):
            pass
        assert told("failed", REFUSED).mode == "reverse"


def test_a_fault_that_passes_is_told_meanwhile_and_the_tunnel_opens(site: SshLab, here: Place) -> None:
    site.stop()
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        opened = threads.submit(stack.enter_context, forward(here, "worker", "login", within_s=PATIENCE_S))
        told("pending", REFUSED)

        site.start()

        assert opened.result().address.startswith("tcp://127.0.0.1:")
        assert told("active").reason == ""


def test_forward_to_where_nothing_answers_has_failed_and_says_what_ssh_says(site: SshLab, here: Place) -> None:
    with pytest.raises(TunnelFailed, match="nothing answers"), forward(place_at(lasting_port()), "worker", "login"):
        pass

    assert "Connection refused" in told("failed", "the tunnel is open, and nothing answers").reason
    wait_until(lambda: not ssh_processes(), PATIENCE_S, what="no ssh is left")


def test_a_worker_that_nobody_hears_gives_up_and_withdraws_its_request(here: Place) -> None:
    with pytest.raises(TunnelFailed, match="nobody has read the request"), reverse(here, "worker", heard_s=1.0):
        pass

    assert Rendezvous("worker").request() is None
    told("failed", "nobody has read the request")


def test_a_worker_whose_request_was_read_and_then_forgotten_gives_up_with_what_was_said_last(here: Place) -> None:
    meeting = Rendezvous("worker")
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        asked = threads.submit(stack.enter_context, reverse(here, "worker", answer_s=1.0))
        request = wait_until(meeting.request, PATIENCE_S, what="it asks")
        assert request is not None
        meeting.report(Report(1, "pending", "reverse", request.port, ssh_host=request.hostname, reason="of the first attempt"))

        with pytest.raises(TunnelFailed, match="has not opened a tunnel to here in time: of the first attempt"):
            asked.result()


def test_a_port_that_is_taken_at_the_worker_is_asked_for_again_as_another_one(site: SshLab, here: Place) -> None:
    meeting = Rendezvous("worker")
    with socket.create_server(("127.0.0.1", 0)) as taken, looked_after(ReverseTunnel("worker", broker_of(here))):
        port, (first, second, third) = taken.getsockname()[1], (lasting_port() for _ in range(3))
        meeting.ask(Request("worker", socket.gethostname(), port, first, number=1))
        assert told("pending", "does not forward the port").wants_other_port

        meeting.ask(Request("worker", socket.gethostname(), second, third, number=2))
        assert told("active").port == second

        meeting.ask(Request("worker", socket.gethostname(), port, first, number=REQUESTS))
        told("failed", "does not forward the port")


def test_a_job_that_runs_again_elsewhere_gets_a_tunnel_to_there_instead(site: SshLab, here: Place) -> None:
    meeting = Rendezvous("worker")
    with looked_after(ReverseTunnel("worker", broker_of(here))):
        first, second, third, fourth = (lasting_port() for _ in range(4))
        meeting.ask(Request("worker", "login", first, second, asked_at=1.0))
        old = told("active")

        meeting.ask(Request("worker", "inner", third, fourth, asked_at=2.0))

        wait_until(lambda: told("active").ssh_host == "inner", PATIENCE_S, what="there is one to the other host")
        wait_until(lambda: not psutil.pid_exists(old.pid or 0), PATIENCE_S, what="the old one has ended")


def test_a_login_endpoint_that_was_started_anew_goes_on_with_the_tunnel_and_tells_why_it_cannot(
    site: SshLab, here: Place
) -> None:
    with looked_after(ReverseTunnel("worker", broker_of(here))):
        port, events_port = lasting_port(), lasting_port()
        Rendezvous("worker").ask(Request("worker", socket.gethostname(), port, events_port))
        told("active")
    site.stop()

    with looked_after(ReverseTunnel("worker", broker_of(here), within_s=0.0)):
        told("reconnecting", REFUSED)
        site.start()
        assert told("active").port == port

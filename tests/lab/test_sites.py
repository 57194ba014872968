"""Kinds of sites: laptop, bridge, login and compute node with only the permitted directions open, and one command for a worker.

The login node is this machine, with a real Slurm; the job's processes run on the compute node. Every site has its own answer to
`--tunnel auto`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import wait_until
from netlab import CAN_RUN, LOGIN, WHY_NOT, inside, ip, network
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab
from sshlab import CAN_RUN as CAN_RUN_SSHD
from sshlab import WHY_NOT as WHY_NO_SSHD
from sshlab import ssh_lab

from orbit_zmq import Client

TASKS = 10_000
PATIENCE_S = 120.0
pytestmark = [
    pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT),
    pytest.mark.skipif(not CAN_RUN_SSHD, reason=WHY_NO_SSHD),
    pytest.mark.timeout(400),
]


@dataclass(frozen=True)
class Site:
    """What is there for a test: how a laptop reaches the broker, and how a job gets to the compute node."""

    client: Client
    environment: dict[str, str]

    def job(self, name: str) -> dict[str, Any]:
        return {
            "executable": "orbit-endpoint-wrapper.sh",
            "arguments": ["-n", name, "--plugins", "rhapsody"],
            "environment": self.environment,
            "attributes": {"duration": 600},
        }


@contextmanager
def site(kind: str, slurm: SlurmLab, place: Path) -> Iterator[Site]:
    """`none`: the compute node reaches the bridge; `forward`: it may log in to the login node; `reverse`: the other way."""
    with ExitStack() as stack:
        net = stack.enter_context(network())
        laptop, bridge, compute = map(net.machine, ("laptop", "bridge", "compute"))
        _, for_laptop = net.cable(laptop, bridge)
        _, for_login = net.cable(LOGIN, bridge)
        login_there, compute_there = net.cable(LOGIN, compute)
        if kind == "none":
            here, there = net.cable(compute, bridge)
            ip("-n", compute, "route", "add", f"{for_login}/32", "via", there, "src", here)
        sshd = (login_there, "") if kind == "forward" else (compute_there, compute)
        ssh = stack.enter_context(ssh_lab(place / "ssh", *sshd))
        lab = stack.enter_context(broker_at(slurm, PATH=ssh.environment["PATH"]))
        assert lab.broker is not None
        lab.broker.end()
        with inside(bridge):
            lab.start_broker("tcp://0.0.0.0:0")
        port = lab.tcp.rpartition(":")[2]
        lab.start_endpoint("login", url=f"tcp://{for_login}:{port}", plugins="psij")
        with inside(laptop):
            client = stack.enter_context(Client(url=f"tcp://{for_laptop}:{port}"))
            client.endpoints()  # it is connected from here
        yield Site(client, {"PATH": ssh.environment["PATH"], "ORBIT_PYTHON": str(_python_on(compute, place))})


def _python_on(machine: str, place: Path) -> Path:
    shim = place / "python"
    shim.write_text(f'#!/bin/sh\nexec ip netns exec {machine} {sys.executable} "$@"\n')
    shim.chmod(0o755)
    return shim


TOLD = pytest.mark.long  # what is told is done by other tests as well; that it is found out, by none


@pytest.mark.parametrize(
    ("kind", "tunnel"),
    [
        ("none", "auto"),
        ("forward", "auto"),
        ("reverse", "auto"),
        pytest.param("none", "none", marks=TOLD),
        pytest.param("forward", "forward", marks=TOLD),
        pytest.param("reverse", "reverse", marks=TOLD),
    ],
)
def test_ten_thousand_tasks_from_a_laptop_through_a_worker_inside_a_job(
    slurm: SlurmLab, tmp_path: Path, kind: str, tunnel: str
) -> None:
    with site(kind, slurm, tmp_path) as there:
        client, name = there.client, "login.1"
        with client.get_plugin("login", "psij") as psij:
            job_id = psij.start_worker(there.job(name), "slurm", tunnel)["job_id"]
            wait_until(lambda: any(one.name == name for one in client.endpoints()), PATIENCE_S, what="the worker is there")
            with client.get_plugin(name, "rhapsody", backends=["noop"]) as session:
                first = session.submit_tasks([{"executable": "/bin/true"}])
                session.wait_tasks(first, timeout=PATIENCE_S)
                print(
                    f"{kind} by {tunnel}: the first task {time.time() - psij.get_job_status(job_id)['started_at']:.1f} s after"
                )
                answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
                results = session.wait_tasks(answers, timeout=PATIENCE_S)
            assert [result["state"] for result in results] == ["DONE"] * TASKS
            assert client.call(name, "rhapsody", "ping") == {}
            status = "no_tunnel" if kind == "none" else "active"
            wait_until(lambda: psij.tunnel_status(name)["status"] == status, PATIENCE_S, what="the tunnel is told of")
            assert psij.tunnel_status(name)["tunnel"] == kind

            psij.cancel_job(job_id)

            psij.wait_job(job_id, timeout=PATIENCE_S)
            keys = client.keys
            wait_until(lambda: name not in [key["name"] for key in keys()], PATIENCE_S, what="its key is gone")

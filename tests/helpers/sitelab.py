"""A site: laptop, bridge, login and compute node as network namespaces, with only the permitted directions open.

The batch system is a real Slurm on this machine, which only its commands reach from the login node; the processes of its
jobs run on the compute node.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from lab import Lab
from netlab import CAN_RUN as CAN_RUN_NETWORK
from netlab import WHY_NOT as WHY_NO_NETWORK
from netlab import Network, inside, ip, network
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab
from sshlab import CAN_RUN as CAN_RUN_SSHD
from sshlab import WHY_NOT as WHY_NO_SSHD
from sshlab import SshLab, ssh_lab

from orbit_zmq import Client
from orbit_zmq.children import Child

CAN_RUN = CAN_RUN_NETWORK and CAN_RUN_SSHD and shutil.which("nsenter") is not None
WHY_NOT = WHY_NO_NETWORK if not CAN_RUN_NETWORK else WHY_NO_SSHD if not CAN_RUN_SSHD else "needs nsenter"
COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "sinfo", "scontrol", "sacctmgr")


@dataclass
class Site:
    """What is there for a test: how a laptop reaches the broker, and how a job gets to the compute node."""

    client: Client
    lab: Lab
    ssh: SshLab
    net: Network
    login: Child  # the endpoint there
    login_machine: str
    login_url: str
    compute_cable: str  # the end of the cable to the compute node, at the login node
    environment: dict[str, str]

    def job(self, name: str) -> dict[str, Any]:
        return {
            "executable": "orbit-endpoint-wrapper.sh",
            "arguments": ["-n", name, "--plugins", "rhapsody"],
            "environment": self.environment,
            "attributes": {"duration": 600},
        }

    def start_login(self) -> None:
        """The endpoint on the login node, also once more after it was killed."""
        with inside(self.login_machine):
            self.login = self.lab.start_endpoint("login", url=self.login_url, plugins="psij")

    def files_of(self, name: str) -> list[str]:
        directory = Path(self.lab.environment["ORBIT_STATE_DIR"]) / "tunnels"
        return [one.name for one in directory.iterdir() if one.name.startswith(f"{name}.")]

    def processes_of(self, name: str) -> list[psutil.Process]:
        """What runs under a worker's name, on whichever machine."""
        return [one for one in psutil.process_iter() if self._is_of(one, name)]

    def _is_of(self, process: psutil.Process, name: str) -> bool:
        variable = "ORBIT_STATE_DIR"
        with suppress(psutil.Error):
            return name in process.cmdline() and process.environ().get(variable) == self.lab.environment[variable]
        return False


@contextmanager
def site(kind: str, slurm: SlurmLab, place: Path) -> Iterator[Site]:
    """`none`: the compute node reaches the bridge; `forward`: it may log in to the login node; `reverse`: the other way."""
    with ExitStack() as stack:
        net = stack.enter_context(network())
        laptop, bridge, login, compute = map(net.machine, ("laptop", "bridge", "login", "compute"))
        _, for_laptop = net.cable(laptop, bridge)
        _, for_login = net.cable(login, bridge)
        login_there, compute_there = net.cable(login, compute)
        if kind == "none":
            here, there = net.cable(compute, bridge)
            ip("-n", compute, "route", "add", f"{for_login}/32", "via", there, "src", here)
        sshd = (login_there, login) if kind == "forward" else (compute_there, compute)
        ssh = stack.enter_context(ssh_lab(place / "ssh", *sshd))
        lab = stack.enter_context(broker_at(slurm, PATH=f"{_commands(slurm, place)}:{ssh.environment['PATH']}"))
        assert lab.broker is not None
        lab.broker.end()
        with inside(bridge):
            lab.start_broker("tcp://0.0.0.0:0")
        port = lab.tcp.rpartition(":")[2]
        with inside(login):
            child = lab.start_endpoint("login", url=f"tcp://{for_login}:{port}", plugins="psij")
        with inside(laptop):
            client = stack.enter_context(Client(url=f"tcp://{for_laptop}:{port}"))
            client.endpoints()  # it is connected from here
        path = ssh.environment["PATH"]
        if kind == "reverse":
            path = f"{_ssh_to(login_there, place)}:{path}"
        environment = {"PATH": path, "ORBIT_PYTHON": str(_python_on(compute, place))}
        yield Site(client, lab, ssh, net, child, login, f"tcp://{for_login}:{port}", login_there, environment)


def _python_on(machine: str, place: Path) -> Path:
    return _script(place / "python", f'exec ip netns exec {machine} {sys.executable} "$@"')


def _commands(slurm: SlurmLab, place: Path) -> Path:
    """Those of Slurm, which reach it from everywhere."""
    directory = place / "slurm"
    directory.mkdir()
    for name in COMMANDS:
        if found := shutil.which(name):
            _script(directory / name, f'exec nsenter --net=/proc/{slurm.keeper_pid}/ns/net {found} "$@"')
    return directory


def _ssh_to(address: str, place: Path) -> Path:
    """An ssh for which all names are that machine, where there is no sshd."""
    directory = place / "compute"
    directory.mkdir()
    _script(directory / "ssh", f'exec {shutil.which("ssh")} -F /dev/null -o HostName={address} "$@"')
    return directory


def _script(path: Path, command: str) -> Path:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return path

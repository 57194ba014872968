"""A real sshd of one's own, and an `ssh` that knows it: a machine to log in to, without touching this one's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from lab import lasting_port, wait_until
from netlab import inside

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")
CAN_RUN = os.geteuid() == 0 and SSHD is not None and shutil.which("ssh") is not None
WHY_NOT = "runs an sshd: needs root and openssh-server"
USER = "root"


class SshLab:
    """One sshd at an address of this machine or of another one, under the names `login` and this host's own."""

    def __init__(self, place: Path, address: str = "127.0.0.1", machine: str = "") -> None:
        self.place, self.address, self.machine = place, address, machine
        self.port = lasting_port()
        self._sshd: subprocess.Popen[bytes] | None = None
        place.mkdir(mode=0o700, parents=True)
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
        (place / "authorized_keys").write_text((place / "user_key.pub").read_text())
        (place / "authorized_keys").chmod(0o600)
        self.know_host_key((place / "host_key.pub").read_text())
        self.configure()
        self.point_at(address, self.port)
        (place / "bin").mkdir()
        shim = place / "bin" / "ssh"
        shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {place / "config"} "$@"\n')
        shim.chmod(0o755)

    def point_at(self, address: str, port: int) -> None:
        """Where the names lead."""
        hosts = [f"Host login {socket.gethostname()}", "Host inner\n ProxyJump login"]
        lab = "".join(f"{host}\n HostName {address}\n Port {port}\n HostKeyAlias lab\n" for host in hosts)
        (self.place / "config").write_text(
            f"{lab}Host refused\n HostName 127.0.0.1\n Port {lasting_port()}\n"
            f"Host *\n User {USER}\n IdentityFile {self.place / 'user_key'}\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self.place / 'known_hosts'}\n GlobalKnownHostsFile /dev/null\n"
        )

    def mend(self) -> None:
        """As it was made, and running."""
        self.stop()
        self.point_at(self.address, self.port)
        self.know_host_key((self.place / "host_key.pub").read_text())
        self.configure()
        self.start()

    def know_host_key(self, public: str) -> None:
        """What the client takes for the host's key."""
        (self.place / "known_hosts").write_text(f"lab {' '.join(public.split()[:2])}\n")

    def configure(self, *more: str) -> None:
        """Write sshd's configuration; it takes effect with the next start."""
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f"HostKey {self.place / 'host_key'}",
            f"AuthorizedKeysFile {self.place / 'authorized_keys'}",
            f"PidFile {self.place / 'sshd.pid'}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            "UsePAM no",
            "StrictModes no",
            *more,
        ]
        (self.place / "sshd_config").write_text("\n".join(lines) + "\n")

    @property
    def environment(self) -> Mapping[str, str]:
        """For a process that is to find the lab's ssh."""
        return {"PATH": f"{self.place / 'bin'}:{os.environ['PATH']}"}

    def start(self) -> None:
        assert SSHD is not None
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = (self.place / "sshd.log").open("ab")
        command = ["ip", "netns", "exec", self.machine] if self.machine else []
        with log:
            self._sshd = subprocess.Popen([*command, SSHD, "-D", "-e", "-f", str(self.place / "sshd_config")], stderr=log)
        wait_until(self._listens, what="sshd listens")

    def stop(self) -> None:
        """Kill it with all its connections, as a machine that goes away."""
        if self._sshd is None:
            return
        found = psutil.Process(self._sshd.pid)
        for process in (found, *found.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._sshd.wait()
        self._sshd = None

    def _listens(self) -> bool:
        with inside(self.machine) if self.machine else contextlib.nullcontext(), socket.socket() as one:
            return one.connect_ex((self.address, self.port)) == 0


@contextlib.contextmanager
def ssh_lab(place: Path, address: str = "127.0.0.1", machine: str = "") -> Iterator[SshLab]:
    lab = SshLab(place, address, machine)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()

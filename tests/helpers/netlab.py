"""Machines with cables between them, as network namespaces; this process is one of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

CAN_RUN = os.geteuid() == 0 and shutil.which("ip") is not None
WHY_NOT = "makes network namespaces: needs root and ip"
CLONE_NEWNET = 0x40000000
HERE = ""  # the namespace of this process


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


class Network:
    """Names of machines are those of namespaces; each cable has a network of its own."""

    def __init__(self) -> None:
        self.tag = secrets.token_hex(3)
        self._machines: list[str] = []
        self._cables = 0
        self._prefix, self._first = f"10.{secrets.randbelow(200) + 20}", secrets.randbelow(200)
        self._ends: list[str] = []
        self._at: dict[str, tuple[str, str]] = {}  # machine and device of an address

    def machine(self, name: str) -> str:
        full = f"orbit-{self.tag}-{name}"
        ip("netns", "add", full)
        self._machines.append(full)
        ip("-n", full, "link", "set", "lo", "up")
        return full

    def cable(self, one: str, other: str) -> tuple[str, str]:
        """Between two machines; the addresses of both ends."""
        self._cables += 1
        addresses = f"{self._prefix}.{self._first + self._cables}.1", f"{self._prefix}.{self._first + self._cables}.2"
        names = [f"o{self.tag}{self._cables}{side}" for side in "ab"]
        ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        self._ends.append(names[0])
        for machine, name, address in zip((one, other), names, addresses, strict=True):
            where = ["-n", machine] if machine else []
            if machine:
                ip("link", "set", name, "netns", machine)
            ip(*where, "address", "add", f"{address}/24", "dev", name)
            ip(*where, "link", "set", name, "up")
            self._at[address] = machine, name
        return addresses

    def pull(self, address: str) -> None:
        """The cable at that end, out: nothing comes through, and nobody is told. The other end keeps its routes."""
        self._set(address, "down")

    def plug(self, address: str) -> None:
        """In again."""
        self._set(address, "up")

    def _set(self, address: str, state: str) -> None:
        machine, name = self._at[address]
        ip(*(["-n", machine] if machine else []), "link", "set", name, state)

    def close(self) -> None:
        for end in self._ends:
            subprocess.run(["ip", "link", "delete", end], check=False, capture_output=True, timeout=60)
        for machine in self._machines:
            subprocess.run(["ip", "netns", "delete", machine], check=False, capture_output=True, timeout=60)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def inside(machine: str) -> Iterator[None]:
    """What this thread starts meanwhile runs on that machine: processes, and threads with their connections."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as here, Path("/run/netns", machine).open() as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(here.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

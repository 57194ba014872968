"""SysInfoProvider: what this machine is and what it does at the moment, as plain dicts.

It is of use without an endpoint, too: `SysInfoProvider().get_metrics()`. Everything here blocks, for a bounded time, so it
is called from a thread and never from an event loop.
"""

from __future__ import annotations

import getpass
import os
import platform
import socket
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from orbit_sysinfo.disks import Disks
from orbit_sysinfo.gpu_finder import GpuFinder
from orbit_zmq.errors import DeadlineExceeded

CPU_SAMPLE_S = 0.1  # ten ticks of the kernel's clock; a comparison with "the last call" would be another session's
TURN_S = 25.0  # two tools that hang, twice, and the disks; a call has 30 s


class SysInfoProvider:
    """Measures this machine. One is shared by all sessions of an endpoint, from any thread."""

    def __init__(self, *, sysfs: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._gpus = GpuFinder(sysfs)
        self._disks = Disks(sysfs)
        self._turn = threading.Lock()
        self._began = -1.0  # when the last measurement did, monotonic
        self._last: dict[str, Any] = {}

    def start_prefetch(self) -> None:
        """Find out in the background what does not change, so that the first question is answered faster."""
        threading.Thread(target=self._prefetch, name="sysinfo-prefetch", daemon=True).start()

    def get_metrics(self) -> dict[str, Any]:
        """The machine as it is now: system, cpu, memory, disks, network, gpus.

        Many who ask at once share a measurement that began after each of them asked.
        """
        asked = time.monotonic()
        if not self._turn.acquire(timeout=TURN_S):
            raise DeadlineExceeded(f"the machine was not measured within {TURN_S:g} s")
        try:
            if self._began < asked:
                began = time.monotonic()
                self._last = self._measure()
                self._began = began
            return self._last
        finally:
            self._turn.release()

    def _prefetch(self) -> None:
        _ = self._cpu_names
        self._gpus.find()

    def _measure(self) -> dict[str, Any]:
        return {
            "system": self._system(),
            "cpu": self._cpu(),
            "memory": _memory(),
            "disks": self._disks.metrics(),
            "network": network(),
            "gpus": self._gpus.metrics(),
        }

    def _system(self) -> dict[str, Any]:
        return {
            "hostname": socket.gethostname(),
            "user": _user(),
            "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
            "kernel": f"{platform.system()} {platform.release()}",
            "arch": platform.machine(),
        }

    def _cpu(self) -> dict[str, Any]:
        model, vendor = self._cpu_names
        return {
            "model": model,
            "vendor": vendor,
            "cores_physical": psutil.cpu_count(logical=False),
            "cores_logical": psutil.cpu_count(),
            "percent": psutil.cpu_percent(interval=CPU_SAMPLE_S),
            "load_avg": list(os.getloadavg()),
            "freq_mhz": _frequency(),
        }

    @cached_property
    def _cpu_names(self) -> tuple[str, str]:
        """Model and vendor; the architecture where the kernel does not say, as on ARM."""
        try:
            text = (self._proc / "cpuinfo").read_text(errors="replace")
        except OSError:
            text = ""
        facts: dict[str, str] = {}
        for line in text.splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
        return facts.get("model name") or platform.machine(), facts.get("vendor_id") or platform.machine()


def network() -> list[dict[str, Any]]:
    """The interfaces that are up and have an IPv4 address, the loopback left out."""
    addresses, counters = psutil.net_if_addrs(), psutil.net_io_counters(pernic=True)
    entries = []
    for name, state in psutil.net_if_stats().items():
        own = addresses.get(name, [])
        ip = next((address.address for address in own if address.family == socket.AF_INET), "")
        if name == "lo" or not state.isup or not ip:
            continue
        counted = counters.get(name)
        entries.append({
            "interface": name,
            "ip": ip,
            "mac": next((address.address for address in own if address.family == psutil.AF_LINK), ""),
            "rx_bytes": counted.bytes_recv if counted else 0,
            "tx_bytes": counted.bytes_sent if counted else 0,
            "speed_mbps": state.speed,
        })  # fmt: skip
    return entries


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {"total": memory.total, "available": memory.available, "percent": memory.percent, "used": memory.used}


def _frequency() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):  # some virtual machines and ARM kernels
        return None
    return float(frequency.current) if frequency and frequency.current else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return ""

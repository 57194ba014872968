"""Finds the GPUs of this machine and asks them what they do: nvidia-smi, rocm-smi, and for Intel the kernel's files.

A tool that hangs or fails costs its deadline and its own GPUs, never the other facts. Nothing here knows what a tool's words
mean, and nothing here may wait without end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orbit_sysinfo.gpus import (
    AMD_FIND,
    AMD_USE,
    NVIDIA_FIND,
    NVIDIA_USE,
    Gpu,
    GpuUse,
    parse_amd_gpus,
    parse_amd_use,
    parse_nvidia_gpus,
    parse_nvidia_use,
    shown,
)
from orbit_zmq.log import get_logger

log = get_logger(__name__)

T = TypeVar("T")

TOOL_S = 5.0  # an idle driver without persistence mode takes two to three seconds to wake
REAP_S = 1.0  # a killed tool that is stuck in its driver does not end; it is then left behind
FIND_AGAIN_S = 60.0  # after a tool that is there has failed

INTEL_VENDOR = "0x8086"
INTEGRATED_SLOT = "0000:00:02.0"  # Intel's integrated graphics is always there, and nothing else is
INTEL_NAMES = {
    "0x0bd5": "Intel Data Center GPU Max 1550",
    "0x0bda": "Intel Data Center GPU Max 1100",
    "0x56c0": "Intel Data Center GPU Flex 170",
    "0x56c1": "Intel Data Center GPU Flex 140",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """One vendor's program: how it is found, what it is asked, and who reads the answer."""

    command: str
    variable: str  # of the environment, with the path of the program
    elsewhere: str  # where it is when it is not on the path
    find: Sequence[str]
    use: Sequence[str]
    parse_gpus: Callable[[str], list[Gpu]]
    parse_use: Callable[[str], dict[str, GpuUse]]

    def path(self) -> str | None:
        """Where the program is: the variable alone counts where it is set."""
        if named := os.environ.get(self.variable):
            return shutil.which(named)
        return shutil.which(self.command) or shutil.which(self.elsewhere)


TOOLS = (
    Tool("nvidia-smi", "NVIDIA_SMI_PATH", "/usr/bin/nvidia-smi", NVIDIA_FIND, NVIDIA_USE, parse_nvidia_gpus, parse_nvidia_use),
    Tool("rocm-smi", "ROCM_SMI_PATH", "/opt/rocm/bin/rocm-smi", AMD_FIND, AMD_USE, parse_amd_gpus, parse_amd_use),
)


class ToolFailed(Exception):
    """A vendor's tool is there and gives no answer that can be read."""


class GpuFinder:
    """The GPUs of this machine: found once, asked each time. For any thread."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs
        self._lock = threading.Lock()
        self._found: dict[str, list[Gpu]] = {}  # by command; what failed is not in it and is tried again
        self._find_again_at = 0.0
        self._failing: set[str] = set()  # what has been logged

    def find(self) -> list[Gpu]:
        """All GPUs; the first call asks the tools, later ones only those that failed, once a minute."""
        with self._lock:
            now = time.monotonic()
            if now >= self._find_again_at:
                self._find_missing()
                is_complete = self._found.keys() == {"intel", *(tool.command for tool in TOOLS)}
                self._find_again_at = float("inf") if is_complete else now + FIND_AGAIN_S
            return [gpu for gpus in self._found.values() for gpu in gpus]

    def metrics(self) -> list[dict[str, Any]]:
        """Every GPU with what it does now."""
        entries = []
        self.find()
        for name, gpus in tuple(self._found.items()):
            tool = next((tool for tool in TOOLS if tool.command == name), None)
            use = self._ask(tool, tool.use, tool.parse_use) if tool and gpus else None
            entries += [shown(gpu, (use or {}).get(gpu.id, GpuUse())) for gpu in gpus]
        return entries

    def _find_missing(self) -> None:
        for tool in TOOLS:
            if tool.command in self._found:
                continue
            gpus = self._ask(tool, tool.find, tool.parse_gpus) if tool.path() else []
            if gpus is not None:
                self._found[tool.command] = gpus
        if "intel" not in self._found:
            self._found["intel"] = find_intel(self._sysfs)

    def _ask(self, tool: Tool, arguments: Sequence[str], parse: Callable[[str], T]) -> T | None:
        """What a tool answers, or None; a failure is logged when it begins."""
        try:
            answer = parse(run_tool(tool.path() or tool.command, arguments))
        except (OSError, ValueError, ToolFailed) as error:
            if tool.command not in self._failing:
                self._failing.add(tool.command)
                log.warning("gpu-tool-failed", tool=tool.command, reason=str(error))
            return None
        self._failing.discard(tool.command)
        return answer


def run_tool(path: str, arguments: Sequence[str], timeout_s: float = TOOL_S) -> str:
    """What a program prints. ToolFailed when it takes too long, or ends with an error and has printed nothing."""
    process = subprocess.Popen(
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        process_group=0,
    )
    try:
        text, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise ToolFailed(f"no answer within {timeout_s:g} s") from None
    if process.returncode and not text.strip():
        raise ToolFailed(f"exit code {process.returncode}")
    return text


def find_intel(sysfs: Path) -> list[Gpu]:
    """Intel's GPUs on cards of their own, in the order of their numbers."""
    cards = [path for path in sysfs.glob("class/drm/card*") if re.fullmatch(r"card\d+", path.name)]
    found: list[Gpu] = []
    for card in sorted(cards, key=lambda path: int(path.name[4:])):
        device = card / "device"
        if _line(device / "vendor") != INTEL_VENDOR or device.resolve().name == INTEGRATED_SLOT:
            continue
        number = _line(device / "device")
        name = _line(device / "label") or INTEL_NAMES.get(number, f"Intel GPU {number}".strip())
        version = _line(device / "driver" / "module" / "version")
        found.append(Gpu(card.name, len(found), name, version, "", "Intel"))
    return found


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)

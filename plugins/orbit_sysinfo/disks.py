"""Disks: which mounts are shown, what kind of disk is behind each, and how full it is.

A shared file system whose server is gone blocks whoever asks it, in the kernel and beyond any signal. So each of those is
asked by a thread of its own that nobody waits for longer than agreed; local ones are asked directly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from orbit_zmq.log import get_logger

log = get_logger(__name__)

SHARED_S = 2.0  # for all shared file systems together, which are asked at the same time

SHARED = frozenset((
    "nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "pvfs2", "orangefs", "glusterfs", "ceph",
    "cephfs", "afs", "dvs", "panfs", "wekafs", "sshfs", "juicefs", "9p", "virtiofs",
))  # fmt: skip
IMAGES = frozenset(("squashfs", "iso9660", "erofs"))  # files that are mounted, as snaps are; always full
WITHOUT_DEVICE = frozenset(("zfs", "bcachefs"))  # local file systems whose source is not below /dev


class Mount(NamedTuple):
    """One line of the kernel's table of mounts."""

    mount: str
    device: str
    fstype: str
    options: str


class Usage(NamedTuple):
    """Bytes, and per cent of what this user can have."""

    total: int
    used: int
    percent: float


def mounts() -> list[Mount]:
    """Everything that is mounted, pseudo file systems included."""
    return [Mount(part.mountpoint, part.device, part.fstype, part.opts) for part in psutil.disk_partitions(all=True)]


def is_shared(fstype: str) -> bool:
    """Whether other machines see the same files."""
    return fstype.removeprefix("fuse.") in SHARED


def is_shown(mount: Mount) -> bool:
    """Whether a mount is a disk in a user's eyes: local block devices, shared file systems, a container's root."""
    if "sqsh" in mount.options or mount.fstype in IMAGES:
        return False
    if is_shared(mount.fstype) or mount.fstype in WITHOUT_DEVICE:
        return True
    if mount.fstype == "overlay":
        return mount.mount == "/"
    return mount.device.startswith("/dev/") and mount.fstype not in ("devtmpfs", "autofs")


def disk_type(mount: Mount, sysfs: Path = Path("/sys")) -> str:
    """`shared`, `local ssd`, `local hdd`, `local unknown`, or `unknown`."""
    if is_shared(mount.fstype):
        return "shared"
    if not mount.device.startswith("/dev/"):
        return "unknown"
    block = (sysfs / "class" / "block" / Path(mount.device).resolve().name).resolve()
    for directory in (block, block.parent):  # a partition has its disk for a parent
        with suppress(OSError):
            return "local hdd" if (directory / "queue" / "rotational").read_text().strip() == "1" else "local ssd"
    return "local unknown"


def usage_of(mount: Mount) -> Usage | None:
    """How full it is; None for what cannot be read, and for a single file that is mounted somewhere."""
    try:
        if not Path(mount.mount).is_dir():
            return None
        usage = psutil.disk_usage(mount.mount)
    except OSError:
        return None
    return Usage(usage.total, usage.used, usage.percent) if usage.total else None


class Question:
    """One shared file system asked once, in a thread that may never come back."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._usage: Usage | None = None
        self._answered = threading.Event()
        threading.Thread(target=self._ask, name="sysinfo-disk", daemon=True).start()

    @property
    def is_answered(self) -> bool:
        return self._answered.is_set()

    def usage(self, within_s: float) -> Usage | None:
        """The answer, or None when there is none in that time."""
        self._answered.wait(max(0.0, within_s))
        return self._usage

    def _ask(self) -> None:
        try:
            self._usage = usage_of(self._mount)
        finally:
            self._answered.set()


class Disks:
    """The disks of this machine. For one thread at a time."""

    def __init__(self, sysfs: Path = Path("/sys")) -> None:
        self._sysfs = sysfs
        self._silent: dict[str, Question] = {}  # by mount point; asked before, and not answered yet

    def metrics(self, among: Iterable[Mount] | None = None) -> list[dict[str, Any]]:
        """One entry for each disk that answers; one that does not is left out, and logged when it falls silent."""
        shown = [mount for mount in (mounts() if among is None else among) if is_shown(mount)]
        self._silent = {place: question for place, question in self._silent.items() if not question.is_answered}
        asked = {mount: Question(mount) for mount in shown if is_shared(mount.fstype) and mount.mount not in self._silent}
        ends_at = time.monotonic() + SHARED_S
        entries = []
        for mount in shown:
            if not is_shared(mount.fstype):
                usage = usage_of(mount)
            elif question := asked.get(mount):
                usage = question.usage(ends_at - time.monotonic())
                self._note(mount, question)
            else:
                usage = None
            if usage is not None:
                entries.append(self._entry(mount, usage))
        return entries

    def _note(self, mount: Mount, question: Question) -> None:
        if not question.is_answered:
            self._silent[mount.mount] = question
            log.warning("disk-does-not-answer", mount=mount.mount, fstype=mount.fstype, device=mount.device)

    def _entry(self, mount: Mount, usage: Usage) -> dict[str, Any]:
        return {
            "mount": mount.mount,
            "device": mount.device,
            "fstype": mount.fstype,
            "type": disk_type(mount, self._sysfs),
            **usage._asdict(),
        }

"""Which mounts are disks, of what kind, and what happens when a server does not answer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from lab import wait_until

from orbit_sysinfo import disks
from orbit_sysinfo.disks import Disks, Mount, Usage, disk_type, is_shown, mounts, usage_of

LOCAL = Mount("/", "/dev/sda1", "xfs", "rw")
LUSTRE = Mount("/scratch", "10.0.0.1@o2ib:10.0.0.2@o2ib:/scratch", "lustre", "rw,flock")
NFS = Mount("/home", "filer:/export/home", "nfs4", "rw,hard")


@pytest.mark.parametrize("fstype", sorted(disks.SHARED))
def test_every_shared_file_system_is_shown_as_shared(fstype):
    for name in (fstype, f"fuse.{fstype}"):
        mount = Mount("/shared", "server:/export", name, "rw")

        assert is_shown(mount) and disk_type(mount) == "shared"


@pytest.mark.parametrize(
    "mount",
    [
        Mount("/proc", "proc", "proc", "rw"),
        Mount("/dev", "devtmpfs", "devtmpfs", "rw"),
        Mount("/dev/shm", "tmpfs", "tmpfs", "rw"),
        Mount("/home", "/etc/auto.home", "autofs", "rw"),
        Mount("/snap/core/1", "/dev/loop3", "squashfs", "ro"),
        Mount("/opt/image", "/dev/loop4", "ext4", "ro,sqsh"),
        Mount("/var/lib/docker/overlay2/x/merged", "overlay", "overlay", "rw"),
        Mount("/run/user/1/doc", "portal", "fuse.portal", "rw"),
    ],
    ids=lambda mount: mount.fstype,
)
def test_pseudo_file_systems_and_images_are_no_disks(mount):
    assert not is_shown(mount)


@pytest.mark.parametrize(
    "mount", [LOCAL, Mount("/", "overlay", "overlay", "rw"), Mount("/pool", "tank/data", "zfs", "rw")], ids=lambda m: m.fstype
)
def test_local_disks_and_a_containers_root_are_shown(mount):
    assert is_shown(mount)


def block_device(sysfs: Path, name: str, rotational: int, partition: str = "") -> None:
    disk = sysfs / "devices" / name
    (disk / "queue").mkdir(parents=True)
    (disk / "queue" / "rotational").write_text(f"{rotational}\n")
    (sysfs / "class" / "block").mkdir(parents=True, exist_ok=True)
    (sysfs / "class" / "block" / name).symlink_to(disk)
    if partition:
        (disk / partition).mkdir()
        (sysfs / "class" / "block" / partition).symlink_to(disk / partition)


def test_the_kind_of_a_disk_is_known_through_its_partitions_and_for_mapped_devices(tmp_path):
    block_device(tmp_path, "sda", 1, "sda1")
    block_device(tmp_path, "nvme0n1", 0, "nvme0n1p2")
    block_device(tmp_path, "dm-0", 0)

    kinds = [disk_type(LOCAL._replace(device=f"/dev/{name}"), tmp_path) for name in ("sda1", "nvme0n1p2", "dm-0", "gone9")]
    assert kinds == ["local hdd", "local ssd", "local ssd", "local unknown"]
    assert disk_type(Mount("/", "overlay", "overlay", "rw"), tmp_path) == "unknown"


def test_this_machine_has_a_root_with_figures_that_fit():
    (root,) = [entry for entry in Disks().metrics() if entry["mount"] == "/"]

    assert list(root) == ["mount", "device", "fstype", "type", "total", "used", "percent"]
    assert 0 < root["used"] <= root["total"] and 0 <= root["percent"] <= 100
    assert {"/", "/proc"} <= {mount.mount for mount in mounts()}


def test_a_single_file_that_is_mounted_and_a_place_that_is_gone_have_no_usage(tmp_path):
    (tmp_path / "resolv.conf").touch()

    assert usage_of(LOCAL._replace(mount=str(tmp_path / "resolv.conf"))) is None
    assert usage_of(LOCAL._replace(mount=str(tmp_path / "gone"))) is None


def test_a_file_system_whose_server_is_gone_costs_its_deadline_once_and_no_other_disk(monkeypatch):
    answer = threading.Event()
    asked: list[str] = []

    def usage(mount: Mount) -> Usage:
        asked.append(mount.mount)
        if mount == NFS:
            assert answer.wait(100)
        return Usage(100, 40, 40.0)

    monkeypatch.setattr(disks, "usage_of", usage)
    monkeypatch.setattr(disks, "SHARED_S", 1.0)
    known = Disks()

    assert [entry["mount"] for entry in known.metrics([NFS, LOCAL, LUSTRE])] == ["/", "/scratch"]
    monkeypatch.setattr(disks, "SHARED_S", 90.0)
    began = time.monotonic()
    assert [entry["mount"] for entry in known.metrics([NFS, LOCAL, LUSTRE])] == ["/", "/scratch"]
    assert time.monotonic() - began < 60  # it is not waited for again
    assert asked.count("/home") == 1

    answer.set()
    wait_until(lambda: known.metrics([NFS]), what="its thread has come back")
    assert asked.count("/home") == 2

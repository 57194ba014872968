"""GPUs are found through tools and kernel files that stand in for the real ones; a bad tool costs only itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from lab import is_gone, wait_until

from orbit_sysinfo import gpu_finder
from orbit_sysinfo.gpu_finder import GpuFinder, ToolFailed, find_intel, run_tool
from tests.unit.sysinfo import recorded


@pytest.fixture(autouse=True)
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own tools are not asked."""
    for variable in ("NVIDIA_SMI_PATH", "ROCM_SMI_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / "absent"))


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def answering(path: Path, find: str, use: str, exit_code: int = 0) -> str:
    """A tool that answers from two files, by whether it is asked for a use of anything, and notes that it was asked."""
    path.with_suffix(".find").write_text(find)
    path.with_suffix(".use").write_text(use)
    return program(
        path,
        f'echo "$*" >> {path}.asked\n'
        f'case "$*" in *use*|*utilization*) cat {path.with_suffix(".use")};; *) cat {path.with_suffix(".find")};; esac\n'
        f"exit {exit_code}",
    )


def card(sysfs: Path, number: int, slot: str, vendor: str = "0x8086", device: str = "0x0bd5", label: str = "") -> None:
    home = sysfs / "devices" / slot
    home.mkdir(parents=True)
    (home / "vendor").write_text(f"{vendor}\n")
    (home / "device").write_text(f"{device}\n")
    if label:
        (home / "label").write_text(f"{label}\n")
    place = sysfs / "class" / "drm" / f"card{number}"
    place.mkdir(parents=True)
    (place / "device").symlink_to(home)
    (sysfs / "class" / "drm" / f"card{number}-DP-1").mkdir()


def test_the_tool_that_the_variable_names_is_asked_for_gpus_and_for_their_use(monkeypatch, tmp_path):
    tool = answering(tmp_path / "smi", recorded.NVIDIA_FIND_A100, recorded.NVIDIA_USE_MIG)
    monkeypatch.setenv("NVIDIA_SMI_PATH", tool)
    entries = GpuFinder(tmp_path).metrics()

    assert [(e["id"], e["util_gpu"], e["mem_used"]) for e in entries] == [("0", None, 87), ("1", 12.0, 400)]
    assert len(Path(f"{tool}.asked").read_text().splitlines()) == 2


def test_amd_gpus_come_with_their_use_and_one_that_tells_nothing_is_there_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("ROCM_SMI_PATH", answering(tmp_path / "smi", recorded.AMD_FIND_MI250X, recorded.AMD_USE_MI250X))
    entries = {entry["id"]: entry for entry in GpuFinder(tmp_path).metrics()}

    assert entries["card0"]["util_gpu"] == 71.0
    assert entries["card10"]["mem_total"] is None


def test_without_the_variable_the_tool_on_the_path_is_asked(monkeypatch, tmp_path):
    answering(tmp_path / "nvidia-smi", recorded.NVIDIA_FIND_A100, recorded.NVIDIA_USE_A100)
    monkeypatch.delenv("NVIDIA_SMI_PATH")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert [entry["util_gpu"] for entry in GpuFinder(tmp_path).metrics()] == [97.0, 0.0]


def test_gpus_are_looked_for_once(monkeypatch, tmp_path):
    tool = answering(tmp_path / "smi", recorded.NVIDIA_FIND_A100, recorded.NVIDIA_USE_A100)
    monkeypatch.setenv("NVIDIA_SMI_PATH", tool)
    finder = GpuFinder(tmp_path)

    assert finder.find() == finder.find()
    assert len(Path(f"{tool}.asked").read_text().splitlines()) == 1


def test_a_tool_that_failed_is_asked_again_later_and_costs_no_other_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("ROCM_SMI_PATH", program(tmp_path / "broken", "exit 2"))
    monkeypatch.setenv("NVIDIA_SMI_PATH", answering(tmp_path / "smi", recorded.NVIDIA_FIND_A100, recorded.NVIDIA_USE_A100))
    finder = GpuFinder(tmp_path)
    assert [gpu.vendor for gpu in finder.find()] == ["NVIDIA", "NVIDIA"]

    answering(tmp_path / "broken", recorded.AMD_FIND_OTHER_CASE, recorded.AMD_USE_MI250X)
    assert len(finder.find()) == 2  # not at once
    monkeypatch.setattr(gpu_finder, "FIND_AGAIN_S", 0.0)
    broken_since = GpuFinder(tmp_path)
    assert [gpu.vendor for gpu in broken_since.find()] == ["NVIDIA", "NVIDIA", "AMD"]


def test_a_tool_that_breaks_after_it_was_found_leaves_its_gpus_listed(monkeypatch, tmp_path):
    tool = answering(tmp_path / "smi", recorded.NVIDIA_FIND_A100, recorded.NVIDIA_USE_A100)
    monkeypatch.setenv("NVIDIA_SMI_PATH", tool)
    finder = GpuFinder(tmp_path)
    finder.find()
    program(tmp_path / "smi", "exit 9")

    assert [(entry["id"], entry["mem_total"]) for entry in finder.metrics()] == [("0", None), ("1", None)]


def test_rows_count_even_when_the_tool_ends_with_an_error(monkeypatch, tmp_path):
    tool = answering(tmp_path / "smi", recorded.NVIDIA_FIND_A100, recorded.NVIDIA_USE_LOST, exit_code=15)
    monkeypatch.setenv("NVIDIA_SMI_PATH", tool)

    assert [entry["mem_total"] for entry in GpuFinder(tmp_path).metrics()] == [None, 81559]


def test_a_tool_that_hangs_is_ended_with_all_its_children(tmp_path):
    tool, said = program(tmp_path / "hangs", f"sleep 600 & echo $! > {tmp_path}/pid; wait"), tmp_path / "pid"
    began, timeout_s = time.monotonic(), 0.5
    while not (said.exists() and said.read_text().endswith("\n")):  # on a slow machine it has to be given the time to begin
        assert timeout_s < 60
        with pytest.raises(ToolFailed, match="no answer within"):
            run_tool(tool, (), timeout_s=timeout_s)
        timeout_s *= 4

    assert time.monotonic() - began < 300
    child = int(said.read_text())
    wait_until(lambda: is_gone(child))


def test_intel_gpus_beyond_the_tenth_card_are_found_in_numeric_order(tmp_path):
    for number in (12, 2, 9):
        card(tmp_path, number, f"0000:{number:02x}:00.0")

    gpus = find_intel(tmp_path)
    assert [(gpu.id, gpu.index) for gpu in gpus] == [("card2", 0), ("card9", 1), ("card12", 2)]
    assert {gpu.name for gpu in gpus} == {"Intel Data Center GPU Max 1550"}


def test_integrated_graphics_and_other_vendors_are_no_intel_gpus(tmp_path):
    card(tmp_path, 0, "0000:00:02.0", device="0x9a49")
    card(tmp_path, 1, "0000:03:00.0", vendor="0x1a03")
    card(tmp_path, 2, "0000:4d:00.0", device="0xabcd", label="Slot 3")
    card(tmp_path, 3, "0000:4e:00.0", device="0xabcd")

    assert [gpu.name for gpu in find_intel(tmp_path)] == ["Slot 3", "Intel GPU 0xabcd"]
    assert [entry["util_gpu"] for entry in GpuFinder(tmp_path).metrics()] == [None, None]


def test_a_machine_without_anything_has_no_gpus(tmp_path):
    assert GpuFinder(tmp_path).metrics() == []

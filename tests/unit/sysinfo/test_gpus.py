"""What the vendors' tools print is read field by field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_sysinfo.gpus import (
    MIB,
    Gpu,
    GpuUse,
    parse_amd_gpus,
    parse_amd_use,
    parse_nvidia_gpus,
    parse_nvidia_use,
    shown,
)
from tests.unit.sysinfo import recorded


def test_nvidia_gpus_are_read():
    first, second = parse_nvidia_gpus(recorded.NVIDIA_FIND_A100)

    assert first == Gpu(
        "0", 0, "NVIDIA A100-SXM4-40GB", "535.161.08", "GPU-5c6ffb2e-6a35-4d7b-9f22-1f0b8d2d9a01", vendor="NVIDIA"
    )
    assert (second.id, second.index) == ("1", 1)


def test_what_nvidia_gpus_do_is_read():
    assert parse_nvidia_use(recorded.NVIDIA_USE_A100) == {
        "0": GpuUse(97.0, 43.0, 40960, 38112, 2848),
        "1": GpuUse(0.0, 0.0, 40960, 0, 40960),
    }


@pytest.mark.parametrize(
    ("text", "memory"), [(recorded.NVIDIA_USE_MIG, (40960, 87, 40872)), (recorded.NVIDIA_USE_OLD, (981, 120, 861))]
)
def test_a_field_that_is_not_there_costs_no_other_field(text, memory):
    assert parse_nvidia_use(text)["0"] == GpuUse(None, None, *memory)


def test_a_gpu_without_a_field_costs_no_other_gpu():
    assert parse_nvidia_use(recorded.NVIDIA_USE_MIG)["1"] == GpuUse(12.0, 3.0, 40960, 400, 40560)
    assert parse_nvidia_use(recorded.NVIDIA_USE_LOST) == {"1": GpuUse(12.0, 3.0, 81559, 400, 81159)}


def test_text_that_is_not_known_is_empty():
    (gpu,) = parse_nvidia_gpus(recorded.NVIDIA_FIND_OLD)

    assert (gpu.name, gpu.uuid) == ("Quadro K600", "")


def test_a_tool_that_only_complains_has_no_gpus():
    assert parse_nvidia_gpus(recorded.NVIDIA_NO_DRIVER) == []


def test_amd_gpus_are_read_in_numeric_order():
    gpus = parse_amd_gpus(recorded.AMD_FIND_MI250X)

    assert [gpu.id for gpu in gpus] == ["card0", "card2", "card10"]
    assert gpus[0] == Gpu("card0", 0, "AMD Instinct MI250X", "6.3.6", "0x9c1d7a3e5b2f8e10", "AMD")
    assert (gpus[2].name, gpus[2].uuid) == ("0x7408", "")


def test_keys_of_older_releases_and_warnings_in_front_are_read():
    assert parse_amd_gpus(recorded.AMD_FIND_OTHER_CASE) == [Gpu("card0", 0, "Instinct MI100", "5.18.13", "0x2a8f11", "AMD")]


def test_what_amd_gpus_do_is_read():
    used = parse_amd_use(recorded.AMD_USE_MI250X)

    total, taken = 68702699520 // MIB, 17179869184 // MIB
    assert used["card0"] == GpuUse(71.0, 12.0, total, taken, total - taken)
    assert used["card2"].util_gpu is None and used["card2"].mem_total == total


def test_an_entry_has_every_key_of_the_documented_shape():
    entry = shown(parse_nvidia_gpus(recorded.NVIDIA_FIND_A100)[0], GpuUse())

    assert list(entry) == [
        "id", "index", "name", "driver_version", "uuid", "vendor", "util_gpu", "util_mem", "mem_total", "mem_used", "mem_free",
    ]  # fmt: skip


FIELD = st.sampled_from(["0", "1", "40960", "[N/A]", "-1", "nan", "1e999", "٣", ""]) | st.text(max_size=5)
ROWS = st.lists(st.lists(FIELD, max_size=8).map(", ".join), max_size=4).map("\n".join)


@given(st.text() | ROWS)
def test_nvidia_lines_of_any_kind_are_read_or_left_out(text):
    parse_nvidia_gpus(text)
    parse_nvidia_use(text)


@given(st.text() | st.from_regex(r'\{"card\d": \{"gpu use \(%\)": "[^"\\]*"\}\}'))
def test_amd_text_of_any_kind_is_read_or_a_value_error(text):
    for parse in (parse_amd_gpus, parse_amd_use):
        try:
            parse(text)
        except ValueError:
            continue

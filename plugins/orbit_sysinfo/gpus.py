"""GPUs as their vendors' tools print them: text in, records out.

What a tool does not know ([N/A], [Not Supported], an absent key) is None in its own field and costs no other field. Nothing
here runs a tool or reads a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

MIB = 1 << 20

NVIDIA_FIND = ("--query-gpu=index,name,driver_version,uuid", "--format=csv,noheader,nounits")
NVIDIA_USE = (
    "--query-gpu=index,utilization.gpu,utilization.memory,memory.total,memory.used,memory.free",
    "--format=csv,noheader,nounits",
)
AMD_FIND = ("--showproductname", "--showdriverversion", "--showuniqueid", "--json")
AMD_USE = ("--showuse", "--showmemuse", "--showmeminfo", "vram", "--json")


@dataclass(frozen=True, slots=True)
class Gpu:
    """What stays the same about a GPU. `id` is what its vendor's tool calls it; text that is not known is empty."""

    id: str
    index: int
    name: str
    driver_version: str
    uuid: str
    vendor: str


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What a GPU is doing: per cent and MiB, None for what is not known."""

    util_gpu: float | None = None
    util_mem: float | None = None
    mem_total: int | None = None
    mem_used: int | None = None
    mem_free: int | None = None


def shown(gpu: Gpu, use: GpuUse) -> dict[str, Any]:
    """The entry of a GPU in the metrics."""
    return asdict(gpu) | asdict(use)


def parse_nvidia_gpus(text: str) -> list[Gpu]:
    """The GPUs in what nvidia-smi prints for NVIDIA_FIND."""
    found = []
    for index, *name, driver, uuid in _rows(text, at_least=4):
        found.append(Gpu(index, int(index), _text(", ".join(name)), _text(driver), _text(uuid), "NVIDIA"))
    return found


def parse_nvidia_use(text: str) -> dict[str, GpuUse]:
    """What each GPU does, by its id, in what nvidia-smi prints for NVIDIA_USE."""
    used = {}
    for index, *values in _rows(text, at_least=len(fields(GpuUse)) + 1):
        util_gpu, util_mem, *memory = map(_number, values)
        used[index] = GpuUse(util_gpu, util_mem, *(_whole(value) for value in memory[:3]))
    return used


def parse_amd_gpus(text: str) -> list[Gpu]:
    """The GPUs in what rocm-smi prints for AMD_FIND; ValueError where that is no JSON."""
    cards, system = _cards(text)
    driver = _text(system.get("driver version", ""))
    return [
        Gpu(
            id=card,
            index=int(card.removeprefix("card")),
            name=_text(facts.get("card series", "")) or _text(facts.get("card model", "")),
            driver_version=driver or _text(facts.get("driver version", "")),
            uuid=_text(facts.get("unique id", "")),
            vendor="AMD",
        )
        for card, facts in cards.items()
    ]


def parse_amd_use(text: str) -> dict[str, GpuUse]:
    """What each GPU does, by its id, in what rocm-smi prints for AMD_USE; ValueError where that is no JSON."""
    used = {}
    for card, facts in _cards(text)[0].items():
        total, taken = _number(facts.get("vram total memory (b)")), _number(facts.get("vram total used memory (b)"))
        used[card] = GpuUse(
            util_gpu=_number(facts.get("gpu use (%)")),
            util_mem=_number(facts.get("gpu memory read/write activity (%)")),
            mem_total=_mib(total),
            mem_used=_mib(taken),
            mem_free=_mib(total - taken) if total is not None and taken is not None else None,
        )
    return used


def _rows(text: str, *, at_least: int) -> Iterator[list[str]]:
    """The lines that are rows of a table with an index in front; a tool may print complaints between them."""
    for line in text.splitlines():
        row = [field.strip() for field in line.split(",")]
        if len(row) >= at_least and row[0].isdecimal():
            yield row


def _cards(text: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The cards in numeric order and the facts of the system. Releases differ in the case of the keys."""
    start = text.find("{")  # warnings may come first
    answer = json.loads(text[start:] if start >= 0 else text)
    if not isinstance(answer, dict):
        raise ValueError("not a map of cards")
    facts = {
        name: {str(key).lower(): str(value) for key, value in values.items()}
        for name, values in answer.items()
        if isinstance(values, dict)
    }
    names = sorted((name for name in facts if re.fullmatch(r"card\d+", name)), key=lambda name: int(name[4:]))
    return {name: facts[name] for name in names}, facts.get("system", {})


def _text(value: str) -> str:
    """A field of text; what stands for "not known" is empty."""
    return "" if value.startswith("[") or value in ("N/A", "None") else value


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _mib(value: float | None) -> int | None:
    return None if value is None else int(value // MIB)

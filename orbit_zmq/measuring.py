"""Measuring: blocks of two things in turn, the ratio of each pair, and what a report of them says.

A machine does other things meanwhile, so a time alone proves little. Blocks alternate, so that what else happens falls on
both; a ratio is that of one pair, its quartiles over all pairs are told, and a bound counts for the worse of them. Where the
blocks themselves spread over more than DISTURBED the report says so. Nothing here talks to a broker or prints.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import psutil

DISTURBED = 0.30  # of the median, between the quartiles
PACKAGES = ("orbit-zmq", "pyzmq", "msgspec", "msgpack", "cloudpickle", "rhapsody-py")
VERSION = 1  # of the shape of a report

Block = Callable[[], float]  # one block of turns; answers its figure


@dataclass(frozen=True, slots=True)
class Quartiles:
    lower: float
    median: float
    upper: float

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a share of the median."""
        return (self.upper - self.lower) / abs(self.median) if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found of one thing: a figure for each block, and beside it that of the base in the same pair.

    Without a base the figure itself is what has a bound.
    """

    what: str
    unit: str
    ours: Sequence[float]
    base: Sequence[float] = ()
    beside: str = ""  # what the base is
    at_least: float | None = None
    at_most: float | None = None

    @property
    def judged(self) -> Quartiles:
        """The ratios of ours to the base, or ours alone."""
        pairs = zip(self.ours, self.base, strict=True) if self.base else ((value, 1.0) for value in self.ours)
        return quartiles([our / base for our, base in pairs])

    @property
    def is_met(self) -> bool:
        """The worse quartile keeps to the bound."""
        found = self.judged
        at_least = -float("inf") if self.at_least is None else self.at_least
        at_most = float("inf") if self.at_most is None else self.at_most
        return found.lower >= at_least and found.upper <= at_most

    @property
    def spread(self) -> float:
        """How much the blocks differ, of ours or of the base, whichever more."""
        return max(quartiles(values).spread for values in (self.ours, self.base) if values)

    def to_item(self) -> dict[str, Any]:
        found = self.judged
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": statistics.median(self.ours),
            "beside": self.beside,
            "base": statistics.median(self.base) if self.base else None,
            "ratio": {"lower": found.lower, "median": found.median, "upper": found.upper} if self.base else None,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "met": self.is_met,
            "pairs": len(self.ours),
            "spread": self.spread,
            "disturbed": self.spread > DISTURBED,
        }


@dataclass(slots=True)
class Report:
    """All that one run found."""

    measure: str
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def is_met(self) -> bool:
        return all(one.is_met for one in self.comparisons)

    def to_item(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "measure": self.measure,
            "began": self.began,
            "took_s": time.time() - self.began,
            "machine": machine(),
            "load_before": self.load_before,
            "load_after": os.getloadavg()[0],
            "versions": versions(),
            "rows": [one.to_item() for one in self.comparisons],
            "notes": self.notes,
            "met": self.is_met,
        }


def block(turn: Callable[[], object], turns: int) -> list[float]:
    """The time of each turn, in seconds."""
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        turn()
        times.append(time.perf_counter() - began)
    return times


def alternate(pairs: int, ours: Block, base: Block) -> tuple[list[float], list[float]]:
    """The figures of alternating blocks, the base first."""
    found = [(base(), ours()) for _ in range(pairs)]
    return [our for _, our in found], [base_s for base_s, _ in found]


def p50_ms(turn: Callable[[], object], turns: int) -> Block:
    """Blocks whose figure is the median time of a turn."""
    return lambda: statistics.median(block(turn, turns)) * 1e3


def p99(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100)[98] if len(times) > 1 else times[0]


def quartiles(values: Sequence[float]) -> Quartiles:
    if len(values) < 3:  # of which none lies between
        return Quartiles(min(values), statistics.median(values), max(values))
    return Quartiles(*statistics.quantiles(values, n=4))


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def amount(value: float, unit: str) -> str:
    """A figure for people."""
    text = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def ratio_text(item: dict[str, Any]) -> str:
    """The ratio of a row with its quartiles."""
    ratio = item["ratio"]
    return f"{ratio['median']:.3g} ({ratio['lower']:.3g} to {ratio['upper']:.3g})" if ratio else "-"


def verdict(item: dict[str, Any]) -> str:
    """What a row's bound is and whether it is met, and whether the machine was quiet enough to say so."""
    bounds = [
        f"{word} {item[key]:g}" for key, word in (("at_least", "at least"), ("at_most", "at most")) if item[key] is not None
    ]
    words = [f"{' and '.join(bounds)}: {'met' if item['met'] else 'MISSED'}"] if bounds else []
    if item["disturbed"]:
        words.append(f"disturbed: blocks differ by {item['spread']:.0%}")
    return "; ".join(words) or "-"


def table(item: dict[str, Any]) -> str:
    """A report as text."""
    rows = [("what", "here", "beside", "", "ratio (quartiles)", "bound")]
    for row in item["rows"]:
        base = amount(row["base"], row["unit"]) if row["base"] is not None else "-"
        rows.append((row["what"], amount(row["ours"], row["unit"]), base, row["beside"], ratio_text(row), verdict(row)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    machine = item["machine"]
    said = ", ".join(f"{name} {version}" for name, version in item["versions"].items())
    return "\n".join(
        [
            *lines,
            *item["notes"],
            f"{machine['cpus']} x {machine['processor']}, {machine['system']}; load {item['load_before']:.1f} before, "
            f"{item['load_after']:.1f} after; {said}; {item['took_s']:.0f} s",
        ]
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

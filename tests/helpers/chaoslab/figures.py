"""Figures that tests and scripts measure: printed beside their bar, and percentiles."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def report(what: str, measured: float, at_most: float, unit: str) -> float:
    """Print a figure beside its bar; answers the figure."""
    print(f"FIGURE {what}: {measured:,.3f} {unit} (at most {at_most:g})", flush=True)
    return measured

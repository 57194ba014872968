"""The seeded run that continuous integration makes; `scripts/chaos` makes longer ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from chaoslab.run import run, show

SEED = int(os.environ.get("ORBIT_CHAOS_SEED", "4"))


@pytest.mark.parametrize("seconds", [65.0, pytest.param(120.0, marks=pytest.mark.long)])
@pytest.mark.timeout(330)
def test_the_promises_hold_under_a_seeded_schedule(seconds: float):
    place = Path(tempfile.mkdtemp(prefix="orbit-chaos-"))
    try:
        verdict = run(SEED, seconds, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    show(verdict)
    assert verdict.violations == [] and verdict.invalid == []
    assert sum(verdict.outcomes.values()) > 50 * seconds

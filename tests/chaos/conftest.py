"""A world of processes for each test of this folder, in a directory of its own, none left behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaoslab.world import World
from lab import within


@pytest.fixture
def world() -> Iterator[World]:
    place = Path(tempfile.mkdtemp(prefix="orbit-chaos-"))
    with within(place):
        try:
            with World(place) as made:
                yield made
        finally:
            shutil.rmtree(place, ignore_errors=True)

"""A real Slurm for the tests in this folder; where there can be none they are skipped, and say why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurmlab.cluster import SlurmLab, slurm_lab
from slurmlab.install import why_not


@pytest.fixture(scope="session", autouse=True)
def _there_can_be_a_lab() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmLab]:
    """Two nodes and accounting, for all tests of a file."""
    with slurm_lab() as made:
        yield made

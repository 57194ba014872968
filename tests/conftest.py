"""Real processes for the tests in this folder, each test in a directory of its own, none left behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from lab import Lab, directories, running_lab
from shell import Shell

from orbit_zmq.children import environment_of_child

settings.register_profile("orbit", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines may be slow
settings.load_profile("orbit")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A broker on ipc and TCP; endpoints and clients as the test asks for them."""
    with running_lab() as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="orbit-test-"))  # pytest's own paths are too long for sockets
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def shell(place: Path) -> Iterator[Shell]:
    """Where nothing runs yet."""
    made = Shell(environment_of_child(**directories(place)))
    with made.stack:
        yield made
        made.stop_all()

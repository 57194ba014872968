"""Real processes for the tests in this folder, each test in a directory of its own, none left behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, within


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A broker on ipc and TCP; endpoints and clients as the test asks for them."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))  # pytest's own paths are too long for sockets
    made = Lab(place)
    with within(place):
        try:
            made.start_broker()
            yield made
        finally:
            made.close()
            shutil.rmtree(place, ignore_errors=True)

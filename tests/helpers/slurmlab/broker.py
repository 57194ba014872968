"""A broker, endpoints and clients beside a lab's Slurm, as tests/helpers/lab.py makes them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Lab, within

from slurmlab.cluster import SlurmLab


@contextmanager
def broker_at(slurm: SlurmLab, **more: str) -> Iterator[Lab]:
    """A broker whose endpoints find that Slurm; what is given is more of their environment."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))  # pytest's own paths are too long for sockets
    made = Lab(place)
    made.environment |= {"SLURM_CONF": str(slurm.conf), **more}
    with within(place):
        try:
            made.start_broker()
            yield made
        finally:
            made.close()
            shutil.rmtree(place, ignore_errors=True)

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
    """A broker whose endpoints use that Slurm; what is given is more of their environment.

    They are told that it is one: whoever looks gives each command five seconds, for which a machine may stand still.
    """
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))  # pytest's own paths are too long for sockets
    made = Lab(place)
    made.environment |= {"SLURM_CONF": str(slurm.conf), "ORBIT_BATCH_SYSTEM": "slurm", **more}
    with within(place):
        try:
            made.start_broker()
            yield made
        finally:
            made.close()
            shutil.rmtree(place, ignore_errors=True)

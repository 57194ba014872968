"""Host: what a plugin may know of the machine that it runs on, and how that is found out.

Nothing here starts a process or asks a batch system; environment and commands on the path are enough to know the role.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orbit_zmq.errors import InvalidArgument

Role = Literal["bridge", "login", "compute", "standalone"]
ROLES = ("bridge", "login", "compute", "standalone")

# Batch system, the variable that it sets inside an allocation, and commands that all have to be there outside of one.
BATCH_SYSTEMS = (
    ("slurm", "SLURM_JOB_ID", ("sbatch", "squeue")),
    ("pbs", "PBS_JOBID", ("qsub", "pbsnodes")),
    ("lsf", "LSB_JOBID", ("bsub", "bjobs")),
    ("flux", "FLUX_JOB_ID", ("flux",)),
)


@dataclass(frozen=True, slots=True)
class Host:
    """The endpoint that a plugin instance runs in."""

    name: str = "localhost"  # of the endpoint
    role: str = "standalone"
    scheduler: str = "none"
    labels: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidArgument(f"{self.role!r} is no role.", hint=f"Roles are {', '.join(ROLES)}.")

    @property
    def is_bridge(self) -> bool:
        """It serves plugins at the bridge."""
        return self.role == "bridge"

    @property
    def is_login_node(self) -> bool:
        """There is a batch system, and it runs in none of its allocations."""
        return self.role == "login"

    @property
    def is_compute_node(self) -> bool:
        """It runs in an allocation of a batch system."""
        return self.role == "compute"

    @property
    def is_standalone(self) -> bool:
        """There is no batch system."""
        return self.role == "standalone"


def detect_scheduler(
    environment: Mapping[str, str] | None = None, find_command: Callable[[str], str | None] = shutil.which
) -> str:
    """The batch system of this machine: slurm, pbs, lsf, flux, or none."""
    variables = os.environ if environment is None else environment
    for name, variable, _ in BATCH_SYSTEMS:
        if variables.get(variable):
            return name
    for name, _, commands in BATCH_SYSTEMS:
        if all(find_command(command) for command in commands):
            return name
    return "none"


def detect_role(environment: Mapping[str, str] | None = None, find_command: Callable[[str], str | None] = shutil.which) -> Role:
    """compute inside an allocation, login beside a batch system, else standalone. The bridge's plugins are told."""
    variables = os.environ if environment is None else environment
    if any(variables.get(variable) for _, variable, _ in BATCH_SYSTEMS):
        return "compute"
    return "standalone" if detect_scheduler(variables, find_command) == "none" else "login"

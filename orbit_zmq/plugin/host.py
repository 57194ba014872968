"""Host: what a plugin may know of the machine that it runs on, and the role that follows from its batch system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orbit_zmq.batch import BatchSystem, detect_batch_system
from orbit_zmq.errors import InvalidArgument

Role = Literal["bridge", "login", "compute", "standalone"]
ROLES = ("bridge", "login", "compute", "standalone")


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
    def takes_pickles(self) -> bool:
        """Whether plugins may unpickle what a caller with the right to run code sends."""
        return bool(self.settings.get("pickle", True))

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


def detect_role(batch: BatchSystem | None = None) -> Role:
    """compute inside an allocation, login beside a batch system, else standalone. The bridge's plugins are told."""
    found = detect_batch_system() if batch is None else batch
    if found.job_id is not None:
        return "compute"
    return "standalone" if found.name == "none" else "login"

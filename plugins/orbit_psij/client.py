"""What a user's program imports; written once in `_async`, its twin in `_sync` is generated."""

from __future__ import annotations

from orbit_psij._async.client import AsyncPSIJClient
from orbit_psij._sync.client import PSIJClient
from orbit_psij.models import Attributes, JobSpec, Resources

__all__ = ["AsyncPSIJClient", "Attributes", "JobSpec", "PSIJClient", "Resources"]

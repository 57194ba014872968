"""What a user's program imports; written once in `_async`, its twin in `_sync` is generated."""

from __future__ import annotations

from orbit_jobs._async.client import AsyncJobsClient
from orbit_jobs._sync.client import JobsClient

__all__ = ["AsyncJobsClient", "JobsClient"]

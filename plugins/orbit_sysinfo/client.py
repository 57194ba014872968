"""What a user's program imports; written once in `_async`, its twin in `_sync` is generated."""

from __future__ import annotations

from orbit_sysinfo._async.client import AsyncSysInfoClient
from orbit_sysinfo._sync.client import SysInfoClient

__all__ = ["AsyncSysInfoClient", "SysInfoClient"]

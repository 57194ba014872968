"""What a user's program imports; written once in `_async`, its twin in `_sync` is generated."""

from __future__ import annotations

from orbit_rhapsody._async.client import AsyncRhapsodyClient
from orbit_rhapsody._sync.client import RhapsodyClient

__all__ = ["AsyncRhapsodyClient", "RhapsodyClient"]

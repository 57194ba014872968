"""What a user's program imports; written once in `_async`, its twin in `_sync` is generated."""

from __future__ import annotations

from orbit_math._async.client import AsyncMathClient
from orbit_math._sync.client import MathClient

__all__ = ["AsyncMathClient", "MathClient"]

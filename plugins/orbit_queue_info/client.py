"""What a user's program imports; written once in `_async`, its twin in `_sync` is generated."""

from __future__ import annotations

from orbit_queue_info._async.client import AsyncQueueInfoClient
from orbit_queue_info._sync.client import QueueInfoClient

__all__ = ["AsyncQueueInfoClient", "QueueInfoClient"]

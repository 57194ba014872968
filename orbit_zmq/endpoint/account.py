"""What an endpoint says of itself beside its plugins: its limits, how long it keeps things, and how loaded its host is.

Numbers in plain maps, with the unit in the name, for hello and heartbeats. Nothing is decided here.
"""

from __future__ import annotations

import os
from typing import Any

from orbit_zmq.endpoint.keeping import ABSENT_S
from orbit_zmq.endpoint.session_record import RECLAIM_S
from orbit_zmq.rules.publisher import ENDPOINT_BYTES, EVENTS_PER_S, KEPT_S, STREAM_BYTES
from orbit_zmq.rules.server import REPLIES_BYTES
from orbit_zmq.wire.limits import EVENT_BYTES, Limits


def settings(running_calls: int, waiting_calls: int) -> dict[str, dict[str, Any]]:
    """The limits and the retention of one endpoint."""
    limits = Limits()
    return {
        "limits": {
            "running_calls": running_calls,
            "waiting_calls": waiting_calls,
            "open_calls_a_caller": limits.open_calls,
            "body_bytes": limits.body_bytes,
            "event_bytes": EVENT_BYTES,
            "events_per_s": EVENTS_PER_S,
        },
        "retention": {
            "events_s": KEPT_S,
            "events_a_stream_bytes": STREAM_BYTES,
            "events_bytes": ENDPOINT_BYTES,
            "replies_bytes": REPLIES_BYTES,
            "ephemeral_session_s": RECLAIM_S,
            "absent_session_s": ABSENT_S,
        },
    }


def host_load() -> float:
    """The load average of one minute for each core; 0 where the system has none."""
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    except OSError:
        return 0.0

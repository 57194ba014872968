"""The end of an endpoint that may run for so long only, as inside a batch job: told in time, and without losing a word.

First it takes no more work and says so, while what runs goes on; then what still runs is canceled, so that its owners
hear of it from here; then the endpoint stops. This module must not know what the work is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from orbit_zmq.log import get_logger

if TYPE_CHECKING:
    from orbit_zmq.endpoint.sessions import Sessions

NOTICE_S, NOTICE_SHARE = 60.0, 0.2  # before the end, or that part of a short time
CANCEL_S, CANCEL_SHARE = 20.0, 0.07  # likewise: processes have some seconds to end, and results some to be fetched

log = get_logger(__name__)


async def wind_down(sessions: Sessions, name: str, wall_time_s: float) -> None:
    """Returns when the endpoint has to stop; to be started with it."""
    ends_at = time.time() + wall_time_s
    notice_s = min(NOTICE_S, NOTICE_SHARE * wall_time_s)
    cancel_s = min(CANCEL_S, CANCEL_SHARE * wall_time_s)
    await asyncio.sleep(wall_time_s - notice_s)
    log.info("endpoint-ending", endpoint=name, left_s=round(notice_s, 1))
    sessions.take_no_more_work(f"endpoint {name} takes no more work: its wall time is over in {notice_s:.0f} s", ends_at)
    await asyncio.sleep(notice_s - cancel_s)
    canceled = await sessions.cancel_all_work(f"the wall time of endpoint {name} is over", cancel_s / 2)
    log.info("endpoint-work-canceled", endpoint=name, canceled=canceled)
    await asyncio.sleep(cancel_s / 2)

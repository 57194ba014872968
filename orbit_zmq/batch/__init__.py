"""The batch system of this machine: which one it is, the allocation that this process runs in, and a few words to one job.

Needs no plugin and no endpoint, and submits nothing. Everything here that asks the scheduler runs one of its commands, with a
deadline, and so belongs into a thread wherever there is an event loop.
"""

from __future__ import annotations

from orbit_zmq.batch.changes import jobs_changed, on_jobs_changed
from orbit_zmq.batch.detection import detect_batch_system, find_batch_system
from orbit_zmq.batch.system import BatchSystem, Name

__all__ = ["BatchSystem", "Name", "detect_batch_system", "find_batch_system", "jobs_changed", "on_jobs_changed"]

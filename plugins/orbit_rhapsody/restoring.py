"""Going on after the endpoint was started anew: which tasks of a session are over, which run now, and which nobody knows about.

A task that had not been started runs. One that had been, and has no result, is of unknown fate: it runs again where its
submitter allows that, else it ends as `outcome-unknown`. This module must not run tasks itself.
"""

from __future__ import annotations

from orbit_rhapsody.codec import decode_batch
from orbit_rhapsody.journal import Journal, Kept, KeptBatch
from orbit_rhapsody.large import INLINE
from orbit_rhapsody.preparation import Batch, Functions, PackedTask
from orbit_rhapsody.records import unknown_task
from orbit_rhapsody.results import Results
from orbit_zmq.errors import InvalidArgument
from orbit_zmq.log import get_logger

log = get_logger(__name__)

MOST_STARTS = 3  # a task that ends its endpoint each time it runs must not do so for ever


def restore(
    results: Results, journal: Journal, functions: Functions, *, allow_pickled: bool, wanted: str = INLINE
) -> list[PackedTask]:
    """Bring back what the journal has; answers the tasks that are to run. It reads from the disk."""
    kept = journal.read()
    results.resume(kept.results, kept.cursors)
    ended = {one.uid: one for one in kept.results}
    waiting: list[tuple[KeptBatch, PackedTask]] = []
    for batch in kept.batches:
        try:
            received = decode_batch(journal.body(batch.number))
        except InvalidArgument as error:
            log.error("batch-not-restored", batch=batch.number, reason=error.message)
            continue
        shared = Batch(
            received, functions, submitted=batch.at, allow_pickled=allow_pickled, spool=results.spool, results=wanted
        )
        tasks = shared.tasks_of(received)
        over = [task.uid for task in tasks if (batch.number, task.uid) in kept.forgotten]
        mine = [
            task
            for task in tasks
            if (batch.number, task.uid) not in kept.forgotten and results.readmit(task, batch.at, ended.get(task.uid))
        ]
        journal.assign(batch.number, [task.uid for task in mine], over)
        waiting += [(batch, task) for task in mine if task.uid not in ended]
    results.finished([unknown_task(task.uid, batch.at, why) for batch, task in waiting if (why := _why_not(batch, task, kept))])
    journal.set_complete()
    return [task for batch, task in waiting if not _why_not(batch, task, kept)]


def _why_not(batch: KeptBatch, task: PackedTask, kept: Kept) -> str:
    """Why a task is not to run, or nothing."""
    starts = kept.starts.get(task.uid, 0)
    if not starts and kept.is_complete:
        return ""
    if batch.on_unknown != "rerun":
        return "it may or may not have come to its end"
    return f"that has happened {starts} times, and it is not started again" if starts >= MOST_STARTS else ""

"""Hands scripts to schedulers and takes jobs back: the words are PSI/J's, the running of commands is ours.

Which executors there are is said with the reason where one cannot be used. `local` is this machine itself: a process in a
session of its own that lives on when the endpoint ends. Everything here blocks, so it belongs into a thread.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orbit_psij.library import executor_names, executor_of
from orbit_psij.models import LAUNCHERS
from orbit_zmq.batch import BatchSystem, detect_batch_system, jobs_changed
from orbit_zmq.batch.commands import COMMAND_S, checked_job_id, refusal, run
from orbit_zmq.batch.exit_record import started_ticks
from orbit_zmq.batch.lsf import LSFBatch
from orbit_zmq.batch.outcome import NativeState, text_of_exit
from orbit_zmq.batch.pbs import PBSBatch
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.errors import InvalidArgument, NotFound, SchedulerFailed, Unsupported

LOCAL = "local"
COMMANDS = {  # what an executor needs, in the order of their use
    "slurm": ("sbatch", "squeue", "scancel"),
    "pbs": ("qsub", "qstat", "qdel"),
    "pbs_classic": ("qsub", "qstat", "qdel"),
    "cobalt": ("qsub", "qstat", "qdel", "partlist"),
    "lsf": ("bsub", "bjobs", "bkill"),
}
FAMILIES: Mapping[str, BatchSystem] = {
    "slurm": SlurmBatch("slurm", "slurm"),
    "pbs": PBSBatch("pbs", "pbs"),
    "pbs_classic": PBSBatch("pbs", "pbs"),
    "lsf": LSFBatch("lsf", "lsf"),
}
MODULES = {"flux": "flux", "rp": "radical.pilot"}  # executors that are no commands
NEEDED = {"mpirun": "mpirun", "srun": "srun", "aprun": "aprun", "jsrun": "jsrun"}  # launcher -> its command
SUBMITTED = re.compile(r"^Submitted batch job (\d+)", re.MULTILINE)  # what follows may name a cluster
GRACE_S = 5.0  # a local job that is canceled has so long to end by itself
NOT_FOR_JOBS = ("ORBIT_JOIN",)  # a secret of the endpoint
MOST_CHILDREN = 1_000  # whose ends are remembered
LOCAL_ID = re.compile(r"(\d{1,10})\.(\d{1,20})")

_children: dict[str, subprocess.Popen[bytes]] = {}  # native id -> a local job that this process has started


def list_executors() -> list[dict[str, Any]]:
    """`{name, available, reason, launchers}` for each that PSI/J has; the reason says why one cannot be used here."""
    launchers = [name for name in LAUNCHERS if name not in NEEDED or shutil.which(NEEDED[name])]
    found = []
    for name in executor_names():
        reason = why_not(name)
        found.append({"name": name, "available": not reason, "reason": reason, "launchers": [] if reason else launchers})
    return found


def why_not(executor: str) -> str:
    """Why an executor cannot be used here, in a sentence; nothing where it can. InvalidArgument where there is none."""
    if executor == LOCAL:
        return ""
    module = MODULES.get(executor, "")
    if module and find_spec(module.partition(".")[0]) is None:
        return f"it needs the Python module {module}, which is not installed"
    absent = [command for command in COMMANDS.get(executor, ()) if shutil.which(command) is None]
    if absent:
        return f"{absent[0]} is not installed on this machine"
    try:
        executor_of(executor)
    except Unsupported as error:
        return error.message
    if executor.startswith("pbs") and not any(name.startswith("pbs") for name in detect_batch_system().present):
        return f"{COMMANDS[executor][0]} on this machine is not that of PBS, or PBS does not answer"
    return ""


def submit_command(executor: str, path: Path) -> list[str]:
    """The words that hand a script to the scheduler, or start it here."""
    if executor == LOCAL:
        return ["/bin/bash", str(path)]
    from psij import Job  # whatever the job is, the words are the same

    return list(executor_of(executor).get_submit_command(Job(), path))


def submit_script(executor: str, path: Path) -> str:
    """Hand a script over; the scheduler's id of the job.

    SchedulerFailed in the scheduler's own words where it refuses, Unsupported where it cannot be used here, and
    DeadlineExceeded where it does not answer: then it may have taken the job all the same.
    """
    if executor == LOCAL:
        return _start(path)
    if reason := why_not(executor):
        raise Unsupported(f"The executor {executor} cannot be used: {reason}.", hint="Ask for executors: they say why.")
    words = submit_command(executor, path)
    try:
        answer = run(words, environment=dict.fromkeys(NOT_FOR_JOBS, ""), timeout_s=COMMAND_S, settled=False)
    finally:
        jobs_changed()
    if answer.exit_code:
        raise refusal(words[0], answer)
    return _id_in(executor, answer.text)


def cancel(executor: str, native_id: str) -> None:
    """End a job. NotFound where the scheduler does not know it (any more), NotPermitted where it is another user's."""
    if executor == LOCAL:
        return _end(native_id)
    family = FAMILIES.get(executor)
    if family is not None:
        return family.cancel(native_id)
    words = executor_of(executor).get_cancel_command(checked_job_id(native_id))
    try:
        answer = run(words)
    finally:
        jobs_changed()
    if answer.exit_code:
        raise refusal(words[0], answer)


def local_state(native_id: str) -> NativeState | None:
    """Of a local job; None for one that has ended while this process did not watch."""
    child = _children.get(native_id)
    if child is not None and child.poll() is not None and not _group_lives(native_id):
        code, by_signal = (child.returncode, None) if child.returncode >= 0 else (128 - child.returncode, -child.returncode)
        reason = text_of_exit(code, by_signal) if code else None
        return NativeState("DONE" if code == 0 else "FAILED", "EXITED", code, by_signal, reason)
    return NativeState("RUNNING", "RUNNING") if _group_lives(native_id) else None


def _id_in(executor: str, printed: str) -> str:
    found = SUBMITTED.search(printed) if executor == "slurm" else None
    try:
        native_id = found[1] if found else executor_of(executor).job_id_from_submit_output(printed)
        return checked_job_id(native_id)
    except (InvalidArgument, IndexError):
        said = " ".join(printed.split())[:200]
    raise SchedulerFailed(f"{executor} has said nothing of a job's id, but: {said!r}", transient=False)


def _start(path: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_JOBS}
    try:
        with path.with_name("local.out").open("ab") as said:
            process = subprocess.Popen(
                ["/bin/bash", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise SchedulerFailed(f"{path} cannot be started: {error.strerror}", transient=False) from None
    native_id = f"{process.pid}.{started_ticks(process.pid) or 0}"
    _children[native_id] = process
    for each in [each for each, child in tuple(_children.items())[:-MOST_CHILDREN] if child.poll() is not None]:
        del _children[each]
    return native_id


def _end(native_id: str) -> None:
    if not _group_lives(native_id):
        raise NotFound(f"There is no process {native_id} any more.", hint="It has ended.")
    _signal(native_id, signal.SIGTERM)
    timer = threading.Timer(GRACE_S, _signal, (native_id, signal.SIGKILL))
    timer.daemon = True
    timer.start()


def _signal(native_id: str, number: signal.Signals) -> None:
    if _group_lives(native_id):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(_numbers(native_id)[0], number)


def _group_lives(native_id: str) -> bool:
    """Whether the process is there, or what it has left behind; one that has taken over its number is not it."""
    pid, ticks = _numbers(native_id)
    child = _children.get(native_id)
    if child is not None:
        child.poll()  # so that one that has ended leaves nothing behind
    there = started_ticks(pid)
    if there and there != str(ticks):
        return False
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return there != ""
    return True


def _numbers(native_id: str) -> tuple[int, int]:
    found = LOCAL_ID.fullmatch(native_id)
    if found is None:
        raise InvalidArgument(f"{native_id!r} is no id of a local job", hint="Those are PID.TICKS.")
    return int(found[1]), int(found[2])

"""Which batch system this machine has: found once, by what its commands answer, and by the allocation that we run in.

A command that merely lies on the path proves little: Slurm brings a `qstat`, and Flux is installed where nobody runs it. It
submits nothing, and nothing here keeps a process running.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Name = Literal["slurm", "pbs", "pbs-aurora", "lsf", "flux", "none"]
Run = Callable[[Sequence[str]], str | None]

COMMAND_S = 5.0  # a controller under load takes seconds; an endpoint that starts does not wait for longer
AURORA = Path("/opt/aurora")


@dataclass(frozen=True, slots=True)
class BatchSystem:
    """The batch system. `job_id` is that of the allocation that this process runs in."""

    name: Name = "none"
    psij_executor: str = "local"
    job_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    name: Name
    variable: str  # set inside an allocation
    version: tuple[str, ...]  # a command whose answer shows what it belongs to
    words: tuple[str, ...]  # one of which is in that answer; none: any answer will do
    queues: tuple[str, ...]  # a command that has an answer only where the system is in use


KINDS = (
    _Kind("slurm", "SLURM_JOB_ID", ("sinfo", "--version"), ("slurm",), ("sinfo", "--noheader", "--format=%P")),
    _Kind("pbs", "PBS_JOBID", ("qstat", "--version"), ("pbs_version", "version:"), ("qstat", "-Q")),
    _Kind("lsf", "LSB_JOBID", ("bjobs", "-V"), ("lsf",), ("bqueues", "-o", "queue_name")),
    _Kind("flux", "FLUX_JOB_ID", ("flux", "getattr", "size"), (), ("flux", "getattr", "size")),
)
_lock = threading.Lock()
_found: BatchSystem | None = None


def detect_batch_system(*, refresh: bool = False) -> BatchSystem:
    """The batch system of this machine; asked once for each process unless `refresh` says otherwise."""
    global _found
    with _lock:
        if _found is None or refresh:
            _found = find_batch_system(os.environ, _answer_of, AURORA.exists())
        return _found


def find_batch_system(environment: Mapping[str, str], run: Run, is_aurora: bool = False) -> BatchSystem:
    """The same from what is handed over: `run` gives a command's answer, or None where it has none."""
    for kind in KINDS:
        if environment.get(kind.variable):
            return _made(kind, is_aurora, environment[kind.variable])
    installed = [kind for kind in KINDS if _is_there(kind, run)]
    in_use = [kind for kind in installed if len(installed) == 1 or (run(kind.queues) or "").strip()]
    # One that is down at the moment is still what this machine has.
    return _made((in_use or installed)[0], is_aurora, None) if installed else BatchSystem()


def _is_there(kind: _Kind, run: Run) -> bool:
    answer = run(kind.version)
    return answer is not None and (not kind.words or any(word in answer.lower() for word in kind.words))


def _made(kind: _Kind, is_aurora: bool, job_id: str | None) -> BatchSystem:
    name: Name = "pbs-aurora" if kind.name == "pbs" and is_aurora else kind.name
    return BatchSystem(name, kind.name, job_id)


def _answer_of(command: Sequence[str]) -> str | None:
    """What a command writes; None where it is not there, fails, or takes too long."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # LSF writes its version there
            timeout=COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None

"""Finds the batch system of this machine: by what its commands answer, and by the allocation that we run in.

A command that merely lies on the path proves little: Slurm brings a `qstat`, and Flux is installed where nobody runs it. What
was found is kept for the process, until it is asked for again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orbit_zmq.batch.commands import run
from orbit_zmq.batch.flux import FluxBatch
from orbit_zmq.batch.lsf import LSFBatch
from orbit_zmq.batch.pbs import PBSBatch
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.batch.system import BatchSystem, Name
from orbit_zmq.errors import InvalidArgument, OrbitError
from orbit_zmq.settings import setting

Run = Callable[[Sequence[str]], str | None]

ANSWER_S = 5.0  # a controller under load takes seconds; an endpoint that starts does not wait for longer
AURORA = Path("/opt/aurora")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one scheduler is recognised."""

    name: Name
    made: type[BatchSystem]
    variable: str  # set inside an allocation
    version: tuple[str, ...]  # a command whose answer shows what it belongs to
    words: tuple[str, ...]  # one of which is in that answer; none: any answer will do
    queues: tuple[str, ...]  # a command that has an answer only where the system is in use


KINDS = (
    Kind(
        "slurm", SlurmBatch, "SLURM_JOB_ID", ("sinfo", "--version"), ("slurm",), ("sinfo", "--noheader", "--all", "--format=%P")
    ),
    Kind("pbs", PBSBatch, "PBS_JOBID", ("qstat", "--version"), ("pbs_version", "version:"), ("qstat", "-Q")),
    Kind("lsf", LSFBatch, "LSB_JOBID", ("bjobs", "-V"), ("lsf",), ("bqueues", "-o", "queue_name")),
    Kind("flux", FluxBatch, "FLUX_JOB_ID", ("flux", "getattr", "size"), (), ("flux", "getattr", "size")),
)
CONF_CHARS = 1 << 20  # of a configuration file
CONF_WORDS = {"slurm": ("slurmctldhost", "clustername", "controlmachine"), "pbs": ("pbs_server", "pbs_exec", "pbs_home")}
_lock = threading.Lock()
_found: BatchSystem | None = None


def detect_batch_system(*, refresh: bool = False) -> BatchSystem:
    """The batch system of this machine; asked once for each process unless `refresh` says otherwise.

    The setting `batch_system` (ORBIT_BATCH_SYSTEM) names the one to use where the machine has several, or none.
    """
    global _found
    with _lock:
        if _found is None or refresh:
            _found = find_batch_system(os.environ, _answer_of, AURORA.exists(), setting("batch_system"))
        return _found


def find_batch_system(
    environment: Mapping[str, str], run: Run, is_aurora: bool = False, chosen: str | None = None
) -> BatchSystem:
    """The same from what is handed over: `run` gives a command's answer, or None where it has none.

    Of several that are there it is the one named by `chosen`, else the one whose allocation we run in, else the first that
    has queues. InvalidArgument where `chosen` is no batch system.
    """
    with ThreadPoolExecutor(len(KINDS)) as pool:  # one that hangs must not hold up the others
        there = [
            kind for kind, is_there in zip(KINDS, pool.map(lambda kind: _is_there(kind, run), KINDS), strict=True) if is_there
        ]
    present = tuple(_name_of(kind, is_aurora) for kind in there)
    if chosen:
        return _made(_chosen(chosen), environment, present, is_aurora or chosen == "pbs-aurora")
    for kind in KINDS:
        if environment.get(kind.variable):
            return _made(kind, environment, present, is_aurora)
    in_use = [kind for kind in there if len(there) == 1 or (run(kind.queues) or "").strip()]
    # One that is down at the moment is still what this machine has.
    return _made(next(iter(in_use or there), None), environment, present, is_aurora)


def of_conf(system: BatchSystem, conf: str) -> BatchSystem:
    """The batch system of another cluster's configuration: what the file says it is of, else the machine's own kind.

    InvalidArgument where neither says of which it is.
    """
    name = _kind_of_conf(Path(conf))
    if name is not None and system.name.partition("-")[0] != name:
        system = _made(_chosen(name), {}, system.present, is_aurora=False)
    if system.name == "none":
        raise InvalidArgument(
            f"conf is {conf}, and it does not show of which batch system it is",
            hint="Name that by the setting batch_system, or ORBIT_BATCH_SYSTEM.",
        )
    return system.of_cluster(conf)


def _kind_of_conf(path: Path) -> str | None:
    try:
        if path.is_dir():
            return "lsf" if (path / "lsf.conf").exists() else None
        with path.open(errors="replace") as file:
            said = file.read(CONF_CHARS).lower()
    except OSError:
        return None
    return next((name for name, words in CONF_WORDS.items() if any(word in said for word in words)), None)


def _chosen(name: str) -> Kind | None:
    kinds: dict[str, Kind | None] = {kind.name: kind for kind in KINDS} | {"none": None}
    kinds["pbs-aurora"] = kinds["pbs"]
    if name not in kinds:
        raise InvalidArgument(f"{name!r} is no batch system.", hint=f"There are: {', '.join(sorted(kinds))}.")
    return kinds[name]


def _is_there(kind: Kind, run: Run) -> bool:
    answer = run(kind.version)
    return answer is not None and (not kind.words or any(word in answer.lower() for word in kind.words))


def _name_of(kind: Kind, is_aurora: bool) -> Name:
    return "pbs-aurora" if kind.name == "pbs" and is_aurora else kind.name


def _made(kind: Kind | None, environment: Mapping[str, str], present: tuple[Name, ...], is_aurora: bool) -> BatchSystem:
    if kind is None:
        return BatchSystem(present=present)
    return kind.made(_name_of(kind, is_aurora), kind.name, environment.get(kind.variable) or None, present)


def _answer_of(command: Sequence[str]) -> str | None:
    """What a command writes, LSF's version among it, which is on standard error; None where it fails, or takes too long."""
    try:
        answer = run(command, timeout_s=ANSWER_S)
    except OrbitError:
        return None
    return f"{answer.text}{answer.complaint}" if answer.exit_code == 0 else None

"""An endpoint under the launcher that a backend needs: a child process, which starts the endpoint as one of its own.

`dragon` starts a runtime on all nodes of the allocation that it is in, and on this machine alone where there are no others.
This module must not know what an endpoint is told.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from orbit_zmq.errors import Unsupported

# Else it looks for nodes wherever there are commands of a scheduler, and needs a network and srun also where there is one node.
ONE_NODE = "--single-node-override"


def launched(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """How a command is run under Dragon; Unsupported where that is not installed beside this Python."""
    beside = str(Path(sys.executable).parent)
    dragon = shutil.which("dragon", path=os.pathsep.join((beside, environment.get("PATH", os.defpath))))
    if dragon is None or importlib.util.find_spec("dragon") is None:
        raise Unsupported(
            "The launcher dragon is not installed beside this Python.",
            hint="pip install 'orbit-zmq[dragon]', with Python 3.11 or 3.12.",
        )
    return [dragon, *([ONE_NODE] if _has_one_node(environment) else []), *command]


def run_until_ended(command: Sequence[str]) -> int:
    """Run it in a process group of its own; the exit code. SIGINT and SIGTERM to this process end it in order, with code 0.

    Dragon does not start as the leader of a session, takes no SIGTERM, and passes no signal on: all of its group gets SIGINT.
    """
    asked: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def end(number: int, frame: object) -> None:
        asked.append(number)
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0))
    if asked:
        end(asked[0], None)
    if started[0].stdout is not None:
        _pass_on(started[0].stdout)
    code = started[0].wait()
    return 0 if asked else code


def _pass_on(lines: Iterable[bytes]) -> None:
    """To standard output, and to standard error once nobody reads that any more: Dragon would hang there."""
    for line in lines:
        try:
            os.write(1, line)
        except BrokenPipeError:
            os.dup2(2, 1)
            os.write(1, line)


def _has_one_node(environment: Mapping[str, str]) -> bool:
    """Outside of an allocation, and in one of which the scheduler says so."""
    from orbit_zmq.batch.detection import KINDS

    if not any(kind.variable in environment for kind in KINDS):
        return True
    with suppress(OSError):
        return len(set(Path(environment.get("PBS_NODEFILE", "")).read_text().split())) == 1
    return environment.get("SLURM_JOB_NUM_NODES") == "1"

"""An endpoint under the launcher that a backend needs: the process becomes the launcher, which starts the endpoint anew.

`dragon` starts a runtime on all nodes of the allocation that it is in, and on this machine alone where there is none. This
module must not know what an endpoint is told.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orbit_zmq.errors import Unsupported

ONE_NODE = "--single-node-override"  # else it looks for nodes wherever there are commands of a scheduler


def launched(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """How a command is run under Dragon; Unsupported where that is not installed beside this Python."""
    beside = str(Path(sys.executable).parent)
    dragon = shutil.which("dragon", path=os.pathsep.join((beside, environment.get("PATH", os.defpath))))
    if dragon is None or importlib.util.find_spec("dragon") is None:
        raise Unsupported(
            "The launcher dragon is not installed beside this Python.",
            hint="pip install 'orbit-zmq[dragon]', with Python 3.11 or 3.12.",
        )
    return [dragon, *([] if _is_in_allocation(environment) else [ONE_NODE]), *command]


def _is_in_allocation(environment: Mapping[str, str]) -> bool:
    from orbit_zmq.batch.detection import KINDS

    return any(kind.variable in environment for kind in KINDS)

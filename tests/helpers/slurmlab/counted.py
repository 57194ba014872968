"""Slurm's commands with something in between, on a PATH of their own: every call is written down, and may be made to hang."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from slurmlab.install import find

COMMANDS = ("sinfo", "squeue", "scontrol", "sacct", "sacctmgr", "scancel")
SCRIPT = """\
#!/bin/sh
echo "{command} $*" >> {place}/calls
echo "{command} $(date +%s.%N)" >> {place}/moments
while [ -e {place}/hanging.{command} ]; do sleep 0.1; done
exec {program} "$@"
"""


def too_many(moments: Sequence[float], between_s: float) -> float:
    """By how many calls more than one in that time were made in any stretch of time.

    A moment is taken some processes after the call was due, so where each waits for the one before it may be one too many.
    """
    at = sorted(moments)
    ahead = [number - moment / between_s for number, moment in enumerate(at)]
    return max((later - earlier for place, earlier in enumerate(ahead) for later in ahead[place + 1 :]), default=0.0)


class CountedCommands:
    """The commands in a directory; `path` is a PATH that has them before all others."""

    def __init__(self, place: Path) -> None:
        self._place = place
        (place / "bin").mkdir()
        self.path = os.pathsep.join((str(place / "bin"), os.environ["PATH"]))
        for command in COMMANDS:
            script = place / "bin" / command
            script.write_text(SCRIPT.format(command=command, place=place, program=find(command) or shutil.which(command)))
            script.chmod(0o755)

    def calls(self, command: str) -> list[str]:
        """The arguments of each call of a command until now."""
        lines = (self._place / "calls").read_text().splitlines() if (self._place / "calls").exists() else []
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == command]

    def moments(self, command: str) -> list[float]:
        """When each of these calls was made, in seconds since 1970."""
        lines = (self._place / "moments").read_text().splitlines() if (self._place / "moments").exists() else []
        return [float(line.partition(" ")[2]) for line in lines if line.partition(" ")[0] == command]

    def forget(self) -> None:
        (self._place / "calls").unlink(missing_ok=True)
        (self._place / "moments").unlink(missing_ok=True)

    def hang(self, command: str) -> None:
        """From now on it does not answer."""
        (self._place / f"hanging.{command}").touch()

    def let_go(self, command: str) -> None:
        (self._place / f"hanging.{command}").unlink(missing_ok=True)

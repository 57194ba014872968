"""What the lab's Slurm is made of, and how it gets onto a Debian machine: `python -m slurmlab.install`, which never fails.

The tests themselves install nothing: where something is missing they are skipped and say what.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db", "sbatch", "sacctmgr")
PACKAGES = ("munge", "slurm-wlm", "slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
NETWORK = ("-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20")  # a mirror that is away is no reason to hang
INSTALL_S = 600.0


def find(program: str) -> str | None:
    """Where a program is; daemons are in directories that not everybody's PATH has."""
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin")))


def missing() -> list[str]:
    """The programs that are not there."""
    return [program for program in PROGRAMS if find(program) is None]


def why_not() -> str | None:
    """Why there can be no lab here, in one sentence; None where there can."""
    if os.getuid() != 0:
        return "the Slurm lab needs root: its jobs run as several users"
    if lacking := missing():
        return f"the Slurm lab needs {', '.join(lacking)}: run scripts/test or scripts/lab as root on Debian to install them"
    return None


def install() -> str | None:
    """Install what is missing, as root by apt-get. Why there can still be no lab, or None."""
    if os.getuid() == 0 and missing() and shutil.which("apt-get"):
        for command in (("update",), ("install", "-y", "--no-install-recommends", *PACKAGES)):
            done = subprocess.run(
                ["apt-get", "-qq", *NETWORK, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
            if done.returncode != 0:
                return f"apt-get {command[0]} failed: {done.stdout.strip()[-300:]}"
    return why_not()


if __name__ == "__main__":
    if reason := install():
        print(f"No lab: {reason}.", file=sys.stderr)

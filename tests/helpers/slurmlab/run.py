"""`scripts/lab slurm up|down`: a lab to try things with by hand, which stays until it is ended."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from orbit_zmq.children import command_of, read_ready
from orbit_zmq.errors import OrbitError
from slurmlab.install import install

START_S = 240.0
END_S = 60.0
KEEPER = "slurmlab.keeper"
USAGE = """\
Slurm runs: two nodes, the partitions debug, long, gpu, drained, stopped and closed,
the accounts physics and chemistry.
Use it:  export SLURM_CONF={place}/slurm.conf; sinfo
End it:  scripts/lab slurm down --dir {place}"""


def up(place: Path, accounting: bool) -> int:
    if reason := install():
        print(f"No lab: {reason}.", file=sys.stderr)
        return 1
    log = place.with_name(f"{place.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        started = subprocess.Popen(
            [*command_of(KEEPER), "--directory", str(place), *([] if accounting else ["--no-accounting"])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert started.stdout is not None
    try:
        said = read_ready(started.stdout.fileno(), START_S)
    except OrbitError as error:
        print(error, file=sys.stderr)
        return 1
    print(USAGE.format(place=place) if said else f"It was not ready within {START_S:g} s. See {log}.")
    return 0 if said else 1


def down(place: Path) -> int:
    keeper = _keeper_of(place)
    if keeper is None:
        print(f"No lab runs in {place}.", file=sys.stderr)
        return 1
    keeper.terminate()
    keeper.wait(END_S)
    place.with_name(f"{place.name}.log").unlink(missing_ok=True)
    return 0


def _keeper_of(place: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(int((place / "keeper.pid").read_text()))
        return process if KEEPER in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/lab", description="Real batch systems on this machine, to try things with.")
    parser.add_argument("system", choices=["slurm"])
    parser.add_argument("verb", choices=["up", "down"])
    default = Path(tempfile.gettempdir()) / "orbit-slurm-lab"
    parser.add_argument("--dir", type=Path, default=default, help="a directory for all of it; default: %(default)s")
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd, as many sites are")
    options = parser.parse_args()
    place = options.dir.resolve()
    return up(place, not options.no_accounting) if options.verb == "up" else down(place)


if __name__ == "__main__":
    raise SystemExit(main())

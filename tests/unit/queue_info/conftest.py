"""Commands of a scheduler that print what was recorded, and write down how they were called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.queue_info.recorded_outputs import PLACE


class Commands:
    """Scripts on the path, by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        """The first two words of each call."""
        path = self.folder / "calls"
        return [" ".join(line.split()[:2]) for line in path.read_text().split("\n") if line] if path.exists() else []

    def slurm(self, version: str = "22.05", *, accounting: bool = True) -> None:
        """A cluster of that release, which prints as text what it prints no JSON of."""
        place, text = PLACE / f"slurm-{version}", PLACE / "slurm-22.05"
        no_database = "echo 'You are not running a supported accounting_storage plugin' >&2; exit 1"
        self.make("sinfo", f'case "$*" in *--version*) echo "slurm {version}";; *) cat {place}/sinfo.json;; esac')
        self.make("squeue", f'case "$*" in *--json*) cat {place}/squeue.json;; *%F*) cat {text}/squeue.txt;; esac')
        cases = {"partition": "partitions", "node": "nodes", "*": "reservations"}
        shown = " ".join(f"{what}) cat {text}/{file}.txt;;" for what, file in cases.items())
        self.make("scontrol", f'case "$2" in {shown} esac')
        self.make("sacctmgr", f"cat {text}/associations.txt" if accounting else no_database)
        self.make("sacct", f"cat {text}/accounting.txt" if accounting else no_database)

    def pbs(self, *, json: bool) -> None:
        """A server that speaks JSON, or does not."""
        refuse = 'case "$*" in *json*) echo "usage: qstat [-f]" >&2; exit 2;; esac; ' if not json else ""
        kind = "json" if json else "txt"
        server = (
            f"*B*) cat {PLACE}/pbs/server.txt;;" if not json else '*B*) echo \'{"Server":{"s":{"default_queue":"quick"}}}\';;'
        )
        self.make(
            "qstat", f'{refuse}case "$1" in {server} *Q*) cat {PLACE}/pbs/queues.{kind};; *) cat {PLACE}/pbs/jobs.{kind};; esac'
        )
        self.make("pbsnodes", f"{refuse}cat {PLACE}/pbs/nodes.{kind}")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return Commands(folder)

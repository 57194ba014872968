"""The lab itself: several at once on one machine, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from lab import is_gone, wait_until
from processes import names_below
from slurmlab.cluster import SlurmLab, shared_slurm_lab, slurm_lab
from slurmlab.files import NODES

from orbit_zmq.children import environment_of_child

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 100.0
TESTER = """
import json, sys, time
from slurmlab.cluster import slurm_lab

with slurm_lab(accounting=False) as lab:
    lab.run("sbatch", "--wrap", "sleep 1000 & sleep 1001")
    print(json.dumps({"place": str(lab.place), "keeper": lab.keeper_pid}), flush=True)
    time.sleep(1000)
"""


def test_two_clusters_run_at_once_and_know_nothing_of_each_other() -> None:
    with slurm_lab(accounting=False) as one, slurm_lab(accounting=False) as other:
        one.run("sbatch", "--hold", "--job-name=mine", "--wrap", "true")

        assert one.run("squeue", "--noheader", "--format=%j").split() == ["mine"]
        assert other.run("squeue", "--noheader") == ""
        assert other.run("sinfo", "--noheader", "--partition=debug", "--Node", "--format=%N %T").splitlines() == [
            f"{node} idle" for node in NODES
        ]
        places = [one.place, other.place]
    assert not any(place.exists() for place in places)


def test_accounting_may_go_away_and_come_back() -> None:
    with slurm_lab() as lab:
        associations = lab.run("sacctmgr", "-nP", "show", "assoc", "format=account,user")
        assert {"physics|root", "chemistry|root", "physics|nobody"} <= set(associations.split())

        lab.stop("slurmdbd")
        with pytest.raises(AssertionError, match="sacctmgr: error: "):
            lab.run("sacctmgr", "-nP", "show", "assoc")
        assert lab.run("squeue", "--noheader") == ""

        lab.start_again("slurmdbd")
        assert lab.run("sacctmgr", "-nP", "show", "assoc", "format=account,user") == associations


def test_a_test_that_is_killed_leaves_no_process_and_no_file() -> None:
    tester = subprocess.Popen([sys.executable, "-c", TESTER], stdout=subprocess.PIPE, env=environment_of_child())
    assert tester.stdout is not None
    said = json.loads(tester.stdout.readline())
    keeper = psutil.Process(said["keeper"])
    wait_until(lambda: "sleep" in names_below(keeper.pid).values(), PATIENCE_S, what="the job runs")
    below = keeper.children(recursive=True)

    tester.kill()
    tester.communicate()

    wait_until(lambda: all(is_gone(one.pid) for one in (keeper, *below)), PATIENCE_S, "all processes have ended")
    wait_until(lambda: not os.path.exists(said["place"]), PATIENCE_S, what="its files are gone")


def test_a_lab_that_is_shared_ends_with_the_last_who_uses_it(tmp_path: Path) -> None:
    prepared: list[SlurmLab] = []
    with contextlib.ExitStack() as first:
        one = first.enter_context(shared_slurm_lab(tmp_path / "meeting", prepared.append))
        with shared_slurm_lab(tmp_path / "meeting", prepared.append) as other:
            assert other.keeper_pid == one.keeper_pid
            first.close()
            assert other.run("squeue", "--noheader") == ""
            assert len(prepared) == 1
    wait_until(lambda: is_gone(one.keeper_pid) and not one.place.exists(), PATIENCE_S, what="it has ended")


def test_the_script_starts_one_that_stays_and_ends_it() -> None:
    place = Path(tempfile.mkdtemp(prefix="orbit-slurm-"))  # pytest's own paths are for one user only
    environment = environment_of_child()

    def run(verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "slurmlab.run", "slurm", verb, "--dir", str(place), *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    try:
        assert f"export SLURM_CONF={place}/slurm.conf" in run("up", "--no-accounting").stdout
        assert "is not empty" in run("up", "--no-accounting").stderr
    finally:
        ended = run("down")
    assert ended.returncode == 0 and not place.exists()
    assert run("down").stderr == f"No lab runs in {place}.\n"

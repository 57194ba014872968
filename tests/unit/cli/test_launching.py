"""How an endpoint is started under Dragon: with what is installed, on the nodes that there are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orbit_zmq.cli import launching
from orbit_zmq.cli.endpoint_start import start
from orbit_zmq.errors import NotPermitted, Unsupported


@pytest.fixture
def dragon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program and a package of that name."""
    program = tmp_path / "bin" / "dragon"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o700)
    (tmp_path / "dragon.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    return program


def test_outside_an_allocation_it_runs_on_this_machine_alone(dragon: Path):
    assert launching.launched(["orbit", "x"], {}) == [str(dragon), "--single-node-override", "orbit", "x"]


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PBS_JOBID"])
def test_inside_an_allocation_it_finds_the_nodes_itself(dragon: Path, variable: str):
    assert launching.launched(["orbit", "x"], {variable: "7"}) == [str(dragon), "orbit", "x"]


def test_inside_an_allocation_of_one_node_it_looks_for_no_others(dragon: Path, tmp_path: Path):
    alone = [str(dragon), "--single-node-override", "orbit", "x"]
    slurm = {"SLURM_JOB_ID": "7"}
    assert launching.launched(["orbit", "x"], {**slurm, "SLURM_JOB_NUM_NODES": "1"}) == alone
    assert launching.launched(["orbit", "x"], {**slurm, "SLURM_JOB_NUM_NODES": "12"}) == [str(dragon), "orbit", "x"]

    pbs = {"PBS_JOBID": "7", "PBS_NODEFILE": str(tmp_path / "nodes")}
    (tmp_path / "nodes").write_text("n1\nn1\n")
    assert launching.launched(["orbit", "x"], pbs) == alone
    (tmp_path / "nodes").write_text("n1\nn2\n")
    assert launching.launched(["orbit", "x"], pbs) == [str(dragon), "orbit", "x"]


def test_where_it_is_not_installed_that_is_said_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(Unsupported, match="dragon is not installed") as caught:
        launching.launched(["orbit"], {"PATH": str(tmp_path)})
    assert "orbit-zmq[dragon]" in caught.value.hint


def test_no_secret_is_given_to_a_launcher(dragon: Path):
    done = CliRunner().invoke(start, ["--launcher", "dragon", "--join", "orbit1.secret"])

    assert isinstance(done.exception, NotPermitted)

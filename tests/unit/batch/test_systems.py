"""One batch system: the allocation that a process runs in, and the words to one job, with commands that are scripts."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from orbit_zmq.batch import BatchSystem, on_jobs_changed
from orbit_zmq.batch.flux import FluxBatch
from orbit_zmq.batch.lsf import LSFBatch
from orbit_zmq.batch.pbs import PBSBatch
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.batch.states import pbs_state, slurm_state, slurm_word
from orbit_zmq.errors import NotFound, SchedulerFailed, Unsupported

RECORDED = Path(__file__).resolve().parents[1] / "queue_info" / "recorded"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Scripts on the path; each call is written down."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for variable in ("SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST", "PBS_NODEFILE", "LSB_MCPU_HOSTS"):
        monkeypatch.delenv(variable, raising=False)

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{script}\n')
            (tmp_path / name).chmod(0o755)

    make.calls = lambda: (tmp_path / "calls").read_text().splitlines()  # type: ignore[attr-defined]
    return make


def told(system: BatchSystem) -> dict[str, Any]:
    """The allocation, which is there."""
    allocation = system.job_allocation()
    assert allocation is not None
    return allocation


def test_outside_of_an_allocation_there_is_nothing_to_tell():
    for system in (BatchSystem(), SlurmBatch("slurm", "slurm"), PBSBatch("pbs", "pbs")):
        assert (system.in_allocation, system.job_allocation(), system.nodelist()) == (False, None, [])


def test_an_allocation_of_slurm_is_summarised(commands, monkeypatch):
    commands(squeue="echo 1:00:00")
    for name, value in {
        "SLURM_NNODES": "2", "SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_NODELIST": "n[2,1]", "SLURM_CPUS_ON_NODE": "64",
        "SLURM_GPUS_ON_NODE": "a100:4", "SLURM_JOB_ACCOUNT": "physics", "SLURM_JOB_NAME": "endpoint",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    system = SlurmBatch("slurm", "slurm", job_id="17")

    assert system.job_allocation() == {
        "job_id": "17", "partition": "gpu", "n_nodes": 2, "nodelist": "n[2,1]", "cpus_per_node": 64, "gpus_per_node": 4,
        "account": "physics", "job_name": "endpoint", "runtime": 3600,
    }  # fmt: skip
    assert system.nodelist() == ["n2", "n1"]
    commands(squeue="echo UNLIMITED")
    assert told(system)["runtime"] is None


def test_what_is_missing_of_an_allocation_is_named(commands, monkeypatch):
    commands(squeue="echo 1:00:00")
    monkeypatch.setenv("SLURM_NNODES", "2")
    with pytest.raises(SchedulerFailed, match=r"allocation 17 of Slurm cannot be summarised: nodelist \(SLURM_JOB_NODELIST\)"):
        SlurmBatch("slurm", "slurm", job_id="17").job_allocation()
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    commands(squeue="true")
    with pytest.raises(SchedulerFailed, match="no time limit"):
        SlurmBatch("slurm", "slurm", job_id="17").job_allocation()


def test_an_allocation_of_pbs_is_summarised(commands, monkeypatch, tmp_path):
    (tmp_path / "nodes").write_text("x2\nx2\nx1\nx1\n")
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    facts = ("queue = debug", "Resource_List.ncpus = 8", "Resource_List.walltime = 01:00:00")
    commands(qstat="echo 'Job Id: 8.s'\n" + "\n".join(f"echo '    {fact}'" for fact in facts))
    system = PBSBatch("pbs-aurora", "pbs", job_id="8.s")
    told_of = told(system)

    assert (told_of["n_nodes"], told_of["nodelist"], told_of["cpus_per_node"], told_of["runtime"]) == (2, "x2,x1", 4, 3600)
    assert system.nodelist() == ["x2", "x1"]


def test_an_allocation_of_lsf_is_summarised(commands, monkeypatch):
    commands(bjobs="echo '30.0/h1'")
    monkeypatch.setenv("LSB_MCPU_HOSTS", "h1 40 h2 40")
    told_of = told(LSFBatch("lsf", "lsf", job_id="5"))

    assert (told_of["n_nodes"], told_of["nodelist"], told_of["cpus_per_node"], told_of["runtime"]) == (2, "h1,h2", 40, 1800)


def test_an_allocation_of_flux_is_summarised(commands):
    commands(flux='case "$*" in *hostlist*) echo "n[1-2]";; *ncores*) echo 16;; *ngpus*) echo 8;; *timeleft*) echo 600;; esac')
    told_of = told(FluxBatch("flux", "flux", job_id="f1"))

    assert (told_of["n_nodes"], told_of["cpus_per_node"], told_of["gpus_per_node"], told_of["runtime"]) == (2, 8, 4, 600)


@pytest.mark.parametrize(
    ("system", "name", "words"),
    [
        (SlurmBatch("slurm", "slurm"), "scancel", ["scancel --verbose 17", "scontrol hold 17", "scontrol release 17"]),
        (PBSBatch("pbs", "pbs"), "qdel", ["qdel 17", "qhold 17", "qrls 17"]),
        (LSFBatch("lsf", "lsf"), "bkill", ["bkill 17", "bstop 17", "bresume 17"]),
        (FluxBatch("flux", "flux"), "flux", ["flux cancel 17", "flux job urgency 17 hold", "flux job urgency 17 default"]),
    ],
)
def test_a_job_is_canceled_held_and_released(commands, system, name, words):
    commands(**dict.fromkeys((word.split()[0] for word in words), "true"))
    for change in (system.cancel, system.hold, system.release):
        change(17)

    assert commands.calls() == words


def test_whoever_keeps_lists_is_told_of_a_change_also_of_one_that_failed(commands):
    class Listener:
        told = 0

        def changed(self) -> None:
            self.told += 1

    commands(qdel="exit 1", qhold="true")
    listener, gone = Listener(), Listener()
    on_jobs_changed(listener.changed)
    on_jobs_changed(gone.changed)
    del gone
    gc.collect()
    PBSBatch("pbs", "pbs").hold("17")
    with pytest.raises(SchedulerFailed):
        PBSBatch("pbs", "pbs").cancel("17")

    assert listener.told == 2


def test_a_job_that_slurm_does_not_know_cannot_be_canceled_although_scancel_says_nothing_of_it(commands):
    commands(scancel="echo 'scancel: error: Kill job error on job id 9: Invalid job id specified' >&2")
    with pytest.raises(NotFound):
        SlurmBatch("slurm", "slurm").cancel(9)


@pytest.mark.parametrize(
    ("squeue", "sacct", "state"),
    [
        ("echo 'RUNNING|None'", "", "RUNNING"),
        ("echo 'PENDING|JobHeldUser'", "", "HELD"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "echo 'CANCELLED by 1000'", "CANCELLED"),
        ("true", "echo COMPLETED", "DONE"),
        ("true", "echo 'Slurm accounting storage is disabled' >&2; exit 1", "UNKNOWN"),
    ],
)
def test_the_state_of_a_job_of_slurm_is_the_controllers_word_else_the_accountings(commands, squeue, sacct, state):
    commands(squeue=squeue, sacct=sacct or "exit 9")

    assert SlurmBatch("slurm", "slurm").job_state(17) == state


def test_the_state_of_a_job_of_pbs_knows_of_failure(commands):
    commands(qstat=f"cat {RECORDED}/pbs/jobs.txt")

    assert PBSBatch("pbs", "pbs").job_state("8.scheduler") == "DONE"
    commands(qstat="echo 'qstat: 9 Unknown Job Id' >&2; exit 153")
    assert PBSBatch("pbs", "pbs").job_state("9") == "UNKNOWN"


def test_another_cluster_is_asked_through_its_configuration(commands):
    commands(squeue='echo "$SLURM_CONF"; echo 1795246640')

    assert SlurmBatch("slurm", "slurm").of_cluster("/etc/b/slurm.conf").environment() == {"SLURM_CONF": "/etc/b/slurm.conf"}
    commands(squeue="echo 1795246640")
    assert SlurmBatch("slurm", "slurm").estimated_start(4) == 1795246640.0


def test_the_hosts_of_a_job(commands):
    commands(squeue="echo 'n[1-2]'", bjobs="echo '4*h1:4*h2'", flux="echo 'f[3-4]'", qstat=f"cat {RECORDED}/pbs/jobs.txt")

    assert SlurmBatch("slurm", "slurm").job_nodes(1) == ["n1", "n2"]
    assert LSFBatch("lsf", "lsf").job_nodes(1) == ["h1", "h2"]
    assert FluxBatch("flux", "flux").job_nodes("f1") == ["f3", "f4"]
    assert PBSBatch("pbs", "pbs").job_nodes("8") == ["hb120v2-2"]


def test_without_a_batch_system_there_are_no_jobs():
    for ask in (BatchSystem().job_state, BatchSystem().cancel, BatchSystem().hold, BatchSystem().release):
        with pytest.raises(Unsupported, match="no batch system"):
            ask(1)


@pytest.mark.parametrize(
    ("words", "word", "state"),
    [
        (["RUNNING"], "RUNNING", "RUNNING"),
        (["COMPLETING", "CANCELLED"], "COMPLETING", "RUNNING"),
        (["RUNNING", "CONFIGURING"], "CONFIGURING", "PENDING"),
        (["PENDING", "REQUEUE_HOLD"], "REQUEUE_HOLD", "HELD"),
        (["OUT_OF_MEMORY"], "OUT_OF_MEMORY", "FAILED"),
        ([], "", "UNKNOWN"),
        (["SOMETHING_NEW"], "SOMETHING_NEW", "UNKNOWN"),
    ],
)
def test_of_several_words_the_one_counts_that_squeue_shows(words, word, state):
    assert slurm_word(words) == word
    assert slurm_state(word) == state


@pytest.mark.parametrize(
    ("letter", "status", "substate", "state"),
    [("F", 0, "92", "DONE"), ("F", 1, "92", "FAILED"), ("F", 271, "91", "CANCELLED"), ("F", None, "93", "FAILED"),
     ("R", None, "42", "RUNNING"), ("H", None, "20", "HELD"), ("?", None, "", "UNKNOWN")],
)  # fmt: skip
def test_the_letters_of_pbs_are_read_with_what_it_says_of_the_end(letter, status, substate, state):
    assert pbs_state(letter, status, substate) == state

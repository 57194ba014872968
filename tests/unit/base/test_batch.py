"""Which batch system is found: by what commands answer, and by the allocation that the process runs in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from orbit_zmq import batch
from orbit_zmq.batch import BatchSystem, detect_batch_system, find_batch_system

SLURM = {"sinfo --version": "slurm 23.02.7\n", "sinfo --noheader --format=%P": "debug*\n"}
PBS = {"qstat --version": "pbs_version = 2022.1.1\n", "qstat -Q": "workq 0 0 yes yes\n"}


def answers(*known: dict[str, str]) -> batch.Run:
    lines = {command: answer for one in known for command, answer in one.items()}

    def run(command: Sequence[str]) -> str | None:
        return lines.get(" ".join(command))

    return run


@pytest.mark.parametrize(
    ("known", "is_aurora", "expected"),
    [
        ({}, False, BatchSystem("none", "local")),
        (SLURM, False, BatchSystem("slurm", "slurm")),
        (PBS, False, BatchSystem("pbs", "pbs")),
        (PBS, True, BatchSystem("pbs-aurora", "pbs")),
        ({"qstat --version": "Version: 6.1.3\n"}, False, BatchSystem("pbs", "pbs")),
        ({"bjobs -V": "IBM Spectrum LSF 10.1.0.13\n"}, False, BatchSystem("lsf", "lsf")),
        ({"flux getattr size": "4\n"}, False, BatchSystem("flux", "flux")),
    ],
)
def test_a_command_that_answers_shows_the_batch_system(known, is_aurora, expected):
    assert find_batch_system({}, answers(known), is_aurora) == expected


def test_a_command_of_that_name_that_belongs_to_something_else_proves_nothing():
    assert find_batch_system({}, answers({"qstat --version": "Usage: qstat [-f]\n"})).name == "none"


def test_of_two_that_are_installed_the_one_with_queues_counts():
    idle_slurm = {"sinfo --version": "slurm 23.02.7\n"}

    assert find_batch_system({}, answers(idle_slurm, PBS)).name == "pbs"
    assert find_batch_system({}, answers(SLURM, PBS)).name == "slurm"
    assert find_batch_system({}, answers(idle_slurm, {"bjobs -V": "Platform LSF 9\n"})).name == "slurm"


@pytest.mark.parametrize(
    ("variable", "name"), [("SLURM_JOB_ID", "slurm"), ("PBS_JOBID", "pbs"), ("LSB_JOBID", "lsf"), ("FLUX_JOB_ID", "flux")]
)
def test_an_allocation_is_known_by_its_variable_whatever_else_is_installed(variable, name):
    found = find_batch_system({variable: "17.host"}, answers(SLURM))

    assert (found.name, found.job_id) == (name, "17.host")


def test_it_is_found_once_and_again_when_asked(monkeypatch):
    monkeypatch.setattr(batch, "_found", None)
    monkeypatch.setattr(batch, "_answer_of", answers(SLURM))
    for kind in batch.KINDS:
        monkeypatch.delenv(kind.variable, raising=False)
    assert detect_batch_system().name == "slurm"

    monkeypatch.setattr(batch, "_answer_of", answers({}))
    assert detect_batch_system().name == "slurm"
    assert detect_batch_system(refresh=True).name == "none"


def test_real_commands_are_asked_and_may_fail_or_hang(monkeypatch, tmp_path: Path):
    for name, script in (("sinfo", "sleep 60"), ("qstat", "exit 3"), ("bjobs", "echo 'IBM Spectrum LSF' >&2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    monkeypatch.setattr(batch, "COMMAND_S", 0.2)

    assert find_batch_system({}, batch._answer_of).name == "lsf"

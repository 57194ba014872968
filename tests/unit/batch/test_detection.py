"""Which batch system is found: by what commands answer, by the allocation that the process runs in, and by the setting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from orbit_zmq.batch import BatchSystem, detect_batch_system, detection, find_batch_system
from orbit_zmq.batch.commands import run
from orbit_zmq.errors import InvalidArgument

SLURM = {"sinfo --version": "slurm 23.02.7\n", "sinfo --noheader --all --format=%P": "debug*\n"}
PBS = {"qstat --version": "pbs_version = 2022.1.1\n", "qstat -Q": "workq 0 0 yes yes\n"}


def answers(*known: dict[str, str]) -> detection.Run:
    lines = {command: answer for one in known for command, answer in one.items()}

    def run(command: Sequence[str]) -> str | None:
        return lines.get(" ".join(command))

    return run


def names(system: BatchSystem) -> tuple[str, str]:
    return system.name, system.psij_executor


@pytest.mark.parametrize(
    ("known", "is_aurora", "expected"),
    [
        ({}, False, ("none", "local")),
        (SLURM, False, ("slurm", "slurm")),
        (PBS, False, ("pbs", "pbs")),
        (PBS, True, ("pbs-aurora", "pbs")),
        ({"qstat --version": "Version: 6.1.3\n"}, False, ("pbs", "pbs")),
        ({"bjobs -V": "IBM Spectrum LSF 10.1.0.13\n"}, False, ("lsf", "lsf")),
        ({"flux getattr size": "4\n"}, False, ("flux", "flux")),
    ],
)
def test_a_command_that_answers_shows_the_batch_system(known, is_aurora, expected):
    assert names(find_batch_system({}, answers(known), is_aurora)) == expected


def test_a_command_of_that_name_that_belongs_to_something_else_proves_nothing():
    assert find_batch_system({}, answers({"qstat --version": "Usage: qstat [-f]\n"})).name == "none"


def test_of_two_that_are_installed_the_one_with_queues_counts_and_both_are_named():
    idle_slurm = {"sinfo --version": "slurm 23.02.7\n"}
    both = find_batch_system({}, answers(idle_slurm, PBS))

    assert (both.name, both.present) == ("pbs", ("slurm", "pbs"))
    assert find_batch_system({}, answers(SLURM, PBS)).name == "slurm"
    assert find_batch_system({}, answers(idle_slurm, {"bjobs -V": "Platform LSF 9\n"})).name == "slurm"


@pytest.mark.parametrize(
    ("variable", "name"), [("SLURM_JOB_ID", "slurm"), ("PBS_JOBID", "pbs"), ("LSB_JOBID", "lsf"), ("FLUX_JOB_ID", "flux")]
)
def test_an_allocation_is_known_by_its_variable_whatever_else_is_installed(variable, name):
    found = find_batch_system({variable: "17.host"}, answers(SLURM))

    assert (found.name, found.job_id, found.in_allocation) == (name, "17.host", True)


@pytest.mark.parametrize("chosen", ["slurm", "pbs", "pbs-aurora", "lsf", "flux", "none"])
def test_the_setting_counts_before_what_is_found(chosen):
    found = find_batch_system({}, answers(SLURM, PBS), chosen=chosen)

    assert (found.name, found.present) == (chosen, ("slurm", "pbs"))


def test_a_setting_that_is_no_batch_system_is_refused():
    with pytest.raises(InvalidArgument, match="'cobalt'"):
        find_batch_system({}, answers(SLURM), chosen="cobalt")


def test_it_is_found_once_and_again_when_asked(monkeypatch):
    monkeypatch.setattr(detection, "_found", None)
    monkeypatch.setattr(detection, "_answer_of", answers(SLURM))
    for variable in ("ORBIT_BATCH_SYSTEM", *(kind.variable for kind in detection.KINDS)):
        monkeypatch.delenv(variable, raising=False)
    assert detect_batch_system().name == "slurm"

    monkeypatch.setattr(detection, "_answer_of", answers({}))
    assert detect_batch_system().name == "slurm"
    assert detect_batch_system(refresh=True).name == "none"
    monkeypatch.setenv("ORBIT_BATCH_SYSTEM", "lsf")
    assert detect_batch_system(refresh=True).name == "lsf"


def test_real_commands_are_asked_and_may_fail_or_hang(monkeypatch, tmp_path: Path):
    for name, script in (("sinfo", "sleep 60"), ("qstat", "exit 3"), ("bjobs", "echo 'IBM Spectrum LSF' >&2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    monkeypatch.setattr(
        detection, "run", lambda command, timeout_s: run(command, timeout_s=0.2 if "sinfo" in command else 60.0)
    )

    assert find_batch_system({}, detection._answer_of).name == "lsf"

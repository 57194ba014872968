"""`orbit job`: what options make of a job, and what exit code its end is."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from orbit_zmq.cli.job import job
from orbit_zmq.cli.job_outcome import exit_code_of
from orbit_zmq.cli.job_submit import spec_of, submit


def spec(*arguments: str) -> dict[str, Any]:
    context = submit.make_context("submit", list(arguments))
    parameters = context.params
    names = ("endpoint", "plugin", "url", "join", "context", "as_json", "as_jsonl", "quiet", "dry_run", "waits", "timeout_s")
    wishes = ("target", "key", "after", "array")
    described = {name: value for name, value in parameters.items() if name not in (*names, *wishes, "words")}
    return spec_of(parameters["words"], described)


def test_a_command_alone_is_a_job():
    assert spec("--", "/bin/echo", "-n", "a b") == {"executable": "/bin/echo", "arguments": ["-n", "a b"]}


def test_options_behind_the_command_are_its_own():
    assert spec("--name", "x", "srun", "--name", "y") == {"name": "x", "executable": "srun", "arguments": ["--name", "y"]}


def test_each_option_goes_to_its_place():
    made = spec(
        "--directory", "/d", "--env", "A=1", "--env", "B=x=y", "--clean-env", "--stdin", "i", "--stdout", "o", "--stderr", "e",
        "--pre-launch", "p", "--post-launch", "q", "--launcher", "srun", "--duration", "1-02:00:00", "--queue", "debug",
        "--account", "acc", "--reservation", "r", "--nodes", "2", "--processes", "8", "--processes-per-node", "4",
        "--cores", "3", "--gpus", "1", "--memory", "4GiB", "--exclusive", "--attribute", "slurm.constraint=gpu", "--", "run",
    )  # fmt: skip

    assert made == {
        "executable": "run", "arguments": [], "directory": "/d", "environment": {"A": "1", "B": "x=y"},
        "inherit_environment": False, "stdin_path": "i", "stdout_path": "o", "stderr_path": "e", "pre_launch": "p",
        "post_launch": "q", "launcher": "srun",
        "attributes": {"duration": "1-02:00:00", "queue_name": "debug", "account": "acc", "reservation_id": "r",
                       "custom_attributes": {"slurm.constraint": "gpu"}},
        "resources": {"node_count": 2, "process_count": 8, "processes_per_node": 4, "cpu_cores_per_process": 3,
                      "gpu_cores_per_process": 1, "exclusive_node_use": True, "memory": "4GiB"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit"], "Missing argument"),
        (["submit", "--env", "NOVALUE", "--", "x"], "--env: 'NOVALUE' is no NAME=VALUE"),
        (["submit", "--dry-run", "--wait", "--", "x"], "nothing to --wait for"),
        (["submit", "--timeout", "5s", "--", "x"], "--timeout is of use with --wait alone"),
        (["list", "--state", "odd"], "odd"),
        (["cancel"], "Missing argument"),
    ],
)
def test_wrong_usage_is_said(arguments, words):
    done = CliRunner().invoke(job, arguments)

    assert done.exit_code == 2 and words in done.output


@pytest.mark.parametrize(
    ("status", "detail", "code"),
    [
        ("successful", {"exit_code": 0}, 0),
        ("failed", {"exit_code": 3}, 3),
        ("failed", {"exit_code": 143, "signal": 15}, 143),
        ("failed", {"signal": 9}, 137),
        ("failed", {}, 1),
        ("failed", {"raw_state": "TIMEOUT", "signal": 15}, 124),
        ("failed", {"reason": "TimeLimit"}, 124),
        ("failed", {"members": {"0": {"status": "successful", "exit_code": 0}, "1": {"status": "failed", "exit_code": 7}}}, 7),
        ("cancelled", {"exit_code": 143, "signal": 15}, 123),
        ("finished_unknown", {}, 125),
        ("running", {}, 125),
    ],
)
def test_how_a_job_ended_is_an_exit_code(status, detail, code):
    assert exit_code_of({"status": status, "detail": detail}) == code


def test_the_group_has_all_its_commands():
    assert set(job.commands) == {"submit", "list", "show", "wait", "cancel", "forget", "logs"}
    assert isinstance(job, click.Group)

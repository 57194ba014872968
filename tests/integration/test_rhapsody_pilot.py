"""Real RADICAL-Pilot: Rhapsody tasks of an endpoint in a pilot on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import running_lab, wait_until

from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, Unsupported

PATIENCE_S = 120.0


def is_installed() -> bool:
    try:
        return importlib.util.find_spec("radical.pilot") is not None
    except ImportError:  # there is no package radical at all
        return False


pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not is_installed(), reason="radical.pilot is not installed"),
]


@pytest.fixture(scope="module")
def plugin() -> Iterator[Any]:
    with running_lab() as lab, contextlib.chdir(lab.place):
        lab.environment |= dict.fromkeys(
            ("HOME", "PWD", "RADICAL_BASE"), str(lab.place)
        )  # where RADICAL-Pilot leaves its records
        lab.start_endpoint("hpc1", plugins="rhapsody")
        with lab.client().get_plugin("hpc1", "rhapsody", backends=["radical_pilot"]) as plugin:
            yield plugin


def program(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], **more}


def test_executables_run_in_a_pilot_and_say_how_they_ended(plugin: Any, tmp_path: Path):
    tasks = {
        "loud": program("echo out; echo err >&2; exit 3"),
        "where": program("pwd; echo $COLOUR", cwd=str(tmp_path), environment={"COLOUR": "red"}),
        "overdue": program("sleep 600", timeout=2),
        "nowhere": {"executable": "/no/such/program"},
        "function": {"function": "os:getpid"},
        "unknown": program("true", task_backend_specific_kwargs={"no_such_option": 1}),
        "shell": program("true", shell=True),
    }
    answers = plugin.submit_tasks([{"uid": uid, **task} for uid, task in tasks.items()])
    loud, where, overdue, nowhere, function, unknown, shell = plugin.wait_tasks(answers, timeout=PATIENCE_S)

    assert (loud["state"], loud["exit_code"], loud["stdout"]) == ("FAILED", 3, "out\n")
    assert loud["stderr"].startswith("err\n")
    assert where["stdout"] == f"{tmp_path}\nred\n"
    assert (overdue["state"], type(overdue["exception"])) == ("FAILED", DeadlineExceeded)
    assert (nowhere["state"], nowhere["exit_code"]) == ("FAILED", 127)
    assert isinstance(function["exception"], Unsupported) and isinstance(shell["exception"], Unsupported)
    assert isinstance(unknown["exception"], InvalidArgument)


def test_a_task_in_a_pilot_is_canceled(plugin: Any, tmp_path: Path):
    begun = tmp_path / "begun"
    plugin.submit_tasks([{"uid": "slow", **program(f"touch {begun}; exec sleep 600")}])
    wait_until(begun.exists, PATIENCE_S, "the process runs")

    answer = plugin.cancel_task("slow")

    assert (answer["status"], answer["canceled"]) == ("canceled", 1)
    assert plugin.wait_tasks(["slow"], timeout=PATIENCE_S)[0]["state"] == "CANCELED"


def test_its_records_lie_in_the_state_directory_and_go_with_the_session():
    with running_lab() as lab, contextlib.chdir(lab.place):
        started = lab.place / "started"
        started.mkdir()
        with contextlib.chdir(started):
            lab.environment |= {"HOME": str(lab.place), "PWD": str(started)}
            lab.start_endpoint("hpc2", plugins="rhapsody")
        records = lab.place / "state" / "radical-pilot"
        with lab.client().get_plugin("hpc2", "rhapsody", backends=["radical_pilot"]) as plugin:
            plugin.wait_tasks(plugin.submit_tasks([program("true")]), timeout=PATIENCE_S)
            assert len(list(records.iterdir())) == 1 and not list(started.iterdir())
        wait_until(lambda: not list(records.iterdir()), PATIENCE_S, "they are gone")
        assert not list(started.iterdir())

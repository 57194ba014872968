"""`orbit session attach`: another process of the same user sees what is open, and what comes of it, from where it got to."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until
from shell import Shell

from orbit_zmq import Client


@pytest.fixture
def shell(lab: Lab) -> Iterator[Shell]:
    made = Shell(lab.environment)
    with made.stack:
        yield made


def items(done: subprocess.CompletedProcess[str], code: int = 0) -> list[dict[str, Any]]:
    assert done.returncode == code, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["schema"] for line in lines} == {"orbit.session.attach"}
    return [line["item"] for line in lines]


def held(gate: Path) -> dict[str, Any]:
    return {"uid": "held", "executable": "/bin/sh", "arguments": ["-c", f"while [ ! -e {gate} ]; do sleep 0.05; done"]}


def test_results_are_followed_until_nothing_is_open_and_each_is_shown_once(lab: Lab, shell: Shell, tmp_path: Path):
    lab.start_endpoint(plugins="rhapsody")
    session = lab.client().get_plugin("hpc1", "rhapsody", sid="monday", lifetime="persistent")
    holder = session.list_sessions()[0]["holder"]
    gate = tmp_path / "gate"
    session.submit_tasks([{"uid": "seven", "function": pow, "args": [7, 1]}, held(gate)])
    session.submit_tasks([{"uid": "wrong", "function": pow, "args": [0, -1]}])

    wait_until(lambda: session.get_statistics()["states"]["DONE"] == session.get_statistics()["states"]["FAILED"] == 1)
    early = items(shell.run("session", "attach", "mon", "--timeout", "8s", "--json"), code=5)
    gate.touch()
    late = items(shell.run("session", "attach", "monday", "--json"))
    again = items(shell.run("session", "attach", "monday", "--json"))
    other = items(shell.run("session", "attach", "monday", "--consumer", "somebody", "--json"))

    hurried = shell.run("session", "attach", "monday", "--consumer", "hurried", "--timeout", "0.1s", "-q")

    assert "" not in hurried.stdout.splitlines()
    assert early[0]["data"] == {"sid": "monday", "endpoint": "hpc1", "plugin": "rhapsody", "open": 3}
    assert {(item["uid"], item["state"]) for item in early[1:]} == {("seven", "DONE"), ("wrong", "FAILED")}
    found = {item["uid"]: item["data"] for item in early[1:]}
    assert found["seven"]["return_value"] == 7
    assert found["wrong"]["exception"].startswith("ZeroDivisionError: ")
    assert [item["uid"] for item in late] == ["", "held"]
    assert [item["data"]["open"] for item in again] == [0]
    assert sorted(item["uid"] for item in other) == ["", "held", "seven", "wrong"]
    assert session.list_sessions()[0]["holder"] == holder
    assert len(session.wait_tasks(["seven", "held", "wrong"])) == 3


def test_ctrl_c_ends_the_command_and_not_the_session(lab: Lab, shell: Shell, tmp_path: Path):
    lab.start_endpoint(plugins="rhapsody")
    session = lab.client().get_plugin("hpc1", "rhapsody")
    session.submit_tasks([held(tmp_path / "gate")])
    started = shell.start("session", "attach", session.sid)
    assert started.stdout is not None
    assert started.stdout.readline().split() == ["time", "topic", "uid", "state", "data"]
    assert "attached" in started.stdout.readline()

    started.send_signal(signal.SIGINT)

    assert started.wait(60) == 130
    (tmp_path / "gate").touch()
    assert session.wait_tasks(["held"], timeout=60)[0]["state"] == "DONE"


def test_a_session_of_any_plugin_is_followed_by_its_events_until_it_ends(lab: Lab, shell: Shell):
    lab.start_endpoint(plugins="test")
    session = lab.client().get_plugin("hpc1", "test", sid="events", lifetime="persistent")
    started = shell.start("session", "attach", "events", "--json")
    assert started.stdout is not None
    assert json.loads(started.stdout.readline())["item"]["topic"] == "attached"

    def heard() -> list[dict[str, Any]]:
        session.flood(source="loop", seconds=0.01)
        return [one for one in told if one["topic"] == "flood"]

    told: list[dict[str, Any]] = []

    def read() -> None:
        assert started.stdout is not None
        told.extend(json.loads(line)["item"] for line in started.stdout)

    reading = threading.Thread(target=read)
    reading.start()
    wait_until(heard, what="an event")
    session.unregister_session()
    assert started.wait(60) == 0
    reading.join(60)
    assert {(one["topic"], type(one["data"])) for one in told} == {("flood", int)}


def test_what_cannot_be_attached_to_is_said(lab: Lab, shell: Shell):
    lab.start_endpoint(plugins="test,math")
    client: Client = lab.client()
    for plugin in ("test", "math"):
        client.attach("default", endpoint="hpc1", plugin=plugin)
    assert "There is no session" in shell.run("session", "attach", "never").stderr
    assert "--plugin" in shell.run("session", "attach", "default").stderr
    (first,) = items(shell.run("session", "attach", "default", "--plugin", "math", "--timeout", "0.2s", "--json"))
    assert first["data"]["plugin"] == "math"

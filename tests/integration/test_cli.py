"""The command `orbit`, as a user types it: real processes, exit codes, and errors of one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from lab import Lab, directories, is_gone, wait_until
from shell import ORBIT, Shell

from orbit_zmq.children import environment_of_child


@pytest.fixture
def shell(lab: Lab) -> Iterator[Shell]:
    """Beside a running broker."""
    made = Shell(lab.environment)
    with made.stack:
        yield made


@pytest.fixture
def lone_shell(tmp_path: Path) -> Iterator[Shell]:
    """Where nothing runs yet."""
    made = Shell(environment_of_child(**directories(tmp_path)))
    with made.stack:
        yield made


def is_one_sentence(errors: str) -> bool:
    return errors.startswith("orbit: ") and errors.count("\n") == 1 and "Traceback" not in errors


def test_a_call_prints_the_result(shell: Shell, lab: Lab) -> None:
    lab.start_endpoint("hpc1")

    assert shell.run("call", "hpc1", "test", "echo", "text=hello").stdout == "hello\n"
    assert json.loads(shell.run("call", "hpc1", "test", "echo_any", 'value={"a": [1, 2]}').stdout) == {"a": [1, 2]}
    answer = json.loads(shell.run("call", "hpc1", "test", "echo_any", "value=3", "--json").stdout)
    assert answer == {"schema": "orbit.call", "version": 1, "item": 3}
    assert json.loads(shell.run("call", "hpc1", "test", "ping").stdout) == {}
    produce = [*ORBIT, "call", "hpc1", "test", "produce", "total_bytes=300000"]
    assert len(subprocess.check_output(produce, env=shell.environment, timeout=60)) == 300_000


def test_a_session_id_names_the_session_and_without_one_it_is_the_callers_default(shell: Shell, lab: Lab) -> None:
    lab.start_endpoint("hpc1")
    sid = json.loads(shell.run("call", "hpc1", "test", "register_session", "lifetime=persistent").stdout)["sid"]

    assert shell.run("call", "hpc1", "test", "echo", "text=x", "--session", sid).stdout == "x\n"
    shell.run("call", "hpc1", "test", "echo", "text=x")
    sessions = json.loads(shell.run("call", "hpc1", "test", "list_sessions").stdout)["sessions"]
    assert [session["sid"] for session in sessions] == [sid, "default"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["call", "absent", "test", "ping"], 1, "absent"),
        (["call", "hpc1", "absent", "ping"], 1, "absent"),
        (["call", "hpc1", "test", "absent"], 1, "absent"),
        (["call", "hpc1", "test", "echo", "text=x", "--session", "session.00000000"], 1, "session.00000000"),
        (["call", "hpc1", "test", "fail", "message=on-purpose"], 1, "on-purpose"),
        (["call", "hpc1", "test", "echo", "wrong=1"], 2, "wrong"),
        (["call", "hpc1", "test", "sleep", "seconds=30", "--deadline", "0.2"], 5, "deadline"),
        (["endpoint", "start", "--name", "Not A Name"], 2, "a-z"),
        (["endpoint", "start", "--name", "x", "--plugins", "absent"], 1, "absent"),
        (["broker", "start"], 1, "orbit broker stop"),
        (["up"], 1, "orbit broker stop"),
    ],
)
def test_a_failure_is_one_sentence_and_its_exit_code(
    shell: Shell, lab: Lab, arguments: list[str], code: int, words: str
) -> None:
    if "hpc1" in arguments:
        lab.start_endpoint("hpc1")
    done = shell.run(*arguments)

    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert is_one_sentence(done.stderr), done.stderr


@pytest.mark.parametrize(
    "arguments", [["absent"], ["call"], ["call", "a", "b", "c", "novalue"], ["broker", "start", "--port", "x"]]
)
def test_wrong_usage_is_exit_code_2(lone_shell: Shell, arguments: list[str]) -> None:
    done = lone_shell.run(*arguments)

    assert done.returncode == 2
    assert "Usage:" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["endpoint", "list"], ["broker", "status"], ["broker", "stop"], ["call", "a", "b", "c"]])
def test_without_a_broker_the_exit_code_is_3_and_the_places_are_named(lone_shell: Shell, arguments: list[str]) -> None:
    done = lone_shell.run(*arguments)

    assert done.returncode == 3
    assert is_one_sentence(done.stderr)
    assert "ORBIT_URL" in done.stderr and "broker.json" in done.stderr


def test_a_broker_that_does_not_answer_is_exit_code_3(lone_shell: Shell, tmp_path: Path) -> None:
    done = lone_shell.run("endpoint", "list", "--url", f"ipc://{tmp_path}/nobody")

    assert done.returncode == 3
    assert is_one_sentence(done.stderr), done.stderr


def test_a_key_file_that_others_may_read_is_exit_code_4(lone_shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "join").write_text("orbit1:x")
    (tmp_path / "join").chmod(0o644)
    done = lone_shell.run("endpoint", "list", "--join", str(tmp_path / "join"))

    assert done.returncode == 4
    assert "chmod 600" in done.stderr


def test_the_broker_is_started_looked_at_and_stopped_by_hand(lone_shell: Shell) -> None:
    started = lone_shell.run("broker", "start", "--detach", "--host", "127.0.0.1", "--port", "0")
    assert started.returncode == 0, started.stderr
    report = json.loads(lone_shell.run("broker", "status", "--json").stdout)["item"]
    assert f"broker {report['pid']} listens at {report['tcp']}" in started.stdout
    table = lone_shell.run("broker", "status").stdout
    assert report["epoch"] in table and "PARTICIPANTS" not in table

    assert lone_shell.run("broker", "stop").stdout == "stopped\n"
    assert lone_shell.run("broker", "status").returncode == 3
    wait_until(partial(is_gone, report["pid"]), what="the broker's process is gone")


def test_a_port_that_is_taken_is_said(shell: Shell, lab: Lab, tmp_path: Path) -> None:
    other = Shell(environment_of_child(**directories(tmp_path)))
    done = other.run("broker", "start", "--detach", "--host", "127.0.0.1", "--port", lab.tcp.rpartition(":")[2])

    assert done.returncode == 1
    assert is_one_sentence(done.stderr), done.stderr
    assert "--port" in done.stderr


def test_a_broker_in_the_foreground_ends_with_sigterm(lone_shell: Shell) -> None:
    broker = lone_shell.start("broker", "start", "--host", "127.0.0.1", "--port", "0")
    assert broker.stdout is not None
    ready = json.loads(broker.stdout.readline())

    assert ready["pid"] == broker.pid
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(60) == 0


def test_an_endpoint_serves_until_sigterm(shell: Shell) -> None:
    endpoint = shell.start(
        "endpoint", "start", "-n", "by-hand", "--wait", "60s", "--plugin-module", "orbit_testplugin", "--label", "gpu=yes"
    )
    assert endpoint.stdout is not None
    ready = json.loads(endpoint.stdout.readline())

    assert ready["name"] == "by-hand" and "test" in ready["plugins"]
    listed = json.loads(shell.run("endpoint", "list", "--json").stdout)["items"]
    assert [(entry["endpoint"], entry["state"], entry["labels"]) for entry in listed] == [
        ("by-hand", "present", {"gpu": "yes"})
    ]
    assert "by-hand" in shell.run("endpoint", "list").stdout
    endpoint.send_signal(signal.SIGTERM)
    assert endpoint.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_ends_with_all_that_it_has_started(lone_shell: Shell, number: signal.Signals) -> None:
    up = lone_shell.start("up", "--name", "here", "--plugins", "default")
    assert up.stdout is not None
    assert "broker at ipc://" in up.stdout.readline()
    assert "endpoint here" in up.stdout.readline()
    assert lone_shell.endpoints() == ["here"]
    children = _children_of(up.pid)
    assert len(children) == 2

    up.send_signal(number)
    up.wait(60)
    for child in children:
        wait_until(partial(is_gone, child), what=f"process {child} is gone")
    assert up.returncode == (-number if number == signal.SIGKILL else 0)
    assert lone_shell.run("endpoint", "list").returncode == 3


def test_up_ends_when_a_child_does(lone_shell: Shell) -> None:
    up = lone_shell.start("up", "--plugins", "default")
    assert up.stdout is not None
    up.stdout.readline()
    broker, endpoint = _children_of(up.pid)
    os.kill(broker, signal.SIGKILL)

    assert up.wait(60) == 1
    wait_until(partial(is_gone, endpoint), what="the endpoint is gone")


def test_version_and_help_work_without_anything(lone_shell: Shell) -> None:
    versions = json.loads(lone_shell.run("version", "--json").stdout)["item"]

    assert versions["orbit_version"] in lone_shell.run("--version").stdout
    for noun in ("up", "broker", "endpoint", "call", "demo", "version"):
        assert lone_shell.run(noun, "--help").returncode == 0


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

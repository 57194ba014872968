"""Running things for good: in the background, supervised, by systemd, with logs that say what happened and no secrets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, is_gone, lasting_port, wait_until
from shell import Shell, terminal

from orbit_zmq.files import write_private
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import KEY_LIST, load_keypair, own_user
from orbit_zmq.supervise import STABLE_S


def broker_pid(place: Path) -> int:
    """Of the broker that listens now; 0 while there is none."""
    try:
        return int(json.loads((place / "runtime" / "broker.json").read_text())["pid"])
    except (OSError, ValueError):
        return 0


def has_another_broker(place: Path, killed: int) -> bool:
    return broker_pid(place) not in (0, killed)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events_of(path: Path) -> list[str]:
    return [line["event"] for line in lines_of(path)]


def start_broker(shell: Shell, *options: str) -> None:
    done = shell.run("broker", "start", "--detach", "--host", "127.0.0.1", "--port", "0", *options)
    assert done.returncode == 0, done.stderr


def start_endpoint(shell: Shell, name: str = "hpc1", *options: str) -> None:
    done = shell.run(
        "endpoint", "start", "--detach", "-n", name, "--plugin-module", "orbit_testplugin", "--wait", "60s", *options
    )
    assert done.returncode == 0, done.stderr


def test_broker_and_endpoint_run_in_the_background_and_are_stopped_by_name(shell: Shell, place: Path) -> None:
    start_broker(shell)
    start_endpoint(shell)
    (found,) = shell.json("endpoint", "list")
    assert (found["endpoint"], found["state"]) == ("hpc1", "present")
    record = json.loads((place / "runtime" / "endpoint.hpc1.json").read_text())
    assert record["hostname"] and psutil.pid_exists(record["pid"])
    assert record["log"] == str(place / "state" / "endpoint.hpc1.log")

    assert "already" in shell.run("endpoint", "start", "-n", "hpc1", "--detach").stderr
    assert "process" in shell.run("endpoint", "start", "-n", "hpc1").stderr  # so says the broker
    assert shell.run("endpoint", "stop", "hpc1").stdout == "stopped hpc1\n"
    assert is_gone(record["pid"]) and not (place / "runtime" / "endpoint.hpc1.json").exists()
    assert shell.run("endpoint", "stop", "hpc1").returncode == 1


def test_a_killed_endpoint_leaves_a_record_that_is_known_to_be_stale(shell: Shell, place: Path) -> None:
    start_broker(shell)
    start_endpoint(shell)
    pid = json.loads((place / "runtime" / "endpoint.hpc1.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(partial(is_gone, pid))

    done = shell.run("endpoint", "stop", "hpc1")
    assert done.returncode == 1 and f"process {pid} ended without a word" in done.stderr
    start_endpoint(shell)


def test_an_endpoint_of_another_host_is_not_stopped_from_here(shell: Shell, place: Path) -> None:
    shell.run("endpoint", "stop", "x")  # makes the directory
    record = {"kind": "endpoint", "name": "hpc1", "pid": 1, "hostname": "login2.example", "started": 1.0}
    (place / "runtime" / "endpoint.hpc1.json").write_text(json.dumps(record))
    (place / "runtime" / "endpoint.hpc1.json").chmod(0o600)

    done = shell.run("endpoint", "stop", "hpc1")
    assert done.returncode == 1 and "ssh login2.example orbit endpoint stop hpc1" in done.stderr


def test_an_endpoint_that_somebody_else_started_is_said_to_run_there(shell: Shell) -> None:
    start_broker(shell)
    ready = shell.start("endpoint", "start", "-n", "other", "--wait", "60s")
    assert ready.stdout is not None and json.loads(ready.stdout.readline())["name"] == "other"
    (Path(shell.environment["ORBIT_RUNTIME_DIR"]) / "endpoint.other.json").unlink()

    done = shell.run("endpoint", "stop", "other")
    assert done.returncode == 1 and f"process {ready.pid} on " in done.stderr and "ssh " in done.stderr


def test_a_killed_broker_is_started_again_at_the_same_place_and_its_endpoints_come_back(shell: Shell, place: Path) -> None:
    start_broker(shell, "--supervise")
    start_endpoint(shell)
    before = shell.json("broker", "status")
    for _ in range(2):
        killed = broker_pid(place)
        os.kill(killed, signal.SIGKILL)
        wait_until(partial(has_another_broker, place, killed), what="another broker listens")
        assert shell.run("endpoint", "wait", "hpc1", "--timeout", "60s").returncode == 0
    after = shell.json("broker", "status")

    assert after["epoch"] != before["epoch"]
    for where in ("ipc", "tcp", "events_ipc", "events_tcp"):
        assert after[where] == before[where]
    ends = [line for line in lines_of(place / "state" / "broker.log") if line["event"] == "broker-ended"]
    assert [line["exit_code"] for line in ends] == [-signal.SIGKILL] * 2 and ends[0]["restart_in_s"] == 0
    wait_until(lambda: events_of(place / "state" / "broker.log").count("broker-restarted") == 2, what="both are in the log")
    log = place / "state" / "endpoint.hpc1.log"
    wait_until(lambda: events_of(log).count("broker-back") == 2, what="the endpoint is back")
    assert events_of(log).count("broker-lost") == 2


def test_a_broker_that_dies_at_once_is_started_less_and_less_often(shell: Shell, place: Path) -> None:
    start_broker(shell, "--supervise", "--port", str(lasting_port()))

    def told(event: str) -> list[dict[str, Any]]:
        return [line for line in lines_of(place / "state" / "broker.log") if line["event"] == event]

    def has_told(restarts: int) -> bool:
        return len(told("broker-restarted")) == restarts

    lives: list[dict[str, Any]] = []
    while len(lives) < 3 or max(line["lived_s"] for line in lives) >= STABLE_S:  # a machine that stands still kills late
        os.kill(wait_until(lambda: broker_pid(place)), signal.SIGKILL)
        wait_until(partial(has_told, len(told("broker-restarted")) + 1), what="it is started again")
        lives = told("broker-ended")[-3:]

    assert [line["restart_in_s"] for line in lives] == [0.0, 0.5, 1.0]


def test_stopping_a_supervised_broker_stops_the_supervisor_too(shell: Shell, place: Path) -> None:
    start_broker(shell, "--supervise")
    supervisor = json.loads((place / "runtime" / "supervisor.broker.json").read_text())["pid"]
    broker = broker_pid(place)

    assert shell.run("broker", "stop").stdout == "stopped\n"
    assert is_gone(supervisor) and is_gone(broker)
    assert not (place / "runtime" / "supervisor.broker.json").exists()
    assert shell.run("broker", "status").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_that_is_told_to_end_takes_its_broker_along(shell: Shell, place: Path, number: signal.Signals) -> None:
    supervisor = shell.start("broker", "start", "--supervise", "--host", "127.0.0.1", "--port", "0")
    assert supervisor.stdout is not None
    ready = json.loads(supervisor.stdout.readline())
    assert ready["supervisor"] == supervisor.pid and ready["pid"] != supervisor.pid

    supervisor.send_signal(number)
    assert supervisor.wait(60) == 0 and is_gone(ready["pid"])


def test_the_broker_of_a_killed_supervisor_ends_but_says_that_it_will_be_back(shell: Shell, place: Path) -> None:
    supervisor = shell.start("broker", "start", "--supervise", "--host", "127.0.0.1", "--port", "0")
    assert supervisor.stdout is not None
    ready = json.loads(supervisor.stdout.readline())
    supervisor.kill()

    wait_until(partial(is_gone, ready["pid"]))
    start_broker(shell)


def test_a_broker_that_cannot_start_the_first_time_is_not_tried_again(shell: Shell, lab: Lab) -> None:
    port = lab.tcp.rpartition(":")[2]
    done = shell.run("broker", "start", "--detach", "--supervise", "--host", "127.0.0.1", "--port", port)

    assert done.returncode == 1 and "--port" in done.stderr


def test_waiting_ends_when_it_is_there_and_with_exit_code_5_when_it_is_not(shell: Shell) -> None:
    waiting = shell.start("broker", "wait", "--timeout", "100s")
    done = shell.run("broker", "wait", "--timeout", "0.2s")
    assert done.returncode == 5 and done.stderr.count("\n") == 1
    start_broker(shell)
    assert waiting.wait(100) == 0

    waiting = shell.start("endpoint", "wait", "hpc1", "--timeout", "100s")
    done = shell.run("endpoint", "wait", "hpc1", "--timeout", "0.2s")
    assert done.returncode == 5 and "hpc1" in done.stderr
    start_endpoint(shell)
    assert waiting.wait(100) == 0


def test_an_endpoint_without_a_broker_says_so_soon(shell: Shell, place: Path) -> None:
    nowhere = ("--url", f"ipc://{place}/nobody", "--wait", "0.5s")
    for detach in ((), ("--detach",)):
        done = shell.run("endpoint", "start", "-n", "hpc1", *nowhere, *detach)
        assert done.returncode == 3 and "nothing listens" in done.stderr, done.stderr


def test_stopping_the_broker_of_up_ends_up_in_order(shell: Shell) -> None:
    up = shell.start("up", "--name", "here", "--plugins", "default")
    assert up.stdout is not None
    for _ in range(3):
        up.stdout.readline()
    refused = shell.run("endpoint", "stop", "here")
    assert refused.returncode == 1 and f"part of process {up.pid}" in refused.stderr

    assert shell.run("broker", "stop").stdout == "stopped\n"
    assert up.stdout.readline() == "The broker was stopped, so the endpoint ends, too.\n"
    assert up.wait(60) == 0


def test_on_a_terminal_the_broker_and_its_errors_speak_to_people(shell: Shell, lab: Lab) -> None:
    with terminal(shell.environment, "broker", "start", "--host", "127.0.0.1", "--port", "0") as screen:
        shown = screen.wait_for("Ctrl-C ends it")
        assert "listens at tcp://127.0.0.1:" in shown and '{"ipc"' not in shown
        screen.press("\x03")
        assert screen.wait() == 0
    with terminal(shell.environment, "broker", "start", "--host", "127.0.0.1", "--port", lab.tcp.rpartition(":")[2]) as screen:
        assert screen.wait() == 1
        assert "orbit: " in screen.seen and '"error"' not in screen.seen and "start-failed" not in screen.seen


def test_endpoint_show_tells_what_it_serves_and_keeps(shell: Shell) -> None:
    start_broker(shell)
    start_endpoint(shell)
    shell.run("call", "hpc1", "test", "register_session", "lifetime=persistent")
    shown = shell.json("endpoint", "show", "hp")

    assert {plugin["instance"] for plugin in shown["plugins"]} >= {"test", "sysinfo"}
    assert all(plugin["version"] for plugin in shown["plugins"])
    assert shown["environment"]["pid"] and shown["limits"]["running_calls"] == 1024
    assert shown["retention"]["events_s"] == 600.0
    (session,) = (one for one in shown["sessions"] if one["plugin"] == "test")
    assert session["status"] == "ready" and session["lifetime"] == "persistent"


def test_logs_show_the_last_lines_and_follow_what_comes(shell: Shell, place: Path) -> None:
    start_broker(shell)
    start_endpoint(shell)
    assert json.loads(shell.run("logs", "-n", "1").stdout)["logger"]
    shown = [json.loads(line)["event"] for line in shell.run("logs", "endpoint", "hpc1").stdout.splitlines()]
    assert shown[0] == "endpoint-ready"
    follower = shell.start("logs", "endpoint", "hpc1", "-f")
    assert follower.stdout is not None and "endpoint-ready" in follower.stdout.readline()
    shell.run("call", "hpc1", "test", "write_log", "text=now")
    (place / "state" / "endpoint.hpc1.log").rename(place / "state" / "endpoint.hpc1.log.1")
    shell.run("call", "hpc1", "test", "write_log", "text=later")
    told = (json.loads(line) for line in follower.stdout)
    assert list(islice((line["text"] for line in told if "text" in line), 4)) == ["now", "now", "later", "later"]

    with terminal(shell.environment, "logs", "endpoint", "hpc1") as screen:
        screen.wait()
        assert "written-here" in screen.seen and "text=now" in screen.seen and '{"' not in screen.seen
    done = shell.run("logs", "endpoint", "absent")
    assert done.returncode == 1 and "absent" in done.stderr


def test_lines_written_during_a_call_have_its_request_id(shell: Shell, place: Path) -> None:
    start_broker(shell)
    start_endpoint(shell)
    for text in ("first", "second"):
        shell.run("call", "hpc1", "test", "write_log", f"text={text}")

    lines = [line for line in lines_of(place / "state" / "endpoint.hpc1.log") if line["event"].startswith("written-")]
    requests = {line["text"]: line["request"] for line in lines}
    assert len(lines) == 4 and len(set(requests.values())) == 2
    assert all(line["request"] == requests[line["text"]] for line in lines)


def test_no_secret_is_in_logs_command_lines_or_environments(shell: Shell, place: Path) -> None:
    """Everything is said at level debug; the secrets are those of the key files and of a join string."""
    shell.environment["ORBIT_LOG_LEVEL"] = "debug"
    start_broker(shell, "--supervise")
    tcp = shell.json("broker", "status")["tcp"]
    start_endpoint(shell, "hpc1", "--url", tcp)
    join = join_file(place, tcp)
    start_endpoint(shell, "guest", "--join", str(join))
    shell.run("call", "hpc1", "test", "fail", "--url", tcp)
    os.kill(broker_pid(place), signal.SIGKILL)
    wait_until(lambda: "broker-restarted" in events_of(place / "state" / "broker.log"), what="another broker listens")
    secrets = [*secrets_in(place / "state"), join.read_text().strip(), JoinString.read(join).keys.secret]
    said = "".join(path.read_text(errors="replace") for path in (place / "state").glob("*.log*"))
    for process in psutil.process_iter():
        if str(place) in (environment := str(_environment_of(process))):
            said += f"{_command_line_of(process)} {environment}"

    assert len(secrets) >= 4 and "broker-ended" in said and "orbit_broker" in said
    assert [secret for secret in secrets if secret in said] == []


def join_file(place: Path, tcp: str) -> Path:
    """A key for an endpoint elsewhere, as an invitation makes it."""
    pair = KeyList.load(place / "state" / KEY_LIST).admit("guest", user=own_user(), role="endpoint")
    public_key = json.loads((place / "runtime" / "broker.json").read_text())["public_key"]
    write_private(place / "join", JoinString((tcp,), (), public_key, pair, "guest", "endpoint").encode())
    return place / "join"


def secrets_in(state: Path) -> list[str]:
    """The secret halves of all key pairs there."""
    return [load_keypair(path).secret for path in state.glob("*.key")]


def _command_line_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_join_string_is_taken_from_a_file_when_the_endpoint_stays_in_the_background(shell: Shell) -> None:
    done = shell.run("endpoint", "start", "--detach", "--join", "orbit1:AAAA")

    assert done.returncode == 2 and "file" in done.stderr


@pytest.mark.parametrize("noun", ["broker", "endpoint"])
def test_a_unit_for_systemd_starts_what_was_asked_for(shell: Shell, place: Path, noun: str) -> None:
    options = ["--supervise"] if noun == "broker" else ["-n", "hpc1", "--label", "what=50% of it"]
    done = shell.run(noun, "install", "--print", "--", *options)
    assert done.returncode == 0, done.stderr
    assert f"orbit_zmq.cli {noun} start" in done.stdout and "Restart=on-failure" in done.stdout
    assert f"Environment=ORBIT_STATE_DIR={place}/state" in done.stdout
    assert noun == "broker" or '"what=50%% of it"' in done.stdout
    if verify := shutil.which("systemd-analyze"):
        unit = place / f"orbit-{noun}.service"
        unit.write_text(done.stdout)
        checked = subprocess.run(
            [verify, "--user", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
        )
        assert str(unit.name) not in checked.stderr, checked.stderr

    assert shell.run(noun, "install", "--print", "--", "--no-such-option").returncode == 2
    assert shell.run(noun, "install", "--print", "--", "--detach").returncode == 2
    assert shell.run(noun, "install").returncode == 2

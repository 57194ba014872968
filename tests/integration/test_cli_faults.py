"""What goes wrong around commands: brokers that were killed, starts that fail, records, files and outputs that are not what
they should be. One sentence each, and the documented exit code.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import psutil
import pytest
from lab import is_gone, lasting_port, wait_until
from shell import ORBIT, Shell


def start_broker(shell: Shell, *options: str) -> None:
    done = shell.run("broker", "start", "--detach", "--host", "127.0.0.1", "--port", "0", *options)
    assert done.returncode == 0, done.stderr


def start_endpoint(shell: Shell, *options: str) -> str:
    done = shell.run(
        "endpoint", "start", "--detach", "-n", "hpc1", "--plugin-module", "orbit_testplugin", "--wait", "60s", *options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_one_sentence(errors: str) -> bool:
    return errors.startswith("orbit: ") and errors.count("\n") == 1 and "Traceback" not in errors


def processes_of(place: Path) -> list[int]:
    """Processes whose directories are those of this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ORBIT_STATE_DIR", "").startswith(str(place)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_commands_wait_for_a_supervised_broker_that_was_just_killed(shell: Shell, place: Path) -> None:
    start_broker(shell, "--supervise", "--port", str(lasting_port()))
    start_endpoint(shell)
    killed = json.loads((place / "runtime" / "broker.json").read_text())["pid"]
    os.kill(killed, signal.SIGKILL)

    assert shell.json("broker", "status")["pid"] != killed


def test_what_a_killed_command_was_starting_in_the_background_ends(shell: Shell, place: Path) -> None:
    start_broker(shell)
    gate = place / "gate"
    imports = "import os, time\nfrom orbit_testplugin import TestPlugin\n"
    waits = f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)\n"
    (place / "slow_plugin.py").write_text(imports + waits + "class Slow(TestPlugin):\n    plugin_name = 'slow'\n")
    before = set(processes_of(place))
    command = [*ORBIT, "endpoint", "start", "--detach", "-n", "slow", "--plugin-module", "slow_plugin"]
    environment = {**shell.environment, "PYTHONPATH": f"{place}:{shell.environment['PYTHONPATH']}"}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: set(processes_of(place)) - before - {started.pid}, what="the endpoint's process")
    started.kill()
    started.wait(60)
    gate.touch()

    wait_until(lambda: set(processes_of(place)) <= before, what="its end")
    assert shell.endpoints() == []
    assert "endpoint-ready" in (place / "state" / "endpoint.slow.log").read_text()


def test_waiting_for_an_endpoint_begins_before_there_is_a_broker(shell: Shell) -> None:
    waiting = shell.start("endpoint", "wait", "hpc1", "--timeout", "90s")
    start_broker(shell)
    start_endpoint(shell)

    assert waiting.wait(100) == 0


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--plugin-module", "no_such_module"], 2, "no_such_module does not import"),
        (["--label", "novalue"], 2, "KEY=VALUE"),
        (["--plugins", "absent"], 1, "absent"),
        (["--log-file", "/no/such/directory/log"], 4, "/no/such/directory/log"),
        (["--name", "x" * 201], 2, "at most 200"),
    ],
)
@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["foreground", "background"])
def test_a_start_that_fails_says_why_in_the_foreground_and_in_the_background(
    shell: Shell, place: Path, options: list[str], code: int, words: str, detach: list[str]
) -> None:
    done = shell.run("endpoint", "start", "-n", "hpc1", "--url", f"ipc://{place}/nobody", *options, *detach)

    assert done.returncode == code and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_absent_is_said_when_it_is_ready(shell: Shell) -> None:
    start_broker(shell)

    said = start_endpoint(shell, "--role", "bridge", "--plugins", "sysinfo,rhapsody")
    assert "serves sysinfo, test; without rhapsody: not for an endpoint of role bridge; its log is" in said


def test_a_device_as_the_log_keeps_its_mode(shell: Shell) -> None:
    before = stat.S_IMODE(Path("/dev/null").stat().st_mode)
    start_broker(shell, "--log-file", "/dev/null")

    assert stat.S_IMODE(Path("/dev/null").stat().st_mode) == before


def test_a_detached_start_that_is_ended_leaves_nothing_behind(shell: Shell, place: Path) -> None:
    nowhere = ("--url", f"ipc://{place}/nobody", "--wait", "200s")
    starting = shell.start("endpoint", "start", "--detach", "-n", "hpc1", *nowhere)
    wait_until(lambda: len(processes_of(place)) > 1, what="the endpoint's process is there")
    starting.send_signal(signal.SIGTERM)

    assert starting.wait(60) == 130
    wait_until(lambda: not processes_of(place), what="both are gone")


def test_one_record_that_others_may_read_is_no_obstacle_for_other_endpoints(shell: Shell, place: Path) -> None:
    start_broker(shell)
    start_endpoint(shell)
    (place / "runtime" / "endpoint.odd.json").write_text("{}")
    (place / "runtime" / "endpoint.odd.json").chmod(0o644)

    done = shell.run("endpoint", "stop", "hpc1")
    assert done.stdout == "stopped hpc1\n" and "endpoint.odd.json" in done.stderr
    record = place / "runtime" / "endpoint.hpc1.json"
    record.write_text("{}")
    record.chmod(0o644)
    start_endpoint(shell)
    assert shell.run("endpoint", "stop", "hpc1").returncode == 0


def test_what_a_plugin_raises_is_in_the_log_and_with_traceback_on_the_screen(shell: Shell, place: Path) -> None:
    start_broker(shell)
    start_endpoint(shell)
    failing = ("call", "hpc1", "test", "fail", "message=on-purpose")

    assert "raise exception" not in shell.run(*failing).stderr
    assert "raise exception" in shell.run(*failing, "--traceback").stderr
    said = json.loads(shell.run(*failing, "--json").stderr)["error"]
    assert said["remote_type"] == "builtins.ValueError" and "remote_traceback" not in said
    assert "raise exception" in json.loads(shell.run(*failing, "--json", "--traceback").stderr)["error"]["remote_traceback"]
    lines = [json.loads(line) for line in (place / "state" / "endpoint.hpc1.log").read_text().splitlines()]
    raised = [line for line in lines if line["event"] == "plugin-code-raised"]
    assert len(raised) == 4 and "on-purpose" in raised[0]["exception"] and raised[0]["request"]


def test_filters_of_events_may_be_shortened_and_an_unknown_endpoint_is_an_error(shell: Shell) -> None:
    start_broker(shell)
    start_endpoint(shell)
    refused = shell.run("events", "--endpoint", "nobody", "--timeout", "0.1s")
    assert refused.returncode == 1 and "nobody" in refused.stderr

    shell.run("call", "hpc1", "test", "register_session", "sid=mine", "lifetime=persistent")
    listening = subprocess.Popen(
        [*ORBIT, "events", "--endpoint", "hp", "--plugin", "te", "--session", "mi", "--count", "1", "--timeout", "90s", "-q"],
        env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with listening:
        assert listening.stderr is not None and "Listening" in listening.stderr.readline()
        shell.run("call", "hpc1", "test", "flood", "source=thread", "seconds=0.05", "--session", "mine")
        said, _ = listening.communicate(timeout=100)
    assert (said, listening.returncode) == ("flood\n", 0)


def test_a_stopped_broker_has_ended_and_its_sockets_are_gone(shell: Shell) -> None:
    start_broker(shell)
    status = shell.json("broker", "status")

    assert shell.run("broker", "stop").stdout == "stopped\n"
    assert is_gone(status["pid"])
    assert not Path(status["ipc"]).exists() and not Path(status["events_ipc"]).exists()


def test_output_that_cannot_be_written_is_one_sentence(shell: Shell) -> None:
    def run(redirection: str) -> subprocess.CompletedProcess[str]:
        words = " ".join([*ORBIT, "version"])
        return subprocess.run(
            ["sh", "-c", f"{words} {redirection}"],
            env=shell.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    for redirection in (">&-", "> /dev/full"):
        done = run(redirection)
        assert done.returncode == 1 and is_one_sentence(done.stderr), done.stderr


def test_a_broker_record_of_endless_depth_counts_as_none(shell: Shell, place: Path) -> None:
    shell.run("endpoint", "stop", "x")  # makes the directory
    (place / "runtime" / "broker.json").write_text("[" * 100_000)
    (place / "runtime" / "broker.json").chmod(0o600)

    done = shell.run("endpoint", "list")
    assert done.returncode == 3 and is_one_sentence(done.stderr), done.stderr


@pytest.mark.parametrize(
    ("words", "suggested"),
    [(["brokr"], "'broker'"), (["top", "--interval", "0"], "0.1 s"), (["call", "a", "b", "c", "d=1", "d=2"], "'d'")],
)  # fmt: skip
def test_wrong_usage_says_what_was_meant(shell: Shell, words: list[str], suggested: str) -> None:
    done = shell.run(*words)

    assert done.returncode == 2 and suggested in done.stderr


def test_a_damaged_config_file_can_be_looked_at_and_mended(shell: Shell, place: Path) -> None:
    shell.run("config", "set", "output", "json")
    file = place / "config" / "config.toml"
    for content, words in (('output = "xml"\n', "'xml'"), ("output = xml\n", "cannot be read"), ('colour = "red"\n', "colour")):
        file.write_text(content)
        shown = shell.run("config", "show", "-q")
        assert shown.returncode == 2 and words in shown.stderr and "url" in shown.stdout
        assert shell.run("config", "unset", content.partition(" ")[0]).returncode == 0
        assert shell.run("config", "show").returncode == 0


def test_names_of_contexts_may_be_shortened_everywhere(shell: Shell, place: Path) -> None:
    shell.run("context", "add", "bridge", "--url", f"ipc://{place}/nobody")

    assert "context bridge" in shell.run("endpoint", "list", "--context", "bri").stderr
    assert "bridge" in shell.run("context", "remove", "bri").stdout
    assert "signature" not in shell.run("context", "add", "a", "--join", "/nope").stderr

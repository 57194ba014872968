"""`orbit worker` with jobs of this machine: what it prints, and what the wrapper runs on a node."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, running_lab, wait_until

from orbit_zmq.tunnel import WRAPPER

pytestmark = pytest.mark.timeout(900)

PATIENCE_S = 100.0
HAS_DRAGON = importlib.util.find_spec("dragon") is not None


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        yield made


def words_of(lab: Lab, *words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "orbit_zmq.cli", "worker", *words, "--endpoint", "login", "--url", lab.url]


def pretend_dragon(lab: Lab, *lines: str) -> None:
    """A launcher of that name, of which these are the lines."""
    programs, modules = lab.place / "bin", lab.place / "modules"
    programs.mkdir()
    modules.mkdir()
    (modules / "dragon.py").write_text("")
    dragon = programs / "dragon"
    dragon.write_text("\n".join(("#!/bin/sh", *lines, "")))
    dragon.chmod(0o700)
    lab.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    lab.environment["PYTHONPATH"] = f"{modules}:{lab.environment['PYTHONPATH']}"


def orbit(lab: Lab, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words_of(lab, *words), env=lab.environment, capture_output=True, text=True, timeout=350, check=False)
    assert done.returncode == code, done.stderr
    return done


def start(lab: Lab, name: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return orbit(lab, "start", "--name", name, "--executor", "local", "--duration", "10m", *words, code=code)


def item_of(done: subprocess.CompletedProcess[str]) -> tuple[str, dict[str, Any]]:
    said = json.loads(done.stdout)
    return said["schema"], said["item"]


def test_a_worker_is_started_and_stopped_for_people_and_for_programs(lab: Lab) -> None:
    lab.start_endpoint("login", plugins="psij")

    schema, item = item_of(start(lab, "login.one", "--plugins", "math", "--json"))
    assert (schema, item["endpoint_name"], item["executor"]) == ("orbit.worker.start", "login.one", "local")
    listed = json.loads(orbit(lab, "list", "--json").stdout)["items"]
    assert [one["job_id"] for one in listed] == [item["job_id"]]
    assert lab.client().call("login.one", "math", "ping") == {}

    schema, stopped = item_of(orbit(lab, "stop", "login.one", "--json"))
    assert (schema, stopped["endpoint_name"], stopped["job_id"]) == ("orbit.worker.stop", "login.one", item["job_id"])
    assert stopped["state"] in ("CANCELED", "COMPLETED")  # it ends in order when it is told to

    quiet = start(lab, "login.two", "--plugins", "math", "-q")
    assert (quiet.stdout, quiet.stderr) == ("login.two\n", "")
    assert orbit(lab, "stop", "login.two", "-q").stdout == "login.two\n"

    told = start(lab, "login.three", "--plugins", "math")
    assert (told.stdout, told.stderr.splitlines()[-1]) == ("login.three\n", "connected")
    assert orbit(lab, "stop", "login.three").stdout == "stopped login.three\n"


def test_where_workers_cannot_be_started_it_is_said_why(lab: Lab) -> None:
    lab.start_endpoint("login", plugins="default", options=["--role", "compute"])

    assert "add `--plugins default,psij`" in start(lab, "login.none", code=1).stderr


@pytest.mark.skipif(HAS_DRAGON, reason="dragonhpc is installed")
def test_who_is_interrupted_while_a_worker_is_waited_for_is_told_that_it_stays(lab: Lab) -> None:
    pretend_dragon(lab, "exec sleep 600")  # a worker that does not come
    lab.start_endpoint("login", plugins="psij")
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is ignored here would be ignored there
    try:
        waiting = subprocess.Popen(
            words_of(lab, "start", "--name", "login.late", "--executor", "local", "--launcher", "dragon"),
            env=lab.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert waiting.stderr is not None
    with waiting.stderr as said:
        said.readline()
        waiting.send_signal(signal.SIGINT)

        assert waiting.wait(PATIENCE_S) == 130
        assert "the job of login.late goes on; `orbit worker stop login.late --endpoint login` ends it" in said.read()
    orbit(lab, "stop", "login.late")

    late = start(lab, "login.later", "--launcher", "dragon", "--timeout", "0.1s", code=5)
    assert "login.later is not there yet" in late.stderr
    assert "`orbit worker stop login.later --endpoint login` ends it" in late.stderr
    orbit(lab, "stop", "login.later")


@pytest.mark.skipif(HAS_DRAGON, reason="dragonhpc is installed")
def test_a_worker_under_a_launcher_that_is_not_installed_says_so(lab: Lab) -> None:
    lab.start_endpoint("login", plugins="psij")

    done = start(lab, "login.none", "--launcher", "dragon", code=1)

    assert "The launcher dragon is not installed beside this Python" in done.stderr
    assert "orbit-zmq[dragon]" in done.stderr


@pytest.mark.skipif(HAS_DRAGON, reason="dragonhpc is installed")
def test_a_worker_runs_under_the_command_dragon_where_that_is_asked_for(lab: Lab) -> None:
    """Beside a program of that name which does what the real one does in the end."""
    pretend_dragon(lab, f'echo "$@" >{lab.place / "seen"}', "shift", 'exec "$@"')
    lab.start_endpoint("login", plugins="psij")

    start(lab, "login.one", "--plugins", "math", "--launcher", "dragon")

    words = (lab.place / "seen").read_text().split()
    assert words[:2] == ["--single-node-override", sys.executable]
    assert words[words.index("endpoint") : words.index("endpoint") + 4] == ["endpoint", "start", "--name", "login.one"]
    orbit(lab, "stop", "login.one")


@pytest.mark.long
@pytest.mark.skipif(not HAS_DRAGON, reason="dragonhpc is not installed")
def test_tasks_run_on_the_dragon_of_a_worker_and_all_of_it_ends_with_its_job(lab: Lab) -> None:
    lab.environment["HOME"] = str(lab.place)
    lab.start_endpoint("login", plugins="psij")
    name = f"login.{os.getpid()}"

    start(lab, name, "--launcher", "dragon")

    with lab.client().get_plugin(name, "rhapsody") as plugin:
        assert plugin.get_statistics()["backends"].keys() == {"dragon"}
        answers = plugin.submit_tasks([{"function": "math:factorial", "args": [n]} for n in range(5)])
        results = plugin.wait_tasks(answers, timeout=PATIENCE_S)
        assert [result["return_value"] for result in results] == [1, 1, 2, 6, 24]
    orbit(lab, "stop", name)
    wait_until(lambda: processes_of(name) == [], PATIENCE_S, what="no process is left")


def processes_of(name: str) -> list[list[str]]:
    found = psutil.process_iter(["cmdline"])
    return [one.info["cmdline"] for one in found if name in (one.info["cmdline"] or ())]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Stands for an interpreter: it writes down how it is called."""
    made = tmp_path / "env" / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" "${{SLURM_EXPORT_ENV-}}" >{tmp_path / "seen"}\n')
    made.chmod(0o700)
    return made


def wrapper(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": os.defpath}
    return subprocess.run(
        ["/bin/sh", str(WRAPPER), *words],
        env=path | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


WORDS = ("-n", "hpc1.a b", "--launcher", "dragon", "--label", "*")


def test_the_wrapper_runs_what_was_asked_for_in_the_environment_of_the_parent(tmp_path: Path, python: Path) -> None:
    assert wrapper(*WORDS, ORBIT_PYTHON=str(python), SLURM_JOB_ID="7").returncode == 0
    assert (tmp_path / "seen").read_text().splitlines() == ["-m", "orbit_zmq.endpoint", *WORDS, "ALL"]


def test_the_wrapper_finds_the_environment_that_is_active(tmp_path: Path, python: Path) -> None:
    (python.parent / "orbit").write_text("")
    (python.parent / "orbit").chmod(0o700)
    assert wrapper(*WORDS, VIRTUAL_ENV=str(tmp_path / "env")).returncode == 0
    assert (tmp_path / "seen").read_text().splitlines() == ["-m", "orbit_zmq.endpoint", *WORDS, ""]


def test_the_wrapper_takes_an_orbit_that_is_in_the_path(tmp_path: Path) -> None:
    (tmp_path / "orbit").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path / "seen"}\n')
    (tmp_path / "orbit").chmod(0o700)
    assert wrapper(*WORDS, PATH=f"{tmp_path}:{os.defpath}").returncode == 0
    assert (tmp_path / "seen").read_text().splitlines() == ["endpoint", "start", *WORDS]


def test_the_wrapper_says_what_is_missing(tmp_path: Path) -> None:
    nowhere = wrapper(*WORDS, ORBIT_PYTHON=str(tmp_path / "none"))
    assert nowhere.returncode == 127 and f"there is no {tmp_path / 'none'}" in nowhere.stderr
    without = wrapper(*WORDS, PATH="/nowhere")
    assert without.returncode == 127 and "ORBIT-ZMQ was not found" in without.stderr

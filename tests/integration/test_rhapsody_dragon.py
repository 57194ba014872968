"""Real Dragon: an endpoint that the dragon launcher has started, and Rhapsody tasks on it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, running_lab, wait_until

import orbit_rhapsody  # noqa: F401 - registers the backend
from orbit_zmq.children import command_of
from orbit_zmq.errors import DeadlineExceeded, Unsupported

rhapsody = pytest.importorskip("rhapsody")

START_S = 120.0
END_S = 60.0
ENDPOINT, BEHIND = (f"{name}-{os.getpid()}" for name in ("hpc1", "hpc2"))  # by which their processes are found
START = ("endpoint", "start", "--launcher", "dragon")
PATIENCE_S = 90.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("dragon") is None, reason="dragonhpc is not installed"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A broker, and an endpoint under the launcher."""
    with running_lab() as made:
        launcher = _launched(made, *START, "--url", made.url, "--name", ENDPOINT, "--plugins", "rhapsody")
        try:
            client = made.client()
            wait_until(lambda: ENDPOINT in {endpoint.name for endpoint in client.endpoints()}, START_S, "the endpoint is there")
            yield made
            launcher.terminate()
            assert launcher.wait(END_S) == 0
        finally:
            for process in processes_of(ENDPOINT):
                process.kill()


def _launched(lab: Lab, *arguments: str) -> subprocess.Popen[bytes]:
    command = [*command_of("orbit_zmq.cli"), *arguments]
    with (lab.place / "dragon.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment_of(lab), cwd=lab.place, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )


def environment_of(lab: Lab) -> dict[str, str]:
    return lab.environment | {"HOME": str(lab.place)}


def processes_of(endpoint: str) -> list[psutil.Process]:
    """Those that were started for it: the command, the launcher and the endpoint."""
    return [process for process in psutil.process_iter(["cmdline"]) if endpoint in (process.info["cmdline"] or ())]


@pytest.fixture(scope="module")
def plugin(lab: Lab) -> Iterator[Any]:
    with lab.client().get_plugin(ENDPOINT, "rhapsody") as plugin:
        yield plugin


def run(plugin: Any, **tasks: dict[str, Any]) -> list[dict[str, Any]]:
    answers = plugin.submit_tasks([{"uid": uid, **task} for uid, task in tasks.items()])
    results: list[dict[str, Any]] = plugin.wait_tasks(answers, timeout=PATIENCE_S)
    return results


def program(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], **more}


def add(left: Any, right: Any) -> Any:
    return left + right


def complain(word: str) -> None:
    raise LookupError(word, 7)


def doze() -> None:
    for _ in range(600):
        time.sleep(0.1)


def test_dragon_is_the_default_under_its_launcher(lab: Lab, plugin: Any):
    said = lab.client().call(ENDPOINT, "rhapsody", "backends")

    assert said["default"] == ["dragon"] and "dragon" in said["available"]
    assert list(plugin.get_statistics()["backends"]) == ["dragon"]


def test_functions_and_executables_run_on_dragon_and_say_how_they_ended(plugin: Any, tmp_path: Path):
    f, error, three, where, ranks, nowhere, captured, shell = run(
        plugin,
        f={"function": add, "args": ((1,), (2,))},
        error={"function": complain, "args": ("why",)},
        three=program("echo out; echo err >&2; exit 3"),
        where=program("pwd", cwd=str(tmp_path)),
        ranks=program("echo rank", ranks=2),
        nowhere={"executable": "/no/such/program"},
        captured=program("echo out", capture_stdio=True),
        shell=program("true", shell=True),
    )

    assert (f["state"], f["return_value"]) == ("DONE", (1, 2))
    assert (error["state"], error["exception"].args) == ("FAILED", ("why", 7))
    assert (three["state"], three["exit_code"], three["stdout"], three["stderr"]) == ("FAILED", 3, "out\n", "err\n")
    assert where["stdout"] == f"{tmp_path}\n"
    assert (ranks["state"], ranks["stdout"].split()) == ("DONE", ["rank", "rank"])
    assert nowhere["state"] == "FAILED" and "/no/such/program" in str(nowhere["exception"])
    assert Path(captured["stdout"]).read_text() == "out\n"
    assert isinstance(shell["exception"], Unsupported)


def test_many_functions_come_back_once_each(plugin: Any):
    answers = plugin.submit_tasks([{"function": add, "args": (number, 1)} for number in range(40)])
    results = plugin.wait_tasks(answers, timeout=PATIENCE_S)

    assert [result["return_value"] for result in results] == list(range(1, 41))


def test_a_task_is_canceled(plugin: Any, tmp_path: Path):
    pid = tmp_path / "pid"
    plugin.submit_tasks([{"uid": "canceled", **program(f"echo $$ > {pid}; exec sleep 600")}])
    wait_until(pid.exists, PATIENCE_S, "the process runs")

    answer = plugin.cancel_task("canceled")

    assert answer["requested"] == 1
    assert plugin.wait_tasks(["canceled"], timeout=PATIENCE_S)[0]["state"] == "CANCELED"


def test_a_function_that_runs_longer_than_its_timeout_fails_as_such(plugin: Any):
    (slow,) = run(plugin, slow={"function": doze, "timeout": 5.0})  # a worker imports first

    assert (slow["state"], type(slow["exception"])) == ("FAILED", DeadlineExceeded)


def test_an_endpoint_under_dragon_is_left_in_the_background_and_stopped(lab: Lab):
    def orbit(*arguments: str) -> str:
        command = [*command_of("orbit_zmq.cli"), *arguments]
        done = subprocess.run(
            command, env=environment_of(lab), cwd=lab.place, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = orbit(*START, "--detach", "--url", lab.url, "--name", BEHIND, "--plugins", "rhapsody")
    assert said.startswith(f"endpoint {BEHIND}, process ") and ", serves rhapsody; its log is " in said
    assert lab.client().call(BEHIND, "rhapsody", "backends")["default"] == ["dragon"]
    assert orbit("endpoint", "stop", BEHIND) == f"stopped {BEHIND}\n"
    wait_until(lambda: not processes_of(BEHIND), END_S, "the launcher has ended, too")


def test_tasks_of_a_program_on_rhapsody_run_on_dragon_elsewhere(lab: Lab):
    async def main() -> list[Any]:
        backend = await rhapsody.get_backend("orbit_zmq", endpoint=ENDPOINT, backends=["dragon"], url=lab.url)
        async with rhapsody.Session([backend], work_dir=str(lab.place)) as session:
            tasks = [rhapsody.ComputeTask(function=add, args=(number, 1)) for number in range(5)]
            tasks.append(rhapsody.ComputeTask(**program("echo out")))
            await session.submit_tasks(tasks)
            await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)
            return [task.return_value if task.function else task.stdout for task in tasks]

    assert asyncio.run(main()) == [1, 2, 3, 4, 5, "out\n"]

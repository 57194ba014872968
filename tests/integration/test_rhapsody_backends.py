"""Backends through a real endpoint: which there are, how they start, and what each does with what a task asks for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, is_gone, running_lab, wait_until

from orbit_rhapsody.client import RhapsodyClient
from orbit_zmq.errors import DeadlineExceeded, InternalError, InvalidArgument, Unsupported

PATIENCE_S = 60.0

needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """One endpoint for the whole module; each test has a session of its own."""
    with running_lab() as lab:
        lab.start_endpoint("hpc1", plugins="rhapsody")
        yield lab


def session(lab: Lab, *backends: str, **arguments: Any) -> Any:
    plugin = lab.client().get_plugin("hpc1", "rhapsody", backends=list(backends), **arguments)
    assert isinstance(plugin, RhapsodyClient)
    return plugin


@pytest.fixture
def concurrent(shared: Lab) -> Iterator[Any]:
    with session(shared, "concurrent") as plugin:
        yield plugin


@pytest.fixture(scope="module")
def dask(shared: Lab) -> Iterator[Any]:
    with session(shared, "dask") as plugin:
        yield plugin


def run(plugin: Any, **tasks: dict[str, Any]) -> list[dict[str, Any]]:
    answers = plugin.submit_tasks([{"uid": uid, **task} for uid, task in tasks.items()])
    results: list[dict[str, Any]] = plugin.wait_tasks(answers, timeout=PATIENCE_S)
    return results


def program(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], **more}


def add(left: Any, right: Any) -> Any:
    return left + right


def die() -> None:
    os._exit(9)


def sleep_in_slices(path: str) -> None:
    Path(path).touch()
    while Path(path).exists():
        time.sleep(0.02)


def parent_of_worker(number: int) -> tuple[int, str]:
    return os.getpid(), os.environ["CLUSTER"]


CLUSTER = """
import os, sys
os.environ["CLUSTER"] = "two workers"
from dask.distributed import LocalCluster
with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp") as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


def test_what_backends_there_are_is_said_with_the_reason_and_the_cure_of_those_that_are_not(shared):
    said = shared.client().call("hpc1", "rhapsody", "backends")

    assert said["default"] == ["concurrent"]
    assert {"concurrent", "noop"} <= set(said["available"])
    absent = {entry["backend"]: entry for entry in said["absent"]}
    assert {"concurrent", "dask", "dragon", "noop", "radical_pilot"} == {*said["available"], *absent}
    assert absent["dragon"]["reason"] and "dragon" in absent["dragon"]["install"]


@pytest.mark.parametrize("name", ["dragon", "dragon_v3"])
def test_a_backend_that_cannot_be_used_is_refused_with_the_reason_and_what_to_do(shared, name: str):
    with pytest.raises(Unsupported, match="'dragon' cannot be used here") as caught:
        session(shared, name)

    assert "concurrent" in caught.value.details["available"]
    assert "dragon" in caught.value.hint


@needs_dask
def test_a_session_whose_backend_takes_too_long_fails_and_names_backend_and_stage(shared):
    client, told = shared.client(), []
    client.subscribe(lambda endpoint, plugin, topic, data: told.append(data), topic="session_status")

    with pytest.raises(DeadlineExceeded, match=r"'dask' was still starting after 0\.01 s") as caught:
        session(shared, "dask", init_timeout=0.01)

    assert caught.value.details == {"backend": "dask", "stage": "starting"}
    (failed,) = wait_until(lambda: [news for news in told if news["status"] == "failed"], what="session_status")
    assert failed["error"]["code"] == "deadline-exceeded"


def test_a_session_that_is_ready_is_told(shared):
    told: list[dict[str, Any]] = []
    shared.client().subscribe(lambda endpoint, plugin, topic, data: told.append(data), topic="session_status")

    sid = session(shared, "noop").sid

    (ready,) = wait_until(lambda: [news for news in told if news["sid"] == sid], what="session_status")
    assert ready["status"] == "ready"


def test_a_task_chooses_among_the_backends_of_its_session_and_an_unknown_one_is_its_own_error(shared):
    with session(shared, "concurrent", "noop") as plugin:
        first, second, dask, nowhere = run(
            plugin,
            first={"function": add, "args": (1, 2)},
            second={"function": add, "args": (1, 2), "backend": "noop"},
            dask={"function": add, "args": (1, 2), "backend": "dask"},
            nowhere={"function": add, "args": (1, 2), "backend": "no such"},
        )
        counts = plugin.get_statistics()["backends"]

    assert (first["return_value"], second["return_value"]) == (3, True)
    for refused in (dask, nowhere):
        assert refused["state"] == "FAILED"
        assert isinstance(refused["exception"], InvalidArgument)
        assert "concurrent, noop" in str(refused["exception"])
    assert (counts["concurrent"]["DONE"], counts["noop"]["DONE"]) == (1, 1)


def test_an_executable_that_runs_longer_than_its_timeout_is_ended_and_fails_as_such(concurrent):
    slow, quick, inside = run(
        concurrent,
        slow=program("echo begun; sleep 600", timeout=0.3),
        quick=program("echo done", timeout=60),
        inside=program("sleep 600", task_backend_specific_kwargs={"timeout": 0.3}),
    )

    for overdue in (slow, inside):
        assert overdue["state"] == "FAILED"
        assert isinstance(overdue["exception"], DeadlineExceeded)
        assert "timeout of 0.3 s" in str(overdue["exception"])
    assert (quick["state"], quick["stdout"]) == ("DONE", "done\n")


def test_output_may_go_to_files_at_the_endpoint(concurrent):
    (captured,) = run(concurrent, captured=program("echo out; echo err >&2", capture_stdio=True))

    assert captured["state"] == "DONE"
    assert Path(captured["stdout"]).read_text() == "out\n"
    assert Path(captured["stderr"]).read_text() == "err\n"
    assert concurrent.sid in captured["stdout"]


def test_what_a_backend_has_not_is_the_error_of_that_task_alone(concurrent):
    good, ranks, mpi, cwd, slash = run(
        concurrent,
        good=program("exit 0", ranks=1, type=""),
        ranks=program("exit 0", ranks=2),
        mpi=program("exit 0", type="mpi"),
        cwd={"function": add, "args": (1, 2), "cwd": "/"},
        **{"../x": program("exit 0", capture_stdio=True)},
    )

    assert good["state"] == "DONE"
    for refused, word in ((ranks, "ranks"), (mpi, "type"), (cwd, "cwd")):
        assert isinstance(refused["exception"], Unsupported), refused
        assert refused["exception"].details == {"field": word, "backend": "concurrent"}
    assert isinstance(slash["exception"], InvalidArgument)
    answers = concurrent.submit_tasks([program("exit 0", input_files=["a"]), program("exit 0", output_files=["b"])])
    assert [answer["state"] for answer in answers] == ["FAILED", "FAILED"]
    assert "input_files" in str(answers[0]["exception"]) and "output_files" in str(answers[1]["exception"])


def test_rhapsodys_objects_are_taken_and_a_prompt_is_refused_where_nothing_answers_it(shared):
    rhapsody = pytest.importorskip("rhapsody")
    with session(shared, "concurrent", "noop") as plugin:
        compute = rhapsody.ComputeTask(function=add, args=(1, 2), task_backend_specific_kwargs={})
        asked = rhapsody.AITask(prompt="why?", model="m")
        answered = rhapsody.AITask(prompt="why?", model="m", backend="noop")
        results = plugin.wait_tasks(plugin.submit_tasks([compute, asked, answered]), timeout=PATIENCE_S)

    assert [result["state"] for result in results] == ["DONE", "FAILED", "DONE"]
    assert results[0]["return_value"] == 3
    assert isinstance(results[1]["exception"], Unsupported)


@needs_dask
def test_dask_runs_functions_and_executables_and_says_how_they_ended(dask, tmp_path: Path):
    f, where, bytes_, three, nowhere, overdue, captured, gpus, cwd = run(
        dask,
        f={"function": add, "args": ((1,), (2,)), "task_backend_specific_kwargs": {"priority": 1}},
        where=program("pwd; echo $COLOUR", cwd=str(tmp_path), environment={"COLOUR": "red"}),
        bytes=program(r"printf '\377'; printf 'gr\303\274n' >&2"),
        three=program("exit 3"),
        nowhere={"executable": "/no/such"},
        overdue=program("sleep 600", timeout=0.3),
        captured=program("echo out", capture_stdio=True),
        gpus={"function": add, "args": (1, 2), "task_backend_specific_kwargs": {"gpus": 1}},
        cwd={"function": add, "args": (1, 2), "cwd": "/"},
    )

    assert f["return_value"] == (1, 2)
    assert where["stdout"] == f"{tmp_path}\nred\n"
    assert (bytes_["state"], bytes_["stdout"], bytes_["stderr"]) == ("DONE", r"\xff", "grün")
    assert (three["state"], three["exit_code"], three["exception"]) == ("FAILED", 3, None)
    assert isinstance(nowhere["exception"], FileNotFoundError)
    assert isinstance(overdue["exception"], DeadlineExceeded)
    assert Path(captured["stdout"]).read_text() == "out\n"
    assert isinstance(gpus["exception"], Unsupported) and isinstance(cwd["exception"], Unsupported)


@needs_dask
def test_a_canceled_executable_on_dask_is_dead_with_its_children(dask, tmp_path: Path):
    pids = tmp_path / "pids"
    dask.submit_tasks([{"uid": "tree", **program(f"sleep 600 & echo $$ $! > {pids}; wait")}])
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="the process runs")

    answer = dask.cancel_task("tree")

    assert (answer["status"], answer["canceled"], answer["unstoppable"]) == ("canceled", 1, 0)
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())
    assert dask.wait_tasks(["tree"], timeout=PATIENCE_S)[0]["state"] == "CANCELED"


@needs_dask
def test_a_function_on_dask_that_runs_is_canceled_and_said_to_run_on(dask, tmp_path: Path):
    held = tmp_path / "held"
    dask.submit_tasks([{"uid": "held", "function": sleep_in_slices, "args": (str(held),)}])
    wait_until(held.exists, what="the function runs")

    answer = dask.cancel_task("held")

    held.unlink()
    assert (answer["status"], answer["canceled"], answer["unstoppable"]) == ("canceled", 1, 1)
    assert dask.wait_tasks(["held"], timeout=PATIENCE_S)[0]["state"] == "CANCELED"


@needs_dask
def test_a_task_that_kills_its_dask_worker_fails_and_the_rest_runs(dask):
    killer, *others = run(
        dask, killer={"function": die}, **{f"other.{number}": {"function": add, "args": (number, 1)} for number in range(20)}
    )

    assert killer["state"] == "FAILED"
    assert "KilledWorker" in type(killer["exception"]).__name__ + str(killer["exception"])
    assert [other["return_value"] for other in others] == list(range(1, 21))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster that was there before: two workers without a nanny."""
    command = [sys.executable, "-c", CLUSTER]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # the functions of this file, there, too
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=found) as cluster:
        assert cluster.stdout is not None and cluster.stdin is not None
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()


@needs_dask
def test_tasks_run_on_the_dask_cluster_whose_address_is_given_and_leave_it_as_it_was(shared, scheduler: str):
    for _ in range(2):
        with session(shared, "dask", backend_options={"dask": {"address": scheduler}}) as plugin:
            pids = run(plugin, **{f"t{number}": {"function": parent_of_worker, "args": (number,)} for number in range(20)})
            (shown,) = run(plugin, shown=program("echo $PPID"))
        assert {tuple(result["return_value"]) for result in pids} == {tuple(pids[0]["return_value"])}
        assert "two workers" in pids[0]["return_value"][1]
        assert int(shown["stdout"]) == pids[0]["return_value"][0]


@needs_dask
def test_sessions_on_one_dask_cluster_may_have_the_same_uids(shared, scheduler: str, tmp_path: Path):
    held = tmp_path / "held"
    with (
        session(shared, "dask", backend_options={"dask": {"address": scheduler}}) as one,
        session(shared, "dask", backend_options={"dask": {"address": scheduler}}) as other,
    ):
        one.submit_tasks([{"uid": "same", "function": sleep_in_slices, "args": (str(held),)}])
        wait_until(held.exists, what="the one runs")
        (result,) = run(other, same={"function": add, "args": (1, 2)})
        held.unlink()
        assert (result["return_value"], one.wait_tasks(["same"], timeout=PATIENCE_S)[0]["return_value"]) == (3, None)


@needs_dask
def test_a_dask_cluster_that_is_not_there_is_an_error_of_the_session(shared):
    with pytest.raises((DeadlineExceeded, InternalError), match="dask"):
        session(shared, "dask", backend_options={"dask": {"address": "tcp://127.0.0.1:1", "timeout": 1}}, init_timeout=20)


def test_options_of_a_backend_are_its_own_and_those_that_it_does_not_have_are_refused(shared, tmp_path: Path):
    held = tmp_path / "held"
    with session(shared, "concurrent", backend_options={"concurrent": {"threads": 1}}) as plugin:
        plugin.submit_tasks([{"uid": uid, "function": sleep_in_slices, "args": (str(held) + uid,)} for uid in "ab"])
        wait_until(Path(f"{held}a").exists, what="the first one runs")
        assert not Path(f"{held}b").exists()
        Path(f"{held}a").unlink()
        wait_until(Path(f"{held}b").exists, what="the second one runs")
        Path(f"{held}b").unlink()
    for options, word in (
        ({"concurrent": {"threads": 0}}, "threads is a number"),
        ({"concurrent": {"no": 1}}, "no option no"),
        ({"noop": {}}, "not among the backends concurrent"),
    ):
        with pytest.raises(InvalidArgument, match=word):
            session(shared, "concurrent", backend_options=options)


@needs_dask
def test_after_many_cancels_the_next_task_runs_at_once(dask, tmp_path: Path):
    held = tmp_path / "held"
    for turn in range(5):
        uids = [f"storm{turn}.{number}" for number in range(40)]
        dask.submit_tasks([{"uid": uid, **program(f"touch {held}; exec sleep 600")} for uid in uids])
        wait_until(held.exists, what="some run")
        assert dask.cancel_all_tasks()["canceled"] == 40
        held.unlink()
        (after,) = run(dask, **{f"after{turn}": {"function": add, "args": (turn, 1)}})
        assert (after["state"], after["return_value"]) == ("DONE", turn + 1)


@needs_dask
def test_closing_a_session_on_dask_ends_its_workers_and_programs(shared, tmp_path: Path):
    pids = tmp_path / "pids"
    with session(shared, "dask") as plugin:
        plugin.submit_tasks([program(f"echo $PPID $$ > {pids}; sleep 600")])
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="the process runs")

    wait_until(lambda: all(is_gone(int(pid)) for pid in pids.read_text().split()), what="the worker has ended")

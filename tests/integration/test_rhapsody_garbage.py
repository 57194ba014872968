"""Garbage at the door of the plugin rhapsody: each piece is an error of its own, which says what is wrong and what to do, and
the tasks beside it run."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_rhapsody.client import RhapsodyClient
from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, OrbitError, TooLarge, Unsupported

PATIENCE_S = 60.0
SHELL = "/bin/sh"


@pytest.fixture(scope="module")
def rhapsody(rhapsody_lab: Lab) -> RhapsodyClient:
    plugin = rhapsody_lab.client().get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    assert isinstance(plugin, RhapsodyClient)
    return plugin


def good() -> dict[str, Any]:
    return {"function": "math:hypot", "args": [3, 4]}


def outcome_beside_good_ones(
    rhapsody: RhapsodyClient, *tasks: dict[str, Any], patience_s: float = PATIENCE_S
) -> list[dict[str, Any]]:
    """The results of these tasks, sent between two others that have to run."""
    answers = rhapsody.submit_tasks([good(), *tasks, good()])
    first, *results, last = rhapsody.wait_tasks(answers, timeout=patience_s)
    assert (first["return_value"], last["return_value"]) == (5.0, 5.0)
    return results


def assert_says(error: object, kind: type[OrbitError], words: str) -> None:
    assert isinstance(error, kind), repr(error)
    assert words in error.message, error.message
    assert error.hint


NO_LISTS_OF_TASKS = [None, 5, "tasks", b"tasks", good(), [None], [5], ["task"], [[good()]], [good(), ()]]


@pytest.mark.parametrize("tasks", NO_LISTS_OF_TASKS, ids=repr)
def test_what_is_no_list_of_tasks_is_refused_as_a_whole(rhapsody: RhapsodyClient, tasks: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"takes a list of tasks|a task is a dict"):
        rhapsody.submit_tasks(tasks)
    assert rhapsody.open_tasks == []


@pytest.mark.parametrize("uid", [5, "", b"uid", "x" * 256, "x" * 1_000_000, "\ud800", ["uid"]], ids=lambda uid: repr(uid)[:20])
def test_a_uid_that_cannot_be_one_is_refused_before_anything_is_sent(rhapsody: RhapsodyClient, uid: Any) -> None:
    with pytest.raises(InvalidArgument, match="a task's uid is text") as caught:
        rhapsody.submit_tasks([good(), {**good(), "uid": uid}])
    assert len(str(caught.value)) < 500
    assert rhapsody.open_tasks == []


@pytest.mark.parametrize("wish", [{"on_unknown": "maybe"}, {"results": "nonsense"}, {"results": 5}], ids=repr)
def test_a_wish_that_cannot_be_is_refused_by_name(rhapsody: RhapsodyClient, wish: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wish))):
        rhapsody.submit_tasks([good()], **wish)
    assert rhapsody.open_tasks == []


def test_no_tasks_are_no_error(rhapsody: RhapsodyClient) -> None:
    assert rhapsody.submit_tasks([]) == []
    assert rhapsody.wait_tasks([]) == []
    assert list(rhapsody.as_completed([])) == []
    assert list(rhapsody.map(math.sqrt, [])) == []


@pytest.mark.parametrize("tasks", [None, 5, "uid", b"uid", {"uid": "a"}], ids=repr)
def test_what_is_no_list_of_uids_is_refused(rhapsody: RhapsodyClient, tasks: Any) -> None:
    with pytest.raises(InvalidArgument, match="list of uids"):
        rhapsody.wait_tasks(tasks)


@pytest.mark.parametrize("task", [5, None, {}, {"uid": 5}, {"function": "math:sqrt"}, [], b"uid"], ids=repr)
def test_what_names_no_task_is_refused(rhapsody: RhapsodyClient, task: Any) -> None:
    with pytest.raises(InvalidArgument, match="named by its uid"):
        rhapsody.wait_tasks([task])
    with pytest.raises(InvalidArgument, match="named by its uid"):
        list(rhapsody.as_completed([task]))


@pytest.mark.parametrize("timeout", [-1, "soon", math.nan, True], ids=repr)
def test_a_timeout_that_is_no_time_is_refused(rhapsody: RhapsodyClient, timeout: Any) -> None:
    answers = rhapsody.submit_tasks([good()])
    with pytest.raises(InvalidArgument, match="timeout"):
        rhapsody.wait_tasks(answers, timeout=timeout)
    assert rhapsody.wait_tasks(answers, timeout=PATIENCE_S)[0]["state"] == "DONE"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"backends": ["nonsense"]}, InvalidArgument, "nonsense"),
        ({"backends": ["dragon_v3"]}, Unsupported, "dragon"),
        ({"backends": "noop"}, InvalidArgument, "backends"),
        ({"backends": [5]}, InvalidArgument, "backends"),
        ({"backends": {"noop": 1}}, InvalidArgument, "backends"),
        ({"backends": 5}, InvalidArgument, "backends"),
        ({"notify_batch_window": -1}, InvalidArgument, "notify_batch_window"),
        ({"notify_batch_window": "soon"}, InvalidArgument, "notify_batch_window"),
        ({"notify_batch_size": 0}, InvalidArgument, "notify_batch_size"),
        ({"on_unknown": "maybe"}, InvalidArgument, "on_unknown"),
        ({"nonsense": 1}, InvalidArgument, "nonsense"),
        ({"lifetime": "for ever"}, InvalidArgument, "lifetime"),
    ],
    ids=repr,
)
def test_a_session_that_cannot_be_is_refused_by_name(
    rhapsody_lab: Lab, rhapsody: RhapsodyClient, arguments: dict[str, Any], kind: type[OrbitError], words: str
) -> None:
    before = rhapsody.list_sessions()
    with pytest.raises(OrbitError) as caught:
        rhapsody._client.get_plugin("hpc1", "rhapsody", **arguments)

    assert_says(caught.value, kind, words)
    assert rhapsody.list_sessions() == before


@pytest.mark.parametrize("call", ["get_task", "cancel_task"])
@pytest.mark.parametrize("uid", ["nobody", "", "a/b", "ü" * 10_000, "\x00"], ids=lambda uid: repr(uid)[:10])
def test_a_uid_that_nobody_has_is_not_found(rhapsody: RhapsodyClient, call: str, uid: str) -> None:
    with pytest.raises((NotFound, InvalidArgument)) as caught:
        getattr(rhapsody, call)(uid)
    assert caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [{"state": "NONSENSE"}, {"state": 5}, {"after": "nobody"}, {"after": 5}, {"limit": -1}, {"limit": "many"}],
    ids=repr,
)
def test_a_list_of_tasks_that_cannot_be_is_refused(rhapsody: RhapsodyClient, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(arguments))):
        rhapsody.list_tasks(**arguments)


class Unwilling:
    def __reduce__(self) -> Any:
        raise RuntimeError("will not travel")


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("will not be shown")

    def __reduce__(self) -> Any:
        raise RuntimeError("will not travel")


def holding_a_lock() -> Any:
    lock = threading.Lock()
    return lambda: lock


BAD_TASKS: list[tuple[dict[str, Any], str]] = [
    ({}, "'function' or 'executable'"),
    ({"args": (1,)}, "'function' or 'executable'"),
    ({"function": None, "executable": None}, "'function' or 'executable'"),
    ({"function": math.sqrt, "executable": "/bin/true"}, "not both"),
    ({"function": 5}, "function"),
    ({"function": b"math:sqrt"}, "function"),
    ({"function": ""}, "function"),
    ({"function": "math"}, "math"),
    ({"function": "math:"}, "math:"),
    ({"function": ":sqrt"}, ":sqrt"),
    ({"function": "no_such_module_here:f"}, "no_such_module_here"),
    ({"function": "math:no_such_name"}, "no_such_name"),
    ({"function": "math:pi"}, "math:pi"),
    ({"function": math.sqrt, "args": "4"}, "args"),
    ({"function": math.sqrt, "args": 4}, "args"),
    ({"function": math.sqrt, "args": {4}}, "args"),
    ({"function": math.sqrt, "kwargs": [4]}, "kwargs"),
    ({"function": holding_a_lock()}, "cannot be pickled"),
    ({"function": math.sqrt, "args": (threading.Lock(),)}, "cannot be pickled"),
    ({"function": math.sqrt, "args": (Unwilling(),)}, "will not travel"),
    ({"function": math.sqrt, "kwargs": {"x": Unspeakable()}}, "will not travel"),
    ({"function": math.sqrt, "arguments": ["4"]}, "arguments"),
    ({"executable": 5}, "executable"),
    ({"executable": ""}, "executable"),
    ({"executable": b"/bin/true"}, "executable"),
    ({"executable": "/bin/true\x00"}, "executable"),
    ({"executable": "/bin/true", "args": [1]}, "args"),
    ({"executable": "/bin/true", "arguments": "-l"}, "arguments"),
    ({"executable": "/bin/true", "arguments": {"-l": 1}}, "arguments"),
    ({"executable": "/bin/true", "arguments": [None]}, "arguments"),
    ({"executable": "/bin/true", "arguments": [["-l"]]}, "arguments"),
    ({"executable": "/bin/echo", "arguments": ["a\x00b"]}, "arguments"),
    ({"executable": "/bin/echo", "arguments": ["\ud800"]}, "surrogates"),
    ({"executable": "/bin/true", "cwd": 5}, "cwd"),
    ({"executable": "/bin/true", "cwd": "/\x00"}, "cwd"),
    ({"executable": "/bin/true", "env": ["A=b"]}, "env"),
    ({"executable": "/bin/true", "env": {"A": 1}}, "env"),
    ({"executable": "/bin/true", "env": {1: "b"}}, "env"),
    ({"executable": "/bin/true", "env": {"A=B": "c"}}, "env"),
    ({"executable": "/bin/true", "env": {"A": "b\x00"}}, "env"),
    ({"executable": "/bin/true", "shell": "yes"}, "shell"),
    ({"executable": "/bin/true", "timeout": -1}, "timeout"),
    ({"executable": "/bin/true", "timeout": "soon"}, "timeout"),
    ({"executable": "/bin/true", "timeout": math.nan}, "timeout"),
    ({"executable": "/bin/true", "ranks": -1}, "ranks"),
    ({"executable": "/bin/true", "ranks": "four"}, "ranks"),
    ({"executable": "/bin/true", "nonsense": 1}, "nonsense"),
    ({"executable": "/bin/true", "backend": "nonsense"}, "nonsense"),
    ({"executable": "/bin/true", "backend": 5}, "backend"),
    ({"executable": "/bin/true", "task_backend_specific_kwargs": [1]}, "task_backend_specific_kwargs"),
    ({"prompt": "Why?", "function": math.sqrt}, "not both"),
    ({"prompt": "Why?"}, "prompt"),
]


@pytest.mark.parametrize(("task", "words"), BAD_TASKS, ids=[f"{number}-{words}" for number, (_, words) in enumerate(BAD_TASKS)])
def test_a_bad_task_fails_alone_and_says_what_is_wrong(rhapsody: RhapsodyClient, task: dict[str, Any], words: str) -> None:
    before = dict(task)

    (result,) = outcome_beside_good_ones(rhapsody, task)

    assert result["state"] == "FAILED"
    assert_says(result["exception"], OrbitError, words)
    assert task == before


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"executable": "/no/such/program"}, "No such file or directory: '/no/such/program'"),
        ({"executable": "no-such-program-here"}, "No such file or directory: 'no-such-program-here'"),
        ({"executable": "/"}, "Permission denied: '/'"),
        ({"executable": "/etc/passwd"}, "Permission denied: '/etc/passwd'"),
        ({"executable": "/bin/true", "cwd": "/no/such/directory"}, "No such file or directory: '/no/such/directory'"),
        ({"executable": "/bin/true", "cwd": "/bin/sh"}, "Not a directory: '/bin/sh'"),
    ],
    ids=repr,
)
def test_a_program_that_cannot_be_started_fails_alone_with_the_error_of_its_system(
    rhapsody: RhapsodyClient, task: dict[str, Any], words: str
) -> None:
    (result,) = outcome_beside_good_ones(rhapsody, task)

    assert result["state"] == "FAILED"
    assert isinstance(result["exception"], OSError)
    assert words in str(result["exception"])


def test_keywords_that_are_no_text_fail_alone(rhapsody: RhapsodyClient) -> None:
    (result,) = outcome_beside_good_ones(rhapsody, {"function": "math:hypot", "kwargs": {5: 4}})

    assert result["state"] == "FAILED"
    assert isinstance(result["exception"], TypeError)
    assert "keywords must be strings" in str(result["exception"])


@pytest.mark.timeout(300)
def test_an_argument_of_100_mb_arrives_and_for_a_program_it_fails_alone(rhapsody: RhapsodyClient) -> None:
    large = {"function": len, "args": (b"x" * (100 << 20),)}
    for_a_program = {"executable": "/bin/true", "arguments": ["x" * (100 << 20)]}

    arrived, refused = outcome_beside_good_ones(rhapsody, large, for_a_program, patience_s=200.0)

    assert arrived["return_value"] == 100 << 20
    assert_says(refused["exception"], TooLarge, "arguments of more than")


def test_a_function_for_another_python_fails_alone_and_names_both(
    rhapsody: RhapsodyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody.batches.PYTHON_VERSION", "3.9")

    (result,) = outcome_beside_good_ones(rhapsody, {"function": holding_nothing})

    assert_says(result["exception"], InvalidArgument, "Python 3.9")
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in str(result["exception"])


def holding_nothing() -> None:
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("will not be shown")


def end_the_worker(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.01)
    os._exit(7)


def return_a_lock() -> Any:
    return threading.Lock()


def return_a_generator() -> Any:
    return (number for number in range(3))


def leave() -> None:
    sys.exit("it leaves")


def interrupt() -> None:
    raise KeyboardInterrupt


def recurse() -> None:
    recurse()


def raise_what_cannot_be_shown() -> None:
    raise Unprintable(threading.Lock())


def raise_what_cannot_travel() -> None:
    raise LookupError(threading.Lock())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (return_a_lock, "cannot be pickled"),
        (return_a_generator, "generator"),
        (leave, "it leaves"),
        (interrupt, ""),
        (recurse, "recursion"),
        (raise_what_cannot_be_shown, ""),
        (raise_what_cannot_travel, "lock"),
    ],
)
def test_a_function_that_misbehaves_fails_alone(rhapsody: RhapsodyClient, function: Any, words: str) -> None:
    (result,) = outcome_beside_good_ones(rhapsody, {"function": function})

    assert (result["state"], result["return_value"]) == ("FAILED", None)
    assert words in f"{result['exception']} {result['traceback']}"


def test_a_program_that_ends_itself_by_a_signal_says_which(rhapsody: RhapsodyClient) -> None:
    (result,) = outcome_beside_good_ones(rhapsody, {"executable": SHELL, "arguments": ["-c", "kill -9 $$"]})

    assert (result["state"], result["exit_code"]) == ("FAILED", -9)


@pytest.mark.timeout(300)
def test_a_program_that_prints_a_gigabyte_is_capped_and_says_so(rhapsody: RhapsodyClient) -> None:
    script = "head -c 1073741824 /dev/zero | tr '\\0' 'x'; echo end"
    (result,) = outcome_beside_good_ones(rhapsody, {"executable": SHELL, "arguments": ["-c", script]}, patience_s=200.0)

    assert result["state"] == "DONE"
    assert result["stdout"].endswith("xend\n")
    assert "not kept" in result["stdout"][:200]
    assert len(result["stdout"]) < 64 << 20


def test_a_worker_that_is_killed_ends_its_tasks_and_the_client_can_go_on(lab: Lab, tmp_path: Path) -> None:
    """The functions of the backend `concurrent` run in the endpoint's process: who ends it ends that."""
    first = lab.start_endpoint("hpc1", plugins="rhapsody")
    client = lab.client()
    plugin = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])

    gate = tmp_path / "gate"
    ending = {"function": end_the_worker, "args": [str(gate)]}
    answers = plugin.submit_tasks([{"function": "time:sleep", "args": [600]}, ending])
    gate.touch()
    wait_until(lambda: first.exit_code() is not None, what="the endpoint ends")
    lab.start_endpoint("hpc1", plugins="rhapsody")
    results = plugin.wait_tasks(answers, timeout=PATIENCE_S)

    assert [result["state"] for result in results] == ["FAILED", "FAILED"]
    assert all(isinstance(result["exception"], OrbitError) for result in results)
    again = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    assert again.wait_tasks(again.submit_tasks([good()]), timeout=PATIENCE_S)[0]["return_value"] == 5.0


def test_a_uid_twice_in_one_call_is_one_task_if_it_is_the_same_and_a_conflict_if_not(
    rhapsody: RhapsodyClient, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    task = {"uid": "twice", "executable": SHELL, "arguments": ["-c", f"echo x >> {log}"]}

    one, same, other = rhapsody.submit_tasks([task, dict(task), {**task, "arguments": ["-c", f"echo y >> {log}"]}])
    (result,) = rhapsody.wait_tasks(["twice"], timeout=PATIENCE_S)

    assert (one["state"], same["state"], other["state"]) == ("SUBMITTED", "SUBMITTED", "FAILED")
    assert_says(other["exception"], Conflict, "twice")
    assert result["state"] == "DONE"
    assert log.read_text() == "x\n"


def test_a_uid_that_comes_again_is_answered_from_memory_and_with_another_task_it_is_a_conflict(
    rhapsody: RhapsodyClient,
) -> None:
    task = {"uid": "again", "function": "math:hypot", "args": [6, 8]}
    rhapsody.wait_tasks(rhapsody.submit_tasks([task]), timeout=PATIENCE_S)

    (same,) = rhapsody.submit_tasks([dict(task)])
    (other,) = rhapsody.submit_tasks([{**task, "args": [1, 1]}])

    assert same == {"uid": "again", "state": "DONE"}
    assert_says(other["exception"], Conflict, "again")
    assert rhapsody.get_task("again")["return_value"] == 10.0
    assert isinstance(rhapsody.wait_tasks([other], timeout=PATIENCE_S)[0]["exception"], Conflict)


def test_after_all_this_nothing_is_open_and_nothing_runs(rhapsody: RhapsodyClient) -> None:
    wait_until(lambda: rhapsody.get_statistics()["in_flight"] == 0)
    assert rhapsody.open_tasks == []

"""What `orbit task` makes of its words: selectors of tasks, tasks in JSON, exit codes of results."""

from __future__ import annotations

import io
import json
from typing import Any

import click
import pytest

from orbit_zmq.cli.task_following import error_text, exit_code_of_result, lines_of
from orbit_zmq.cli.task_input import environment_of, tasks_of_file, tasks_of_program, with_uids
from orbit_zmq.cli.task_selectors import chosen_tasks
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, NotPermitted, RemoteError

TASKS = [
    {"uid": uid, "state": state}
    for uid, state in [
        ("aaaa1111", "DONE"),
        ("bbbb2222.1", "FAILED"),
        ("bbbb2222.2", "RUNNING"),
        ("mine", "SUBMITTED"),
        ("bbbb2222.3", "CANCELED"),
        ("done", "FAILED"),
        ("cccc3333.9", "DONE"),
        ("cccc3333.10", "DONE"),
    ]
]


def chosen(*selectors: str) -> list[str]:
    return [task["uid"] for task in chosen_tasks(selectors, TASKS)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("aaaa1111", ["aaaa1111"]),
        ("aa", ["aaaa1111"]),
        ("all", [task["uid"] for task in TASKS]),
        ("last", ["cccc3333.9", "cccc3333.10"]),
        ("bbbb2222", ["bbbb2222.1", "bbbb2222.2", "bbbb2222.3"]),
        ("failed", ["bbbb2222.1", "done"]),
        ("Running", ["bbbb2222.2"]),
        ("done", ["done"]),  # a task of that name comes before the state
        ("*.1*", ["bbbb2222.1", "cccc3333.10"]),
        ("zz*", []),
        ("bbbb2222.2..bbbb2222.3", ["bbbb2222.2", "mine", "bbbb2222.3"]),
        ("bbbb2222.2..3", ["bbbb2222.2", "mine", "bbbb2222.3"]),
        ("aa..mine", ["aaaa1111", "bbbb2222.1", "bbbb2222.2", "mine"]),
        ("mine,aaaa1111,,mine", ["aaaa1111", "mine"]),
    ],
)
def test_tasks_are_chosen_by_name_group_range_pattern_state_and_order(selector: str, expected: list[str]) -> None:
    assert chosen(selector) == expected


def test_several_selectors_mean_all_that_one_of_them_means_once_and_in_order() -> None:
    assert chosen("running", "mine", "aaaa1111", "all,mine")[:2] == ["aaaa1111", "bbbb2222.1"]
    assert chosen("running", "mine", "aaaa1111") == ["aaaa1111", "bbbb2222.2", "mine"]


@pytest.mark.parametrize(
    ("selector", "error", "words"),
    [
        ("nothing", NotFound, "no task 'nothing'"),
        ("bb", InvalidArgument, "Several tasks begin with 'bb'"),
        ("mine..", InvalidArgument, "no range"),
        ("..mine", InvalidArgument, "no range"),
        ("mine..aaaa1111", InvalidArgument, "was submitted before"),
        ("mine..absent", NotFound, "no task 'absent'"),
        ("mine..7", NotFound, "no task '7'"),
        ("runing", NotFound, "no task 'runing'"),
    ],
)
def test_what_means_no_task_is_an_error_that_says_so(selector: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        chosen(selector)


def test_a_uid_that_is_at_two_places_has_to_be_said_where() -> None:
    with pytest.raises(InvalidArgument, match="--endpoint"):
        chosen_tasks(["x"], [{"uid": "x", "state": "DONE"}] * 2)
    assert len(chosen_tasks(["done"], [{"uid": "x", "state": "DONE"}] * 2)) == 2


def test_without_any_task_there_is_no_last_one() -> None:
    assert chosen_tasks(["all", "failed", "*"], []) == []
    with pytest.raises(NotFound, match="no last task"):
        chosen_tasks(["last"], [])


def test_an_unknown_name_among_very_many_tasks_is_an_error_at_once() -> None:
    with pytest.raises(NotFound):
        chosen_tasks(["nothing"], [{"uid": f"{number:08x}", "state": "DONE"} for number in range(100_000)])


def test_a_program_is_one_task_or_many_that_know_their_numbers() -> None:
    (one,) = tasks_of_program(["echo", "a"], 1, {"cwd": "/"})
    many = tasks_of_program(["echo"], 3, {"env": {"A": "b"}})

    assert one == {"uid": one["uid"], "executable": "echo", "arguments": ["a"], "cwd": "/"}
    assert [task["env"] for task in many] == [{"A": "b", "ORBIT_TASK_NUMBER": str(number)} for number in (1, 2, 3)]
    assert [task["uid"].partition(".")[2] for task in many] == ["1", "2", "3"]
    assert len({task["uid"].partition(".")[0] for task in many}) == 1


def test_tasks_keep_the_uids_that_they_have() -> None:
    first, second = with_uids([{"uid": "mine"}, {}])

    assert (first["uid"], second["uid"][-2:]) == ("mine", ".2")


def read(content: str | bytes, options: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    data = content if isinstance(content, bytes) else content.encode()
    return [{k: v for k, v in task.items() if k != "uid"} for task in tasks_of_file(io.BytesIO(data), "tasks", options or {})]


TWO = [{"executable": "a"}, {"executable": "b"}]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(TWO),
        json.dumps(TWO, indent=2),
        "\n\n".join(map(json.dumps, TWO)),
        "\r\n".join(map(json.dumps, TWO)) + "\r\n",
        b"\xef\xbb\xbf" + json.dumps(TWO).encode(),
    ],
)
def test_a_file_is_a_list_of_tasks_or_has_one_a_line(content: str | bytes) -> None:
    assert read(content) == TWO


def test_a_file_may_be_a_single_task() -> None:
    assert read(json.dumps(TWO[0], indent=2)) == TWO[:1]


def test_options_hold_for_tasks_that_say_nothing_else() -> None:
    tasks = [{"executable": "a"}, {"executable": "b", "cwd": "/b", "env": {"X": "own"}}]

    assert read(json.dumps(tasks), {"cwd": "/a", "env": {"X": "all", "Y": "all"}}) == [
        {"executable": "a", "cwd": "/a", "env": {"X": "all", "Y": "all"}},
        {"executable": "b", "cwd": "/b", "env": {"X": "own", "Y": "all"}},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no tasks"),
        ("[]", "no tasks"),
        (" \n ", "no tasks"),
        ("[{]", "tasks is no JSON"),
        ('{"executable": "a"}\n{"executable": ', "line 2 is no JSON"),
        ("hostname", "line 1 is no JSON"),
        ('[{"executable": "a"}, "b"]', 'task 2: a task is an object, not "b"'),
        ('{"executable": "a"}\n7', "line 2: a task is an object, not 7"),
        ('[{"executable": "a", "env": ["X"]}]', "its env is an object"),
        (b"\xff\xfe", "no text in UTF-8"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_file_that_is_no_list_of_tasks_is_refused_with_the_place(content: str | bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read(content)


def test_variables_are_names_and_values() -> None:
    assert environment_of(["A=b=c", "B="]) == {"A": "b=c", "B": ""}
    for wrong in ("A", "=b"):
        with pytest.raises(click.UsageError, match="NAME=VALUE"):
            environment_of([wrong])


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"state": "DONE", "exit_code": 0}, 0),
        ({"state": "DONE", "exit_code": None}, 0),
        ({"state": "FAILED", "exit_code": 3}, 3),
        ({"state": "FAILED", "exit_code": -9}, 137),
        ({"state": "FAILED", "exit_code": -200}, 255),
        ({"state": "FAILED", "exit_code": 256}, 1),
        ({"state": "FAILED", "exit_code": None}, 1),
        ({"state": "CANCELED", "exit_code": -2, "exception": None}, 130),
        ({"state": "CANCELED", "exit_code": None}, 1),
        ({"state": "FAILED", "exit_code": -2, "exception": DeadlineExceeded("late")}, 5),
        ({"state": "FAILED", "exit_code": None, "exception": NotPermitted("no")}, 4),
        ({"state": "FAILED", "exit_code": None, "exception": ValueError("x")}, 1),
        ({"state": "FAILED", "exit_code": 7, "exception": RemoteError("x", remote_type="a.B")}, 7),
    ],
)
def test_the_exit_code_is_that_of_the_task_or_of_its_error(result: dict[str, Any], code: int) -> None:
    assert exit_code_of_result(result) == code


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (None, ""),
        (ValueError("x"), "ValueError: x"),
        (RemoteError("x", remote_type="a.B"), "a.B: x"),
        ({"type": "builtins.KeyError", "message": "'x'\n y"}, "KeyError: 'x' y"),
        ({"type": "orbit_zmq.errors.DeadlineExceeded", "message": "late"}, "DeadlineExceeded: late"),
    ],
)
def test_an_error_is_one_line(error: object, text: str) -> None:
    assert error_text(error) == text


def test_what_a_result_has_of_output_is_read_line_by_line() -> None:
    lines = list(lines_of({"stdout": "a\n\nb", "stderr": "c\n"}))

    assert [(line.number, line.stream, line.text) for line in lines] == [
        (1, "stdout", "a"), (2, "stdout", ""), (3, "stdout", "b"), (4, "stderr", "c"),
    ]  # fmt: skip
    assert list(lines_of({"stdout": "", "stderr": None})) == []

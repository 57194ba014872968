"""What a task asks of its backend reaches it in the backend's words, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from orbit_rhapsody.backends import BACKENDS
from orbit_rhapsody.codec import EXECUTABLE, FUNCTION
from orbit_rhapsody.options import options_of
from orbit_zmq.errors import InvalidArgument, Unsupported

EVERYTHING = {"cwd": "/", "env": {"A": "b"}, "shell": True, "timeout": 2, "ranks": 4, "type": "mpi", "capture_stdio": True}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_that_asks_for_nothing_has_no_options(backend: str):
    said_nothing = {"shell": False, "ranks": 1, "type": "", "capture_stdio": False, "cwd": None, "timeout": None}

    assert options_of({}, EXECUTABLE, backend) == {"task_backend_specific_kwargs": {}}
    assert options_of(said_nothing, EXECUTABLE, backend) == {"task_backend_specific_kwargs": {}}


@pytest.mark.parametrize(
    ("backend", "fields", "expected"),
    [
        ("concurrent", {"cwd": "/", "shell": True}, {"task_backend_specific_kwargs": {"cwd": "/", "shell": True}}),
        ("concurrent", {"timeout": 2}, {"task_backend_specific_kwargs": {}, "timeout": 2}),
        ("concurrent", {"capture_stdio": True}, {"task_backend_specific_kwargs": {}, "capture_stdio": True}),
        ("dask", {"cwd": "/", "timeout": 2}, {"program": {"cwd": "/", "timeout": 2}, "timeout": 2}),
        ("dask", {"task_backend_specific_kwargs": {"priority": 3}}, {"task_backend_specific_kwargs": {"priority": 3}}),
        ("dragon", {"cwd": "/"}, {"task_backend_specific_kwargs": {"process_template": {"cwd": "/"}}}),
        ("dragon", {"ranks": 2, "type": "mpi"}, {"task_backend_specific_kwargs": {"process_templates": [(2, {})]}}),
        ("dragon", {"timeout": 2}, {"task_backend_specific_kwargs": {"timeout": 2}, "timeout": 2}),
        (
            "radical_pilot",
            {"cwd": "/x", "environment": {"A": "b"}, "ranks": 2, "timeout": 2},
            {"task_backend_specific_kwargs": {"sandbox": "/x", "environment": {"A": "b"}, "ranks": 2, "timeout": 2.0}},
        ),
    ],
)
def test_an_executable_gets_what_it_asks_for_in_the_words_of_its_backend(backend, fields, expected):
    assert options_of(fields, EXECUTABLE, backend).items() >= expected.items()


def test_the_words_may_also_stand_among_the_options_of_the_backend():
    inside: dict[str, Any] = {"task_backend_specific_kwargs": {"cwd": "/x", "timeout": 5, "own": 1}}

    assert options_of(inside, EXECUTABLE, "concurrent") == {
        "task_backend_specific_kwargs": {"cwd": "/x", "own": 1},
        "timeout": 5,
    }
    with pytest.raises(InvalidArgument, match="two things of its cwd"):
        options_of({"cwd": "/y", **inside}, EXECUTABLE, "concurrent")


@pytest.mark.parametrize("backend", ["concurrent", "dask"])
def test_the_environment_of_a_task_adds_to_that_of_the_endpoint_and_among_the_options_it_replaces_it(backend: str, monkeypatch):
    monkeypatch.setenv("FROM_ENDPOINT", "1")

    def env_of(**fields: Any) -> dict[str, str]:
        made = options_of(fields, EXECUTABLE, backend)
        found: dict[str, str] = made.get("program", made["task_backend_specific_kwargs"])["env"]
        return found

    assert env_of(env={"A": "b"}).items() >= {"A": "b", "FROM_ENDPOINT": "1"}.items()
    assert env_of(task_backend_specific_kwargs={"env": {"A": "b"}}) == {"A": "b"}


@pytest.mark.parametrize(
    ("backend", "kind", "refused"),
    [
        ("concurrent", EXECUTABLE, {"ranks", "type"}),
        ("concurrent", FUNCTION, set(EVERYTHING)),
        ("dask", EXECUTABLE, {"ranks", "type"}),
        ("dask", FUNCTION, set(EVERYTHING)),
        ("dragon", EXECUTABLE, {"shell"}),
        ("dragon", FUNCTION, {"shell"}),
        ("radical_pilot", EXECUTABLE, {"shell", "capture_stdio"}),
        ("noop", EXECUTABLE, set()),
        ("noop", FUNCTION, set()),
    ],
)
def test_what_a_backend_has_not_is_refused_by_name(backend: str, kind: int, refused: set[str]):
    for word, value in EVERYTHING.items():
        if word not in refused:
            options_of({word: value}, kind, backend)
            continue
        with pytest.raises(Unsupported, match=f"{backend}.*{word}") as caught:
            options_of({word: value}, kind, backend)
        assert caught.value.details == {"field": word, "backend": backend}


def test_an_option_that_dask_would_hand_to_the_function_is_refused_by_name():
    with pytest.raises(Unsupported, match="gpus"):
        options_of({"task_backend_specific_kwargs": {"gpus": 1}}, FUNCTION, "dask")


@pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"noop"}))
def test_prompts_are_refused_where_nothing_answers_them(backend: str):
    with pytest.raises(Unsupported, match="prompt"):
        options_of({"prompt": "why?"}, FUNCTION, backend)
    options_of({"prompt": "why?"}, FUNCTION, "noop")


def test_functions_are_refused_by_name_where_only_executables_run():
    with pytest.raises(Unsupported, match="radical_pilot"):
        options_of({}, FUNCTION, "radical_pilot")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("cwd", 5), ("env", {"A": 5}), ("env", ["A"]), ("environment", {1: "a"}), ("shell", "yes"), ("timeout", 0),
        ("timeout", -1), ("timeout", float("nan")), ("timeout", True), ("timeout", "5"), ("ranks", 0), ("ranks", 1.5),
        ("ranks", True), ("type", 5), ("capture_stdio", "yes"), ("task_backend_specific_kwargs", [1]),
    ],
)  # fmt: skip
def test_a_word_with_a_wrong_value_is_refused_by_name(word: str, value: object):
    with pytest.raises(InvalidArgument, match=word):
        options_of({word: value}, EXECUTABLE, "concurrent")

"""Under which uid a task goes, and which answers say that a task was not taken."""

from __future__ import annotations

import os

import pytest

from orbit_rhapsody.handed_in import note_refusal, refusal_of, sent_uid, uid_of
from orbit_zmq.errors import Conflict


def test_numbers_of_rhapsody_are_marked_and_all_other_uids_are_left_alone() -> None:
    task_module = pytest.importorskip("rhapsody.api.task")
    numbered = task_module.ComputeTask(executable="true")
    named = task_module.ComputeTask(executable="true", uid="mine")

    assert uid_of(numbered).startswith(f"{numbered['uid']}.")
    assert uid_of(numbered) == uid_of(numbered) == sent_uid(numbered, numbered["uid"])
    assert [uid_of(named), uid_of({"uid": "task.000001"}), uid_of("task.000001")] == ["mine", "task.000001", "task.000001"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_was_forked_has_a_mark_of_its_own() -> None:
    task_module = pytest.importorskip("rhapsody.api.task")
    numbered = task_module.ComputeTask(executable="true")
    here = uid_of(numbered)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, uid_of(numbered).encode())
        os._exit(0)
    os.waitpid(child, 0)
    there = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert there.startswith(f"{numbered['uid']}.") and there != here


def test_an_answer_with_an_error_is_a_refusal_and_a_result_with_one_is_none() -> None:
    error = Conflict("used")
    answer = {"uid": "a", "state": "FAILED", "exception": error}

    assert refusal_of(answer) is error
    for other in ("a", {"uid": "a", "state": "DONE"}, {**answer, "traceback": ""}, {**answer, "exception": ValueError()}):
        assert refusal_of(other) is None


def test_an_object_that_is_taken_after_all_says_nothing_of_its_refusal_any_more() -> None:
    task: dict[str, object] = {"uid": "a", "traceback": "of a run before"}
    note_refusal(task, Conflict("used"))
    assert isinstance(refusal_of(task), Conflict)
    note_refusal(task, None)
    assert task == {"uid": "a"}

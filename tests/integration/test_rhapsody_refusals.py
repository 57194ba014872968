"""What a user is told of tasks that were not taken, and of Rhapsody's objects whose numbers two processes share."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from lab import Lab

from orbit_rhapsody.client import RhapsodyClient
from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import Conflict, DeadlineExceeded, InvalidArgument, ResultExpired

PATIENCE_S = 60.0
MEBIBYTE = 1 << 20

OTHER_PROCESS = """
import operator, sys
from rhapsody.api.task import ComputeTask
from orbit_zmq import Client

with Client(url=sys.argv[1], connect_timeout_s=60) as client:
    rhapsody = client.get_plugin("hpc1", "rhapsody", sid=sys.argv[2])
    task = ComputeTask(function=operator.add, args=(int(sys.argv[3]), 1))
    (answer,) = rhapsody.submit_tasks([task])
    (done,) = rhapsody.wait_tasks([task], timeout=60)
    print(task["uid"], answer["state"], done["return_value"])
"""


def power(uid: str, base: int) -> dict[str, Any]:
    return {"uid": uid, "function": pow, "args": [base, 2]}


def test_the_answer_of_a_task_that_was_not_taken_is_given_back_as_that_failure(rhapsody: RhapsodyClient) -> None:
    (first,) = rhapsody.submit_tasks([power("a", 3)])
    (second,) = rhapsody.submit_tasks([power("a", 4)])

    for _ in range(2):
        done, refused = rhapsody.wait_tasks([first, second], timeout=PATIENCE_S)
        assert (done["state"], done["return_value"]) == ("DONE", 9)
        assert (refused["uid"], refused["state"], type(refused["exception"])) == ("a", "FAILED", Conflict)
        assert "another uid, or leave it out" in refused["exception"].hint
    states = [result["state"] for result in rhapsody.as_completed([first, second], timeout=PATIENCE_S)]
    assert sorted(states) == ["DONE", "FAILED"]
    assert rhapsody.wait_tasks(["a"], timeout=PATIENCE_S)[0]["return_value"] == 9


def test_what_could_not_be_sent_is_a_failure_however_one_waits_for_it(rhapsody: RhapsodyClient) -> None:
    answers = rhapsody.submit_tasks([{"uid": "empty"}, power("good", 2)])

    by_answer = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)

    assert [result["state"] for result in by_answer] == ["FAILED", "DONE"]
    assert isinstance(by_answer[0]["exception"], InvalidArgument)
    assert by_answer[0].keys() >= {"traceback", "return_value"}


def test_an_object_that_was_not_taken_says_so_and_may_be_handed_in_again(rhapsody: RhapsodyClient) -> None:
    from rhapsody.api.task import ComputeTask

    first, second = (ComputeTask(uid="same", function=pow, args=(base, 2)) for base in (3, 4))
    rhapsody.submit_tasks([first, second])

    done, refused = rhapsody.wait_tasks([first, second], timeout=PATIENCE_S)

    assert done is first and refused is second
    assert (first["return_value"], second["state"], type(second["exception"])) == (9, "FAILED", Conflict)
    second["uid"] = "its own"
    rhapsody.submit_tasks([second])
    assert rhapsody.wait_tasks([second], timeout=PATIENCE_S) == [second]
    assert second["return_value"] == 16


def test_objects_are_filled_when_their_answers_or_uids_are_waited_for(rhapsody: RhapsodyClient) -> None:
    from rhapsody.api.task import ComputeTask

    tasks = [ComputeTask(function=pow, args=(base, 2)) for base in range(3)]
    own_uids = [task["uid"] for task in tasks]

    answers = rhapsody.submit_tasks(tasks)
    results = rhapsody.wait_tasks(answers[:2], timeout=PATIENCE_S)
    (last,) = rhapsody.as_completed([answers[2]["uid"]], timeout=PATIENCE_S)

    assert [type(result) for result in (*results, last)] == [dict] * 3
    assert [task.return_value for task in tasks] == [0, 1, 4]
    assert [task["uid"] for task in tasks] == own_uids
    assert [answer["uid"] for answer in rhapsody.submit_tasks(tasks)] == [answer["uid"] for answer in answers]


def test_a_number_of_rhapsody_stands_for_no_task_of_another_process(rhapsody_lab: Lab, rhapsody: RhapsodyClient) -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, rhapsody_lab.url, rhapsody.sid, number],
            env=environment_of_child(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout.split()
        for number in ("1", "1", "2")
    ]
    assert said == [["task.000001", "SUBMITTED", value] for value in ("2", "2", "3")]
    assert len(rhapsody.list_tasks()["tasks"]) == 3


def test_map_has_values_where_the_session_wants_references(client: Any) -> None:
    with client.get_plugin("hpc1", "rhapsody", backends=["concurrent"], results="reference") as plugin:
        assert [len(value) for value in plugin.map(bytes, [MEBIBYTE, 10 * MEBIBYTE])] == [MEBIBYTE, 10 * MEBIBYTE]


def test_who_attaches_with_other_arguments_is_told(client: Any, rhapsody: RhapsodyClient) -> None:
    with pytest.raises(Conflict, match="exists with other backends") as caught:
        client.get_plugin("hpc1", "rhapsody", sid=rhapsody.sid, backends=["noop"])
    assert "Attach without" in caught.value.hint
    for same in ({}, {"backends": ["concurrent", "noop"]}, {"init_timeout": 60}):
        assert client.get_plugin("hpc1", "rhapsody", sid=rhapsody.sid, **same).sid == rhapsody.sid
    with client.get_plugin("hpc1", "rhapsody", results="reference", on_unknown="rerun") as other:
        assert client.get_plugin("hpc1", "rhapsody", sid=other.sid).sid == other.sid


def test_the_hint_of_a_task_that_ran_too_long_names_its_timeout(rhapsody: RhapsodyClient) -> None:
    answers = rhapsody.submit_tasks([{"executable": "/bin/sleep", "arguments": ["600"], "timeout": 0.1}])
    (result,) = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)
    assert isinstance(result["exception"], DeadlineExceeded)
    assert "`timeout`" in result["exception"].hint and "deadline_s" not in result["exception"].hint


@pytest.mark.parametrize("wish", [{"results": "ref"}, {"on_unknown": "ref"}], ids=repr)
def test_a_wish_that_cannot_be_is_answered_with_those_that_can(rhapsody: RhapsodyClient, wish: dict[str, str]) -> None:
    (name,) = wish
    with pytest.raises(InvalidArgument, match=f"^{name} is 'ref', not one of ") as caught:
        rhapsody.submit_tasks([power("never", 1)], **wish)  # type: ignore[arg-type]
    assert "leave" in caught.value.hint


def test_a_value_that_was_discarded_is_said_to_be(rhapsody: RhapsodyClient) -> None:
    answers = rhapsody.submit_tasks([{"function": bytes, "args": [MEBIBYTE]}], results="reference")
    (result,) = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)
    rhapsody.discard([result])
    with pytest.raises(ResultExpired) as caught:
        rhapsody.fetch(result)
    assert "discarded" in caught.value.hint


def test_output_of_an_ended_task_that_was_not_streamed_is_refused(rhapsody: RhapsodyClient) -> None:
    for script in ("echo hello", "exit 3"):
        answers = rhapsody.submit_tasks([{"executable": "/bin/sh", "arguments": ["-c", script]}])
        rhapsody.wait_tasks(answers, timeout=PATIENCE_S)
        with pytest.raises(InvalidArgument, match="not streamed"):
            list(rhapsody.output(answers[0]))

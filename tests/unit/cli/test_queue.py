"""What `orbit queue` makes of the answers: filters, and endpoints that answer something else."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from orbit_zmq.cli.output import shown
from orbit_zmq.cli.places import items_of, selected
from orbit_zmq.cli.queue import _in_state, _job_states, _moment, _states, _with_array_id, queue
from orbit_zmq.errors import NotFound, ProtocolError

JOBS: list[dict[str, Any]] = [
    {"job_id": "12", "state": "PENDING", "raw_state": "PENDING"},
    {"job_id": "120", "state": "HELD", "raw_state": "PENDING"},
    {"job_id": "121", "state": "FAILED", "raw_state": "TIMEOUT"},
    {"job_id": "13", "state": "FAILED", "raw_state": "FAILED"},
]


def ids(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["job_id"] for job in jobs]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), ["12", "120", "121", "13"]),
        (("pending",), ["12"]),
        (("HELD, timeout",), ["120", "121"]),
        (("FAILED",), ["121", "13"]),
        (("PENDING", "held"), ["12", "120"]),
        (("deadline",), []),
    ],
)
def test_a_state_is_one_of_ours_or_else_the_batch_systems(states: tuple[str, ...], expected: list[str]) -> None:
    assert ids(_in_state(JOBS, _states(states, _job_states(), JOBS))) == expected


def test_a_word_that_is_no_state_is_refused_by_name() -> None:
    with pytest.raises(click.UsageError, match="--state: BOGUS is no state; there is: CANCELLED, DONE"):
        _states(("bogus",), _job_states(), JOBS)
    assert _states(("odd",), (), [{"state": "UNKNOWN", "raw_state": "Odd"}]) == {"ODD"}


def test_members_of_an_array_are_chosen_by_the_batch_systems_id() -> None:
    array = {"array_job_id": "12", "state": "PENDING", "raw_state": "PENDING"}
    jobs = [
        _with_array_id({**array, "job_id": "14", "array_task_id": 1, "array_tasks": None}),
        _with_array_id({**array, "job_id": "12", "array_task_id": None, "array_tasks": "3-9%2"}),
        _with_array_id({"job_id": "15", "array_job_id": None}),
    ]

    assert [job["array_id"] for job in jobs] == ["12_1", "12_[3-9%2]", None]
    assert ids(selected("job", ["12_1"], jobs, "job_id", "array_id")) == ["14"]
    assert ids(selected("job", ["12_*"], jobs, "job_id", "array_id")) == ["14", "12"]


@pytest.mark.parametrize("option", ["--since", "--limit"])
def test_what_counts_for_finished_jobs_alone_is_refused_without_them(option: str) -> None:
    done = CliRunner().invoke(queue, ["jobs", option, "1"])

    assert done.exit_code == 2 and f"{option} is of use with --finished alone" in done.output


def test_a_moment_is_a_date_for_people() -> None:
    assert (_moment(None), len(_moment(1_700_000_000.0))) == ("-", 16)


def test_jobs_are_chosen_by_id_beginning_and_pattern() -> None:
    assert ids(selected("job", ["12"], JOBS, "job_id")) == ["12"]
    assert ids(selected("job", ["12*,13"], JOBS, "job_id")) == ["12", "120", "121", "13"]
    assert ids(selected("job", [], JOBS, "job_id")) == ids(JOBS)
    with pytest.raises(NotFound, match="no job '99'"):
        selected("job", ["99"], JOBS, "job_id")


@pytest.mark.parametrize("answer", [None, [], {}, {"jobs": None}, {"jobs": ["12"]}, {"queues": {}}])
def test_an_answer_that_is_no_list_is_a_protocol_error(answer: Any) -> None:
    with pytest.raises(ProtocolError, match="no jobs"):
        items_of(answer, "jobs", ("hpc1", "queue_info"))


def test_each_record_says_where_it_is_from() -> None:
    queues = {"queues": {"debug": {"name": "debug"}}}

    assert items_of(queues, "queues", ("hpc1", "other")) == [{"name": "debug", "endpoint": "hpc1", "plugin": "other"}]


def test_a_time_limit_is_a_duration_for_people() -> None:
    assert [shown("time_limit", value) for value in (1800, "unlimited", None)] == ["30m", "unlimited", "-"]

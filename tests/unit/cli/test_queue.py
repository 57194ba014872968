"""What `orbit queue` makes of the answers: filters, and endpoints that answer something else."""

from __future__ import annotations

from typing import Any

import pytest

from orbit_zmq.cli.output import shown
from orbit_zmq.cli.queue import _in_state, _items, _selected
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
        (("absent",), []),
    ],
)
def test_a_state_is_one_of_ours_or_else_the_batch_systems(states: tuple[str, ...], expected: list[str]) -> None:
    assert ids(_in_state(JOBS, states)) == expected


def test_jobs_are_chosen_by_id_beginning_and_pattern() -> None:
    assert ids(_selected("job", ["12"], JOBS, "job_id")) == ["12"]
    assert ids(_selected("job", ["12*,13"], JOBS, "job_id")) == ["12", "120", "121", "13"]
    assert ids(_selected("job", [], JOBS, "job_id")) == ids(JOBS)
    with pytest.raises(NotFound, match="no job '99'"):
        _selected("job", ["99"], JOBS, "job_id")


@pytest.mark.parametrize("answer", [None, [], {}, {"jobs": None}, {"jobs": ["12"]}, {"queues": {}}])
def test_an_answer_that_is_no_list_is_a_protocol_error(answer: Any) -> None:
    with pytest.raises(ProtocolError, match="no jobs"):
        _items(answer, "jobs", ("hpc1", "queue_info"))


def test_each_record_says_where_it_is_from() -> None:
    queues = {"queues": {"debug": {"name": "debug"}}}

    assert _items(queues, "queues", ("hpc1", "other")) == [{"name": "debug", "endpoint": "hpc1", "plugin": "other"}]


def test_a_time_limit_is_a_duration_for_people() -> None:
    assert [shown("time_limit", value) for value in (1800, "unlimited", None)] == ["30m", "unlimited", "-"]

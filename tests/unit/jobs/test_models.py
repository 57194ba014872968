"""Handles, statuses and arrays: what is said of jobs, and that it survives its way through JSON."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orbit_jobs.judging import STATUS_OF_PSIJ, STATUS_OF_STATE
from orbit_jobs.models import (
    Array,
    Issue,
    JobHandle,
    JobStatus,
    JobStatusResult,
    JobValidationError,
    status_of_all,
    validation_error_of,
)
from orbit_zmq.batch.states import FLUX, LSF, PBS, SLURM
from orbit_zmq.errors import InvalidArgument, error_from_body

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HANDLE = JobHandle(job_id="job.1", backend="slurm", submitted_at=NOON, endpoint="hpc1", native_id="17", metadata={"a": [1]})


def test_a_handle_goes_through_json_and_is_checked() -> None:
    assert JobHandle.model_validate_json(HANDLE.model_dump_json()) == HANDLE
    assert str(HANDLE) == "slurm job.1 submitted_at=2026-03-01T12:00:00Z endpoint=hpc1 native_id=17"
    for bad in (
        '{"backend": "slurm"}',
        '{"job_id": "a b", "backend": "x"}',
        '{"job_id": "a", "backend": "x", "submitted_at": "?"}',
    ):
        with pytest.raises(ValidationError):
            JobHandle.model_validate_json(bad)


def test_a_status_is_a_handle_with_what_is_known() -> None:
    found = JobStatusResult.of(HANDLE, JobStatus.FAILED, exit_code=3, signal=None, reason="")

    assert isinstance(found, JobHandle) and found.detail == {"exit_code": 3}
    assert JobStatusResult.model_validate_json(found.model_dump_json()) == found
    assert str(found) == f"{HANDLE} status=failed"


def test_what_has_finished_is_neither_pending_nor_running() -> None:
    assert [status.value for status in JobStatus if not status.is_finished] == ["pending", "running"]
    assert JobStatus("finished_unknown").is_finished


def test_every_word_of_a_scheduler_has_a_status() -> None:
    assert {*SLURM.values(), *PBS.values(), *LSF.values(), *FLUX.values()} <= set(STATUS_OF_STATE)
    assert set(STATUS_OF_PSIJ.values()) | {JobStatus.FINISHED_UNKNOWN} == set(JobStatus)


@pytest.mark.parametrize(
    ("text", "indices", "shown"),
    [
        ("0-3", [0, 1, 2, 3], "0-3"),
        ("7", [7], "7"),
        ("5-7,1,6%2", [1, 5, 6, 7], "1,5-7%2"),
        ("0-9:4", [0, 4, 8], "0,4,8"),
    ],
)
def test_an_array_is_read_as_schedulers_write_it(text: str, indices: list[int], shown: str) -> None:
    assert Array.parse(text).indices == indices and str(Array.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "1-9:0", "0-3%", "0-3%0", "-1", "0-999999999", "1 2", "0-99999"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Array.parse(text)


@given(st.sets(st.integers(0, 300), min_size=1), st.none() | st.integers(1, 50))
def test_an_array_is_what_its_text_says(indices: set[int], limit: int | None) -> None:
    array = Array(indices=sorted(indices), limit=limit)

    assert Array.parse(str(array)) == array


def test_many_are_no_better_than_the_worst_of_them() -> None:
    pending, running, good, bad, ended, unknown = (
        JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCESSFUL, JobStatus.FAILED, JobStatus.CANCELLED,
        JobStatus.FINISHED_UNKNOWN,
    )  # fmt: skip
    assert status_of_all([pending, pending]) is pending
    assert status_of_all([pending, good]) is running and status_of_all([running, bad]) is running
    assert status_of_all([good, good]) is good and status_of_all([good, bad, unknown]) is bad
    assert status_of_all([good, unknown, ended]) is unknown and status_of_all([good, ended]) is ended


def test_what_is_wrong_with_a_job_arrives_at_the_caller_as_it_was() -> None:
    raised = JobValidationError([Issue(kind="missing_executable", msg="There is no program x.", ctx={"executable": "x"})])
    arrived = validation_error_of(error_from_body(raised.to_body()))

    assert isinstance(raised, ValueError) and arrived is not None and arrived.issues == raised.issues
    assert validation_error_of(InvalidArgument("something else")) is None

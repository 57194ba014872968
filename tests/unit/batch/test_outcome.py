"""How a job has ended: its own record first, then the accounting, then the scheduler, and never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.batch.exit_record import ExitRecord
from orbit_zmq.batch.outcome import NativeState, is_of_this_run, outcome_of
from orbit_zmq.batch.states import SLURM

RUNNING = NativeState("RUNNING", "RUNNING")
DONE = NativeState("DONE", "COMPLETED", 0)
FAILED = NativeState("FAILED", "FAILED", 3, reason="NonZeroExitCode")
TIMEOUT = NativeState("FAILED", "TIMEOUT", 0, 15, reason="TimeLimit")
CANCELLED = NativeState("CANCELLED", "CANCELLED by 1000", 0, 15)
NEVER_RUN = NativeState("CANCELLED", "CANCELLED by 1000", 0)


def record(exit_code: int | None, signal: int | None = None, problem: str = "") -> ExitRecord:
    return ExitRecord(1, "1", "boot", "host", "17", 1.0, exit_code, signal, 2.0 if exit_code is not None else None, problem)


@pytest.mark.parametrize(
    ("own", "accounting", "scheduler", "cancel_asked", "wanted"),
    [
        (record(0), None, None, False, ("successful", 0, "record")),
        (record(0), FAILED, TIMEOUT, True, ("successful", 0, "record")),
        (record(3), None, None, False, ("failed", 3, "record")),
        (record(3), None, None, True, ("failed", 3, "record")),  # it ended by itself, before that
        (record(143, 15), None, None, True, ("cancelled", 143, "record")),
        (record(143, 15), None, None, False, ("failed", 143, "record")),
        (record(143, 15), None, CANCELLED, False, ("cancelled", 143, "record")),
        (record(143, 15), None, TIMEOUT, False, ("failed", 143, "record")),
        (record(1), None, TIMEOUT, False, ("failed", 1, "record")),
        (record(None), DONE, None, False, ("successful", 0, "accounting")),
        (None, FAILED, DONE, False, ("failed", 3, "accounting")),
        (None, RUNNING, FAILED, False, ("failed", 3, "scheduler")),
        (None, None, TIMEOUT, False, ("failed", 143, "scheduler")),
        (None, None, CANCELLED, False, ("cancelled", 143, "scheduler")),
        (None, NEVER_RUN, None, True, ("cancelled", None, "accounting")),
        (None, None, RUNNING, False, ("finished_unknown", None, "none")),
        (record(None), None, None, False, ("finished_unknown", None, "none")),
        (None, None, None, False, ("finished_unknown", None, "none")),
        (None, None, None, True, ("cancelled", None, "none")),
    ],
)
def test_the_outcome_follows_from_what_is_known(
    own: ExitRecord | None,
    accounting: NativeState | None,
    scheduler: NativeState | None,
    cancel_asked: bool,
    wanted: tuple[str, int | None, str],
) -> None:
    found = outcome_of(own, accounting, scheduler, cancel_asked=cancel_asked)

    assert (found.end, found.exit_code, found.source) == wanted


def test_the_reason_is_the_schedulers_word_or_a_sentence() -> None:
    assert outcome_of(record(143, 15), None, TIMEOUT).reason == "TimeLimit"
    assert outcome_of(record(3), None, FAILED).reason == "It ended with exit code 3."
    assert outcome_of(record(127), None, None).reason == "It ended with exit code 127: there is no such command."
    assert outcome_of(record(137, 9), None, None).reason == "It was ended by SIGKILL."
    assert outcome_of(record(126, problem="stdout cannot be written"), None, None).reason == "stdout cannot be written"
    assert outcome_of(None, None, NativeState("FAILED", "NODE_FAIL", reason="None")).reason == "NODE_FAIL"
    assert "nor the scheduler" in outcome_of(None, None, None).reason


natives = st.none() | st.builds(
    NativeState,
    st.sampled_from(sorted(set(SLURM.values()))),
    st.sampled_from(sorted(SLURM)) | st.text(max_size=5),
    st.none() | st.integers(0, 255),
    st.none() | st.integers(1, 64),
    st.none() | st.text(max_size=5),
)
records = st.none() | st.builds(record, st.none() | st.integers(0, 255), st.none() | st.integers(1, 64))


@given(own=records, accounting=natives, scheduler=natives, cancel_asked=st.booleans())
def test_success_is_never_a_guess(
    own: ExitRecord | None, accounting: NativeState | None, scheduler: NativeState | None, cancel_asked: bool
) -> None:
    found = outcome_of(own, accounting, scheduler, cancel_asked=cancel_asked)
    if own is not None and not is_of_this_run(own, scheduler):
        own = None
    if found.end == "successful":
        said = next((one for one in (accounting, scheduler) if one is not None and one.has_ended), None)
        assert (
            own.exit_code == 0 if own is not None and own.exit_code is not None else said is not None and said.state == "DONE"
        )
    assert found.reason or found.end == "successful" or found.source != "none"

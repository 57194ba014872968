"""What has become of a job, by rules that see a made-up clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orbit_psij.progress import (
    LEFT_BEHIND_S,
    OF_END,
    RECORD_S,
    SILENCE_S,
    Seen,
    end_of,
    interval_s,
    state_of,
    wants_accounting,
)
from orbit_zmq.batch.exit_record import ExitRecord
from orbit_zmq.batch.outcome import NativeState, Outcome
from orbit_zmq.batch.states import State

NOW = 1_000.0
BEGUN = ExitRecord(pid=1, pid_started="5", boot="b", host="n1", native_id="17", started=900.0)
DONE = replace(BEGUN, exit_code=0, ended=NOW - 1)


def said(state: State, raw: str = "", **more: object) -> NativeState:
    return replace(NativeState(state, raw or state), **more)  # type: ignore[arg-type]


def ended_as(seen: Seen, now: float = NOW) -> str | None:
    outcome = end_of(seen, now)
    return None if outcome is None else OF_END[outcome.end]


@pytest.mark.parametrize(
    ("word", "state"), [("PENDING", "QUEUED"), ("HELD", "QUEUED"), ("RUNNING", "ACTIVE"), ("UNKNOWN", None), ("DONE", None)]
)
def test_a_job_is_queued_or_active_as_its_scheduler_says(word: State, state: str | None) -> None:
    assert state_of(Seen(said(word), None)) == state


def test_a_job_that_wrote_its_end_has_ended_so() -> None:
    assert ended_as(Seen(said("DONE"), DONE)) == "COMPLETED"
    assert ended_as(Seen(said("FAILED"), replace(DONE, exit_code=7))) == "FAILED"
    assert ended_as(Seen(None, DONE)) == "COMPLETED"


def test_the_scheduler_says_why_a_job_was_ended() -> None:
    killed = replace(DONE, exit_code=143, signal=15)
    assert ended_as(Seen(said("CANCELLED", "CANCELLED by 0"), killed)) == "CANCELED"
    timed_out = end_of(Seen(said("FAILED", "TIMEOUT", reason="TimeLimit"), killed), NOW)
    assert timed_out is not None and (timed_out.end, timed_out.exit_code, timed_out.reason) == ("failed", 143, "TimeLimit")


def test_a_shell_that_ended_well_though_its_command_was_ended_has_not_succeeded() -> None:
    assert ended_as(Seen(said("CANCELLED", "CANCELLED by 0"), DONE)) == "CANCELED"
    assert ended_as(Seen(said("FAILED", "TIMEOUT"), DONE)) == "FAILED"
    assert ended_as(Seen(said("FAILED", "NODE_FAIL"), DONE)) == "COMPLETED"


def test_a_record_may_come_later_than_the_schedulers_word() -> None:
    word = said("FAILED", exit_code=1)
    assert ended_as(Seen(word, BEGUN, ended_for_s=0.0)) is None
    assert ended_as(Seen(word, BEGUN, ended_for_s=RECORD_S)) == "FAILED"
    assert ended_as(Seen(said("CANCELLED"), None, ended_for_s=0.0)) == "CANCELED"


def test_a_job_that_nobody_speaks_of_is_never_a_success() -> None:
    assert ended_as(Seen(None, BEGUN, silent_for_s=SILENCE_S - 0.1)) is None
    outcome = end_of(Seen(None, BEGUN, silent_for_s=SILENCE_S), NOW)
    assert outcome is not None and outcome.end == "finished_unknown" and outcome.exit_code is None
    assert OF_END[outcome.end] == "FAILED"
    assert ended_as(Seen(None, BEGUN, is_running=True, silent_for_s=1e6)) is None


def test_the_accounting_counts_where_the_scheduler_has_forgotten() -> None:
    assert wants_accounting(Seen(None, BEGUN))
    assert not wants_accounting(Seen(None, DONE)) and not wants_accounting(Seen(said("RUNNING"), BEGUN))
    remembered = end_of(Seen(None, None, accounting=said("FAILED", "NODE_FAIL", exit_code=0)), NOW)
    assert isinstance(remembered, Outcome) and (remembered.end, remembered.source) == ("failed", "accounting")
    assert ended_as(Seen(None, None, accounting=said("RUNNING"), silent_for_s=1e6)) is None


def test_a_job_that_has_ended_is_not_running_though_its_node_cannot_say_so() -> None:
    seen = Seen(said("RUNNING", started=900.0), DONE)
    assert ended_as(seen, now=NOW) is None
    assert ended_as(seen, now=NOW - 1 + LEFT_BEHIND_S) == "COMPLETED"


def test_a_job_that_a_signal_has_ended_may_be_about_to_be_started_again() -> None:
    killed = replace(DONE, exit_code=143, signal=15)
    seen = Seen(said("RUNNING", "COMPLETING", started=900.0), killed)
    assert ended_as(seen, now=NOW + 1_000) is None
    assert ended_as(replace(seen, cancel_asked=True), now=NOW + 1_000) == "CANCELED"
    counted = replace(seen, record=replace(killed, restarts=1), said=said("RUNNING", "COMPLETING", restarts=1))
    assert ended_as(counted, now=NOW - 1 + LEFT_BEHIND_S) == "FAILED"
    assert ended_as(replace(counted, said=said("RUNNING", restarts=1)), now=NOW - 1 + LEFT_BEHIND_S) == "FAILED"


def test_the_end_of_an_earlier_run_is_none_of_a_requeued_job() -> None:
    assert ended_as(Seen(said("PENDING"), DONE), now=NOW + 100) is None
    assert ended_as(Seen(said("RUNNING", started=NOW + 50), DONE), now=NOW + 100) is None
    first = replace(DONE, restarts=0)
    assert ended_as(Seen(said("RUNNING", "COMPLETING", restarts=1), first), now=NOW + 100) is None
    canceled = end_of(Seen(said("CANCELLED", restarts=1), first, ended_for_s=RECORD_S), NOW)
    assert canceled is not None and (canceled.end, canceled.exit_code) == ("cancelled", None)


def test_a_change_is_known_within_three_seconds_and_costly_questions_are_rare() -> None:
    assert interval_s(took_s=0.02, quiet_for_s=0.0, longest_s=5.0) == 1.0
    assert interval_s(took_s=0.02, quiet_for_s=1e6, longest_s=5.0) == 2.0
    assert interval_s(took_s=0.4, quiet_for_s=0.0, longest_s=5.0) == 4.0
    assert interval_s(took_s=10.0, quiet_for_s=1e6, longest_s=5.0) == 5.0

"""One question for all jobs, and at most one a second; and what schedulers answer to it."""

from __future__ import annotations

import json
import threading

import pytest

from orbit_psij.printed import BETWEEN, bjobs_states, qstat_states, sacct_states, squeue_states
from orbit_psij.states import Answered, Question
from orbit_zmq.batch.outcome import NativeState
from orbit_zmq.errors import SchedulerFailed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Scheduler:
    def __init__(self) -> None:
        self.asked: list[tuple[float, list[str]]] = []
        self.clock = Clock()
        self.fails = False

    def __call__(self, ids: list[str]) -> Answered:
        self.asked.append((self.clock.now, ids))
        if self.fails:
            raise SchedulerFailed("it is down")
        return Answered({each: NativeState("RUNNING") for each in ids})

    def question(self) -> Question:
        return Question(self, names_all=False, clock=self.clock)


def test_who_asks_within_the_second_is_given_the_same_answer() -> None:
    scheduler = Scheduler()
    question = scheduler.question()
    for _ in range(5):
        assert question.answer(["1"], sleep=scheduler.clock.sleep).states.keys() == {"1"}
    assert len(scheduler.asked) == 1


def test_a_job_that_was_not_asked_for_waits_for_its_second_and_comes_along_with_the_others() -> None:
    scheduler = Scheduler()
    question = scheduler.question()
    question.answer(["1"], sleep=scheduler.clock.sleep)
    question.answer(["2"], sleep=scheduler.clock.sleep)
    assert scheduler.asked == [(100.0, ["1"]), (101.0, ["1", "2"])]


def test_an_id_that_nobody_asks_for_any_more_is_left_out_after_a_minute() -> None:
    scheduler = Scheduler()
    question = scheduler.question()
    question.answer(["1"], sleep=scheduler.clock.sleep)
    scheduler.clock.now += 61
    question.answer(["2"], sleep=scheduler.clock.sleep)
    assert scheduler.asked[-1][1] == ["2"]


def test_a_scheduler_that_is_down_is_not_asked_by_everybody_in_turn() -> None:
    scheduler = Scheduler()
    scheduler.fails = True
    question = scheduler.question()
    for _ in range(3):
        with pytest.raises(SchedulerFailed):
            question.answer(["1"], sleep=scheduler.clock.sleep)
    assert len(scheduler.asked) == 1


def test_many_threads_share_one_question() -> None:
    scheduler = Scheduler()
    question = scheduler.question()
    threads = [
        threading.Thread(target=question.answer, args=(["1"],), kwargs={"sleep": scheduler.clock.sleep}) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(scheduler.asked) == 1


def squeue_line(*fields: str) -> str:
    return "".join(f"{field:<8}{BETWEEN}" for field in fields)


def test_squeue_tells_states_exit_codes_and_our_comments() -> None:
    printed = "\n".join(
        (
            squeue_line("17", "RUNNING", "None", "1700000000", "1700000600", "debug", "n1", "0", "orbit:abc"),
            squeue_line("18", "PENDING", "Resources", "1700000100", "N/A", "debug", "", "0", "(null)"),
            squeue_line("19", "FAILED", "NonZeroExitCode", "1700000000", "1700000005", "debug", "n1", "1792", "mine"),
            squeue_line("20", "FAILED", "RaisedSignal:9(Killed)", "1700000000", "1700000005", "debug", "n1", "9", ""),
            squeue_line("21_3", "COMPLETED", "None", "1700000000", "1700000005", "debug", "n1", "0", ""),
            "slurm_load_jobs error: what else is printed",
        )
    )
    states, comments = squeue_states(printed)
    assert comments == {"17": "orbit:abc", "19": "mine"}
    assert (states["17"].state, states["17"].started, states["17"].exit_code) == ("RUNNING", 1_700_000_000.0, None)
    assert (states["18"].state, states["18"].reason, states["18"].estimated_start) == ("PENDING", "Resources", 1_700_000_100.0)
    assert (states["19"].state, states["19"].exit_code, states["19"].reason) == ("FAILED", 7, "NonZeroExitCode")
    assert (states["20"].exit_code, states["20"].signal) == (137, 9)
    assert (states["21_3"].state, states["21_3"].exit_code) == ("DONE", 0)
    assert len(states) == 5


def test_sacct_tells_how_jobs_ended() -> None:
    row = ["17", "CANCELLED by 0", "0:15", "None", "1700000000", "1700000005", "debug", "n1"]
    (state,) = sacct_states(BETWEEN.join(row) + "\nnot a row\n").values()
    assert (state.state, state.raw_state, state.exit_code, state.signal) == ("CANCELLED", "CANCELLED by 0", 0, 15)


def test_pbs_tells_in_json_or_in_text() -> None:
    job = {"job_state": "F", "Exit_status": 265, "substate": 93, "queue": "workq"}
    (state,) = qstat_states(json.dumps({"Jobs": {"12.server": job}})).values()
    assert (state.state, state.exit_code, state.signal, state.queue) == ("FAILED", 137, 9, "workq")
    text = "Job Id: 12.server\n    job_state = R\n    queue = workq\n"
    assert qstat_states(text)["12.server"].state == "RUNNING"
    assert qstat_states("qstat: no jobs\n") == {}


def test_lsf_tells_in_json() -> None:
    records = [
        {"JOBID": "5", "JOBINDEX": "0", "STAT": "EXIT", "EXIT_CODE": "3", "QUEUE": "normal"},
        {"JOBID": "6", "JOBINDEX": "2", "STAT": "DONE", "EXIT_CODE": ""},
        {"ERROR": "Job <7> is not found"},
    ]
    states = bjobs_states(json.dumps({"RECORDS": records}))
    assert (states["5"].state, states["5"].exit_code) == ("FAILED", 3)
    assert (states["6_2"].state, states["6_2"].exit_code) == ("DONE", 0)
    assert len(states) == 2 and bjobs_states("oops") == {}

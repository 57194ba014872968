"""The checker finds what it is for: each promise is broken in a history that was good, and the checker says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from chaoslab.checker import Record, check
from chaoslab.history import History, read_history

Histories = tuple[list[Record], list[Record]]  # of one workload, and of the plugins


def begin(name: str, t: float, **changes: Any) -> Record:
    facts = {"kind": "call", "operation": "once", "deadline_s": 2.0, "wanted": 4, "may_repeat": False, "moves": False}
    return {"event": "begin", "id": name, "key": name, "t": t, **facts, **changes}


def end(name: str, t: float, outcome: str = "ok", value: Any = 4) -> Record:
    return {"event": "end", "id": name, "t": t, "outcome": outcome, "value": value}


def good() -> Histories:
    workload = [record for n in range(100) for record in (begin(f"c{n}", n * 0.01), end(f"c{n}", n * 0.01 + 0.5))]
    workload += [begin("slow", 1.0), end("slow", 3.001, "deadline-exceeded", ""), begin("t", 1.0, kind="task", deadline_s=None)]
    workload += [end("t", 2.0), begin("lost", 5.0), end("lost", 6.0, "outcome-unknown", ""), {"event": "closed", "t": 7.0}]
    plugins = [{"key": key, "t": 0.0, "pid": 1} for key in [*(f"c{n}" for n in range(100)), "slow", "t", "lost"]]
    return workload, plugins


AWAY = [(5.5, 9.0)]


def without(histories: Histories, name: str, event: str) -> None:
    histories[0][:] = [record for record in histories[0] if (record.get("id"), record["event"]) != (name, event)]


def changed(histories: Histories, name: str, event: str, **changes: Any) -> None:
    for record in histories[0]:
        if (record.get("id"), record["event"]) == (name, event):
            record.update(changes)


TAMPERED: dict[str, Callable[[Histories], object]] = {
    "c7 never ended": lambda h: without(h, "c7", "end"),
    "c7 ended 2 times": lambda h: h[0].append(end("c7", 0.6)),
    "c7 ended and never began": lambda h: without(h, "c7", "begin"),
    "c7 began twice": lambda h: h[0].append(begin("c7", 0.6)),
    "did not end in order": lambda h: h[0].pop(),
    "c7 answered 5 instead of 4": lambda h: changed(h, "c7", "end", value=5),
    "c7 ended as KeyError": lambda h: changed(h, "c7", "end", outcome="KeyError"),
    "c7 was answered and never executed": lambda h: h[1].remove({"key": "c7", "t": 0.0, "pid": 1}),
    "c7 (once) was executed 2 times": lambda h: h[1].append({"key": "c7", "t": 0.0, "pid": 2}),
    "t (once) was executed 2 times": lambda h: h[1].append({"key": "t", "t": 0.0, "pid": 2}),
    "lost (once) was executed 2 times and ended as outcome-unknown": lambda h: h[1].append({"key": "lost", "t": 9, "pid": 2}),
    "stranger was executed and never asked for": lambda h: h[1].append({"key": "stranger", "t": 0.0, "pid": 1}),
    "c7 was executed and ended as busy": lambda h: changed(h, "c7", "end", outcome="busy"),
    "c7 ended as outcome-unknown, and no endpoint was away": lambda h: changed(h, "c7", "end", outcome="outcome-unknown"),
    "c7 ended as not-found, and no endpoint was away": lambda h: changed(h, "c7", "end", outcome="not-found"),
    "1 of 102 calls ended more than 0.25 s after their deadline": lambda h: changed(h, "slow", "end", t=3.3),
}


def test_a_good_history_is_good():
    verdict = check([good()[0]], good()[1], calm=[(0.0, 2.0)], away=AWAY)
    assert verdict.good, verdict
    assert verdict.outcomes == {"ok": 101, "deadline-exceeded": 1, "outcome-unknown": 1}
    assert verdict.executions == 103 and verdict.calm_rate == pytest.approx(50.0, abs=1)


@pytest.mark.parametrize("said", TAMPERED)
def test_a_tampered_history_is_found_out(said: str):
    histories = copy.deepcopy(good())
    TAMPERED[said](histories)
    verdict = check([histories[0]], histories[1], away=AWAY)
    assert [violation for violation in verdict.violations if said in violation], verdict.violations


def test_what_may_be_repeated_may_be_executed_twice():
    histories = good()
    changed(histories, "c7", "begin", may_repeat=True)
    histories[1].append({"key": "c7", "t": 0.0, "pid": 2})
    assert check([histories[0]], histories[1], away=AWAY).good


def test_an_answer_is_not_late_where_the_whole_process_was():
    histories = good()
    changed(histories, "slow", "end", t=5.0)
    histories[0].append({"event": "late", "t": 4.99, "late_s": 1.95})
    assert check([histories[0]], histories[1], away=AWAY).good


def test_a_control_timer_that_was_late_before_is_no_excuse():
    histories = good()
    changed(histories, "slow", "end", t=5.0)
    histories[0].append({"event": "late", "t": 2.5, "late_s": 1.95})
    assert not check([histories[0]], histories[1], away=AWAY).good


def test_chunks_on_their_way_have_no_deadline_but_for_silence():
    histories = good()
    changed(histories, "slow", "begin", moves=True)
    changed(histories, "slow", "end", t=60.0)
    assert check([histories[0]], histories[1], away=AWAY).good


def test_too_little_traffic_without_faults_proves_nothing():
    histories = good()
    assert check([histories[0]], histories[1], calm=[(0.0, 50.0)], away=AWAY).invalid == [
        "only 2.0 a second ended well while nothing was broken"
    ]
    silent = check([histories[0]], histories[1], calm=[(0.0, 1.0), (8.0, 8.1)], away=AWAY)
    assert silent.invalid == ["nothing ended well in 0.1 s without a fault"]


def test_a_line_that_a_kill_has_cut_off_is_left_out(tmp_path):
    history = History(tmp_path / "history")
    history.add(event="begin", id="a")
    history.add_all([{"event": "end", "id": "a"}])
    history.close()
    with (tmp_path / "history").open("a") as file:
        file.write('{"event": "beg')
    assert list(read_history(tmp_path / "history")) == [{"event": "begin", "id": "a"}, {"event": "end", "id": "a"}]

"""The results log and the table of tasks, with plain calls and a made-up time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orbit_rhapsody.codec import CANCELED, DONE, FAILED, FINAL_STATES, RUNNING, SUBMITTED
from orbit_rhapsody.rules import MAX_CONSUMERS, ResultLog, TaskTable
from orbit_zmq.errors import Busy, InvalidArgument

LOTS = 1 << 20


def log_with(count: int, **settings: float) -> ResultLog:
    log = ResultLog(**settings)  # type: ignore[arg-type]
    for number in range(1, count + 1):
        assert log.append(f"t{number}", b"r%d" % number) == number
    return log


def test_results_are_numbered_densely_and_read_from_the_cursor_on():
    log = log_with(3)

    portion = log.read("c", 1, LOTS, now=0.0)

    assert (portion.first, portion.after, portion.more) == (2, 3, False)
    assert portion.records == [b"r2", b"r3"]


def test_an_empty_portion_keeps_the_cursor_where_it_is():
    portion = log_with(3).read("c", 3, LOTS, now=0.0)

    assert portion.records == []
    assert portion.after == 3
    assert not portion.more


def test_a_portion_ends_at_max_bytes_but_has_at_least_one_result():
    log = log_with(3)

    assert log.read("c", 0, 4, now=0.0).records == [b"r1", b"r2"]
    assert log.read("c", 0, 1, now=0.0).records == [b"r1"]
    assert log.read("c", 0, 1, now=0.0).more


@pytest.mark.parametrize("after", [-1, 4])
def test_a_cursor_outside_the_log_is_refused(after):
    with pytest.raises(InvalidArgument, match="cursor"):
        log_with(3).read("c", after, LOTS, now=0.0)


def test_a_result_is_kept_until_the_slowest_consumer_is_past_it_and_for_the_retention_after_that():
    log = log_with(2, retention_s=600.0)
    log.read("slow", 0, LOTS, now=0.0)
    log.read("fast", 2, LOTS, now=0.0)
    assert log.forget(now=10_000.0 - 9_000.0) == []

    log.read("slow", 1, LOTS, now=1_000.0)

    assert log.forget(now=1_599.0) == []
    assert log.forget(now=1_600.0) == ["t1"]
    assert log.record(1) is None
    assert log.record(2) == b"r2"


def test_nothing_is_forgotten_before_anybody_has_read():
    assert log_with(3).forget(now=1e9) == []


def test_who_reads_behind_what_was_forgotten_sees_the_gap_in_the_numbers():
    log = log_with(3, retention_s=1.0)
    log.read("c", 2, LOTS, now=0.0)
    log.forget(now=1.0)

    portion = log.read("late", 0, LOTS, now=2.0)

    assert portion.first == 3
    assert portion.records == [b"r3"]


def test_acknowledged_results_beyond_their_number_go_before_their_time(monkeypatch):
    monkeypatch.setattr("orbit_rhapsody.rules.RETAINED_RESULTS", 3)
    log = log_with(5, retention_s=600.0)
    log.read("c", 5, 100, now=1.0)

    assert log.forget(now=1.0) == ["t1", "t2"]
    assert log.oldest == 3
    assert log.unfetched == 0


def test_acknowledged_results_beyond_the_retained_bytes_go_before_their_time():
    log = log_with(4, retention_s=600.0, retained_bytes=4)
    log.read("c", 3, LOTS, now=0.0)

    assert log.forget(now=0.0) == ["t1"]
    assert len(log) == 3
    assert log.held_bytes == 6


def test_unacknowledged_results_are_never_forgotten_for_their_size():
    log = log_with(4, retained_bytes=0)
    log.read("c", 0, LOTS, now=0.0)

    assert log.forget(now=0.0) == []


def test_a_consumer_that_stays_away_holds_nothing_back_any_more():
    log = log_with(2, retention_s=0.0, consumer_away_s=3_600.0)
    log.read("gone", 0, LOTS, now=0.0)
    log.read("here", 2, LOTS, now=3_000.0)
    assert log.forget(now=3_600.0) == []

    assert log.forget(now=3_601.0) == ["t1", "t2"]
    assert log.consumers == 1


def test_an_older_cursor_does_not_take_an_acknowledgement_back():
    log = log_with(2, retention_s=0.0)
    log.read("c", 2, LOTS, now=0.0)
    assert log.read("c", 0, LOTS, now=0.0).records == [b"r1", b"r2"]
    assert log.forget(now=0.0) == ["t1", "t2"]


def test_a_consumer_that_leaves_holds_nothing_back_and_acknowledges_nothing():
    log = log_with(2, retention_s=0.0)
    log.read("leaves", 0, LOTS, now=0.0)
    log.read("here", 1, LOTS, now=0.0)
    assert log.forget(now=0.0) == []

    log.leave("leaves", now=0.0)
    assert log.forget(now=0.0) == ["t1"]
    log.leave("here", now=0.0)
    log.leave("never came", now=0.0)
    assert (log.forget(now=0.0), log.consumers) == ([], 0)


def test_the_number_of_consumers_is_bounded():
    log = log_with(1)
    for number in range(MAX_CONSUMERS):
        log.read(f"c{number}", 0, LOTS, now=0.0)

    with pytest.raises(Busy):
        log.read("one too many", 0, LOTS, now=0.0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 20)),
        st.tuples(st.just("read"), st.tuples(st.sampled_from("abc"), st.integers(0, 40))),
        st.tuples(st.just("wait"), st.floats(0, 400)),
    ),
    max_size=60,
)


@given(steps)
@settings(deadline=None)
def test_each_consumer_gets_every_result_once_and_in_order_whatever_the_others_do(steps):
    log = ResultLog(retention_s=100.0, retained_bytes=30, consumer_away_s=1e9)
    for name in "abc":
        log.read(name, 0, LOTS, now=0.0)
    now, written, cursors, seen = 0.0, 0, dict.fromkeys("abc", 0), {name: list[int]() for name in "abc"}
    for step, value in steps:
        if step == "append":
            written += 1
            log.append(f"t{written}", b"x" * value)
        elif step == "wait":
            now += value
            log.forget(now)
        else:
            name, max_bytes = value
            portion = log.read(name, cursors[name], max_bytes, now)
            assert portion.first == cursors[name] + 1
            seen[name] += range(portion.first, portion.after + 1)
            cursors[name] = portion.after
    for name in "abc":
        assert seen[name] == list(range(1, cursors[name] + 1))
    assert log.held_bytes == sum(len(log.record(number) or b"") for number in range(1, written + 1))


def test_a_uid_is_admitted_once():
    table = TaskTable()

    assert table.admit("a", 1, 5.0) is None
    known = table.admit("a", 2, 6.0)

    assert known is not None
    assert (known.content, known.state, known.submitted) == (1, SUBMITTED, 5.0)
    assert table.counts[SUBMITTED] == 1
    assert table.submitted_total == 1


@pytest.mark.parametrize("end", sorted(FINAL_STATES))
def test_a_task_that_has_ended_stays_as_it_is(end):
    table = TaskTable()
    table.admit("a", 1, 0.0)
    assert table.move("a", RUNNING)
    assert table.move("a", end, 7)

    for state in (SUBMITTED, RUNNING, DONE, FAILED, CANCELED):
        assert not table.move("a", state)
    assert table.counts[end] == 1
    assert sum(table.counts.values()) == len(table) == 1


def test_a_forgotten_task_is_counted_no_longer_and_its_uid_is_free():
    table = TaskTable()
    table.admit("a", 1, 0.0)
    table.move("a", DONE, 1)
    table.forget("a")

    assert sum(table.counts.values()) == 0
    assert table.admit("a", 2, 0.0) is None

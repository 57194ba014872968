"""What is told of tasks that end: within moments when there is time, in batches under load, never more than fits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import msgpack
import pytest

from orbit_rhapsody.news import BATCH_BYTES, FIRST_WAIT_S, LONGEST_WAIT_S, News, brief
from orbit_zmq.wire.limits import EVENT_BYTES


def told(news_of: int, **bounds: float) -> list[tuple[str, bytes]]:
    sent: list[tuple[str, bytes]] = []
    news = News(lambda topic, body: sent.append((topic, body)), **bounds)  # type: ignore[arg-type]
    for number in range(news_of):
        news.add(brief(f"task-{number}", "DONE", None, "", msgpack.packb(number)), 0.0)
    news.tell(lambda: 0.0, everything=True)
    return sent


def test_one_task_is_told_alone_and_several_as_a_batch() -> None:
    ((topic, body),) = told(1)
    assert topic == "task_status"
    assert msgpack.unpackb(body) == {"uid": "task-0", "state": "DONE", "exit_code": None, "error": None, "return_value": 0}
    for many in (2, 15, 16, 300):
        ((topic, body),) = told(many)
        assert topic == "task_status_batch"
        assert [task["return_value"] for task in msgpack.unpackb(body)["tasks"]] == list(range(many))


def test_batches_fit_an_event_and_the_bounds_of_the_session() -> None:
    sent = told(5_000)
    assert all(len(body) <= min(EVENT_BYTES, BATCH_BYTES + 1024) for _, body in sent)
    assert sum(len(msgpack.unpackb(body)["tasks"]) for _, body in sent) == 5_000
    assert [len(msgpack.unpackb(body)["tasks"]) for _, body in told(10, most_tasks=5)] == [5, 5]


def test_large_values_and_long_errors_stay_out() -> None:
    body = msgpack.unpackb(brief("t", "FAILED", 3, "e" * 1000, msgpack.packb("v" * 2000)))

    assert body["return_value"] is None and len(body["error"]) == 300 and body["exit_code"] == 3


def ticking(step_s: float) -> Callable[[], float]:
    numbers = count()
    return lambda: next(numbers) * step_s


def test_the_next_batch_waits_in_proportion_to_what_the_last_one_cost() -> None:
    news = News(lambda topic, body: None)
    assert news.due_in(0.0) is None
    news.add(brief("t", "DONE", None, "", None), 0.0)
    assert news.due_in(FIRST_WAIT_S) == 0.0
    news.tell(ticking(0.001))
    news.add(brief("u", "DONE", None, "", None), 0.001)
    assert 0.019 < (news.due_in(0.001) or 0) < 0.021
    news.tell(ticking(1.0))
    news.add(brief("w", "DONE", None, "", None), 1.0)
    assert (news.due_in(1.0) or 0) <= LONGEST_WAIT_S + 0.001


def test_the_first_event_leaves_the_result_its_turn_unless_the_session_asks_for_none() -> None:
    patient, hasty = News(lambda topic, body: None), News(lambda topic, body: None, longest_wait_s=0.0)
    for news in (patient, hasty):
        news.add(brief("t", "DONE", None, "", None), 10.0)

    assert patient.due_in(10.0) == pytest.approx(FIRST_WAIT_S)
    assert hasty.due_in(10.0) == 0.0


def test_more_than_so_many_wait_for_nothing(monkeypatch) -> None:
    monkeypatch.setattr("orbit_rhapsody.news.MOST_WAITING", 10)
    told: list[str] = []
    news = News(lambda topic, body: told.append(topic))
    clock = iter([0.0, 1.0]).__next__
    news.add(brief("a", "DONE", 0, "", None), 0.0)
    news.tell(clock)

    for number in range(10):
        news.add(brief(f"b{number}", "DONE", 0, "", None), 1.0)
    assert news.due_in(1.0) != 0.0
    news.add(brief("c", "DONE", 0, "", None), 1.0)
    assert news.due_in(1.0) == 0.0

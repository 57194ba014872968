"""What has been found out is kept for its time, and asked for once by however many; the clock is made up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import wait_until

from orbit_queue_info.cache import ERROR_S, MOST_ENTRIES, Cache
from orbit_zmq.errors import SchedulerFailed


class Source:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0
        self.error: Exception | None = None
        self.cache = Cache(lambda: self.now)

    def collect(self) -> int:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.asked

    def get(self, key: str = "info:ann", ttl_s: float = 60.0, *, force: bool = False) -> int:
        return self.cache.get(key, ttl_s, self.collect, force=force)


def test_an_answer_is_kept_for_its_time():
    source = Source()

    assert [source.get(), source.get()] == [1, 1]
    source.now += 59.9
    assert source.get() == 1
    source.now += 0.1
    assert source.get() == 2


def test_what_is_kept_can_be_had_without_asking():
    source = Source()
    assert source.cache.kept("info:ann") is None
    source.get()
    assert (source.cache.kept("info:ann"), source.asked) == (1, 1)
    source.now += 60.0
    assert source.cache.kept("info:ann") is None
    source.error = SchedulerFailed("slurmctld is down")
    with pytest.raises(SchedulerFailed):
        source.get()
    assert source.cache.kept("info:ann") is None


def test_force_asks_again_and_its_answer_is_kept():
    source = Source()
    source.get()

    assert source.get(force=True) == 2
    assert source.get() == 2


def test_an_error_is_kept_for_five_seconds_and_raised_to_all():
    source = Source()
    source.error = SchedulerFailed("slurmctld is down")
    for _ in range(3):
        with pytest.raises(SchedulerFailed, match="is down"):
            source.get()
    assert source.asked == 1
    source.now += ERROR_S
    source.error = None
    assert source.get() == 2


def test_what_is_forgotten_is_asked_for_again_and_nothing_else():
    source = Source()
    source.get("jobs:ann")
    source.get("info:ann")
    source.cache.forget("jobs:")

    assert (source.get("info:ann"), source.get("jobs:ann")) == (2, 3)


def waiting_for(cache: Cache, key: str) -> int:
    """How many threads wait for an answer that is under way."""
    condition: Any = cache._under_way[key]._condition
    return len(condition._waiters)


def test_a_hundred_who_ask_at_once_share_one_answer():
    cache, began, go_on, asked = Cache(), threading.Event(), threading.Event(), []

    def collect() -> int:
        asked.append(1)
        began.set()
        assert go_on.wait(60)
        return 7

    with ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(cache.get, "info:*", 60.0, collect, force=number % 2 == 1) for number in range(100)]
        assert began.wait(60)
        wait_until(lambda: waiting_for(cache, "info:*") == 99, what="all others wait for it")
        go_on.set()
        assert {one.result(60) for one in waiting} == {7}
    assert len(asked) == 1


def test_an_answer_that_is_under_way_when_it_is_to_be_forgotten_is_told_but_not_kept():
    cache, began, go_on = Cache(), threading.Event(), threading.Event()

    def collect() -> str:
        began.set()
        assert go_on.wait(60)
        return "before"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get, "jobs:ann", 60.0, collect)
        assert began.wait(60)
        cache.forget("jobs:")
        assert cache.get("jobs:ann", 60.0, lambda: "after") == "after"
        go_on.set()
        assert first.result(60) == "before"
    assert cache.get("jobs:ann", 60.0, lambda: "later") == "after"


def test_the_number_of_what_is_kept_is_bounded():
    source = Source()
    for number in range(MOST_ENTRIES + 5):
        source.get(f"jobs:user{number}")

    assert len(source.cache._kept) == MOST_ENTRIES


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.booleans())))
def test_nobody_is_given_what_is_older_than_its_time(steps):
    source = Source()
    made_at: dict[int, float] = {}
    for passed, force, forget in steps:
        source.now += passed
        if forget:
            source.cache.forget("info:")
        answer = source.get(ttl_s=20.0, force=force)
        made_at.setdefault(answer, source.now)
        assert source.now - made_at[answer] < 20.0
        assert not (force or forget) or made_at[answer] == source.now

"""What a session has done, counted with a made-up clock."""

from __future__ import annotations

import threading

from orbit_rhapsody.counters import RATED, STAGES, Counters


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_the_last_whole_second_and_of_the_last_ten():
    clock = Clock()
    counters = Counters(clock)
    counters.add("submitted", 50)
    clock.now = 101.5
    counters.add("submitted", 30)
    assert counters.facts()["rates_1s"] == {"submitted": 50.0, "finished": 0.0, "fetched": 0.0}

    clock.now = 102.0
    facts = counters.facts()

    assert (facts["rates_1s"]["submitted"], facts["rates_10s"]["submitted"]) == (30.0, 8.0)


def test_what_has_fallen_quiet_has_no_rate_and_keeps_its_counts():
    clock = Clock()
    counters = Counters(clock)
    counters.add("finished", 50, bytes_in=7)
    clock.now += 11

    facts = counters.facts()

    assert facts["rates_10s"] == dict.fromkeys(RATED, 0.0)
    assert (facts["finished"], facts["bytes"]) == (50, {"in": 7, "out": 0})


def test_each_stage_says_how_often_for_how_many_and_how_long():
    counters = Counters(Clock())
    counters.spent("accept", 100, 0.5)
    counters.spent("accept", 20, 0.25)

    stages = counters.facts()["stages"]

    assert set(stages) == set(STAGES)
    assert stages["accept"] == {"times": 2, "tasks": 120, "seconds": 0.75}
    assert stages["fetch"] == {"times": 0, "tasks": 0, "seconds": 0.0}


def test_nothing_is_lost_between_threads_and_nothing_grows():
    clock = Clock()
    counters = Counters(clock)

    def work() -> None:
        for _ in range(2_000):
            clock.now += 0.01
            counters.add("fetched", 1, bytes_out=2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (counters.facts()["fetched"], counters.facts()["bytes"]["out"]) == (8_000, 16_000)
    assert len(counters._seconds) <= 11

"""The schedule: drawn from its seed alone, with every kind of fault in it, and with time in between when nothing is broken."""

from __future__ import annotations

from itertools import pairwise

from chaoslab.faults import Injector
from chaoslab.schedule import CALM_S, KINDS, calm_stretches, make_schedule

ENDPOINTS, CLIENTS = ["hpc1", "hpc2"], ["client1"]


def test_the_same_seed_gives_the_same_schedule():
    assert make_schedule(7, 120, ENDPOINTS, CLIENTS) == make_schedule(7, 120, ENDPOINTS, CLIENTS)
    assert make_schedule(7, 120, ENDPOINTS, CLIENTS) != make_schedule(8, 120, ENDPOINTS, CLIENTS)


def test_every_kind_comes_and_is_known_to_the_one_who_does_it():
    faults = make_schedule(1, 1200, ENDPOINTS, CLIENTS)
    assert {fault.kind for fault in faults} == KINDS.keys()
    assert {fault.target for fault in faults} == {"broker", *ENDPOINTS, *CLIENTS}
    assert Injector(None, []).kinds == KINDS.keys()


def test_faults_come_in_order_and_leave_time_without_any():
    faults = make_schedule(3, 120, ENDPOINTS, CLIENTS)
    assert all(first.at_s <= second.at_s for first, second in pairwise(faults))
    calm = calm_stretches(faults, 120)
    assert sum(until - since for since, until in calm) >= 120 / 15 * (CALM_S - 1)
    for since, until in calm:
        assert not [fault for fault in faults if fault.at_s < until and fault.ends_s > since]

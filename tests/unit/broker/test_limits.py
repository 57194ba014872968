"""What is bounded for all together: bytes in queues, and how long a round of the loop takes is at least known."""

from __future__ import annotations

from orbit_broker.__main__ import reachable
from orbit_broker.rounds import WINDOW_S, Rounds
from orbit_zmq.addresses import port_of
from orbit_zmq.rules.outbox import BULK, CALLS, CONTROL, Budget, Outbox
from tests.unit.broker.world import World, brief


def test_queues_that_share_a_budget_hold_no_more_together_and_control_is_never_refused_for_it():
    budget = Budget(100)
    one: Outbox[str] = Outbox(budget=budget)
    other: Outbox[str] = Outbox(budget=budget)

    assert one.push(CALLS, 60, "a") and other.push(BULK, 40, "b")
    assert not other.push(CALLS, 1, "c") and other.push(CONTROL, 30, "d")
    assert one.pop() == "a" and not one.push(CALLS, 31, "e") and one.push(CALLS, 30, "f")
    one.clear()
    other.clear()
    assert budget.used_bytes == 0


def test_a_call_that_finds_the_budget_used_up_is_busy_and_others_go_on_once_there_is_room():
    world = World()
    world.state.queued.limit_bytes = 50_000
    world.connect("hpc", "endpoint")
    world.connect("c")
    world.stuck.add("hpc")

    assert [brief(world.call("c", number, "hpc", b"x" * 20_000)) for number in (1, 2, 3)] == [[], [], [("c", "busy")]]
    assert brief(world.unstick("hpc")) == [("hpc", "request"), ("hpc", "request")]
    assert brief(world.call("c", 4, "hpc", b"x" * 20_000)) == [("hpc", "request")]


def test_the_longest_round_is_known_of_the_last_while_and_since_the_start():
    rounds = Rounds()
    rounds.end(5.0)
    for began_at, took_s in ((5.0, 0.2), (6.0, 0.1), (7.0 + WINDOW_S, 0.05), (8.0 + 2 * WINDOW_S, 0.01)):
        rounds.begin(began_at)
        rounds.end(began_at + took_s)

    assert rounds.count == 5 and round(rounds.longest_s, 6) == 0.2
    assert round(rounds.longest_lately_s, 6) == 0.01


def test_an_invitation_names_addresses_that_others_can_reach():
    assert reachable("tcp://10.1.2.3:5670") == ["tcp://10.1.2.3:5670"]
    for address in ("tcp://0.0.0.0:5670", "tcp://[::]:5670", "tcp://*:5670"):
        found = reachable(address)
        assert found and all(port_of(one) == 5670 for one in found)
        assert not any(wildcard in one for one in found for wildcard in ("0.0.0.0", "[::]", "*"))

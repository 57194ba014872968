"""Who gets which record, and what is left behind: nothing that nobody can ask for."""

from __future__ import annotations

from orbit_rhapsody.inbox import Inbox


def record(uid: str) -> dict[str, str]:
    return {"uid": uid, "state": "DONE"}


def uids(records: list[dict[str, str]]) -> list[str]:
    return sorted(entry["uid"] for entry in records)


def test_a_record_goes_to_the_one_who_waits_and_is_kept_nowhere_else():
    inbox = Inbox()
    inbox.expect(["a", "b"])
    waiter = inbox.join(["a", "b"])

    inbox.deliver([record("a")])
    assert waiter.missing == {"b"}
    inbox.deliver([record("b")])

    assert uids(inbox.take(waiter)) == ["a", "b"]
    inbox.leave(waiter)
    assert len(inbox) == 0


def test_a_record_that_nobody_waits_for_is_kept_until_somebody_does():
    inbox = Inbox()
    inbox.expect(["a"])
    inbox.deliver([record("a")])

    waiter = inbox.join(["a"])

    assert not waiter.missing and not waiter.sought
    assert uids(inbox.take(waiter)) == ["a"]
    assert len(inbox) == 0


def test_a_record_of_a_task_that_was_not_submitted_here_is_dropped():
    inbox = Inbox()
    inbox.deliver([record("somebody else's")])

    assert len(inbox) == 0


def test_everybody_who_waits_for_a_task_gets_a_record_of_their_own():
    inbox = Inbox()
    inbox.expect(["a"])
    first, second = inbox.join(["a"]), inbox.join(["a"])

    inbox.deliver([record("a")])

    (one,), (two,) = inbox.take(first), inbox.take(second)
    assert one == two
    assert one is not two


def test_what_came_for_one_who_gave_up_is_there_for_the_next():
    inbox = Inbox()
    inbox.expect(["a", "b"])
    waiter = inbox.join(["a", "b"])
    inbox.deliver([record("a")])
    inbox.leave(waiter)

    again = inbox.join(["a", "b"])

    assert again.missing == {"b"}
    assert uids(inbox.take(again)) == ["a"]


def test_only_a_uid_that_is_new_here_is_fresh():
    inbox = Inbox()

    assert inbox.expect(["a", "a", "b"]) == [True, False, True]
    inbox.deliver([record("a")])
    assert inbox.expect(["a"]) == [False]


def test_withdrawn_tasks_are_open_no_longer():
    inbox = Inbox()
    inbox.expect(["a", "b"])
    inbox.withdraw(["a"])

    assert inbox.open_uids == ["b"]


def test_what_a_timed_out_wait_has_shown_is_there_for_the_next_and_is_nobody_elses_to_change():
    inbox = Inbox()
    inbox.expect(["a", "b"])
    waiter = inbox.join(["a", "b"])
    inbox.deliver([record("a")])
    (shown,) = inbox.take(waiter)
    inbox.keep_shown([shown])
    inbox.leave(waiter)
    shown.clear()

    assert inbox.state_of("a") == "here" and inbox.expect(["a"]) == [False]
    again = inbox.join(["a", "b"])

    assert again.missing == {"b"}
    assert inbox.take(again) == [record("a")]
    assert inbox.state_of("a") == ""


def test_of_what_was_shown_the_oldest_go_when_there_is_too_much(monkeypatch):
    monkeypatch.setattr("orbit_rhapsody.inbox.SHOWN_BYTES", 10 * 1_024 + 5_000)
    inbox = Inbox()

    for _ in range(2):
        inbox.keep_shown([{"uid": str(number), "state": "DONE", "return_value": b"x" * 500} for number in range(20)])

    assert inbox.join(map(str, range(20))).sought == [str(number) for number in range(10)]


def test_many_who_wait_for_one_task_each_leave_nothing_behind():
    inbox = Inbox()
    inbox.expect(["a", "b"])
    first, second, both = inbox.join(["a"]), inbox.join(["a"]), inbox.join(["a", "b"])
    inbox.join(["b"])

    inbox.deliver([record("a")])

    assert [uids(inbox.take(waiter)) for waiter in (first, second, both)] == [["a"]] * 3
    for waiter in (first, second, both):
        inbox.leave(waiter)
    assert inbox._single.keys() == {"b"} and not inbox._waiters


def test_what_is_returned_is_there_for_the_next_who_asks():
    inbox = Inbox()
    inbox.expect(["a", "b"])
    waiter = inbox.join(["a", "b"])
    inbox.deliver([record("a"), record("b")])
    first, second = inbox.take(waiter)

    inbox.leave(waiter, [second])

    assert inbox.join(["a", "b"]).sought == [first["uid"]]


def test_what_comes_while_it_is_looked_up_is_for_the_one_who_asked():
    inbox = Inbox()
    waiter = inbox.join(["a", "b"])
    assert waiter.sought == ["a", "b"]

    inbox.deliver([record("a")])

    assert inbox.take_ready() == []
    inbox.note_found(waiter)
    assert uids(inbox.take(waiter)) == ["a"] and inbox.open_uids == ["b"]


def test_what_nobody_knows_is_open_only_as_long_as_somebody_asks():
    inbox = Inbox()
    first, second = inbox.join(["a"]), inbox.join(["a", "b"])
    assert second.sought == ["a", "b"], "each asks, for the other one's answer may not come"

    inbox.leave(first)
    assert sorted(inbox.open_uids) == ["a", "b"]
    inbox.leave(second)

    assert len(inbox) == 0 and not inbox._sought


def test_a_search_in_vain_takes_nothing_from_one_who_has_found():
    inbox = Inbox()
    first, second = inbox.join(["a"]), inbox.join(["a"])
    inbox.note_found(first)
    inbox.leave(second)

    inbox.deliver([record("a")])

    assert uids(inbox.take(first)) == ["a"]

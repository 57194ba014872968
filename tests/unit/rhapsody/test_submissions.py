"""What is left of a call of `submit_tasks` that was interrupted: nothing that is waited for without end."""

from __future__ import annotations

from orbit_rhapsody.inbox import Inbox
from orbit_rhapsody.submissions import ARRIVES_S, Submission, Submissions


def interrupted(submissions: Submissions, uids: list[str], *, settled: int, offered: int) -> None:
    submission = Submission(uids)
    submissions.begin(submission)
    submission.settled = submission.acknowledged = settled
    submission.offered = offered
    submission.has_ended = True


def test_what_was_never_sent_is_open_no_more_and_what_may_have_been_is_asked_about():
    inbox = Inbox()
    submissions = Submissions(inbox)
    interrupted(submissions, ["a", "b", "c", "d"], settled=1, offered=3)

    submissions.clear_up(100.0)
    submissions.clear_up(101.0)  # again, as after an interrupt

    assert sorted(inbox.open_uids) == ["a", "b", "c"]
    assert submissions.unsure() == ["b", "c"]
    assert submissions.sending() == set()
    assert not submissions.is_lost("b", 100.0 + ARRIVES_S - 0.1)
    assert submissions.is_lost("b", 100.0 + ARRIVES_S)


def test_who_has_a_result_or_is_known_over_there_is_not_asked_about():
    inbox = Inbox()
    submissions = Submissions(inbox)
    interrupted(submissions, ["a", "b", "c"], settled=0, offered=3)
    submissions.clear_up(100.0)

    inbox.deliver([{"uid": "a", "state": "DONE"}])
    submissions.found(["b"])

    assert submissions.unsure() == ["c"]


def test_a_task_that_is_sent_again_is_not_asked_about_until_that_call_has_ended():
    inbox = Inbox()
    submissions = Submissions(inbox)
    interrupted(submissions, ["a"], settled=0, offered=1)
    submissions.clear_up(100.0)

    again = Submission(["a"])
    submissions.begin(again)
    assert (submissions.unsure(), submissions.sending()) == ([], {"a"})
    again.has_ended = True
    submissions.clear_up(110.0)

    assert submissions.unsure() == ["a"]
    assert inbox.open_uids == ["a"]


def test_a_call_that_is_interrupted_before_it_has_opened_anything_leaves_nothing():
    inbox = Inbox()
    submissions = Submissions(inbox)
    submission = Submission(["a", "b"])
    submissions._under_way.append(submission)  # as far as `begin` may get
    submission.has_ended = True

    submissions.clear_up(100.0)

    assert (inbox.open_uids, submissions.unsure(), submissions.sending()) == ([], [], set())


def test_a_task_that_had_ended_when_it_was_sent_again_is_asked_about_until_its_result_is_here():
    inbox = Inbox()
    submissions = Submissions(inbox)
    inbox.expect(["a", "b"])

    submissions.ask_about(["a", "b"], 100.0)
    assert submissions.unsure() == ["a", "b"]
    inbox.deliver([{"uid": "a", "state": "DONE"}])

    assert submissions.unsure() == ["b"]

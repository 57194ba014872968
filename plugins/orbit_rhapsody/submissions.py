"""Calls of `submit_tasks` under way: which of their tasks have been sent, and which may have been when a call was interrupted.

An interrupt may come between any two steps, so each step leaves behind what the next who waits needs to clear up: what was
never sent is open no more, and what may have been sent is asked about. Rules of one client object; nothing here sends or waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import compress

from orbit_rhapsody.inbox import Inbox

ARRIVES_S = 10.0  # a batch that was on its way when its call was interrupted is known over there by then


class Submission:
    """One call. Positions are those of its tasks; each is reached in order."""

    def __init__(self, uids: list[str]) -> None:
        self.uids = uids
        self.fresh: list[bool] = []  # by position: whether the task was opened by this call
        self.offered = 0  # up to here they may have been sent
        self.acknowledged = 0  # up to here the endpoint has answered for them
        self.settled = 0  # up to here the answer has been taken in
        self.has_ended = False

    def unsent(self) -> Iterable[str]:
        """What was opened and never sent."""
        return compress(self.uids[self.offered :], self.fresh[self.offered :])

    def unsure(self) -> Iterable[str]:
        """What was opened and may have been sent."""
        return compress(self.uids[self.settled : self.offered], self.fresh[self.settled : self.offered])


class Submissions:
    """Those of one client."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._under_way: list[Submission] = []
        self._unsure: dict[str, float] = {}  # those to be asked about, since when

    def begin(self, submission: Submission) -> None:
        """Open its tasks."""
        self._under_way.append(submission)
        self._inbox.expect(submission.uids, submission.fresh)

    def clear_up(self, now: float) -> None:
        """Deal with what calls that have ended left behind; an interrupted call of this is made good by the next one."""
        for submission in [each for each in self._under_way if each.has_ended]:
            self._unsure.update(dict.fromkeys(submission.unsure(), now))
            self._inbox.withdraw(submission.unsent())
            with suppress(ValueError):  # another thread was faster
                self._under_way.remove(submission)

    def sending(self) -> set[str]:
        """Tasks that the endpoint need not know yet."""
        return {uid for each in self._under_way for uid in each.uids[each.acknowledged :]}

    def ask_about(self, uids: Iterable[str], now: float) -> None:
        """These had ended before they were sent again: their results may have been read, and come to this reader no more."""
        self._unsure.update(dict.fromkeys(uids, now))

    def unsure(self) -> list[str]:
        """Open tasks to be asked about: of interrupted calls, and such as had ended."""
        if not self._unsure:
            return []
        still_open = set(self._inbox.open_uids)
        for uid in [uid for uid in self._unsure if uid not in still_open]:
            self._unsure.pop(uid, None)
        sending = self.sending()
        return [uid for uid in self._unsure if uid not in sending]

    def found(self, uids: Iterable[str]) -> None:
        """The endpoint has these."""
        if self._unsure:
            for uid in uids:
                self._unsure.pop(uid, None)

    def is_lost(self, uid: str, now: float) -> bool:
        """Whether a task that the endpoint does not know now cannot be on its way there any more."""
        return now >= self._unsure.get(uid, now) + ARRIVES_S

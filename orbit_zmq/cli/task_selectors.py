"""Which tasks somebody means: by uid, its beginning, a pattern, a range, a state, `last` or `all`. Rules only: nothing here
asks an endpoint.

A task is a map with at least its `uid` and `state`; lists of tasks are in the order of their submission.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from orbit_zmq.cli.parameters import LISTED, one_of
from orbit_zmq.errors import InvalidArgument, NotFound

Task = TypeVar("Task", bound=Mapping[str, Any])

STATES = ("SUBMITTED", "RUNNING", "DONE", "FAILED", "CANCELED")
ENDED = frozenset({"DONE", "FAILED", "CANCELED"})
WORDS = ("all", "last", *map(str.lower, STATES))
PATTERN = frozenset("*?[")
_NUMBERED = re.compile(r"(.+)\.\d+")  # what is submitted together is called x.1, x.2, ...


def chosen_tasks(selectors: Collection[str], tasks: Sequence[Task]) -> list[Task]:
    """Those that the selectors mean, in the order of `tasks`; commas join several selectors.

    States, patterns and `all` may mean none. NotFound for a uid and for `last` where there is no such task, InvalidArgument
    where one uid is at several places or begins several uids, and for a range that is none.
    """
    uids = [str(task["uid"]) for task in tasks]
    states = [task["state"] for task in tasks]
    known, found = set(uids), set[int]()
    for selector in selectors:
        for part in [selector] if selector in known else filter(None, selector.split(",")):
            found.update(_meant(part, uids, states, known))
    return [task for at, task in enumerate(tasks) if at in found]


def _meant(part: str, uids: list[str], states: list[str], known: set[str]) -> Collection[int]:
    if part not in known:
        if part == "all":
            return range(len(uids))
        if part == "last":
            return _last(uids)
        if part.upper() in STATES:
            return [at for at, state in enumerate(states) if state == part.upper()]
        if ".." in part:
            return _range(part, uids, known)
        if not PATTERN.isdisjoint(part):
            return [at for at, uid in enumerate(uids) if fnmatchcase(uid, part)]
        if together := _together(part, uids):
            return together
    return [_position(part, uids)]


def _last(uids: list[str]) -> list[int]:
    """The newest task, and those that were numbered together with it."""
    if not uids:
        raise NotFound("There is no last task.", hint="Submit one: orbit task submit -- hostname")
    numbered = _NUMBERED.fullmatch(uids[-1])
    return [len(uids) - 1] if numbered is None else _together(numbered[1], uids)


def _together(name: str, uids: list[str]) -> list[int]:
    """Those that were numbered together under that name."""
    return [at for at, uid in enumerate(uids) if (one := _NUMBERED.fullmatch(uid)) is not None and one[1] == name]


def _range(part: str, uids: list[str], known: set[str]) -> range:
    """FIRST..LAST by the order of submission; a number alone stands for the one that is numbered together with the first."""
    first, _, last = part.partition("..")
    if not first or not last:
        raise InvalidArgument(f"{part!r} is no range.", hint="A range is FIRST..LAST, such as 3fa9c1d2.2..3fa9c1d2.7.")
    begin = _position(first, uids)
    numbered = _NUMBERED.fullmatch(uids[begin])
    if last.isdecimal() and last not in known and numbered is not None:
        last = f"{numbered[1]}.{last}"
    end = _position(last, uids)
    if end < begin:
        raise InvalidArgument(f"Task {uids[end]} was submitted before {uids[begin]}.", hint=f"Write {last}..{first}.")
    return range(begin, end + 1)


def _position(wanted: str, uids: list[str]) -> int:
    """Where the task of that uid, or of the only uid that begins so, stands."""
    begins = [uid for uid in uids if uid.startswith(wanted)]
    uid = one_of("task", wanted, begins or uids[-LISTED:])  # of very many, those are named that one may have meant
    if begins.count(uid) > 1:
        raise InvalidArgument(f"There are {begins.count(uid)} tasks {uid!r}.", hint="Say which by --endpoint or --session.")
    return uids.index(uid)

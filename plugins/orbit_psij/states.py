"""Asks schedulers what has become of jobs: of all of them in one question, and of each kind at most one question a second.

Whoever asks for jobs that somebody else has asked for within the second is given the same answer. What is asked for once is
asked for along with the others for a minute, so that two who follow different jobs share their questions. Everything here
blocks, so it belongs into a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

from orbit_psij import printed
from orbit_psij.library import executor_of
from orbit_psij.printed import States
from orbit_psij.rendering import COMMENT
from orbit_psij.schedulers import LOCAL, local_state
from orbit_zmq.batch.commands import Answer, checked_job_id, refusal, run
from orbit_zmq.batch.outcome import NativeState
from orbit_zmq.errors import OrbitError

BETWEEN_S = 1.0  # two questions of one kind
REMEMBERED_S = 60.0  # an id is asked for along with others for so long
QUESTION_S = 20.0  # a controller under load; whoever follows jobs asks again
MOST_IDS = 2_000  # of one command; a line of a shell takes 128 KiB and more
NOBODY_KNOWS = ("unknown job", "invalid job id", "is not found", "no such job", "no matching job", "has finished")


@dataclass(frozen=True, slots=True)
class Answered:
    """What a scheduler has said, and the comments of its jobs."""

    states: States = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0


class Question:
    """One kind of question to one scheduler. `ask` gets the ids; `names_all` says that it answers for all jobs anyhow."""

    def __init__(
        self, ask: Callable[[list[str]], Answered], *, names_all: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._names_all = names_all
        self._clock = clock
        self._turn = threading.Lock()
        self._began = float("-inf")
        self._wanted: dict[str, float] = {}  # id -> when it was asked for last
        self._covered: frozenset[str] = frozenset()
        self._kept: Answered | OrbitError = Answered()

    def answer(self, ids: Collection[str], *, sleep: Callable[[float], None] = time.sleep) -> Answered:
        """Not older than a second, and for all these ids; raises what the scheduler's refusal is."""
        with self._turn:
            now = self._clock()
            self._wanted |= dict.fromkeys(ids, now)
            if not (now < self._began + BETWEEN_S and self._covered.issuperset(ids)):
                sleep(max(0.0, self._began + BETWEEN_S - now))
                self._renew()
            kept = self._kept
        if isinstance(kept, OrbitError):
            raise kept.with_traceback(None)
        return kept

    def _renew(self) -> None:
        self._began = began = self._clock()
        self._wanted = {one: asked for one, asked in self._wanted.items() if asked > began - REMEMBERED_S}
        self._covered = frozenset(self._wanted)
        try:
            found = self._ask([] if self._names_all else sorted(self._wanted))
            self._kept = Answered(found.states, found.comments, self._clock() - began)
        except OrbitError as error:
            self._kept = error


def states(executor: str, native_ids: Iterable[str]) -> States:
    """What the scheduler says of jobs, also of those that have ended as long as it remembers them; one that it does not know
    is absent. Members of arrays are `ID_INDEX`, and come along with their array where the scheduler tells them so.

    SchedulerFailed or DeadlineExceeded where it does not answer.
    """
    return asked(executor, native_ids).states


def asked(executor: str, native_ids: Iterable[str]) -> Answered:
    """The same, with the time that it took."""
    ids = {checked_job_id(each) for each in native_ids}
    if executor == LOCAL:
        return Answered({each: state for each in ids if (state := local_state(each)) is not None})
    return _question(executor).answer(ids)


def find_by_comment(executor: str) -> dict[str, str]:
    """The scheduler's ids of jobs that carry our comment, by our own id; empty where a scheduler has no comments."""
    if executor != "slurm":
        return {}
    comments = _question(executor).answer(()).comments
    return {said.removeprefix(COMMENT): each.partition("_")[0] for each, said in comments.items() if said.startswith(COMMENT)}


def accounting(executor: str, native_ids: Iterable[str]) -> States:
    """What the accounting says of jobs; empty where there is none, or it does not answer."""
    if executor != "slurm":
        return {}
    try:
        return _accounting().answer({checked_job_id(each) for each in native_ids}).states
    except OrbitError:
        return {}


@cache
def _question(executor: str) -> Question:
    ask = {"slurm": _squeue, "pbs": _qstat, "pbs_classic": _qstat, "lsf": _bjobs}.get(executor)
    if ask is None:
        return Question(lambda ids: _with_psij(executor, ids), names_all=False)
    return Question(ask, names_all=executor == "slurm")


@cache
def _accounting() -> Question:
    return Question(_sacct, names_all=False)


def _squeue(_: list[str]) -> Answered:
    words = ["squeue", "--me", "--noheader", "--array", "--states=all", printed.squeue_format()]
    return Answered(*printed.squeue_states(_text(words)))


def _sacct(ids: list[str]) -> Answered:
    found: States = {}
    for some in _portions(ids):
        words = ["sacct", "--allocations", "--noheader", "--parsable2", f"--delimiter={printed.BETWEEN}"]
        found |= printed.sacct_states(_text([*words, f"--jobs={','.join(some)}", f"--format={','.join(printed.SACCT)}"]))
    return Answered(found)


def _qstat(ids: list[str]) -> Answered:
    found: States = {}
    for some in _portions(ids):
        found |= printed.qstat_states(_text(["qstat", "-x", "-f", "-F", "json", *some]))
    return Answered(_by_ids(found, ids))


def _bjobs(ids: list[str]) -> Answered:
    found: States = {}
    for some in _portions(ids):
        found |= printed.bjobs_states(_text(["bjobs", "-a", "-o", " ".join(printed.BJOBS), "-json", *some]))
    return Answered(found)


def _with_psij(executor: str, ids: list[str]) -> Answered:
    if not ids:
        return Answered()
    made = executor_of(executor)
    answer = run(made.get_status_command(ids), timeout_s=QUESTION_S)
    try:
        return Answered(printed.psij_states(made.parse_status_output(answer.exit_code, answer.text)))
    except Exception as error:  # PSI/J asserts what it expects of a scheduler's words
        raise refusal(executor, Answer("", f"{type(error).__name__}: {error}", answer.exit_code)) from error


def _text(words: Sequence[str]) -> str:
    """What a command prints, though it complains of jobs that are not known any more."""
    answer = run(words, timeout_s=QUESTION_S)
    complaint = answer.complaint.lower()
    if answer.exit_code and not any(said in complaint for said in NOBODY_KNOWS):
        raise refusal(words[0], answer)
    return answer.text


def _portions(ids: list[str]) -> Iterable[list[str]]:
    return (ids[start : start + MOST_IDS] for start in range(0, len(ids), MOST_IDS))


def _by_ids(found: States, ids: list[str]) -> States:
    """PBS may print more of a server's name than it has told at the submission, or less."""
    short = {each.partition(".")[0]: state for each, state in found.items()}
    return {**found, **{each: short[each.partition(".")[0]] for each in ids if each.partition(".")[0] in short}}


__all__ = ["Answered", "NativeState", "Question", "accounting", "asked", "find_by_comment", "states"]

"""`orbit task run`: a task that behaves like a command of this shell: its output, its exit code, and Ctrl-C that ends it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.output import VERSION, echo_json, json_text
from orbit_zmq.cli.task_following import (
    LAST_S,
    SIGNAL_BASE,
    Followed,
    Following,
    Result,
    exit_code_of_result,
    line_writer,
    result_item,
    say_how_it_ended,
)
from orbit_zmq.cli.task_sessions import STREAMING, TaskSession, ask_of_each, backends_of

if TYPE_CHECKING:
    from types import FrameType

    from orbit_zmq import Client

SCHEMA = "orbit.task.run"
CANCEL_S = 30.0  # a process has some seconds after each of three signals
REASON = "orbit task run was interrupted"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEATED_S = 0.3  # `timeout` and some launchers send a signal twice: to the process and to its group


def streamed(session: TaskSession, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks, with the wish that what they write can be read while they run, where that can be had."""
    first = backends_of(session)[0]
    return [
        {**task, "stream_output": True}
        if "executable" in task and "stream_output" not in task and not task.get("capture_stdio")
        and (task.get("backend") or first) in STREAMING
        else task
        for task in tasks
    ]  # fmt: skip


def run_tasks(client: Client, session: TaskSession, tasks: Sequence[dict[str, Any]], *, as_json: bool) -> int:
    """Submit the tasks, show what they write until they have ended, and answer the exit code: that of the first that failed.

    Ctrl-C, SIGTERM and a terminal that is closed cancel what has not ended; the code is then 128 and the signal's number.
    """
    run = _Run(session, tasks, as_json=as_json)
    with _interrupts() as number:
        try:
            run.begin()
            run.show()
        except KeyboardInterrupt:
            _cancel(client, session, run.left)
            run.show(LAST_S)
            return SIGNAL_BASE + number()
        except BrokenPipeError:  # who read what it writes has left, as in `| head`
            _cancel(client, session, run.left)
            raise
    return run.exit_code


class _Run:
    """What is known of the tasks of one command."""

    def __init__(self, session: TaskSession, tasks: Sequence[dict[str, Any]], *, as_json: bool) -> None:
        self._session = session
        self._tasks = streamed(session, tasks)
        self._as_json = as_json
        self._write = line_writer(SCHEMA, as_json=as_json, labelled=len(tasks) > 1)
        self._position: dict[str, int] = {}  # of the uids that were taken, among the tasks
        self._codes: dict[int, int] = {}  # by position
        self._following: Following | None = None

    @property
    def left(self) -> list[str]:
        """Those of which no end is known."""
        return list(dict.fromkeys(task["uid"] for task in self._tasks) if self._following is None else self._following.open)

    @property
    def exit_code(self) -> int:
        return next((code for _, code in sorted(self._codes.items()) if code), 0)

    def begin(self) -> None:
        """Submit; those that were not taken have ended."""
        answers = self._session.submit_tasks(self._tasks)
        for at, answer in enumerate(answers):
            if "exception" in answer:
                self._ended(at, answer)
            else:
                self._position.setdefault(answer["uid"], at)
        taken = [Followed(self._session, uid, "stream_output" in self._tasks[at]) for uid, at in self._position.items()]
        self._following = Following(taken)

    def show(self, within_s: float = float("inf")) -> None:
        """What comes, until all have ended or the time is over."""
        for news in self._following.news(within_s) if self._following is not None else ():
            if news.error is not None:
                raise news.error
            if news.line is not None:
                self._write(news.uid, news.line)
            elif news.result is not None:
                self._ended(self._position[news.uid], news.result)

    def _ended(self, position: int, result: Result) -> None:
        self._codes[position] = exit_code_of_result(result)
        if self._as_json:
            echo_json({"schema": SCHEMA, "version": VERSION, "item": result_item(result)})
            return
        value = result.get("return_value") if "function" in self._tasks[position] else None
        if value is not None:
            click.echo(json_text(value))
        say_how_it_ended(result)


def _cancel(client: Client, session: TaskSession, uids: Sequence[str]) -> None:
    """End tasks and say so; of those that could not be ended, say where they may run on."""
    from orbit_zmq.cli.main import complain
    from orbit_zmq.errors import NotFound, OrbitError

    what = f"task {uids[0]}" if len(uids) == 1 else f"{len(uids)} tasks"
    complain(f"Canceling {what} on {session.endpoint}; another Ctrl-C leaves at once.")

    def ask(task: dict[str, Any]) -> str:
        try:
            client.call(session.endpoint, session.plugin, "cancel", task, session=session.sid, deadline_s=CANCEL_S)
        except NotFound:  # it was interrupted before it was sent
            return ""
        except OrbitError as error:
            return error.message
        return ""

    wrong = [reason for reason in ask_of_each([{"uid": uid, "reason": REASON} for uid in uids], ask) if reason]
    if wrong:
        complain(f"Of {what} some may run on: {wrong[0]}. See: orbit task list running --endpoint {session.endpoint}")


@contextmanager
def _interrupts() -> Iterator[Callable[[], int]]:
    """SIGTERM and SIGHUP do as Ctrl-C does meanwhile; what it gives answers which signal came. One that comes again at once is
    the same."""
    came = int(signal.SIGINT)
    came_at = float("-inf")

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came, came_at
        if time.monotonic() < came_at + REPEATED_S:
            return
        came, came_at = number, time.monotonic()
        raise KeyboardInterrupt

    before = {one: signal.getsignal(one) for one in INTERRUPTS}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup
                signal.signal(one, interrupt)
        yield lambda: came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

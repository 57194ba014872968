"""Following tasks from the command line: what they write, while they write it, and how they end.

Each task is read by a thread, some at a time and the earliest first; what they bring is handed over one by one to the thread
that prints. Nothing here submits or cancels.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from orbit_zmq.cli.output import VERSION, echo_json, readable
from orbit_zmq.cli.task_selectors import ENDED
from orbit_zmq.cli.task_sessions import TaskSession

if TYPE_CHECKING:
    from orbit_zmq import Client

READERS = 32  # tasks that are listened to at once; what the others write is kept over there for a while, and comes later
WAITING = 1_000  # lines between the readers and a slow terminal
LAST_S = 5.0  # for what is still to come of a task that was canceled
SIGNAL_BASE = 128  # what shells add to the number of a signal
MOST_CODE = 255
NOT_FOUND, CANNOT_EXECUTE = 127, 126  # what shells say of a program that was not started

Result = dict[str, Any]


class Followed(NamedTuple):
    """One task to be followed. Where its lines can be read one by one is found out, unless it is known that they cannot."""

    session: TaskSession
    uid: str
    may_stream: bool = True


class News(NamedTuple):
    """Of one task a line, or how it ended; an error says why neither can be had."""

    uid: str
    line: Any = None  # number, stream, text, missed
    result: Result | None = None
    error: Exception | None = None


class Following:
    """Reads tasks from when it is made on; `news` gives what comes until all have ended."""

    def __init__(self, tasks: Sequence[Followed]) -> None:
        self._waiting = deque(tasks)
        self._news: queue.Queue[News] = queue.Queue(WAITING)
        self.open = {task.uid: task for task in tasks}  # those of which no end is known
        for _ in range(min(READERS, len(tasks))):
            threading.Thread(target=self._read, daemon=True).start()  # it must not keep a second Ctrl-C waiting

    def news(self, within_s: float = float("inf")) -> Iterator[News]:
        """Until every task has ended, or that time is over."""
        ends_at = time.monotonic() + within_s
        while self.open:
            try:
                one = self._news.get(timeout=max(0.0, ends_at - time.monotonic()) if within_s != float("inf") else None)
            except queue.Empty:
                return
            if one.line is None:
                self.open.pop(one.uid, None)
            yield one

    def _read(self) -> None:
        with suppress(IndexError):  # there are no more
            while True:
                task = self._waiting.popleft()
                try:
                    self._read_one(task)
                except Exception as error:  # noqa: BLE001 - the thread's top: who prints says it
                    self._news.put(News(task.uid, error=error))

    def _read_one(self, task: Followed) -> None:
        from orbit_zmq.errors import InvalidArgument

        shown = False
        if task.may_stream:
            with suppress(InvalidArgument):  # it is not streamed, or not any more: then its result has what it wrote
                for line in task.session.output(task.uid):
                    self._news.put(News(task.uid, line=line))
                    shown = True
        (result,) = task.session.wait_tasks([task.uid])
        if not shown:
            for line in lines_of(result):
                self._news.put(News(task.uid, line=line))
        self._news.put(News(task.uid, result=result))


class WrittenLine(NamedTuple):
    """As the plugin's client has it."""

    number: int
    stream: str
    text: str
    missed: int = 0


def lines_of(result: Mapping[str, Any]) -> Iterator[WrittenLine]:
    """What a program wrote, as its result has it: first standard output. One that was not started has written nothing."""
    number = 0
    for stream in ("stdout", "stderr"):
        text = str(result.get(stream) or "")
        if stream == "stderr" and text and text == _message_of(result.get("exception")):
            continue
        for line in text.removesuffix("\n").split("\n") if text else ():
            number += 1
            yield WrittenLine(number, stream, line)


def lines_so_far(client: Client, task: Mapping[str, Any]) -> Iterator[Any]:
    """What a program has written until now; where that cannot be read while it runs, this is said."""
    from orbit_zmq.cli.main import complain
    from orbit_zmq.errors import InvalidArgument

    place, session = (task["endpoint"], task["plugin"]), task["session"]
    after, missed = 0, 0
    try:
        while True:
            found = client.call(*place, "output", {"uid": task["uid"], "after": after}, session=session)
            missed += found["cut"]
            for number, stream, text in found["lines"]:
                yield WrittenLine(number, stream, text, missed)
                missed = 0
            after = found["after"]
            if not found["lines"]:
                break
    except InvalidArgument:  # it is not streamed, or not any more
        if task["state"] not in ENDED:
            complain(f"What task {task['uid']} writes can be read once it has ended.")
    if after == 0:
        yield from lines_of(client.call(*place, "task", {"uid": task["uid"]}, session=session))


def line_writer(schema: str, *, as_json: bool, labelled: bool) -> Callable[[str, Any], None]:
    """What writes a line of a task where that wrote it, to standard output or error; with its uid before it where several
    tasks write. On a terminal nothing of it is obeyed."""
    is_watched = {"stdout": sys.stdout.isatty(), "stderr": sys.stderr.isatty()}

    def write(uid: str, line: Any) -> None:
        if as_json:
            item = {"topic": "output", "uid": uid, "number": line.number, "stream": line.stream, "text": line.text}
            echo_json({"schema": schema, "version": VERSION, "item": {**item, "missed": line.missed}})
            return
        from orbit_zmq.cli.main import complain

        if line.missed:
            complain(f"{line.missed} lines of task {uid} before this are not kept.")
        text = f"{uid}: {line.text}" if labelled else line.text
        click.echo(readable(text) if is_watched[line.stream] else text, err=line.stream == "stderr")

    return write


def result_item(result: Mapping[str, Any]) -> Result:
    """Of a result what fits a line: no output, and of an exception what it says."""
    item = {name: result.get(name) for name in ("uid", "state", "exit_code", "signal", "reason", "return_value", "times")}
    return {"topic": "result", **item, "error": error_text(result.get("exception"))}


def error_text(error: object) -> str:
    """The exception of a result in one line, as the endpoint sends it or as the client has made it."""
    if isinstance(error, Mapping):
        name = str(error.get("type", "")).removeprefix("builtins.").removeprefix("orbit_zmq.errors.")
        return " ".join(f"{name}: {error.get('message', '')}".split())
    from orbit_zmq.errors import RemoteError

    if isinstance(error, RemoteError):
        return f"{error.remote_type.removeprefix('builtins.')}: {error}"
    return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error or "")


def _message_of(error: object) -> str:
    return str(error.get("message", "")) if isinstance(error, Mapping) else str(error or "")


def exit_code_of_result(result: Mapping[str, Any]) -> int:
    """What a shell would say of it: the task's exit code, 128 and the number of the signal that ended it, 127 for a program
    that there is not and 126 for one that cannot be executed; of a task that has none the code of its error."""
    from orbit_zmq.cli.main import DONE, FAILED, exit_code_of
    from orbit_zmq.errors import OrbitError, RemoteError

    code, error = result.get("exit_code"), result.get("exception")
    if result["state"] == "DONE":
        return DONE
    if isinstance(error, OrbitError) and not isinstance(error, RemoteError):
        return exit_code_of(error)
    if not isinstance(code, int) or not code:
        return FAILED
    if isinstance(error, OSError):
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE
    return min(SIGNAL_BASE - code, MOST_CODE) if code < 0 else code & MOST_CODE or FAILED


def say_how_it_ended(result: Mapping[str, Any]) -> None:
    """On standard error, where the exit code does not say it."""
    from orbit_zmq.cli.main import complain

    uid, error = result["uid"], error_text(result.get("exception"))
    if result["state"] == "CANCELED":
        reason = f": {result['reason']}" if result.get("reason") else ""
        complain(f"Task {uid} was canceled{reason}.")
    elif error:
        complain(f"Task {uid} failed: {error}")
    elif result.get("signal"):
        complain(f"Task {uid} was ended by {result['signal']}.")

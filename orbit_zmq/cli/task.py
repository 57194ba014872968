"""`orbit task`: programs as tasks of the plugin rhapsody: to submit, run, list, show, await, cancel and read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from orbit_zmq.cli.completion import backend_names, endpoint_names, session_ids, task_selectors
from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.output import Column, Item, Output, output_options, shown
from orbit_zmq.cli.parameters import DURATION
from orbit_zmq.cli.task_input import environment_of, tasks_of_file, tasks_of_program
from orbit_zmq.cli.task_selectors import ENDED, chosen_tasks
from orbit_zmq.cli.task_sessions import ask_of_each, attached, place_of, session_for, tasks_at

if TYPE_CHECKING:
    from orbit_zmq import Client

Command = TypeVar("Command", bound=Callable[..., Any])
Task = dict[str, Any]

SELECTING = """A TASK is a uid or its beginning; 3fa9c1d2 for 3fa9c1d2.1, 3fa9c1d2.2, ... which were submitted together; a range
    such as 3fa9c1d2.2..7 in the order of submission; a pattern such as '*.1'; a state (submitted, running, done, failed,
    canceled); `last`, the newest and those that were submitted together with it; or `all`. Commas join several."""
MOST_TASKS = 1_000_000
CANCEL_S = 60.0  # a process has some seconds after each of three signals
EVERY_TASK = "all"
STANDARD_INPUT = "<stdin>"  # as Python calls it
SHOWN_LINES = 20  # of what a task wrote, for people


def _moment(value: Any) -> str:
    try:
        return datetime.fromtimestamp(value).strftime("%Y-%m-%dT%H:%M:%S")
    except (TypeError, OverflowError, ValueError, OSError):  # not known, or of an endpoint's odd clock
        return "-"


PLACE = (Column("ENDPOINT", "endpoint", rank=1), Column("SESSION", "session", rank=3))
LISTED = (Column("TASK", "uid"), Column("STATE", "state"), *PLACE, Column("SUBMITTED", "submitted", _moment, rank=2))
TAKEN = (Column("TASK", "uid"), Column("STATE", "state"), *PLACE, Column("ERROR", "error"))
RESULTS = (
    Column("TASK", "uid"),
    Column("STATE", "state"),
    Column("EXIT", "exit_code"),
    Column("SIGNAL", "signal", rank=4),
    Column("TOOK", "took_s", rank=2),
    *PLACE,
    Column("ERROR", "error"),
)


def where_options(command: Command) -> Command:
    """Which endpoint and session, and which broker; every command here has them."""
    for option in (
        click.option("--session", metavar="SID", shell_complete=session_ids, help="This session, not your own `default`."),
        click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="This endpoint; if left out, any."),
    ):
        command = option(command)
    return broker_options(command)


def what_options(command: Command) -> Command:
    """What is submitted; the command gets `tasks` and `backend`."""

    @wraps(command)
    def with_tasks(
        *args: Any, program: tuple[str, ...], count: int, file: IO[bytes] | None, env: tuple[str, ...], **values: Any
    ) -> Any:
        asked = {word: values.pop(word) for word in ("cwd", "timeout", "ranks")}
        options = {word: value for word, value in asked.items() if value is not None} | (
            {"env": environment_of(env)} if env else {}
        )
        if values["session"] is not None and values["backend"] is not None:
            options["backend"] = values["backend"]
        return command(*args, tasks=_tasks(program, count, file, options), **values)

    made: Any = with_tasks
    for option in (
        click.option("--from-json", "file", type=click.File("rb"), metavar="FILE",
                     help="Tasks in place of a program: a list, or one a line; - for standard input."),
        click.option("--ranks", type=click.IntRange(1), metavar="N", help="Processes of a task, where the backend has them."),
        click.option("--timeout", type=DURATION, metavar="DURATION", help="End a task that runs longer."),
        click.option("--env", multiple=True, metavar="NAME=VALUE", help="Add to the environment over there; may come again."),
        click.option("--cwd", metavar="PATH", help="Directory over there to run in."),
        click.option("--backend", metavar="NAME", shell_complete=backend_names,
                     help="Rhapsody's backend; if left out, the endpoint's."),
        click.option("-n", "--count", type=click.IntRange(1, MOST_TASKS), default=1, metavar="N",
                     help="So many tasks; ORBIT_TASK_NUMBER is 1 to N in them."),
        click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND]..."),
    ):  # fmt: skip
        made = option(made)
    return made  # type: ignore[no-any-return]


def selected(required: bool) -> Callable[[Command], Command]:
    return click.argument(
        "selectors", nargs=-1, required=required, metavar="TASK..." if required else "[TASK]...", shell_complete=task_selectors
    )


def _with_selecting(command: Command) -> Command:
    """What a TASK may be, in the help of every command that takes one."""
    command.__doc__ = f"{command.__doc__ or ''}\n\n    {SELECTING}\n    "
    return command


@click.group()
def task() -> None:
    """Submit, run, list, show, await, cancel and read tasks.

    Tasks are programs that run where an endpoint runs. They are in your session `default` at that endpoint, which lasts: any
    shell of yours sees them, and what became of them, for a day.
    """


@task.command(context_settings={"allow_interspersed_args": False})
@what_options
@output_options
@where_options
def submit(
    tasks: list[Task], backend: str | None, endpoint: str | None, session: str | None, output: Output, where: Where
) -> int:
    """Submit COMMAND as a task, and print its uid. Without --endpoint it goes to one that has the plugin rhapsody.

    What it writes can be read by `orbit task logs -f` meanwhile.
    """
    from orbit_zmq.cli.main import DONE, FAILED, exit_code_of
    from orbit_zmq.cli.task_following import error_text
    from orbit_zmq.cli.task_running import streamed

    with connected(where) as client:
        there = session_for(client, endpoint, session, backend)
        answers = there.submit_tasks(streamed(there, tasks))
        place = {"endpoint": there.endpoint, "session": there.sid}
    found = [{"uid": one["uid"], "state": one["state"], **place, "error": error_text(one.get("exception"))} for one in answers]
    output.items("orbit.task.submit", found, TAKEN, id_key="uid")
    errors = [one["exception"] for one in answers if "exception" in one]
    _say_refused(errors, len(answers))
    return max(FAILED, exit_code_of(errors[0])) if errors else DONE


@task.command(context_settings={"allow_interspersed_args": False})
@what_options
@click.option("--json", "as_json", is_flag=True, help="One JSON value a line: each line that is written, and each result.")
@where_options
def run(tasks: list[Task], backend: str | None, endpoint: str | None, session: str | None, as_json: bool, where: Where) -> int:
    """Run COMMAND as a task, show what it writes while it runs, and end with its exit code.

    The code is 128 and the number of the signal where one has ended it. With several tasks each line has the uid of its task
    before it, and the exit code is that of the first task that failed. Ctrl-C cancels what has not ended.
    """
    from orbit_zmq.cli.task_running import run_tasks

    as_json = Output.choose(as_json, False, False).is_json
    with connected(where) as client:
        return run_tasks(client, session_for(client, endpoint, session, backend), tasks, as_json=as_json)


@task.command("list")
@selected(False)
@output_options
@where_options
@_with_selecting
def list_tasks(selectors: tuple[str, ...], endpoint: str | None, session: str | None, output: Output, where: Where) -> None:
    """List tasks, the oldest first; all where none is named."""
    with connected(where) as client:
        found = chosen_tasks(selectors or [EVERY_TASK], tasks_at(client, endpoint, session))
    output.items("orbit.task.list", found, LISTED, id_key="uid", nothing="There is no such task.")


@task.command()
@selected(False)
@output_options
@where_options
@_with_selecting
def show(selectors: tuple[str, ...], endpoint: str | None, session: str | None, output: Output, where: Where) -> None:
    """Show what is known of tasks, with their output; the last where none is named.

    Several are shown as a table; --json has everything of each.
    """
    with connected(where) as client:
        chosen = chosen_tasks(selectors or ["last"], tasks_at(client, endpoint, session))
        found = ask_of_each(chosen, lambda one: _details(client, one))
    if len(found) != 1:
        output.items("orbit.task.show", found, RESULTS, id_key="uid", nothing="There is no such task.")
    elif output.is_table:
        _show_one(found[0], output)
    else:
        output.item("orbit.task.show", found[0], id_key="uid")


@task.command()
@selected(False)
@click.option("--timeout", "timeout_s", type=DURATION, metavar="DURATION", help="End after that time, with exit code 5.")
@output_options
@where_options
@_with_selecting
def wait(
    selectors: tuple[str, ...],
    timeout_s: float | None,
    endpoint: str | None,
    session: str | None,
    output: Output,
    where: Where,
) -> int:
    """Wait until tasks have ended, and list how; the last where none is named.

    Exit code 0: all are done. 1: some failed or were canceled. 5: some had not ended at the --timeout.
    """
    from orbit_zmq.cli.main import DONE, FAILED
    from orbit_zmq.errors import DeadlineExceeded

    with connected(where) as client:
        chosen = chosen_tasks(selectors or ["last"], tasks_at(client, endpoint, session))
        found = _awaited(client, chosen, timeout_s)
    output.items("orbit.task.wait", found, RESULTS, id_key="uid", nothing="There is no such task.")
    late = [one for one in found if one["state"] not in ENDED]
    if late:
        message = f"{len(late)} of {len(found)} tasks have not ended within {shown('_s', timeout_s)}."
        raise DeadlineExceeded(message, hint="Wait longer with --timeout.")
    return DONE if all(one["state"] == "DONE" for one in found) else FAILED


@task.command()
@selected(True)
@click.option("--reason", default="", metavar="TEXT", help="Kept in the results of the tasks.")
@output_options
@where_options
@_with_selecting
def cancel(
    selectors: tuple[str, ...], reason: str, endpoint: str | None, session: str | None, output: Output, where: Where
) -> None:
    """End tasks, and list those that had not ended before, with their states. Their processes are gone then."""
    from orbit_zmq.cli.main import complain

    with connected(where) as client:
        chosen = chosen_tasks(selectors, tasks_at(client, endpoint, session))
        left = [one for one in chosen if one["state"] not in ENDED]
        answers = ask_of_each(left, lambda one: _of(client, one, "cancel", reason=reason))
    for one, answer in zip(left, answers, strict=True):
        one["state"] = str(answer["status"]).upper()
    running_on = sum(answer["unstoppable"] for answer in answers)
    if running_on:
        complain(f"{running_on} functions run on in their threads, which cannot be ended, though their tasks are canceled.")
    output.items("orbit.task.cancel", left, LISTED, id_key="uid", nothing="All of these have ended.")


@task.command()
@selected(False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the tasks have ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON value a line, for each line that was written.")
@where_options
@_with_selecting
def logs(
    selectors: tuple[str, ...], follow: bool, endpoint: str | None, session: str | None, as_json: bool, where: Where
) -> None:
    """Show what tasks have written, each to where it was written: standard output or error; the last where none is named.

    Of several tasks each line has the uid of its task before it. Ctrl-C ends this command, and not the tasks.
    """
    from orbit_zmq.cli.task_following import Followed, Following, line_writer, lines_so_far

    as_json = Output.choose(as_json, False, False).is_json
    with connected(where) as client:
        chosen = chosen_tasks(selectors or ["last"], tasks_at(client, endpoint, session))
        write = line_writer("orbit.task.logs", as_json=as_json, labelled=len(chosen) > 1)
        if not follow:
            for one in chosen:
                for line in lines_so_far(client, one):
                    write(one["uid"], line)
            return
        sessions = {place: attached(client, place) for place in {place_of(one) for one in chosen}}
        for news in Following([Followed(sessions[place_of(one)], one["uid"]) for one in chosen]).news():
            if news.error is not None:
                raise news.error
            if news.line is not None:
                write(news.uid, news.line)


def _tasks(program: Sequence[str], count: int, file: IO[bytes] | None, options: Task) -> list[Task]:
    if file is None and program:
        return tasks_of_program(program, count, options)
    if file is None:
        raise click.UsageError("There is no command to run: orbit task run -- hostname")
    if program or count != 1:
        raise click.UsageError("--from-json says what runs: leave the command and -n out.")
    name = getattr(file, "name", STANDARD_INPUT)
    return tasks_of_file(file, "standard input" if name == STANDARD_INPUT else str(name), options)


def _say_refused(errors: Sequence[Exception], total: int) -> None:
    from orbit_zmq.cli.main import complain

    if errors:
        complain(f"{len(errors)} of {total} tasks were not taken: {errors[0]}")


def _of(client: Client, one: Task, operation: str, **more: Any) -> Any:
    """Ask the endpoint about one task."""
    place = place_of(one)
    arguments = {"uid": one["uid"], **more}
    return client.call(place.endpoint, place.plugin, operation, arguments, session=place.session, deadline_s=CANCEL_S)


def _details(client: Client, one: Task) -> Task:
    """All that the endpoint has of a task, without loading what its function returned."""
    from orbit_zmq.cli.task_following import error_text

    record = _of(client, one, "task")
    pickled, error = record.pop("return_pickle", None), record.pop("exception", None)
    if pickled is not None:
        record["return_value"] = f"pickled, {len(pickled)} bytes"
    traceback = str(error.get("traceback") or "") if isinstance(error, dict) else ""
    details = {"error": error_text(error), "traceback": traceback, "took_s": _took_s(record)}
    return {**{key: one[key] for key in ("uid", "state", "endpoint", "session")}, **record, **details}


def _took_s(record: Item) -> float | None:
    times = record.get("times") or {}
    began, ended = times.get("started"), times.get("finished")
    return None if not began or not ended else max(0.0, ended - began)


def _show_one(item: Task, output: Output) -> None:
    """For people: times that can be read, and the end of what was written below the facts."""
    texts = {name: str(item.pop(name, None) or "") for name in ("stdout", "stderr", "traceback")}
    times = {name: _moment(value) for name, value in item.pop("times", {}).items()}
    facts = {key: value for key, value in {**item, **times}.items() if value not in (None, "")}
    output.item("orbit.task.show", facts, id_key="uid")
    for name, text in texts.items():
        lines = text.removesuffix("\n").split("\n") if text else []
        if lines:
            more = f", the last {SHOWN_LINES} of {len(lines)} lines" if len(lines) > SHOWN_LINES else ""
            output.text(name.upper() + more, lines[-SHOWN_LINES:])


def _awaited(client: Client, chosen: Sequence[Task], timeout_s: float | None) -> list[Item]:
    """How these tasks ended, or their states when the time is over, in their order."""
    from orbit_zmq.cli.task_following import result_item

    ends_at = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    found: dict[tuple[Any, str], Item] = {}
    for place in dict.fromkeys(map(place_of, chosen)):
        uids = [one["uid"] for one in chosen if place_of(one) == place]
        left_s = None if timeout_s is None else max(0.0, ends_at - time.monotonic())
        for result in attached(client, place).wait_tasks(uids, left_s):
            item = {**result_item(result), "took_s": _took_s(result), "endpoint": place.endpoint, "session": place.session}
            found[place, result["uid"]] = {key: value for key, value in item.items() if key not in ("topic", "return_value")}
    return [found[place_of(one), one["uid"]] for one in chosen]

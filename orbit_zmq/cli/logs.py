"""`orbit logs`: what the broker and the endpoints of this user in the background have written, as it stands or as it comes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from orbit_zmq.cli.output import printable

LOOK_S = 0.2  # how often a log is looked at for more
SHOWN_FIRST = ("timestamp", "level", "event", "logger")
COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}


@click.command()
@click.argument("what", type=click.Choice(["broker", "endpoint"]), default="broker")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0), help="How many of the last lines.")
@click.option("--file", "file", type=click.Path(path_type=Path), help="Another log file, as --log-file named it.")
def logs(what: str, name: str | None, follow: bool, lines: int, file: Path | None) -> None:
    """Show the log of the broker, or of endpoint NAME, that runs in the background on this machine.

    Lines for people on a terminal, else as they are in the file.
    """
    from orbit_zmq.errors import NotFound

    path = file or _path(what, name)
    if not path.exists():
        raise NotFound(
            f"There is no log {path}.",
            hint=f"One is written by `orbit {what} start --detach`; in the foreground, see its terminal.",
        )
    show = _for_people if sys.stdout.isatty() else _as_it_is
    with path.open(errors="replace") as opened:
        for line in _last_lines(path, opened, lines):
            show(line)
        if follow:
            for line in _new_lines(path, opened):
                show(line)


def _path(what: str, name: str | None) -> Path:
    """The file that the running process has named, else the one of the state directory."""
    from orbit_zmq.background import log_path
    from orbit_zmq.endpoint.endpoint import check_name, default_name
    from orbit_zmq.process_record import SUPERVISED, SUPERVISOR, read_record

    if what == "broker":
        record = read_record(SUPERVISOR, SUPERVISED)
        return Path(record.log) if record is not None and record.log else log_path("broker")
    named = name or default_name()
    check_name(named)
    record = read_record("endpoint", named)
    return Path(record.log) if record is not None and record.log else log_path(f"endpoint.{named}")


def _last_lines(path: Path, opened: IO[str], count: int) -> Iterator[str]:
    """The last lines, with those of the file before where this one is new; `opened` then stands at its end."""
    found = deque(opened, maxlen=count)
    before = path.with_name(f"{path.name}.1")
    if len(found) < count and before.exists():
        with before.open(errors="replace") as older:
            found.extendleft(reversed(deque(older, maxlen=count - len(found))))
    yield from found


def _new_lines(path: Path, opened: IO[str]) -> Iterator[str]:
    """Each line as it is written, also when the file is replaced by the next one."""
    current, part = opened, ""
    while True:
        is_complete = _was_replaced(path, current)  # asked first: what was written until then is read below
        part += current.readline()
        if part.endswith("\n"):
            yield part
            part = ""
        elif is_complete and not part:
            current = path.open(errors="replace")
        else:
            sys.stdout.flush()
            time.sleep(LOOK_S)


def _was_replaced(path: Path, opened: IO[str]) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(opened.fileno()))
    except FileNotFoundError:
        return False


def _as_it_is(line: str) -> None:
    click.echo(line, nl=False)


def _for_people(line: str) -> None:
    """One JSON line as time, level, event and facts; anything else, and all that peers sent, escaped."""
    try:
        facts: Any = json.loads(line)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        click.echo(printable(line.rstrip("\n")))
        return
    moment, level = str(facts.get("timestamp", ""))[11:19], str(facts.get("level", ""))
    rest = " ".join(f"{name}={_text(value)}" for name, value in facts.items() if name not in SHOWN_FIRST)
    head = f"{moment} {level:8}"
    click.echo(
        f"{click.style(printable(head), fg=COLOURS.get(level))} {printable(str(facts.get('event', '')))}  {printable(rest)}"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

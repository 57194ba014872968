"""`orbit broker`: start, stop and look at the broker. The broker itself is another program, run as a process."""

from __future__ import annotations

import os
import subprocess
import time

import click

from orbit_zmq.cli.connection import broker_options, connected, json_option, show_json, show_table

PORT = 5670
STOP_S = 10.0  # it says goodbye to everybody and is gone within 3 s
POLL_S = 0.02


@click.group()
def broker() -> None:
    """Start, stop and look at the broker."""


@broker.command()
@click.option("--detach", is_flag=True, help="Leave it running in the background; its log is in the state directory.")
@click.option("--host", default="0.0.0.0", show_default=True, help="The address to listen at; everybody needs a key.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.")
def start(detach: bool, host: str, port: int, log_level: str | None) -> None:
    """Start this user's broker on this machine. It ends with Ctrl-C, or with `orbit broker stop`."""
    from orbit_zmq.children import BROKER, command_of

    refuse_a_second_broker()
    level = ["--log-level", log_level] if log_level else []
    command = [*command_of(BROKER), "--tcp", f"tcp://{host}:{port}", *level]
    if detach:
        _start_detached(command)
    else:
        os.execv(command[0], command)  # signals then reach the broker itself


def refuse_a_second_broker() -> None:
    """Raise Conflict where a broker of this user runs on this machine."""
    from orbit_zmq.errors import Conflict
    from orbit_zmq.runtime_file import read_runtime_file

    running = read_runtime_file()
    if running is not None and running.is_here():
        raise Conflict(
            f"A broker of this user runs here already: process {running.pid}.",
            hint="Use it, or stop it with `orbit broker stop`.",
        )


def _start_detached(command: list[str]) -> None:
    from orbit_zmq.children import READY_S, read_ready
    from orbit_zmq.errors import InternalError
    from orbit_zmq.paths import state_dir

    log = state_dir() / "broker.log"
    with log.open("ab") as errors:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    said = read_ready(started.stdout.fileno(), READY_S) if started.stdout else None
    if said is None:
        started.terminate()
        raise InternalError("The broker did not start.", hint=f"Its log says why: {log}")
    click.echo(f"broker {said['pid']} listens at {said['tcp']} and ipc://{said['ipc']}; its log is {log}")


@broker.command()
@broker_options
def stop(url: str | None, join: str | None, context: str | None) -> None:
    """Stop the broker for good: open calls end, and endpoints wait for another."""
    from orbit_zmq.errors import DeadlineExceeded
    from orbit_zmq.runtime_file import read_runtime_file

    with connected(url, join, context) as client:
        status = client.broker_status()
        client.drain()
    deadline = time.monotonic() + STOP_S
    while (record := read_runtime_file()) is not None and record.pid == status.get("pid"):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"The broker, process {record.pid}, is still there.", hint="Look at its log.")
        time.sleep(POLL_S)
    click.echo("stopped")


@broker.command()
@json_option
@broker_options
def status(as_json: bool, url: str | None, join: str | None, context: str | None) -> None:
    """Show what the broker says of itself."""
    with connected(url, join, context) as client:
        report = client.broker_status()
    if as_json:
        show_json(report)
        return
    rows: list[tuple[str, object]] = []
    for name, value in report.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{key}", inner) for key, inner in value.items()]
        elif name != "participants":
            rows.append((name, value))
    show_table(("BROKER", ""), rows)
    click.echo()
    columns = ("name", "role", "user", "state", "sessions", "calls_made", "calls_served")
    participants = [[participant.get(column, "") for column in columns] for participant in report["participants"]]
    show_table([column.upper() for column in columns], participants)

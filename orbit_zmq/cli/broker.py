"""`orbit broker`: start, stop and look at the broker. The broker itself is another program, run as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

from orbit_zmq.cli.connection import broker_options, connected, json_option, printable, show_json, show_table

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
    from orbit_zmq.children import BROKER
    from orbit_zmq.errors import Conflict
    from orbit_zmq.runtime_file import read_runtime_file

    if running := read_runtime_file():
        raise Conflict(
            f"A broker of this user runs already on {running.hostname}, process {running.pid}.",
            hint="Stop it with `orbit broker stop`.",
        )
    level = ["--log-level", log_level] if log_level else []
    command = [sys.executable, "-m", BROKER, "--tcp", f"tcp://{host}:{port}", *level]
    if detach:
        _start_detached(command)
    else:
        os.execv(sys.executable, command)  # signals then reach the broker itself


def _start_detached(command: list[str]) -> None:
    import json

    from orbit_zmq.children import READY_S, read_line
    from orbit_zmq.errors import InternalError
    from orbit_zmq.paths import state_dir

    log = state_dir() / "broker.log"
    with log.open("ab") as errors:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    line = read_line(started.stdout.fileno(), READY_S) if started.stdout else b""
    try:
        said = json.loads(line)
        click.echo(f"broker {said['pid']} listens at {said['tcp']} and {said['ipc']}")
    except (ValueError, KeyError, TypeError):
        started.terminate()
        tail = printable(log.read_text(errors="replace").strip().rpartition("\n")[2])
        raise InternalError("The broker did not start.", hint=f"The last line of {log}: {tail}") from None


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
    plain = [(name, value) for name, value in report.items() if not isinstance(value, (dict, list))]
    counted = [(name, len(value)) for name, value in report.items() if isinstance(value, list)]
    nested = [
        (f"{name}.{key}", value) for name, values in report.items() if isinstance(values, dict) for key, value in values.items()
    ]
    show_table(("", ""), [*plain, *counted, *nested])

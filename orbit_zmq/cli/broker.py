"""`orbit broker`: start, stop, wait for and look at the broker. The broker itself is another program, run as a process."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.connection import Where, broker_options, connected, wait_for_broker
from orbit_zmq.cli.gateway import HTTP_ADDRESS
from orbit_zmq.cli.install import install_options, show_unit
from orbit_zmq.cli.output import Column, Output, Section, output_options
from orbit_zmq.cli.parameters import DURATION
from orbit_zmq.cli.running import log_options

if TYPE_CHECKING:
    from orbit_zmq.runtime_file import RuntimeFile

PORT = 5670
POLL_S = 0.1
PARTICIPANTS = (
    Column("NAME", "name"),
    Column("ROLE", "role"),
    Column("USER", "user"),
    Column("STATE", "state"),
    Column("SESSIONS", "sessions"),
    Column("OPEN MADE", "open_calls_made"),
    Column("OPEN SERVED", "open_calls_served"),
    Column("MADE", "calls_made"),
    Column("SERVED", "calls_served"),
    Column("LATENCY", "latency_s", lambda value: "-" if value is None else f"{value * 1000:.1f}ms"),
    Column("REPLAYED", "replayed"),
    Column("MISSED", "missed"),
)
LOST = (Column("LOST ENDPOINT", "name"), Column("CAUSE", "cause"), Column("SINCE", "lost_for_s"))


@click.group()
def broker() -> None:
    """Start, stop and look at the broker."""


@broker.command()
@click.option("--detach", is_flag=True, help="Leave it running in the background; its log is in the state directory.")
@click.option("--supervise", is_flag=True, help="Start it again when it is killed.")
@click.option("--host", default="0.0.0.0", show_default=True, help="The address to listen at; everybody needs a key.")
@click.option("--http", type=HTTP_ADDRESS, help="Serve HTTP, too: a gateway that is kept running beside the broker.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@log_options
def start(
    detach: bool,
    supervise: bool,
    host: str,
    http: str | None,
    port: int,
    log_level: str | None,
    log_format: str | None,
    log_file: Path | None,
) -> None:
    """Start this user's broker on this machine. It ends with Ctrl-C, or with `orbit broker stop`."""
    from orbit_zmq.children import BROKER, command_of

    refuse_a_second_broker()
    given = {"--log-level": log_level, "--log-format": log_format, "--log-file": log_file}
    logs = [str(part) for option, value in given.items() if value for part in (option, value)]
    if detach:
        beside = ["--http", http] if http else []
        _start_detached(
            ["--host", host, "--port", str(port), *(["--supervise"] if supervise else []), *beside, *logs], log_file
        )
    elif supervise:
        _supervise(["--tcp", f"tcp://{host}:{port}", *logs], log_level, log_format, log_file, http, logs)
    elif http:
        _run_with_gateway(f"tcp://{host}:{port}", http, log_level, log_format, log_file, logs)
    else:
        command = [*command_of(BROKER), "--tcp", f"tcp://{host}:{port}", *logs]
        os.execv(command[0], command)  # signals then reach the broker itself


def refuse_a_second_broker() -> None:
    """Raise Conflict where a broker of this user, or its supervisor, runs on this machine."""
    from orbit_zmq.background import refuse_second
    from orbit_zmq.errors import Conflict
    from orbit_zmq.process_record import running_supervisor
    from orbit_zmq.runtime_file import read_runtime_file

    running = read_runtime_file()
    if running is not None and running.is_here():
        raise Conflict(
            f"A broker of this user runs here already: process {running.pid}.",
            hint="Use it, or stop it with `orbit broker stop`.",
        )
    refuse_second(running_supervisor())


def _start_detached(options: list[str], log_file: Path | None) -> None:
    from orbit_zmq.background import log_path, start_in_background
    from orbit_zmq.children import READY_S

    log = log_file or log_path("broker")
    if log_file is None:
        options += ["--log-file", str(log)]
    said = start_in_background(["broker", "start", *options], log, READY_S)
    supervised = f", supervised by process {said['supervisor']}" if "supervisor" in said else ""
    click.echo(f"{_listens(said)}{supervised}; its log is {log}")


def _listens(said: dict[str, Any]) -> str:
    over_http = f", HTTP at {said['http']}" if "http" in said else ""
    over_http += f" with the certificate {said['fingerprint']}" if "fingerprint" in said else ""
    return f"broker {said['pid']} listens at {said['tcp']} and ipc://{said['ipc']}{over_http}"


def _run_with_gateway(tcp: str, http: str, level: str | None, form: str | None, file: Path | None, logs: list[str]) -> None:
    """A broker and a gateway until the broker ends, or this process is told to."""
    from orbit_zmq.children import start_broker
    from orbit_zmq.errors import InternalError, OrbitError
    from orbit_zmq.exit_with_parent import say_failed, say_ready
    from orbit_zmq.log import configure_logging
    from orbit_zmq.supervise import KeptGateway

    configure_logging(level, form, file)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: both children are ended in order
    try:
        with ExitStack() as stack, suppress(KeyboardInterrupt):
            child = start_broker(tcp=tcp, options=logs)
            stack.callback(child.end)
            kept = KeptGateway(f"ipc://{child.ready['ipc']}", http, logs)
            stack.callback(kept.end)
            said = {**child.ready, **kept.facts}
            say_ready(said, f"{_listens(said)}; Ctrl-C ends both")
            if (code := child.wait()) != 0:
                raise InternalError(f"The broker ended with exit code {code}.", hint="What it wrote above says why.")
    except OrbitError as error:
        if not sys.stdout.isatty():  # who waits for the ready line reads it there
            say_failed(error)
        raise


def _supervise(
    arguments: list[str],
    level: str | None,
    form: str | None,
    file: Path | None,
    http: str | None,
    logs: list[str],
) -> None:
    from orbit_zmq.errors import OrbitError
    from orbit_zmq.exit_with_parent import say_failed, say_ready
    from orbit_zmq.log import configure_logging
    from orbit_zmq.supervise import KeptGateway, Supervisor

    def tell(said: dict[str, Any]) -> None:
        if http:
            kept = KeptGateway(f"ipc://{said['ipc']}", http, logs)
            stack.callback(kept.end)
            said = {**said, **kept.facts}
        say_ready(said, f"{_listens(said)}, supervised; Ctrl-C ends both")

    configure_logging(level, form, file)
    try:
        with ExitStack() as stack:
            Supervisor(arguments, str(file or "")).run(tell)
    except OrbitError as error:
        if not sys.stdout.isatty():  # who waits for the ready line reads it there
            say_failed(error)
        raise


@broker.command()
@click.option("--timeout", "timeout_s", type=DURATION, default="10s", show_default=True, help="How long it may take.")
@broker_options
def stop(timeout_s: float, where: Where) -> None:
    """Stop the broker for good, and its supervisor: open calls end, and endpoints wait for another."""
    from orbit_zmq.background import stop_process, wait_until_gone
    from orbit_zmq.errors import BrokerUnreachable
    from orbit_zmq.process_record import running_supervisor
    from orbit_zmq.runtime_file import read_runtime_file

    supervisor = running_supervisor()
    try:
        with connected(where) as client:
            status, running = client.broker_status(), read_runtime_file()
            client.drain()
    except BrokerUnreachable:
        if supervisor is None or any(where):
            raise
        stop_process(supervisor, timeout_s)  # between two starts of its broker
    else:
        if running is not None and (running.pid, running.hostname) == (status.get("pid"), status.get("hostname")):
            _wait_until_stopped(running, timeout_s)
            if supervisor is not None:
                wait_until_gone(supervisor, timeout_s)
    click.echo("stopped")


def _wait_until_stopped(broker: RuntimeFile, timeout_s: float) -> None:
    """Until the process has ended; its sockets are gone then, for it removes them itself."""
    from orbit_zmq.errors import DeadlineExceeded

    deadline = time.monotonic() + timeout_s
    while broker.is_here() and broker.is_alive():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"The broker, process {broker.pid}, is still there.", hint="Look at its log: orbit logs broker"
            )
        time.sleep(POLL_S / 5)


@broker.command()
@click.option(
    "--timeout", "timeout_s", type=DURATION, default="1m", show_default=True, help="How long to wait; then exit code 5."
)
@broker_options
def wait(timeout_s: float, where: Where) -> None:
    """Return as soon as the broker answers."""
    missing = f"No broker answered within {timeout_s:g} s: "
    wait_for_broker(where, timeout_s, lambda client, deadline: client.topology(), missing)


@broker.command()
@output_options
@broker_options
def status(output: Output, where: Where) -> None:
    """Show what the broker says of itself."""
    with connected(where) as client:
        report = client.broker_status()
    sections = [Section("PARTICIPANTS", PARTICIPANTS, report["participants"])]
    if report.get("lost_endpoints"):
        sections.append(Section("LOST", LOST, report["lost_endpoints"]))
    output.item(
        "orbit.broker.status",
        report,
        id_key="epoch",
        sections=sections,
        leave_out=["participants", "lost_endpoints", "busiest_sessions"],
        version=report["schema_version"],
    )


@broker.command()
@install_options
def install(arguments: tuple[str, ...]) -> None:
    """Print a systemd unit that runs the broker for this user; ARGUMENTS are those of `orbit broker start`."""
    show_unit("broker", "broker", start, arguments)

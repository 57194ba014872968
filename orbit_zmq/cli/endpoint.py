"""`orbit endpoint`: list, show, wait for and stop endpoints. How one is started is in endpoint_start.py."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names
from orbit_zmq.cli.connection import Where, broker_options, connected, wait_for_broker
from orbit_zmq.cli.endpoint_start import start
from orbit_zmq.cli.install import install_options, show_unit
from orbit_zmq.cli.output import Column, Output, Section, output_options
from orbit_zmq.cli.parameters import DURATION, one_of, shortened_to

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.facts import EndpointFacts

POLL_S = 0.1
SESSIONS_S = 2.0  # for each plugin to list its sessions
COLUMNS = (
    Column("ENDPOINT", "endpoint"),
    Column("STATE", "state"),
    Column("ROLE", "host_role"),
    Column("PLUGINS", "plugins"),
    Column("SESSIONS", "sessions"),
    Column("CALLS", "load.running"),
    Column("TASKS", "load.tasks"),
    Column("LAST WORD", "silent_for_s"),
)
PLUGINS = (Column("PLUGIN", "instance"), Column("TYPE", "plugin"), Column("VERSION", "version"))
ABSENT = (Column("ABSENT", "plugin"), Column("REASON", "reason"))
SESSIONS = (
    Column("SESSION", "sid"),
    Column("PLUGIN", "plugin"),
    Column("STATUS", "status"),
    Column("LIFETIME", "lifetime"),
    Column("HOLDER", "holder"),
)


@click.group()
def endpoint() -> None:
    """Serve this machine, and look at the endpoints."""


endpoint.add_command(start)


@endpoint.command("list")
@output_options
@broker_options
def list_endpoints(output: Output, where: Where) -> None:
    """List the endpoints that the broker knows, and whether each is reachable."""
    with connected(where) as client:
        found = [_row(handle.facts) for handle in client.endpoints()]
    nothing = "No endpoint is connected. Start one: orbit endpoint start"
    output.items("orbit.endpoint.list", found, COLUMNS, id_key="endpoint", nothing=nothing)


@endpoint.command()
@click.argument("name", shell_complete=endpoint_names)
@output_options
@broker_options
def show(name: str, output: Output, where: Where) -> None:
    """Show one endpoint: plugins, absent ones with the reason, environment, limits, retention, and your sessions there."""
    with connected(where) as client:
        handles = {handle.name: handle.facts for handle in client.endpoints()}
        facts = handles[one_of("endpoint", name, handles)]
        item = _row(facts) | {
            "plugins": [{"instance": instance, **said} for instance, said in sorted(facts.plugins.items())],
            "scheduler": facts.host.get("scheduler", ""),
            "environment": facts.environment,
            **facts.settings,
            "sessions": _sessions(client, facts),
        }
    sections = [Section("PLUGINS", PLUGINS, item["plugins"])]
    if facts.absent:
        sections.append(Section("ABSENT", ABSENT, facts.absent))
    if item["sessions"]:
        sections.append(Section("YOUR SESSIONS", SESSIONS, item["sessions"]))
    output.item("orbit.endpoint.show", item, id_key="endpoint", sections=sections, leave_out=["plugins", "absent", "sessions"])


@endpoint.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=endpoint_names)
@click.option("--timeout", "timeout_s", type=DURATION, default="20s", show_default=True, help="How long it may take.")
@broker_options
def stop(names: tuple[str, ...], timeout_s: float, where: Where) -> None:
    """Stop endpoints of yours that run on this machine, in order: calls and sessions end. Without NAME that of this host."""
    from orbit_zmq.background import stop_process
    from orbit_zmq.endpoint.endpoint import default_name
    from orbit_zmq.errors import NotFound
    from orbit_zmq.process_record import ENDPOINT, records_of

    known = {record.name: record for record in records_of(ENDPOINT)}
    for name in names or (default_name(),):
        beginning = shortened_to(name, known, of_endpoints=True)
        if name not in known and len(beginning) != 1:
            raise _not_here(name, where)
        record = known[name] if name in known else known[beginning[0]]
        if not record.is_alive():
            record.remove()
            raise NotFound(f"Endpoint {record.name} does not run any more: process {record.pid} ended without a word.", hint="")
        stop_process(record, timeout_s)
        click.echo(f"stopped {record.name}")


@endpoint.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=endpoint_names)
@click.option(
    "--timeout", "timeout_s", type=DURATION, default="1m", show_default=True, help="How long to wait; then exit code 5."
)
@broker_options
def wait(names: tuple[str, ...], timeout_s: float, where: Where) -> None:
    """Return as soon as all these endpoints are present."""
    missing = f"Not present within {timeout_s:g} s: {', '.join(names)}. "
    wait_for_broker(where, timeout_s, lambda client, deadline: _wait_present(client, names, deadline, timeout_s), missing)


@endpoint.command()
@install_options
def install(arguments: tuple[str, ...]) -> None:
    """Print a systemd unit that runs an endpoint for this user; ARGUMENTS, after --, are those of `orbit endpoint start`."""
    from orbit_zmq.endpoint.endpoint import default_name

    with start.make_context("orbit endpoint start", list(arguments)) as parsed:
        name = parsed.params["name"] or default_name()
    show_unit("endpoint", name, start, arguments)


def _wait_present(client: Client, names: tuple[str, ...], deadline: float, timeout_s: float) -> None:
    from orbit_zmq.errors import DeadlineExceeded

    while True:
        view = client.topology()
        away = [name for name in names if view.get(name, {}).get("state") != "present"]
        if not away:
            return
        if time.monotonic() + POLL_S > deadline:
            raise DeadlineExceeded(f"Not present within {timeout_s:g} s: {', '.join(away)}.", hint="See: orbit endpoint list")
        time.sleep(POLL_S)


def _row(facts: EndpointFacts) -> dict[str, Any]:
    return {
        "endpoint": facts.name,
        "state": facts.state,
        "host_role": facts.host.get("role", ""),
        "plugins": sorted(facts.plugins),
        "absent": facts.absent,
        "labels": facts.labels,
        "load": facts.load,
        "sessions": facts.sessions,
        "silent_for_s": facts.silent_for_s,
    }


def _sessions(client: Client, facts: EndpointFacts) -> list[dict[str, Any]]:
    """The caller's own sessions, as the plugins list them; none of a plugin that does not answer."""
    from orbit_zmq.errors import OrbitError

    found: list[dict[str, Any]] = []
    for instance in sorted(facts.plugins) if facts.state == "present" else ():
        with suppress(OrbitError):
            listed = client.call(facts.name, instance, "list_sessions", deadline_s=SESSIONS_S)
            found += [{**session, "plugin": instance} for session in listed["sessions"]]
    return found


def _not_here(name: str, where: Where) -> Exception:
    """Why an endpoint cannot be stopped from here; the broker may know where it runs."""
    from orbit_zmq.errors import NotFound, OrbitError

    with suppress(OrbitError), connected(where) as client:
        environment = client.endpoint(name).facts.environment
        host, pid = environment.get("hostname"), environment.get("pid")
        return NotFound(
            f"Endpoint {name} was not started by you on this machine: it is process {pid} on {host}.",
            hint=f"Stop it there: ssh {host} orbit endpoint stop {name}",
        )
    return NotFound(f"No endpoint {name} of yours runs on this machine.", hint="See: orbit endpoint list")

"""`orbit endpoint`: serve this machine, and list the endpoints of a broker.

`python -m orbit_zmq.endpoint` is `orbit endpoint start` as a child process of something else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.connection import broker_options, connected, json_option, show_json, show_table

if TYPE_CHECKING:
    from orbit_zmq import Endpoint, Plugin

SHARE_HELP = "Serve another user, too, to read and write, or with the rights named; * for everybody; several are fine."
PICKLE_HELP = "Whether callers who may run code may send functions and values as pickles."


@click.group()
def endpoint() -> None:
    """Serve this machine, or list the endpoints."""


@endpoint.command()
@click.option("-n", "--name", metavar="NAME", help="The host name where it is left out.")
@click.option("-p", "--plugins", default="default", show_default=True, help="Names, name:instance, or globs, with commas.")
@click.option("--plugin-module", "modules", multiple=True, metavar="MODULE", help="Serve the plugins of a Python module, too.")
@click.option("--role", type=click.Choice(["bridge", "login", "compute", "standalone"]), help="Found out where left out.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="For clients to choose by; several are fine.")
@click.option("--share", "shares", multiple=True, metavar="USER[:PLUGIN,...[:RIGHT,...]]", help=SHARE_HELP)
@click.option("--pickle", type=click.Choice(["yes", "no"]), default="yes", show_default=True, help=PICKLE_HELP)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical.")
@click.option("--exit-with-parent", is_flag=True, hidden=True, help="End when standard input is closed.")
@broker_options
def start(
    name: str | None,
    plugins: str,
    modules: tuple[str, ...],
    role: str | None,
    labels: tuple[str, ...],
    shares: tuple[str, ...],
    pickle: str,
    log_level: str | None,
    exit_with_parent: bool,
    url: str | None,
    join: str | None,
    context: str | None,
) -> None:
    """Serve this machine to the broker until Ctrl-C or SIGTERM."""
    from orbit_zmq.endpoint.endpoint import Endpoint  # the command's help needs no plugins
    from orbit_zmq.errors import OrbitError
    from orbit_zmq.exit_with_parent import say_failed, watch_parent
    from orbit_zmq.log import configure_logging

    try:
        configure_logging(log_level)
        instanced = {part.partition(":")[0].strip() for part in plugins.split(",") if ":" in part}
        found = [kind for module in modules for kind in _plugins_of(module)]
        chosen: list[str | type[Plugin]] = [plugins, *(kind for kind in found if kind.plugin_name not in instanced)]
        marks = dict(map(_label, labels))
        where = {"url": url, "join": join, "context": context}
        takes_pickles = pickle == "yes"
        made = Endpoint(name, **where, plugins=chosen, role=role, labels=marks, share=shares, pickle=takes_pickles)
        if exit_with_parent:
            watch_parent(made.stop)
        made.run(on_ready=_teller(made, exit_with_parent))
    except OrbitError as error:
        if exit_with_parent:
            say_failed(error)
        raise


@endpoint.command("list")
@json_option
@broker_options
def list_endpoints(as_json: bool, url: str | None, join: str | None, context: str | None) -> None:
    """List the endpoints that the broker knows, and whether each is reachable."""
    with connected(url, join, context) as client:
        found = [_row(handle.facts) for handle in client.endpoints()]
    if as_json:
        show_json(found)
    elif found:
        rows = [(e["endpoint"], e["state"], e["host_role"], ",".join(e["plugins"]), e["sessions"]) for e in found]
        show_table(("ENDPOINT", "STATE", "ROLE", "PLUGINS", "SESSIONS"), rows)
    else:
        click.echo("No endpoint is connected. Start one: orbit endpoint start", err=True)


def _row(facts: Any) -> dict[str, Any]:
    return {
        "endpoint": facts.name,
        "state": facts.state,
        "host_role": facts.host.get("role", ""),
        "plugins": sorted(facts.plugins),
        "absent": facts.absent,
        "labels": facts.labels,
        "sessions": facts.sessions,
        "silent_for_s": facts.silent_for_s,
    }


def _teller(made: Endpoint, has_parent: bool) -> Callable[[], None]:
    """What is done when the broker has taken the endpoint in: one line, JSON unless a person reads it."""

    def tell() -> None:
        from orbit_zmq.exit_with_parent import say_ready

        facts = made.hello()
        if sys.stdout.isatty() and not has_parent:
            click.echo(f"endpoint {made.name} serves {', '.join(sorted(facts['plugins'])) or 'no plugin'}; Ctrl-C ends it")
            return
        environment = facts["environment"]
        say_ready({"name": made.name, "pid": environment["pid"], "plugins": sorted(facts["plugins"]), "absent": made.absent})

    return tell


def _plugins_of(module_name: str) -> list[type[Plugin]]:
    """The plugin classes that a module defines."""
    from orbit_zmq.plugin import Plugin

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a module that is not installed is expected
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise click.UsageError(f"The plugin module {module_name} does not import: {error}.") from error
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Plugin)]
    found = [kind for kind in classes if kind.plugin_name and f"{kind.__module__}.".startswith(f"{module_name}.")]
    if not found:
        raise click.UsageError(f"The plugin module {module_name} defines no plugin.")
    return found


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"{text!r} is no label: write KEY=VALUE.")
    return key, value

"""`orbit context`: brokers under names. A context is a stored join string, or the address of a broker; no secret is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orbit_zmq.cli.completion import stored_contexts
from orbit_zmq.cli.output import Column, Output, output_options
from orbit_zmq.cli.parameters import one_of

COLUMNS = (
    Column("CONTEXT", "context"),
    Column("IN USE", "in_use"),
    Column("URL", "url"),
    Column("NAME", "name"),
    Column("ROLE", "role"),
)
name_argument = click.argument("name", shell_complete=stored_contexts)


@click.group()
def context() -> None:
    """Store brokers under names."""


@context.command()
@click.argument("name")
@click.option("--url", metavar="URL", help="The address of a broker that needs no join string.")
@click.option("--join", metavar="FILE", help="A file with a join string; - reads it from standard input.")
def add(name: str, url: str | None, join: str | None) -> None:
    """Store a join string, or an address, as the context NAME."""
    from orbit_zmq.contexts import store_context
    from orbit_zmq.place import check_address
    from orbit_zmq.security.join import JoinString

    if (url is None) == (join is None):
        raise click.UsageError("Name one of --url and --join.")
    if url is not None:
        check_address(url, "--url")
        store_context(name, url)
    else:
        joined = JoinString.decode(sys.stdin.read()) if join == "-" else JoinString.read(Path(join or "").expanduser())
        store_context(name, joined.encode())
    click.echo(f"The context {name} is stored; `orbit context use {name}` makes it the one in use.")


@context.command("list")
@output_options
def list_contexts(output: Output) -> None:
    """List the stored contexts."""
    from orbit_zmq.contexts import context_names

    in_use = _in_use()
    found = [_row(name, in_use) for name in context_names()]
    nothing = "No context is stored. Store one: orbit context add NAME --join FILE"
    output.items("orbit.context.list", found, COLUMNS, id_key="context", nothing=nothing)


@context.command()
@name_argument
def use(name: str) -> None:
    """Make NAME the context that clients, endpoints and commands use."""
    from orbit_zmq.configuration import write_setting

    chosen = _whole(name)
    click.echo(f"The context {chosen} is in use, by {write_setting('context', chosen)}")


@context.command()
@name_argument
@output_options
def show(name: str, output: Output) -> None:
    """Show a context; never its secret key."""
    output.item("orbit.context.show", _row(_whole(name), _in_use()), id_key="context")


@context.command()
@name_argument
def remove(name: str) -> None:
    """Forget a context, and the keys in it."""
    from orbit_zmq.configuration import write_setting
    from orbit_zmq.contexts import remove_context
    from orbit_zmq.paths import existing_config_file
    from orbit_zmq.settings import setting

    chosen = _whole(name)
    remove_context(chosen)
    if existing_config_file() is not None and setting("context") == chosen:
        write_setting("context", None)
    click.echo(f"The context {chosen} is removed.")


def _whole(name: str) -> str:
    from orbit_zmq.contexts import context_names

    return one_of("context", name, context_names())


def _in_use() -> str | None:
    from orbit_zmq.settings import setting

    return setting("context")


def _row(name: str, in_use: str | None) -> dict[str, Any]:
    from orbit_zmq.contexts import read_context

    stored = read_context(name)
    joined = stored.join
    return {
        "context": name,
        "in_use": name == in_use,
        "url": stored.url,
        "events": list(joined.events) if joined else [],
        "name": joined.name if joined else None,
        "role": joined.role if joined else None,
        "broker_key": joined.broker_key if joined else None,
        "public_key": joined.keys.public if joined else None,
    }

"""`orbit key` and `orbit revoke`: who is admitted, and the end of that."""

from __future__ import annotations

from datetime import datetime

import click

from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.output import Column, Output, output_options


def time_text(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


COLUMNS = (
    Column("NAME", "name"),
    Column("ROLE", "role"),
    Column("USER", "user"),
    Column("RIGHTS", "rights"),
    Column("EXPIRES", "expires", time_text),
    Column("LAST SEEN", "last_seen", time_text),
    Column("CONNECTED", "connections"),
)


@click.group()
def key() -> None:
    """List the keys that the broker admits."""


@key.command("list")
@output_options
@broker_options
def list_keys(output: Output, where: Where) -> None:
    """List all keys."""
    with connected(where) as client:
        found = client.keys()
    output.items("orbit.key.list", found, COLUMNS, id_key="name")


@key.command()
@click.argument("name")
@output_options
@broker_options
def show(name: str, output: Output, where: Where) -> None:
    """Show everything that the broker knows of the key NAME; no secret is part of it."""
    with connected(where) as client:
        (entry,) = client.keys(name)
    if output.is_table:
        entry |= {field: time_text(entry[field]) for field in ("created", "last_seen", "expires")}
    output.item("orbit.key.show", entry, id_key="name")


@click.command()
@click.argument("name")
@output_options
@broker_options
def revoke(name: str, output: Output, where: Where) -> None:
    """Admit the key NAME no more, nor the keys that it has minted, and cut their connections."""
    with connected(where) as client:
        struck = client.revoke(name)
    if output.is_table:
        click.echo(f"revoked {', '.join(struck['revoked']) or name}; connections cut: {struck['connections']}")
    else:
        output.item("orbit.revoke", {"key": name, **struck}, id_key="key")

"""`orbit key` and `orbit revoke`: who is admitted, and the end of that."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from orbit_zmq.cli.connection import broker_options, connected, json_option, show_json, show_table


@click.group()
def key() -> None:
    """List the keys that the broker admits."""


@key.command("list")
@json_option
@broker_options
def list_keys(as_json: bool, url: str | None, join: str | None, context: str | None) -> None:
    """List all keys."""
    with connected(url, join, context) as client:
        found = client.keys()
    if as_json:
        show_json(found)
        return
    rows = [
        (entry["name"], entry["role"], entry["user"], ",".join(entry["rights"]), _expiry(entry), _time(entry["last_seen"]))
        for entry in found
    ]
    show_table(("NAME", "ROLE", "USER", "RIGHTS", "EXPIRES", "LAST SEEN"), rows)


@key.command()
@click.argument("name")
@json_option
@broker_options
def show(name: str, as_json: bool, url: str | None, join: str | None, context: str | None) -> None:
    """Show everything that the broker knows of the key NAME; no secret is part of it."""
    with connected(url, join, context) as client:
        (entry,) = client.keys(name)
    if as_json:
        show_json(entry)
        return
    told = {"created": _time(entry["created"]), "last_seen": _time(entry["last_seen"]), "expires": _expiry(entry)}
    rows = {field: ",".join(value) if isinstance(value, list) else value for field, value in (entry | told).items()}
    show_table(("KEY", name), [(field, value) for field, value in rows.items() if field not in ("name", "is_expired")])


@click.command()
@click.argument("name")
@broker_options
def revoke(name: str, url: str | None, join: str | None, context: str | None) -> None:
    """Admit the key NAME no more, nor the keys that it has minted, and cut their connections."""
    with connected(url, join, context) as client:
        struck = client.revoke(name)
    click.echo(f"revoked {', '.join(struck['revoked']) or name}; connections cut: {struck['connections']}")


def _expiry(entry: dict[str, Any]) -> str:
    if entry["expires"] is None:
        return "never"
    return _time(entry["expires"]) + (" (over)" if entry["is_expired"] else "")


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")

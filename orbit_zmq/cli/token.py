"""`orbit token`: who may call over HTTP.

The list lies in the state directory of the gateway, so these commands work on the gateway's machine, as its user, whether it
runs or not.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from orbit_zmq.cli.invite import Words
from orbit_zmq.cli.key import time_text
from orbit_zmq.cli.output import Column, Output, output_options
from orbit_zmq.cli.parameters import DURATION

COLUMNS = (
    Column("NAME", "name"),
    Column("USER", "user"),
    Column("RIGHTS", "rights"),
    Column("ENDPOINTS", "endpoints"),
    Column("PLUGINS", "plugins"),
    Column("CREATED", "created", time_text),
    Column("EXPIRES", "expires", time_text),
)


@click.group()
def token() -> None:
    """Make, list and revoke tokens for HTTP."""


@token.command()
@click.argument("name")
@click.option("--user", metavar="USER", help="Whom it stands for; you where left out.")
@click.option("--expires", "expires_s", type=DURATION, metavar="TIME", help="After 12h, 7d, 4w; never where left out.")
@click.option(
    "--rights", type=Words(), metavar="RIGHT,...", help="Of read, write, run and admin; the first three where left out."
)
@click.option("--endpoints", type=Words(), metavar="NAME,...", help="The endpoints that it may call; patterns are fine.")
@click.option("--plugins", type=Words(), metavar="NAME,...", help="The plugins that it may call; patterns are fine.")
def create(name: str, user: str | None, expires_s: float | None, **limits: Any) -> None:
    """Make a token under NAME, and print it: the only time that it can be seen.

    Whoever has the token is that user for HTTP: hand it over as a secret, and send it as `Authorization: Bearer TOKEN`.
    """
    from orbit_zmq.security.keys import own_user

    given = {field: texts for field, texts in limits.items() if texts is not None}
    made = _tokens().create(name, own_user() if user is None else user, expires_s=expires_s, **given)
    if sys.stdout.isatty():
        click.echo(f"The token {name}; it is a secret:", err=True)
    click.echo(made)


@token.command("list")
@output_options
def list_tokens(output: Output) -> None:
    """List all tokens; none of the secrets is kept."""
    output.items("orbit.token.list", [entry.describe() for entry in _tokens()], COLUMNS, id_key="name")


@token.command()
@click.argument("name")
@output_options
def revoke(name: str, output: Output) -> None:
    """Admit the token NAME no more, nor the browsers that came with it."""
    struck = _tokens().revoke(name)
    if output.is_table:
        click.echo(f"revoked {struck.name} of {struck.user}")
    else:
        output.item("orbit.token.revoke", {"token": struck.name, "user": struck.user}, id_key="token")


def _tokens() -> Any:
    from orbit_zmq.paths import gateway_dir
    from orbit_zmq.security.tokens import TokenList

    tokens = TokenList(gateway_dir())
    if tokens.damage:
        from orbit_zmq.errors import InvalidArgument

        raise InvalidArgument(tokens.damage)
    return tokens

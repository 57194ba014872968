"""`orbit invite`: admit another party, and print the one string that it needs."""

from __future__ import annotations

import sys
from typing import Any

import click

from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.parameters import DURATION


class Words(click.ParamType):  # type: ignore[type-arg]  # newer releases of click make it generic
    """Words with commas."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The words, without the empty ones. None at all is refused: it would be taken for no limit."""
        words = value if isinstance(value, tuple) else (word.strip() for word in str(value).split(","))
        said = tuple(word for word in words if word)
        if not said:
            self.fail("there is no word in it; leave the option out where there is to be no limit.", param, ctx)
        return said


@click.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["endpoint", "client", "gateway", "admin"]), required=True)
@click.option("--user", metavar="USER", help="Whose the key is; yours where left out.")
@click.option("--endpoints", type=Words(), metavar="NAME,...", help="The endpoints that it may call; patterns are fine.")
@click.option("--plugins", type=Words(), metavar="NAME,...", help="The plugins that it may call; patterns are fine.")
@click.option("--rights", type=Words(), metavar="RIGHT,...", help="Of read, write, run and act-for.")
@click.option("--expires", "expires_s", type=DURATION, metavar="TIME", help="After 12h, 7d, 4w; never where left out.")
@click.option(
    "--address", "hosts", multiple=True, metavar="HOST", help="How the party reaches the broker's machine; tried in order."
)
@broker_options
def invite(name: str, role: str, where: Where, **limits: Any) -> None:
    """Admit a party under NAME, and print the join string for it.

    Whoever has the string is that party: hand it over as a secret, for example `orbit invite hpc1 --role endpoint | ssh hpc1
    orbit join`. An endpoint may take its NAME and names below it.
    """
    with connected(where) as client:
        joined = client.invite(name, role, **limits)
    if sys.stdout.isatty():
        click.echo(f"The join string of {name}; it is a secret:", err=True)
    click.echo(joined.encode())

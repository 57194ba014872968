"""`orbit invite`: admit another party, and print the one string that it needs."""

from __future__ import annotations

import re
import sys

import click

from orbit_zmq.cli.connection import broker_options, connected

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
TIME_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class TimeSpan(click.ParamType[float]):
    """7d, 12h, 90m: a time span, in seconds."""

    name = "time span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = TIME_SPAN.fullmatch(str(value))
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no time span: write 7d, 12h or 90m.", param, ctx)
        return float(found[1]) * UNITS_S[found[2]]


class Words(click.ParamType[tuple[str, ...]]):
    """Words with commas."""

    name = "words"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = value if isinstance(value, tuple) else (word.strip() for word in str(value).split(","))
        return tuple(word for word in words if word)


@click.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["endpoint", "client", "gateway", "admin"]), required=True)
@click.option("--user", metavar="USER", help="Whose the key is; yours where left out.")
@click.option("--endpoints", type=Words(), metavar="NAME,...", help="The endpoints that it may call; patterns are fine.")
@click.option("--plugins", type=Words(), metavar="NAME,...", help="The plugins that it may call; patterns are fine.")
@click.option("--rights", type=Words(), metavar="RIGHT,...", help="Of read, write, run and act-for.")
@click.option("--expires", "expires_s", type=TimeSpan(), metavar="TIME", help="After 12h, 7d, 4w; never where left out.")
@click.option(
    "--address", "hosts", multiple=True, metavar="HOST", help="How the party reaches the broker's machine; tried in order."
)
@broker_options
def invite(
    name: str,
    role: str,
    user: str | None,
    endpoints: tuple[str, ...] | None,
    plugins: tuple[str, ...] | None,
    rights: tuple[str, ...] | None,
    expires_s: float | None,
    hosts: tuple[str, ...],
    url: str | None,
    join: str | None,
    context: str | None,
) -> None:
    """Admit a party under NAME, and print the join string for it.

    Whoever has the string is that party: hand it over as a secret, for example `orbit invite hpc1 --role endpoint | ssh hpc1
    orbit join`. An endpoint may take its NAME and names below it.
    """
    with connected(url, join, context) as client:
        joined = client.invite(
            name,
            role,
            user=user,
            endpoints=endpoints,
            plugins=plugins,
            rights=rights,
            expires_s=expires_s,
            hosts=hosts,
        )
    if sys.stdout.isatty():
        click.echo(f"The join string of {name}; it is a secret:", err=True)
    click.echo(joined.encode())

"""What commands that talk to a broker share: the options that name it, the client, and how values are shown."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from orbit_zmq import Client

Command = TypeVar("Command", bound=Callable[..., Any])


def _no_secret(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A join string among the arguments could be read by every user of the machine."""
    if value is not None and value.strip().startswith("orbit1:"):
        raise click.UsageError(
            "--join takes a file, because arguments can be seen by other users of this machine. "
            "Store the string with `orbit join`, or give it by --join - or in ORBIT_JOIN."
        )
    return value


def broker_options(command: Command) -> Command:
    """--url, --join and --context, as `Client` takes them."""
    for option in (
        click.option("--context", metavar="NAME", help="A stored context."),
        click.option("--join", metavar="FILE", callback=_no_secret, help="A file with a join string; - for standard input."),
        click.option("--url", metavar="URL", help="The broker: tcp://host:port or ipc:///path."),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")


@contextmanager
def connected(url: str | None, join: str | None, context: str | None) -> Iterator[Client]:
    """A client of the broker that the options name, or of the one that is found."""
    from orbit_zmq import Client  # the command's help needs no client

    with Client(url, join, context) as client:
        yield client


def show_json(value: Any, *, indent: int | None = None) -> None:
    """A value as JSON; bytes as base64, and what JSON has no word for as text."""
    click.echo(json.dumps(value, indent=indent, default=_plain, ensure_ascii=False))


def show_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns of text, as wide as they have to be."""
    lines = [[printable(str(cell)) for cell in row] for row in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Text from elsewhere with its control characters made visible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain(value: object) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)

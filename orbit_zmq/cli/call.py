"""`orbit call`: one operation of one plugin on one endpoint, from the shell."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.connection import broker_options, connected, json_option, show_json

if TYPE_CHECKING:
    from orbit_zmq import Client

DEFAULT = "default"  # the session that each user has at each plugin


@click.command()
@click.argument("endpoint")
@click.argument("plugin")
@click.argument("operation")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--session", metavar="SID", help="The session to call in; without it your default session there.")
@click.option("--deadline", "deadline_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS")
@json_option
@broker_options
def call(
    endpoint: str,
    plugin: str,
    operation: str,
    arguments: tuple[str, ...],
    session: str | None,
    deadline_s: float | None,
    as_json: bool,
    url: str | None,
    join: str | None,
    context: str | None,
) -> None:
    """Call OPERATION of PLUGIN on ENDPOINT and print the result.

    A VALUE is read as JSON, and as text where it is none: n=3, text=hello, files='["a", "b"]', text='"3"'.
    """
    values = dict(map(_argument, arguments))
    with connected(url, join, context) as client:
        result = _result(client, endpoint, plugin, operation, values, session, deadline_s)
    _show(result, as_json)


def _result(
    client: Client,
    endpoint: str,
    plugin: str,
    operation: str,
    values: dict[str, Any],
    session: str | None,
    deadline_s: float | None,
) -> Any:
    facts = client.resolve(endpoint)
    instance = facts.instance(plugin)
    known = client.operations(facts).get(instance, {}).get(operation)
    sid = session or (DEFAULT if known is not None and known.needs_session else "")
    return _written_out(client.call(endpoint, instance, operation, values, session=sid, deadline_s=deadline_s))


def _written_out(result: Any) -> Any:
    """Write a streamed result to standard output as it comes, while its session and connection are there."""
    if not isinstance(result, Iterator):
        return result
    for chunk in result:
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return None


def _show(result: Any, as_json: bool) -> None:
    if isinstance(result, bytes) and not as_json:
        sys.stdout.buffer.write(result)
    elif isinstance(result, str) and not as_json:
        click.echo(result)
    elif result is not None or as_json:
        show_json(result, indent=None if as_json else 2)


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.UsageError(f"{text!r} is no argument: write KEY=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

"""`orbit call`: one operation of one plugin on one endpoint, from the shell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names, operation_names, plugin_names, session_ids
from orbit_zmq.cli.connection import Where, broker_options, connected, find_endpoint
from orbit_zmq.cli.output import VERSION, Output, echo_json, readable
from orbit_zmq.cli.parameters import DURATION, one_of

if TYPE_CHECKING:
    from orbit_zmq import Client

ANYWHERE = "*"  # in place of an endpoint's name: one that has the plugin
DEFAULT = "default"  # the session that each user has at each plugin


@click.command()
@click.argument("endpoint", shell_complete=endpoint_names)
@click.argument("plugin", shell_complete=plugin_names)
@click.argument("operation", shell_complete=operation_names)
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--session", metavar="SID", shell_complete=session_ids, help="Call in this session, not in your default one.")
@click.option("--deadline", "deadline_s", type=DURATION, metavar="DURATION", help="Such as 15s or 1h30m.")
@click.option("--json", "as_json", is_flag=True, help="One JSON value.")
@click.option("--traceback", is_flag=True, expose_value=False, help="Of what the operation raised, show where it did.")
@broker_options
def call(
    endpoint: str,
    plugin: str,
    operation: str,
    arguments: tuple[str, ...],
    session: str | None,
    deadline_s: float | None,
    as_json: bool,
    where: Where,
) -> None:
    """Call OPERATION of PLUGIN on ENDPOINT and print the result.

    ENDPOINT may be '*', for one that has the plugin, whichever has less to do.
    A VALUE is read as the operation declares it: text as it stands, numbers, lists and objects as JSON. @file is the content
    of a file, @- is standard input. `orbit plugin show PLUGIN` lists the operations.
    """
    from orbit_zmq.cli.arguments import pairs_of
    from orbit_zmq.cli.main import complain

    output, values = Output.choose(as_json, False, False), pairs_of(arguments)
    with connected(where) as client:
        try:
            _show(_result(client, (endpoint, plugin, operation), values, session, deadline_s), output)
        except KeyboardInterrupt:
            complain(f"{operation} on {endpoint} is being canceled.")
            raise


def _result(
    client: Client, what: tuple[str, str, str], given: dict[str, str], session: str | None, deadline_s: float | None
) -> Any:
    from orbit_zmq.cli.arguments import read_arguments

    endpoint, plugin, operation = what
    facts = client.find_endpoint(plugin=plugin).facts if endpoint == ANYWHERE else find_endpoint(client, endpoint)
    instance = facts.instance(plugin if plugin in facts.plugins else _begun(plugin, list(facts.plugins)))
    operations = client.operations(facts).get(instance, {})
    known = operations.get(operation)
    if known is None:
        from orbit_zmq.client.facts import OperationFacts
        from orbit_zmq.errors import NotFound

        if operations:
            hint = f"`orbit plugin show {instance} --endpoint {facts.name}` lists them."
            raise NotFound(f"Plugin {instance} of {facts.name} has no operation {operation!r}.", hint=hint)
        known = OperationFacts()
    values = read_arguments(operation, given, known)
    sid = _session(client, facts.name, instance, session) if session else DEFAULT if known.needs_session else ""
    if known.raw:
        body = next(iter(values.values()), b"")
        return client.call_raw(facts.name, instance, operation, body, session=sid, deadline_s=deadline_s)
    return client.call(facts.name, instance, operation, values, session=sid, deadline_s=deadline_s)


def _begun(plugin: str, instances: list[str]) -> str:
    """The instance that begins so, if it is one; what is there is said by who looks for it."""
    found = [name for name in instances if name.startswith(plugin)]
    return found[0] if len(found) == 1 else plugin


def _session(client: Client, endpoint: str, instance: str, wanted: str) -> str:
    """A session by its id, or the beginning of one's own; the endpoint says what is wrong with another."""
    if wanted == DEFAULT:
        return wanted
    own = [session["sid"] for session in client.call(endpoint, instance, "list_sessions")["sessions"]]
    return one_of("session", wanted, own) if any(sid.startswith(wanted) for sid in own) else wanted


def _show(result: Any, output: Output) -> None:
    """Print what came; a stream is written as it comes."""
    if output.is_json:
        value = b"".join(result) if isinstance(result, Iterator) else result
        echo_json({"schema": "orbit.call", "version": VERSION, "item": value})
    elif isinstance(result, (bytes, Iterator)):
        for chunk in [result] if isinstance(result, bytes) else result:
            _write(chunk)
    elif isinstance(result, str):
        click.echo(readable(result))
    elif result is not None:
        echo_json(result, indent=2)


def _write(data: bytes) -> None:
    """Bytes as they are; on a terminal, which would obey them, as text that does nothing."""
    if sys.stdout.isatty():
        click.echo(readable(data.decode("utf-8", "backslashreplace")), nl=False)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

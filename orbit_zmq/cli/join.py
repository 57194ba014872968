"""`orbit join`: keep a join string on this machine, as a named context."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("string", required=False, metavar="[STRING|FILE|-]")
@click.option("--name", metavar="NAME", help="What to call the context; the name of the invitation where left out.")
def join(string: str | None, name: str | None) -> None:
    """Store a join string (0600), and use it from now on unless another context is in use.

    Without an argument it is read from standard input, or asked for.
    """
    from orbit_zmq.configuration import write_setting
    from orbit_zmq.contexts import store_context
    from orbit_zmq.place import STANDARD_INPUT, read_join_string
    from orbit_zmq.security.join import PREFIX
    from orbit_zmq.settings import setting

    if string is not None and string.strip().startswith(PREFIX):
        click.echo(
            "orbit: other users of this machine could see that string while this ran; leave it out to be asked.", err=True
        )
    elif string is None and sys.stdin.isatty():
        string = click.prompt("Join string", hide_input=True, type=str)
    joined = read_join_string(string or STANDARD_INPUT)
    context = name or joined.name
    store_context(context, joined.encode())
    in_use = setting("context")
    if in_use is None:
        write_setting("context", context)
    use = "it is used from now on" if in_use in (None, context) else f"use it with --context {context}"
    click.echo(f"{joined.role} {joined.name} at {joined.requests[0]} is stored as the context {context}; {use}.")

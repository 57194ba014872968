"""`orbit version`."""

from __future__ import annotations

import click

from orbit_zmq.cli.connection import json_option, show_json, show_table


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of ORBIT-ZMQ and of what it runs on."""
    from orbit_zmq.environment import environment_facts  # reads installed packages

    facts = {name: value for name, value in environment_facts().items() if name != "pid"}
    if as_json:
        show_json(facts)
    else:
        show_table(("orbit-zmq", facts.pop("orbit_version")), facts.items())

"""`orbit demo`: the same as scripts/demo, for an installed ORBIT-ZMQ."""

from __future__ import annotations

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Stream tasks through a broker and an endpoint of its own, check every result, and stop everything."""
    from orbit_zmq.demo import main  # the command's help needs none of it

    return main(list(arguments))

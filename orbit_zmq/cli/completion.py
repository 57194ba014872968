"""`orbit completion`, and the names that are completed: endpoints, plugins, sessions, operations that are there.

A key was pressed and somebody waits: without a broker that answers at once there are no names, and nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.facts import EndpointFacts

CONNECT_S = 0.5
ANSWER_S = 0.3
COMPLETED_TASKS = 1_000  # the newest
VARIABLE = "_ORBIT_COMPLETE"
HARMLESS = re.compile(r"[\w.@-]+", re.ASCII)  # what a shell takes as it is

Names = Callable[["Client", click.Context], Iterable[str]]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands and names in a SHELL.

    For bash: eval "$(orbit completion bash)" in ~/.bashrc. For fish: orbit completion fish | source.
    """
    from click.shell_completion import get_completion_class

    from orbit_zmq.cli.main import cli

    found = get_completion_class(shell)
    if found is not None:
        made = found(cli, {}, "orbit", VARIABLE)
        click.echo(made.source_template % made.source_vars())


def _completer(names: Names) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from orbit_zmq import Client
        from orbit_zmq.errors import OrbitError

        where = [ctx.params.get(name) for name in ("url", "join", "context")]
        try:
            with Client(*where, connect_timeout_s=CONNECT_S) as client:
                found = set(names(client, ctx))
        except OrbitError:
            return []
        return sorted(name for name in found if name.startswith(incomplete) and HARMLESS.fullmatch(name))

    return complete


def _endpoints(client: Client, ctx: click.Context) -> list[EndpointFacts]:
    """The endpoint that is on the line already, or all."""
    wanted = ctx.params.get("endpoint")
    found = [handle.facts for handle in client.endpoints()]
    return [facts for facts in found if not wanted or facts.name.startswith(wanted)]


def _plugins(client: Client, ctx: click.Context) -> Iterable[str]:
    return (name for facts in _endpoints(client, ctx) for name in facts.plugins)


def _operations(client: Client, ctx: click.Context) -> Iterable[str]:
    plugin = ctx.params.get("plugin") or ""
    for facts in _endpoints(client, ctx):
        for instance, operations in client.operations(facts).items():
            if instance == plugin or facts.plugins.get(instance, {}).get("plugin") == plugin:
                yield from operations


def _sessions(client: Client, ctx: click.Context) -> Iterable[str]:
    from orbit_zmq.cli.session import sessions_of

    found, _ = sessions_of(client, _endpoints(client, ctx), ctx.params.get("plugin"), ANSWER_S)
    return (session["sid"] for session in found)


def _tasks(client: Client, ctx: click.Context) -> Iterable[str]:
    from orbit_zmq.cli.task_selectors import WORDS
    from orbit_zmq.cli.task_sessions import tasks_at

    yield from WORDS
    with redirect_stderr(StringIO()):  # who does not answer is not named here
        tasks = tasks_at(client, ctx.params.get("endpoint"), ctx.params.get("session"), ANSWER_S)
    yield from (task["uid"] for task in tasks[-COMPLETED_TASKS:])


def _backends(client: Client, ctx: click.Context) -> Iterable[str]:
    from orbit_zmq.cli.task_sessions import PLUGIN

    for facts in _endpoints(client, ctx):
        if facts.has(PLUGIN):
            yield from client.call(facts.name, facts.instance(PLUGIN), "backends", deadline_s=ANSWER_S)["available"]


def stored_contexts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of the stored contexts."""
    from orbit_zmq.contexts import context_names
    from orbit_zmq.errors import OrbitError

    try:
        return [name for name in context_names() if name.startswith(incomplete)]
    except OrbitError:
        return []


endpoint_names = _completer(lambda client, ctx: (handle.name for handle in client.endpoints()))
plugin_names = _completer(_plugins)
operation_names = _completer(_operations)
session_ids = _completer(_sessions)
task_selectors = _completer(_tasks)
backend_names = _completer(_backends)

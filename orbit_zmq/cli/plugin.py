"""`orbit plugin`: what the endpoints serve, and what one can call there."""

from __future__ import annotations

from typing import Any

import click

from orbit_zmq.cli.completion import endpoint_names, plugin_names
from orbit_zmq.cli.connection import Where, broker_options, connected, endpoints_of
from orbit_zmq.cli.output import Column, Output, Section, output_options
from orbit_zmq.cli.parameters import one_of

PLUGINS = (
    Column("PLUGIN", "plugin"),
    Column("ENDPOINT", "endpoint"),
    Column("TYPE", "type"),
    Column("VERSION", "version"),
    Column("STATE", "state"),
    Column("REASON", "reason"),
)
OPERATIONS = (Column("OPERATION", "signature"), Column("EFFECT", "effect"), Column("", "summary"))
endpoint_option = click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="Of this endpoint only.")


@click.group()
def plugin() -> None:
    """Look at the plugins of the endpoints."""


@plugin.command("list")
@endpoint_option
@output_options
@broker_options
def list_plugins(endpoint: str | None, output: Output, where: Where) -> None:
    """List the plugins of all endpoints, and those that are absent, with the reason."""
    with connected(where) as client:
        found = [row for facts in endpoints_of(client, endpoint) for row in _rows(facts)]
    nothing = "No endpoint serves a plugin. Start one: orbit endpoint start"
    output.items("orbit.plugin.list", found, PLUGINS, id_key="plugin", nothing=nothing)


@plugin.command()
@click.argument("plugin", shell_complete=plugin_names)
@endpoint_option
@output_options
@broker_options
def show(plugin: str, endpoint: str | None, output: Output, where: Where) -> None:
    """Show PLUGIN and its operations, as the first endpoint that serves it declares them."""
    with connected(where) as client:
        endpoints = endpoints_of(client, endpoint)
        types = {name: facts.get("plugin", name) for e in endpoints for name, facts in e.plugins.items()}
        wanted = one_of("plugin", plugin, {*types, *types.values()})
        serving = [facts for facts in endpoints if wanted in facts.plugins or wanted in _types(facts)]
        facts = serving[0]
        instance = facts.instance(wanted)
        operations = client.operations(facts).get(instance, {})
    declared = [_operation(name, operation) for name, operation in sorted(operations.items())]
    item: dict[str, Any] = {"plugin": instance, "type": types[instance], "version": facts.plugins[instance].get("version", "")}
    item |= {"endpoint": facts.name, "endpoints": [one.name for one in serving], "operations": declared}
    section = Section("OPERATIONS", OPERATIONS, declared)
    output.item("orbit.plugin.show", item, id_key="plugin", sections=[section], leave_out=["operations"])


def _types(facts: Any) -> set[str]:
    return {one.get("plugin", "") for one in facts.plugins.values()}


def _rows(facts: Any) -> list[dict[str, Any]]:
    from orbit_zmq.client.facts import reason_of

    served = [
        {"plugin": name, "endpoint": facts.name, "type": one.get("plugin", ""), "version": one.get("version", ""),
         "state": "served", "reason": ""}
        for name, one in sorted(facts.plugins.items())
    ]  # fmt: skip
    absent = [
        {"plugin": one.get("plugin", ""), "endpoint": facts.name, "type": one.get("plugin", ""), "version": "",
         "state": "absent", "reason": reason_of(one)}
        for one in facts.absent
    ]  # fmt: skip
    return served + absent


def _operation(name: str, facts: Any) -> dict[str, Any]:
    from orbit_zmq.cli.arguments import signature_text  # what a client is made of

    return {
        "operation": name,
        "signature": signature_text(name, facts),
        "effect": facts.effect,
        "needs_session": facts.needs_session,
        "idempotent": facts.idempotent,
        "deadline_s": facts.deadline_s,
        "summary": facts.doc.partition("\n")[0],
        "doc": facts.doc,
        "parameters": facts.parameters,
        "returns": facts.returns,
        "stream_in": facts.stream_in,
        "stream_out": facts.stream_out,
    }

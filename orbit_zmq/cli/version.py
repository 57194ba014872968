"""`orbit version`: of this installation, and of all that is connected."""

from __future__ import annotations

from typing import Any

import click

from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.output import Column, Output, output_options

COLUMNS = (
    Column("NAME", "name"),
    Column("PART", "part"),
    Column("ORBIT-ZMQ", "orbit_version"),
    Column("PYTHON", "python_version"),
    Column("HOST", "hostname"),
    Column("DIFFERS", "differs"),
)


@click.command()
@click.option("--all", "of_all", is_flag=True, help="Of this client, the broker and all endpoints.")
@output_options
@broker_options
def version(of_all: bool, output: Output, where: Where) -> None:
    """Show the versions of ORBIT-ZMQ and of what it runs on.

    With --all what differs from this client is marked: the release, or the minor version of Python, between which functions
    cannot be sent as tasks.
    """
    from orbit_zmq.environment import environment_facts  # reads installed packages

    own = {name: value for name, value in environment_facts().items() if name != "pid"}
    if not of_all:
        output.item("orbit.version", own, id_key="orbit_version")
        return
    with connected(where) as client:
        status = client.broker_status()
        endpoints = [(handle.name, handle.facts.environment) for handle in client.endpoints()]
    broker = {"orbit_version": status.get("broker_version"), "hostname": status.get("hostname")}
    broker["python_version"] = status.get("versions", {}).get("python")
    rows = [_row("client", "client", own, own), _row("broker", "broker", broker, own)]
    rows += [_row(name, "endpoint", facts, own) for name, facts in sorted(endpoints)]
    output.items("orbit.version.all", rows, COLUMNS, id_key="name")


def _row(name: str, part: str, facts: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    keys = ("orbit_version", "python_version", "hostname", "platform", "cloudpickle_version")
    row = {"name": name, "part": part, **{key: facts.get(key) for key in keys}}
    differs = ["orbit-zmq"] if row["orbit_version"] != own["orbit_version"] else []
    if part != "broker" and _minor(row["python_version"]) != _minor(own["python_version"]):
        differs.append("python")
    return row | {"differs": differs}


def _minor(python_version: Any) -> str:
    return ".".join(str(python_version).split(".")[:2])

"""`orbit why`: where a task, a job or a session is, and why it is not further. It changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import session_ids
from orbit_zmq.cli.connection import Where, broker_options, connected, endpoints_of, find_endpoint
from orbit_zmq.cli.output import Column, Output, Section, output_options
from orbit_zmq.cli.parameters import DURATION, one_of
from orbit_zmq.cli.session import endpoint_option, plugin_option, sessions_of

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.why import Why

COLUMNS = (Column("STATION", "station"), Column("STATE", "state"), Column("SAYS", "reason"))


@click.command()
@click.argument("item", metavar="ID", shell_complete=session_ids)
@endpoint_option
@plugin_option
@click.option("--session", metavar="SID", shell_complete=session_ids, help="In this session only.")
@click.option(
    "--deadline", "deadline_s", type=DURATION, default="10s", show_default=True, help="How long each endpoint may take."
)
@output_options
@broker_options
def why(
    item: str,
    endpoint: str | None,
    plugin: str | None,
    session: str | None,
    deadline_s: float,
    output: Output,
    where: Where,
) -> None:
    """Say where a task, a job or a session is, by its ID, and why it is not further.

    ID is the uid of a task, the id of a session or the beginning of it, a job's id, or its id in the batch system.
    """
    from orbit_zmq.why import STATIONS

    with connected(where) as client:
        at = find_endpoint(client, endpoint).name if endpoint else ""
        found = _found(
            client, item, {"endpoint": at, "plugin": plugin or "", "session": session or "", "deadline_s": deadline_s}
        )
    rows = [{"station": station, "state": part.state, "reason": part.reason} for station, part in found.parts.items()]
    sections = [Section("ON ITS WAY", COLUMNS, rows)]
    output.item("orbit.why", found.model_dump(), id_key="id", sections=sections, leave_out=STATIONS)


def _found(client: Client, item: str, meant: dict[str, Any]) -> Why:
    """What is known of the id; where nobody knows it, of the session that begins so."""
    from orbit_zmq.errors import NotFound

    try:
        return client.why(item, **meant)
    except NotFound:
        sessions, _ = sessions_of(client, endpoints_of(client, meant["endpoint"]), meant["plugin"] or None)
        begun = {one["sid"] for one in sessions if one["sid"].startswith(item)}
        if not begun:
            raise
        return client.why(one_of("session", item, begun), **meant)

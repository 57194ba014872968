"""`orbit session`: one's own sessions at all endpoints: to list, show, follow and close them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names, plugin_names, session_ids
from orbit_zmq.cli.connection import Where, broker_options, connected, endpoints_of
from orbit_zmq.cli.output import Column, Output, output_options, stream_options
from orbit_zmq.cli.parameters import DURATION, one_of, several_of

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.facts import EndpointFacts

ANSWER_S = 5.0  # an endpoint that says nothing for so long is left out, and named
AT_ONCE = 16
COLUMNS = (
    Column("SESSION", "sid"),
    Column("ENDPOINT", "endpoint"),
    Column("PLUGIN", "plugin"),
    Column("STATUS", "status"),
    Column("LIFETIME", "lifetime"),
    Column("HOLDER", "holder"),
)
endpoint_option = click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="Of this endpoint only.")
plugin_option = click.option("--plugin", metavar="NAME", shell_complete=plugin_names, help="Of this plugin only.")


@click.group()
def session() -> None:
    """List, show, follow and close sessions."""


@session.command("list")
@endpoint_option
@plugin_option
@output_options
@broker_options
def list_sessions(endpoint: str | None, plugin: str | None, output: Output, where: Where) -> None:
    """List your own sessions."""
    with connected(where) as client:
        found = _found(client, endpoint, plugin)
    output.items("orbit.session.list", found, COLUMNS, id_key="sid", nothing="There is no session of yours.")


@session.command()
@click.argument("sid", metavar="SESSION", shell_complete=session_ids)
@endpoint_option
@plugin_option
@output_options
@broker_options
def show(sid: str, endpoint: str | None, plugin: str | None, output: Output, where: Where) -> None:
    """Show one session, by its id or the beginning of it."""
    with connected(where) as client:
        (chosen,) = _chosen(_found(client, endpoint, plugin), [sid])
        status = client.call(chosen["endpoint"], chosen["plugin"], "session_status", session=chosen["sid"], deadline_s=ANSWER_S)
    output.item("orbit.session.show", {**chosen, **status}, id_key="sid")


@session.command()
@click.argument("sid", metavar="SESSION", shell_complete=session_ids)
@click.option("--consumer", default="orbit", metavar="NAME", help="Go on reading results where that reader has got to.")
@click.option("--timeout", "timeout_s", type=DURATION, metavar="DURATION", help="End after that time.")
@endpoint_option
@plugin_option
@stream_options
@broker_options
def attach(
    sid: str,
    consumer: str,
    timeout_s: float | None,
    endpoint: str | None,
    plugin: str | None,
    output: Output,
    where: Where,
) -> None:
    """Follow a session: the results of its tasks until all that is open has ended, or its events until it ends.

    Works on any machine of yours. The session stays with the process that holds it; Ctrl-C ends this command, and not the
    session. Each result is shown to each --consumer; under the same name this goes on where it ended.
    """
    from orbit_zmq.cli.following import COLUMNS as FOLLOWED
    from orbit_zmq.cli.following import ReadsResults, attached_item, follow_events, follow_results

    with connected(where) as client:
        (chosen,) = _chosen(_found(client, endpoint, plugin), [sid])
        place = {"endpoint": chosen["endpoint"], "plugin": chosen["plugin"]}
        attached = client.attach(chosen["sid"], **place, hold=False, consumer=consumer)
        write = output.stream("orbit.session.attach", FOLLOWED, id_key="uid")
        if isinstance(attached, ReadsResults):
            write(attached_item(attached, attached.open_tasks))
            follow_results(attached, write, timeout_s)
        else:
            write(attached_item(attached, []))
            follow_events(client, attached, write, timeout_s)


@session.command()
@click.argument("selectors", nargs=-1, required=True, metavar="SESSION...", shell_complete=session_ids)
@endpoint_option
@plugin_option
@output_options
@broker_options
def close(selectors: tuple[str, ...], endpoint: str | None, plugin: str | None, output: Output, where: Where) -> None:
    """Close sessions: by id, by its beginning, by a pattern such as 'work*', or `all`. Batch jobs go on running."""
    with connected(where) as client:
        chosen = _chosen(_found(client, endpoint, plugin), selectors)
        for one in chosen:
            client.call(one["endpoint"], one["plugin"], "unregister_session", session=one["sid"])
            one["status"] = "closed"
    output.items("orbit.session.close", chosen, COLUMNS, id_key="sid", nothing="No session is meant by this.")


def sessions_of(
    client: Client, endpoints: Sequence[EndpointFacts], plugin: str | None, answer_s: float = ANSWER_S
) -> tuple[list[dict[str, Any]], list[str]]:
    """One's own sessions at these endpoints, and what could not be asked, with the reason."""
    from orbit_zmq.errors import OrbitError

    asked = [(e.name, instance) for e in endpoints for instance, facts in sorted(e.plugins.items())
             if plugin is None or plugin in (instance, facts.get("plugin"))]  # fmt: skip

    def ask(place: tuple[str, str]) -> list[dict[str, Any]] | str:
        endpoint, instance = place
        try:
            answer = client.call(endpoint, instance, "list_sessions", deadline_s=answer_s)
            return [{"sid": str(one["sid"]), "endpoint": endpoint, "plugin": instance, **one} for one in answer["sessions"]]
        except OrbitError as error:
            return f"{endpoint} {instance}: {error.message}"
        except (KeyError, TypeError):
            return f"{endpoint} {instance}: its answer is no list of sessions"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(ask, asked))
    found = [one for answer in answers if not isinstance(answer, str) for one in answer]
    return found, [answer for answer in answers if isinstance(answer, str)]


def _found(client: Client, endpoint: str | None, plugin: str | None) -> list[dict[str, Any]]:
    from orbit_zmq.cli.main import complain

    facts = endpoints_of(client, endpoint)
    if plugin is not None:
        plugin = one_of(
            "plugin", plugin, {name for e in facts for i, p in e.plugins.items() for name in (i, p.get("plugin", i))}
        )
    found, silent = sessions_of(client, facts, plugin)
    for reason in silent:
        complain(f"not listed: {reason}")
    return found


def _chosen(found: list[dict[str, Any]], selectors: Sequence[str]) -> list[dict[str, Any]]:
    """The sessions that are meant. An id may be at several places, as `default` is: then it has to be said which."""
    from orbit_zmq.errors import InvalidArgument

    ids = several_of("session", selectors, [one["sid"] for one in found])
    for sid in set(ids) & {part for selector in selectors for part in selector.split(",")}:
        if ids.count(sid) > 1:
            raise InvalidArgument(f"There are {ids.count(sid)} sessions {sid!r}.", hint="Say which by --endpoint and --plugin.")
    return [one for one in found if one["sid"] in ids]

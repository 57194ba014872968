"""`orbit events`: what happens, while it happens. Events that could not be had are shown as missed, with their number."""

from __future__ import annotations

import queue
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names, plugin_names, session_ids
from orbit_zmq.cli.connection import Where, broker_options, connected, endpoints_of
from orbit_zmq.cli.output import Column, Output, shown, stream_options
from orbit_zmq.cli.parameters import DURATION, one_of
from orbit_zmq.cli.session import sessions_of

if TYPE_CHECKING:
    from orbit_zmq import Client

WAIT_S = 10.0  # without -f, --count and --timeout
BUFFERED = 1_000  # events between the connection and a slow terminal; what is more waits in the connection
ANSWER_S = 2.0  # for each plugin to list its sessions
DEFAULT = "default"  # the session that each user has at each plugin
LOOK_S = 3600.0  # one wait of a command that has no end; it is then asked again


def clock(seconds: float) -> str:
    """A time for people."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):  # the endpoint's clock is its own
        return "?"


COLUMNS = (
    Column("TIME", "time", clock, 12),
    Column("ENDPOINT", "endpoint", width=12),
    Column("PLUGIN", "plugin", width=10),
    Column("SESSION", "session", lambda sid: sid or "-", width=16),
    Column("TOPIC", "topic", width=18),
    Column("DATA", "data", lambda data: shown("data", data)),
)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--endpoint", default="", metavar="NAME", shell_complete=endpoint_names, help="Of this endpoint only.")
@click.option("--plugin", default="", metavar="NAME", shell_complete=plugin_names, help="Of this plugin only.")
@click.option("--session", default="", metavar="SID", shell_complete=session_ids, help="Of this session only.")
@click.option("--topic", default="", metavar="TOPIC", help="Of this topic only, such as task_status.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many.")
@click.option("--timeout", "timeout_s", type=DURATION, metavar="DURATION", help="End after that time.")
@stream_options
@broker_options
def events(
    follow: bool,
    endpoint: str,
    plugin: str,
    session: str,
    topic: str,
    count: int | None,
    timeout_s: float | None,
    output: Output,
    where: Where,
) -> None:
    """Show your events as they happen, for 10 s where neither -f nor an end is given.

    With --count the exit code is 5 when the timeout comes first.
    """
    if timeout_s is None and count is None and not follow:
        timeout_s = WAIT_S
    with connected(where) as client:
        filters = _whole(client, endpoint, plugin, session) | {"topic": topic}
        write = output.stream("orbit.events", COLUMNS, id_key="topic")
        seen = _show(client, filters, write, count, timeout_s)
    if count is not None and seen < count:
        from orbit_zmq.errors import DeadlineExceeded

        raise DeadlineExceeded(f"There were {seen} of {count} events in {timeout_s:g} s.", hint="Wait longer with --timeout.")


def _whole(client: Client, endpoint: str, plugin: str, session: str) -> dict[str, str]:
    """The filters with their names written out. An endpoint that there is not is an error; plugins and sessions may come."""
    if not (endpoint or plugin or session):
        return {"endpoint": "", "plugin": "", "session": ""}
    serving = endpoints_of(client, endpoint)
    if plugin:
        plugin = _begun("plugin", plugin, {instance for facts in serving for instance in facts.plugins})
    if session and session != DEFAULT:
        session = _begun("session", session, {one["sid"] for one in sessions_of(client, serving, plugin or None, ANSWER_S)[0]})
    return {"endpoint": serving[0].name if endpoint else "", "plugin": plugin, "session": session}


def _begun(what: str, wanted: str, names: set[str]) -> str:
    return one_of(what, wanted, names) if any(name.startswith(wanted) for name in names) else wanted


def _show(client: Client, filters: dict[str, str], write: Any, count: int | None, timeout_s: float | None) -> int:
    """Write what comes until the count or the time is reached; how many events there were."""
    heard: queue.Queue[dict[str, Any]] = queue.Queue(BUFFERED)

    def take(endpoint: str, plugin: str, topic: str, data: Any, meta: dict[str, Any]) -> None:
        heard.put({"time": meta["time"], "endpoint": endpoint, "plugin": plugin, "session": meta["session"],
                   "topic": topic, "data": data, "number": meta["number"], "missed": 0})  # fmt: skip

    def miss(endpoint: str, missed: int) -> None:
        heard.put({"time": time.time(), "endpoint": endpoint, "plugin": "", "session": "", "topic": "missed",
                   "data": {"missed": missed}, "number": None, "missed": missed})  # fmt: skip

    client.subscribe(take, **filters, with_meta=True, on_missed=miss)
    click.echo("Listening; Ctrl-C ends it." if timeout_s is None else "Listening.", err=True)
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    seen = 0
    while count is None or seen < count:
        left_s = LOOK_S if ends_at is None else ends_at - time.monotonic()
        try:
            item = heard.get(timeout=max(0.0, left_s))
        except queue.Empty:
            if ends_at is None:
                continue
            break
        write(item)
        seen += not item["missed"]
    return seen

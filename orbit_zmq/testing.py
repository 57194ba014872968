"""A plugin against a real broker, for the tests of plugin authors:

    with serve(MyPlugin) as running:
        assert running.plugin.do_work("test") == {"result": "processed: test"}
        running.events.wait_for("work_status")

The broker is a child process that talks over ipc in a directory of its own; the endpoint runs in this process, so that a
debugger reaches the plugin. Nothing is faked and nothing is left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbit_zmq.client.events import Event
from orbit_zmq.client.page import rows_table
from orbit_zmq.embedded import local
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument

if TYPE_CHECKING:
    from orbit_zmq import Client, Endpoint, Plugin, PluginClient

NAME = "testing"  # of the endpoint
PATIENCE_S = 30.0  # it passes only when something is broken, so that slow machines have the time
COLUMNS = ("endpoint", "plugin", "session", "topic", "data", "number")
SHOWN = 100  # events in a notebook


class Events:
    """The events that have come so far, in order; an iterable that grows."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        return f"<{len(self)} events, topics {', '.join(sorted({event.topic for event in self})) or 'none'}>"

    def _repr_html_(self) -> str:
        rows = [[getattr(event, column) for column in COLUMNS] for event in list(self)[-SHOWN:]]
        return rows_table(f"the last {len(rows)} of {len(self)} events", COLUMNS, rows)

    def __iter__(self) -> Iterator[Event]:
        return iter(list(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: int) -> Event:
        return self._events[index]

    def put(self, endpoint: str, plugin: str, topic: str, data: Any, meta: dict[str, Any]) -> None:
        """Take in one; what `subscribe` calls."""
        with self._changed:
            self._events.append(Event(endpoint, plugin, meta["session"], topic, data, meta["number"], meta["time"]))
            self._changed.notify_all()

    def wait_for(self, topic: str, *, count: int = 1, within_s: float = PATIENCE_S) -> list[Event]:
        """The events of a topic, once there are that many; DeadlineExceeded when they do not come."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while len(found := [event for event in self._events if event.topic == topic]) < count:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    seen = sorted({event.topic for event in self._events})
                    raise DeadlineExceeded(
                        f"{len(found)} of {count} events of topic {topic!r} came within {within_s:g} s",
                        hint=f"Topics that came: {', '.join(seen) or 'none'}.",
                    )
        return found


@dataclass(frozen=True, slots=True)
class Running:
    """What a test works with: a client, a session of the first plugin, what was heard, and the endpoint itself."""

    client: Client
    plugin: PluginClient
    events: Events
    endpoint: Endpoint


@contextmanager
def serve(*plugins: type[Plugin] | Plugin | str, **register_arguments: Any) -> Iterator[Running]:
    """Serve these plugins for the length of the block. The arguments are for the session of the first one."""
    from orbit_zmq import Client  # the two sides are loaded by whoever uses them

    if not plugins:
        raise InvalidArgument("serve needs a plugin", hint="Write serve(MyPlugin).")
    with local(plugins=plugins, name=NAME, here=True) as orbit, Client(url=orbit.url, connect_timeout_s=PATIENCE_S) as client:
        endpoint = orbit.served_here
        if endpoint is None or not endpoint.plugins:
            raise InvalidArgument(f"none of the plugins is served: {endpoint.absent if endpoint else 'no endpoint'}")
        events = Events()
        client.subscribe(events.put, with_meta=True)
        with client.get_plugin(NAME, endpoint.plugins[0].instance_name, **register_arguments) as plugin:
            yield Running(client, plugin, events, endpoint)

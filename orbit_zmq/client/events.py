"""Events as a client sees them: one record each, the count of those that were missed, and what a filter by topic means.

Nothing here waits or touches a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orbit_zmq.client.page import facts_table
from orbit_zmq.rules.heard import Heard, Missed
from orbit_zmq.transport.mailbox import Item
from orbit_zmq.wire.body import unpack_body

__all__ = ["Event", "Missed", "events_of", "wire_topics"]

BATCH = "_batch"  # a topic with it has several events of the topic without it, as `{tasks: [...]}`
EACH = "tasks"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `number` counts what its endpoint told this user, `time` is seconds since 1970 by the endpoint's clock."""

    endpoint: str
    plugin: str
    session: str
    topic: str
    data: Any
    number: int
    time: float

    def _repr_html_(self) -> str:
        return facts_table(f"event {self.number} of {self.endpoint}", {name: getattr(self, name) for name in self.__slots__})

    @property
    def meta(self) -> dict[str, Any]:
        """What `with_meta` gives to a callback."""
        return {"number": self.number, "time": self.time, "session": self.session}


def wire_topics(topic: str) -> tuple[str, ...]:
    """The topics that a filter by this one takes: events come alone or in batches, whichever is asked for."""
    if not topic:
        return ()
    return (topic, topic.removesuffix(BATCH) if topic.endswith(BATCH) else f"{topic}{BATCH}")


def events_of(item: Item, topic: str) -> Iterator[Event | Missed]:
    """The events in something that was heard, as a filter by topic wants them. ProtocolError for a body that is none."""
    if isinstance(item, Missed):
        yield item
    if not isinstance(item, Heard):
        return
    header = item.header
    data = unpack_body(item.body, header.flags)
    if not topic or header.operation == topic:
        yield _event(item, header.operation, data)
    elif topic.endswith(BATCH):
        yield _event(item, topic, {EACH: [data]})
    elif isinstance(data, dict) and isinstance(data.get(EACH), list):
        for each in data[EACH]:
            yield _event(item, topic, each)


def _event(item: Heard, topic: str, data: Any) -> Event:
    header = item.header
    return Event(item.endpoint, header.plugin, header.session, topic, data, header.id, header.happened_at)

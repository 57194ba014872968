"""Following a session from the command line: the results of its tasks where its client reads those by cursor, else its events.

What is shown was read, not taken: the session stays with the process that holds it, and others who read get everything as well.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from orbit_zmq.cli.events import BUFFERED, clock
from orbit_zmq.cli.output import Column, Item, shown

if TYPE_CHECKING:
    from orbit_zmq import Client, PluginClient

LOOK_S = 2.0  # how often a session is asked whether it is still there while nothing happens
ANSWER_S = 5.0
DATA_CHARS = 200  # of one line for people


def _brief(data: Any) -> str:
    """For people: of a result what came out: why it was canceled or failed, the value, the exit code, the output."""
    if isinstance(data, Mapping) and "return_value" in data:
        code, value = data.get("exit_code"), data["return_value"]
        said = [data.get("reason"), data.get("exception"), value if value is None else shown("value", value)]
        said += [None if code is None else f"exit code {code}", str(data.get("stdout") or "").strip()]
        data = "; ".join(str(part) for part in said if part)
    return shown("data", data)[:DATA_CHARS]


COLUMNS = (
    Column("TIME", "time", clock, 12),
    Column("TOPIC", "topic", width=14),
    Column("UID", "uid", lambda uid: uid or "-", width=24),
    Column("STATE", "state", lambda state: state or "-", width=9),
    Column("DATA", "data", _brief),
)


@runtime_checkable
class ReadsResults(Protocol):
    """A plugin's client whose session has results that are read by cursor."""

    @property
    def open_tasks(self) -> list[str]: ...
    def as_completed(self, tasks: None = None, timeout: float | None = None) -> Iterator[dict[str, Any]]: ...
    def acknowledge(self) -> None: ...


def follow_results(session: ReadsResults, write: Callable[[Item], None], timeout_s: float | None) -> None:
    """Write each result that was not read before, as it comes, until nothing is open; DeadlineExceeded where time is over."""
    from orbit_zmq.errors import DeadlineExceeded

    try:
        for result in session.as_completed(timeout=timeout_s):
            error = result.get("exception")
            if isinstance(error, BaseException):
                result["exception"] = f"{type(error).__name__}: {error}"
            write(_item("result", result))
    except DeadlineExceeded as error:
        session.acknowledge()  # all that came is shown; after Ctrl-C that is not so, and the last ones come again
        raise DeadlineExceeded(error.message, hint="Wait longer with --timeout.") from error
    session.acknowledge()


def follow_events(client: Client, session: PluginClient, write: Callable[[Item], None], timeout_s: float | None) -> None:
    """Write each event of the session until that has ended, or the time is over."""
    heard: queue.Queue[dict[str, Any]] = queue.Queue(BUFFERED)
    client.subscribe(
        lambda endpoint, plugin, topic, data: heard.put(_item(topic, data)),
        endpoint=session.endpoint,
        plugin=session.plugin,
        session=session.sid,
        on_missed=lambda endpoint, count: heard.put(_item("missed", {"missed": count})),
    )
    ends_at = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    while (left_s := ends_at - time.monotonic()) > 0:
        try:
            write(heard.get(timeout=min(left_s, LOOK_S)))
        except queue.Empty:
            if _has_ended(client, session):
                return


def attached_item(session: PluginClient, left: list[str]) -> Item:
    """What is shown first."""
    return _item("attached", {"sid": session.sid, "endpoint": session.endpoint, "plugin": session.plugin, "open": len(left)})


def _item(topic: str, data: Any) -> dict[str, Any]:
    said = data if isinstance(data, Mapping) else {}
    return {
        "time": time.time(), "topic": topic, "uid": said.get("uid", ""), "state": said.get("state", ""), "data": data,
    }  # fmt: skip


def _has_ended(client: Client, session: PluginClient) -> bool:
    """Whether the session is known to be no more; who is away says nothing."""
    from orbit_zmq.errors import NotFound, OrbitError, SessionClosed, SessionExpired

    try:
        client.call(session.endpoint, session.plugin, "session_status", session=session.sid, deadline_s=ANSWER_S)
    except (SessionClosed, SessionExpired):
        return True
    except NotFound as error:
        return "endpoint" not in error.details and "known" not in error.details
    except OrbitError:
        pass
    return False

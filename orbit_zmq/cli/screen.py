"""One screen of `orbit top`: the broker's report as lines that fit a terminal.

Lines are made as plain text and coloured as a whole, which costs a tenth of what tables cost. Nothing here reads a terminal, a
clock or a broker; what comes from elsewhere is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from rich.text import Text

from orbit_zmq.cli.output import STYLES, printable
from orbit_zmq.models import BrokerStatus, LostEndpoint, ParticipantStatus, SessionActivity
from orbit_zmq.units import duration_text, size_text

SESSION_ROWS = 5
GAP_ROWS = 3
NAME_CHARS = 24  # of a name
LEAST_CHARS = 10  # of a name, where the screen is narrow
FOOT = "q quit   s sort: {sort}   r reverse"
STATES = ("lost", "suspect", "busy", "present")  # by how much they want to be looked at


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint, there or lost."""

    name: str
    state: str
    role: str
    calls_per_s: float = 0.0
    events_per_s: float = 0.0
    open_calls: int = 0
    tasks: int = 0
    sessions: int = 0
    host_load: float = 0.0
    latency_s: float | None = None
    silent_for_s: float = 0.0


class Field(NamedTuple):
    """One column of the endpoints: how it is headed, shown, and sorted."""

    title: str
    text: Callable[[Row], str]
    order: Callable[[Row], object]


FIELDS: dict[str, Field] = {
    "name": Field("ENDPOINT", lambda row: row.name, lambda row: row.name),
    "state": Field("STATE", lambda row: row.state, lambda row: STATES.index(row.state) if row.state in STATES else 0),
    "role": Field("ROLE", lambda row: row.role, lambda row: row.role),
    "calls": Field("CALLS/S", lambda row: _number(row.calls_per_s), lambda row: -row.calls_per_s),
    "events": Field("EV/S", lambda row: _number(row.events_per_s), lambda row: -row.events_per_s),
    "open": Field("OPEN", lambda row: str(row.open_calls), lambda row: -row.open_calls),
    "tasks": Field("TASKS", lambda row: str(row.tasks), lambda row: -row.tasks),
    "sessions": Field("SESS", lambda row: str(row.sessions), lambda row: -row.sessions),
    "load": Field("LOAD", lambda row: f"{row.host_load:.2f}", lambda row: -row.host_load),
    "latency": Field("RTT", lambda row: _milliseconds(row.latency_s), lambda row: -(row.latency_s or 0.0)),
    "heard": Field("HEARD", lambda row: duration_text(row.silent_for_s), lambda row: -row.silent_for_s),
}
SORTS = tuple(FIELDS)
LEFT = 3  # columns of words, which stand to the left


@dataclass(slots=True)
class View:
    """What the person in front of it has chosen."""

    sort: str = "name"
    is_reversed: bool = False
    wanted: str = ""  # a pattern, or part of a name, role, state or user

    def press(self, key: str) -> None:
        """A key that changes the order."""
        if key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "r":
            self.is_reversed = not self.is_reversed

    def takes(self, *words: str) -> bool:
        return not self.wanted or any(fnmatchcase(word, f"*{self.wanted}*") for word in words)

    def of(self, status: BrokerStatus) -> BrokerStatus:
        """The report with what is wanted alone: endpoints, other participants, sessions."""
        if not self.wanted:
            return status
        return status.model_copy(
            update={
                "participants": [p for p in status.participants if self.takes(p.name, p.role, p.host_role, p.state, p.user)],
                "lost_endpoints": [e for e in status.lost_endpoints if self.takes(e.name, e.host_role, "lost", e.user)],
                "busiest_sessions": [s for s in status.busiest_sessions if self.takes(s.endpoint, s.plugin, s.session, s.user)],
            }
        )


def draw(status: BrokerStatus, view: View, width: int, height: int, *, is_live: bool, trouble: str = "") -> Text:
    """The whole screen, no wider and, where it is live, no higher than it may be."""
    chosen = view.of(status)
    head = _head(status)
    if trouble:
        head.append((trouble, "bold red"))
    sessions = _sessions(chosen.busiest_sessions, width)
    gaps = _gaps(chosen.participants, width)
    rows = sorted(_rows(chosen), key=lambda row: row.name)
    rows.sort(key=FIELDS[view.sort].order, reverse=view.is_reversed)  # type: ignore[arg-type]  # each column sorts by one type
    room = height - len(head) - len(sessions) - len(gaps) - 4 if is_live else len(rows)
    lines = [*head, ("", ""), *_endpoints(rows, max(room, 1), width), *sessions, *gaps]
    if is_live:
        lines = [*lines[: height - 1], *[("", "")] * (height - 1 - len(lines)), (FOOT.format(sort=view.sort), "dim")]
    text = Text(no_wrap=True, overflow="crop", end="")
    text.append_tokens((f"{line[:width]}\n" if number < len(lines) else line[:width], style)
                       for number, (line, style) in enumerate(lines, 1))  # fmt: skip
    return text


Line = tuple[str, str]  # text and style


def _head(status: BrokerStatus) -> list[Line]:
    now, over_10, events = status.rates_1s, status.rates_10s, status.events
    drops = ", ".join(f"{cause} {count}" for cause, count in sorted(status.drops.items())) or "none"
    return [
        (
            f"orbit {printable(status.broker_version)}  up {duration_text(status.uptime_s)}  "
            f"memory {size_text(status.memory_bytes)}  files {status.open_files}/{status.open_files_limit}  "
            f"epoch {status.epoch[:8]}  {printable(status.hostname)}:{status.pid}",
            "bold",
        ),
        (
            f"1s:  calls/s {_number(now.requests)}  events/s {_number(now.events)}  errors/s {_number(now.errors)}  "
            f"messages/s in {_number(now.messages_in)} out {_number(now.messages_out)}",
            "",
        ),
        (
            f"10s: calls/s {_number(over_10.requests)}  events/s {_number(over_10.events)}  "
            f"errors/s {_number(over_10.errors)}  "
            f"bytes/s in {size_text(round(over_10.bytes_in))} out {size_text(round(over_10.bytes_out))}",
            "",
        ),
        (
            f"in flight {status.calls.in_flight}  held {status.calls.held}  "
            f"queued {status.queues.messages} ({size_text(status.queues.bytes)})  sessions {status.sessions}",
            "",
        ),
        (f"subscribers {events.subscribers}  replayed {events.replayed}  missed {events.missed}", ""),
        (f"drops {drops}", "yellow" if status.drops else ""),
    ]


def _rows(status: BrokerStatus) -> Iterable[Row]:
    for peer in status.participants:
        if peer.role == "endpoint":
            yield Row(
                printable(peer.name), printable(peer.state), printable(peer.host_role), peer.calls_served_per_s,
                peer.events_per_s, peer.open_calls_served, peer.load.tasks if peer.load else 0, peer.sessions,
                peer.load.host_load if peer.load else 0.0, peer.latency_s, peer.silent_for_s,
            )  # fmt: skip
    for gone in status.lost_endpoints:
        yield _lost_row(gone)


def _lost_row(gone: LostEndpoint) -> Row:
    return Row(printable(gone.name), "lost", printable(gone.host_role), silent_for_s=gone.lost_for_s)


def _endpoints(rows: Sequence[Row], room: int, width: int) -> list[Line]:
    shown = rows if len(rows) <= room else rows[: room - 1]
    cells = [[field.text(row) for field in FIELDS.values()] for row in shown]
    titles = [field.title for field in FIELDS.values()]
    lines = _columns(titles, cells, LEFT, width)
    coloured = [(lines[0], "reverse"), *((line, STYLES.get(row.state, "")) for line, row in zip(lines[1:], shown, strict=True))]
    if len(shown) < len(rows):
        coloured.append((f"... and {len(rows) - len(shown)} more", "dim"))
    return coloured


def _sessions(sessions: Sequence[SessionActivity], width: int) -> list[Line]:
    if not sessions:
        return []
    cells = [
        [*map(printable, (s.session, s.endpoint, s.plugin, s.user)), _number(s.calls_per_s), _number(s.events_per_s)]
        for s in sessions[:SESSION_ROWS]
    ]
    lines = _columns(["BUSIEST SESSIONS", "ENDPOINT", "PLUGIN", "USER", "CALLS/S", "EV/S"], cells, 4, width)
    return [("", ""), (lines[0], "reverse"), *((line, "") for line in lines[1:])]


def _gaps(participants: Sequence[ParticipantStatus], width: int) -> list[Line]:
    behind = sorted((p for p in participants if p.replayed or p.missed), key=lambda p: (-p.missed, -p.replayed))
    if not behind:
        return []
    cells = [[printable(p.name), printable(p.user), str(p.replayed), str(p.missed)] for p in behind[:GAP_ROWS]]
    lines = _columns(["SUBSCRIBERS BEHIND", "USER", "REPLAYED", "MISSED"], cells, 2, width)
    return [("", ""), (lines[0], "reverse"), *((line, "yellow") for line in lines[1:])]


def _columns(titles: Sequence[str], cells: Sequence[Sequence[str]], left: int, width: int) -> list[str]:
    """Lines of columns as wide as they have to be, `left` of them to the left; names are shortened, the first ones most."""
    rows = [titles, *([_short(cell, NAME_CHARS) for cell in row] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = max(LEAST_CHARS, widths[0] - max(0, sum(widths) + len(widths) - 1 - width))
    return [
        " ".join(
            _short(cell, size).ljust(size) if number < left else cell.rjust(size)
            for number, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _short(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}~"


def _number(value: float) -> str:
    """Three digits are enough to see."""
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.1f}ms"

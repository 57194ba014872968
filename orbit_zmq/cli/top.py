"""`orbit top`: the broker's report on one screen, refreshed until q; where nobody looks, one JSON object a line.

The screen survives a broker that goes away and comes back. Nothing here computes a figure: all are the broker's.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.output import Output, stream_options
from orbit_zmq.cli.parameters import DURATION

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.cli.screen import View
    from orbit_zmq.models import BrokerStatus

SORTS = ("name", "state", "role", "calls", "events", "open", "tasks", "sessions", "load", "latency", "heard")
ANSWER_S = 1.0  # a broker that does not answer within it is shown as unreachable; the first answer may take longer
LEAST_INTERVAL_S = 0.1


@click.command()
@click.option("--once", is_flag=True, help="Show it once and end.")
@click.option("--interval", "interval_s", type=DURATION, default="1s", show_default=True, help="Between two refreshments.")
@click.option("--sort", type=click.Choice(SORTS), default="name", show_default=True, help="The endpoints' order; s changes it.")
@click.option("--filter", "wanted", default="", metavar="PATTERN", help="Part of a name, role, state or user; * and ? work.")
@stream_options
@broker_options
def top(once: bool, interval_s: float, sort: str, wanted: str, output: Output, where: Where) -> None:
    """Watch the broker, its endpoints, the busiest sessions and the subscribers that fell behind."""
    from orbit_zmq.cli.screen import View

    if interval_s < LEAST_INTERVAL_S:
        raise click.UsageError(f"--interval is {LEAST_INTERVAL_S:g} s at least.")
    view = View(sort, wanted=wanted)
    with connected(where) as client, suppress(KeyboardInterrupt):
        watch = Watch(client)
        if not output.is_table:
            _stream(watch, view, output, once, interval_s)
        elif once or not sys.stdout.isatty():
            _print_once(watch.fresh(), view)
        else:
            _show(watch, view, interval_s)


class Watch:
    """The last report of a broker, and since when there is none."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._away_since = 0.0
        self._reason = ""
        self.status: BrokerStatus | None = None

    def fresh(self, **deadline: float) -> BrokerStatus:
        """A new report, or the error."""
        from orbit_zmq.models import BrokerStatus

        self.status = BrokerStatus.model_validate(self._client.broker_status(**deadline))
        return self.status

    def look(self) -> None:
        """A new report, or a note that there is none."""
        from orbit_zmq.errors import BrokerUnreachable, DeadlineExceeded, ShuttingDown

        try:
            self.fresh(deadline_s=ANSWER_S)
            self._away_since = 0.0
        except (BrokerUnreachable, DeadlineExceeded, ShuttingDown) as error:
            self._away_since = self._away_since or time.time()
            self._reason = error.message

    @property
    def trouble(self) -> str:
        """What is wrong, if anything is."""
        if not self._away_since:
            return ""
        return f"unreachable since {time.strftime('%H:%M:%S', time.localtime(self._away_since))}: {self._reason}"


def _stream(watch: Watch, view: View, output: Output, once: bool, interval_s: float) -> None:
    """One JSON object a line, or ids with -q."""
    from orbit_zmq.cli.output import Mode
    from orbit_zmq.models import STATUS_SCHEMA_VERSION

    shown = Output(Mode.QUIET if output.mode is Mode.QUIET else Mode.JSONL)
    write = shown.stream("orbit.top", (), id_key="epoch", version=STATUS_SCHEMA_VERSION)
    write(view.of(watch.fresh()).model_dump())
    while not once:
        time.sleep(interval_s)
        watch.look()
        write({"unreachable": watch.trouble} if watch.trouble or watch.status is None else view.of(watch.status).model_dump())


def _print_once(status: BrokerStatus, view: View) -> None:
    from rich.console import Console

    from orbit_zmq.cli.screen import draw

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(draw(status, view, console.width, console.height, is_live=False))


def _show(watch: Watch, view: View, interval_s: float) -> None:
    """The screen, until q."""
    from rich.console import Console
    from rich.live import Live

    from orbit_zmq.cli.screen import draw

    console = Console(highlight=False, markup=False, emoji=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # the terminal is put right then, too
    with _keys() as wait_for_key, Live(console=console, screen=True, auto_refresh=False) as live:
        look_at = time.monotonic()
        while True:
            if time.monotonic() >= look_at:
                watch.look()
                look_at = max(look_at + interval_s, time.monotonic())
            if watch.status is not None:
                width, height = console.size
                live.update(draw(watch.status, view, width, height, is_live=True, trouble=watch.trouble), refresh=True)
            key = wait_for_key(look_at - time.monotonic())
            if key == "q":
                return
            view.press(key)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What waits so many seconds for a key: the key, or nothing. Keys are read one by one and not shown meanwhile."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield lambda timeout_s: _read_key(descriptor, timeout_s)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_key(descriptor: int, timeout_s: float) -> str:
    ready, _, _ = select.select([descriptor], [], [], max(timeout_s, 0.0))
    return os.read(descriptor, 1).decode(errors="ignore") if ready else ""


def _sleep(timeout_s: float) -> str:
    time.sleep(max(timeout_s, 0.0))
    return ""

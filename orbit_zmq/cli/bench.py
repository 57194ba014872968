"""`orbit bench`: how fast this user's own deployment is, by small loads of its own that leave nothing behind.

What can be measured at an endpoint depends on its plugins; what cannot is said. A deployment serves others meanwhile, so the
report tells what the broker and the endpoint had to do besides, and blocks alternate with questions to the broker alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names
from orbit_zmq.cli.connection import Where, broker_options, connected, find_endpoint
from orbit_zmq.cli.output import Column, Output, Section, output_options

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.facts import EndpointFacts
    from orbit_zmq.measuring import Block, Report

MEASURES = ("call", "task", "stream", "events")
TASKS_PLUGIN, BACKEND = "rhapsody", "noop"
PROGRAM = "/bin/true"  # which the backend noop does not run
HEARD_S = 30.0
SINGLES = 20  # tasks or events, one after the other, in a block


def _two(item: Any) -> str:
    return "-" if item is None else f"{item['median']:.2f} ({item['lower']:.2f} to {item['upper']:.2f})"


COLUMNS = (
    Column("WHAT", "what"),
    Column("HERE", "ours"),
    Column("BESIDE", "base"),
    Column("UNIT", "unit"),
    Column("RATIO", "ratio", _two),
    Column("TO", "beside", rank=2),
    Column("DISTURBED", "disturbed", rank=1),
)


@click.command()
@click.argument("measures", nargs=-1, type=click.Choice(MEASURES), metavar="[call|task|stream|events]...")
@click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="Which; else one that runs tasks, if any does.")
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True, help="Blocks of each.")
@click.option("--calls", type=click.IntRange(1), default=200, show_default=True, help="Calls in a block.")
@click.option("--tasks", type=click.IntRange(1), default=1_000, show_default=True, help="Tasks in a block of the stream.")
@output_options
@broker_options
def bench(
    measures: tuple[str, ...], endpoint: str | None, pairs: int, calls: int, tasks: int, output: Output, where: Where
) -> None:
    """Measure the speed of your own deployment.

    call: an operation that does nothing, beside a question to the broker alone. task: one task of the backend noop, from its
    submission to its result. stream: many of them at once. events: from the submission of a task to the event of its end.
    The last three run no program; they need the plugin rhapsody at the endpoint and the right to run tasks there.
    """
    from orbit_zmq.measuring import Report

    report = Report("bench")
    with connected(where) as client:
        facts = _endpoint(client, endpoint)
        _note_load(report, client, facts, "Before")
        for name in dict.fromkeys(measures or MEASURES):
            _measure(report, name, client, facts, pairs, calls if name == "call" else tasks)
        _note_load(report, client, facts, "Afterwards")
    item = {"endpoint": facts.name, **report.to_item()}
    rows = Section("Results", COLUMNS, item["rows"])
    output.item("orbit.bench", item, id_key="endpoint", sections=(rows,), leave_out=("rows", "met"))


def _endpoint(client: Client, wanted: str | None) -> EndpointFacts:
    """The endpoint to be measured."""
    from orbit_zmq.errors import NotFound

    if wanted:
        return find_endpoint(client, wanted)
    known = sorted((handle.facts for handle in client.endpoints()), key=lambda one: (not one.has(TASKS_PLUGIN), one.name))
    if not known:
        raise NotFound("There is no endpoint.", hint="Start one with `orbit endpoint start`, or see `orbit up`.")
    return known[0]


def _measure(report: Report, name: str, client: Client, facts: EndpointFacts, pairs: int, turns: int) -> None:
    """One of the measures, or a note of why it is not possible here."""
    from orbit_zmq.errors import NotFound, NotPermitted, Unsupported
    from orbit_zmq.measuring import Comparison, alternate, block

    if name != "call" and not facts.has(TASKS_PLUGIN):
        report.notes.append(f"{name}: {facts.name} has no plugin {TASKS_PLUGIN}.")
        return
    try:
        with BLOCKS[name](client, facts, turns) as (what, unit, ours):
            base: Block | None = None
            if name == "call":
                base = _median_ms(lambda: client.resolve(facts.name, refresh=True), turns)
                block(lambda: client.resolve(facts.name, refresh=True), turns)
            ours()  # for what happens once
            if base is None:
                report.comparisons.append(Comparison(what, unit, [ours() for _ in range(pairs)]))
            else:
                report.comparisons.append(Comparison(what, unit, *alternate(pairs, ours, base), "the broker alone"))
    except (NotFound, NotPermitted, Unsupported) as error:
        report.notes.append(f"{name}: {error.message}")


def _median_ms(turn: Callable[[], object], turns: int) -> Block:
    from orbit_zmq.measuring import p50_ms

    return p50_ms(turn, turns)


@contextmanager
def _call(client: Client, facts: EndpointFacts, turns: int) -> Iterator[tuple[str, str, Block]]:
    """An operation that every plugin has, and that needs no session."""
    from orbit_zmq.errors import NotFound

    plugin = next(iter(sorted(facts.plugins)), None)
    if plugin is None:
        raise NotFound(f"{facts.name} has no plugin.")
    yield "call, p50", "ms", _median_ms(lambda: client.call(facts.name, plugin, "version"), turns)


@contextmanager
def _task(client: Client, facts: EndpointFacts, turns: int) -> Iterator[tuple[str, str, Block]]:
    """One task at a time, in a session that is closed behind it."""
    with client.get_plugin(facts.name, TASKS_PLUGIN, backends=[BACKEND]) as plugin:
        yield "task, p50", "ms", _median_ms(lambda: _run(plugin, 1), SINGLES)


@contextmanager
def _stream(client: Client, facts: EndpointFacts, turns: int) -> Iterator[tuple[str, str, Block]]:
    """Many tasks at once."""
    with client.get_plugin(facts.name, TASKS_PLUGIN, backends=[BACKEND]) as plugin:

        def rate() -> float:
            began = time.perf_counter()
            _run(plugin, turns)
            return turns / (time.perf_counter() - began)

        yield f"{turns:,} tasks at once", "tasks/s", rate


@contextmanager
def _events(client: Client, facts: EndpointFacts, turns: int) -> Iterator[tuple[str, str, Block]]:
    """One task at a time, and its event."""
    from orbit_zmq.errors import DeadlineExceeded

    heard, wanted = threading.Event(), [""]

    def hear(endpoint: str, plugin: str, topic: str, event: Any) -> None:
        if event.get("uid") == wanted[0] and event.get("state") == "DONE":
            heard.set()

    with client.get_plugin(facts.name, TASKS_PLUGIN, backends=[BACKEND]) as plugin:
        subscription = client.subscribe(hear, endpoint=facts.name, session=plugin.sid, topic="task_status")

        def turn() -> None:
            heard.clear()
            wanted[0] = f"bench.{time.monotonic_ns()}"
            plugin.submit_tasks([{"uid": wanted[0], "executable": PROGRAM}])
            if not heard.wait(HEARD_S):
                raise DeadlineExceeded(f"no event of a task's end came within {HEARD_S:g} s")
            plugin.wait_tasks([wanted[0]])

        try:
            yield "task to the event of its end, p50", "ms", _median_ms(turn, SINGLES)
        finally:
            subscription.unsubscribe()


def _run(plugin: Any, count: int) -> None:
    """So many tasks, from the submission to the last result."""
    plugin.wait_tasks(plugin.submit_tasks([{"executable": PROGRAM} for _ in range(count)]))


def _note_load(report: Report, client: Client, facts: EndpointFacts, when: str) -> None:
    """What broker and endpoint do besides, as far as this user is told."""
    from orbit_zmq.errors import OrbitError

    try:
        status = client.broker_status()
    except OrbitError as error:
        report.notes.append(f"{when}: what else the broker does is not known: {error.message}")
        return
    messages = sum(status["rates_10s"].get(name, 0.0) for name in ("messages_in", "messages_out"))
    found = [one for one in status["participants"] if one["name"] == facts.name and one["role"] == "endpoint"]
    here: dict[str, Any] = found[0] if found else {}
    load = here.get("load") or {}
    report.notes.append(
        f"{when}: the broker passes {messages:.0f} messages/s (over 10 s); {facts.name} serves "
        f"{here.get('calls_served_per_s', 0):.0f} calls/s, runs {load.get('tasks', 0)} tasks, "
        f"its host's load is {load.get('host_load', 0):.2f} a core"
    )


BLOCKS = {"call": _call, "task": _task, "stream": _stream, "events": _events}

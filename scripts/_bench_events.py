"""Events from one endpoint to many listeners, beside a bare publisher and bare subscribers; and what sealing costs.

The endpoint tells a thousand events at once; the time is until every listener has heard them all. Both sides have their
listeners in one process, those of the product with connections of their own, over TCP with CURVE. An endpoint tells 10,000
events a second at most, so the bare publisher is not what is to be reached: it says how much of the time is the machine's.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import zmq
from _bench_bare import EVENT, KEY, ask, bare_subscriber, child, deployment, said

from orbit_zmq.measuring import Block, Comparison, Report, alternate
from orbit_zmq.wire.seal import Opener

HEARD_S = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=int, default=1_000, help="in each block (1,000)")
    parser.add_argument("--listeners", type=int, action="append", help="how many hear them; may be repeated (1, 8)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("events")
    for listeners in options.listeners or (1, 8):
        with fan_out(listeners, options.events) as ours, bare_events("sealed", listeners, options.events) as bare:
            for one in (bare, ours):
                one()
            found = alternate(options.pairs, ours, bare)
        what = f"{options.events:,} events to {listeners} listener{'s' * (listeners > 1)}"
        report.comparisons.append(Comparison(what, "ms", *found, "bare publisher, sealed"))
    with bare_events("sealed", 1, options.events) as sealed, bare_events("plain", 1, options.events) as plain:
        found = alternate(options.pairs, sealed, plain)
    what = f"{options.events:,} bare events of {len(EVENT)} B, sealed"
    report.comparisons.append(Comparison(what, "ms", *found, "plain"))
    return report


@contextmanager
def bare_events(mode: str, listeners: int, count: int) -> Iterator[Block]:
    """From one process to sockets of another; milliseconds until the last one has them all."""
    with child("publisher", mode, str(listeners)) as publisher, ExitStack() as stack:
        port = said(publisher)
        poller = zmq.Poller()
        for _ in range(listeners):
            socket = bare_subscriber(port)
            stack.callback(socket.close, 0)
            poller.register(socket, zmq.POLLIN)
        opener = Opener(KEY)

        def run() -> float:
            began, missing = time.perf_counter(), count * listeners
            ask(publisher, count)
            while missing:
                for socket, _ in poller.poll():
                    topic, mark, sealed = socket.recv_multipart()
                    if mode == "sealed":
                        opener.open(topic, mark, sealed)
                    missing -= 1
            return (time.perf_counter() - began) * 1e3

        yield run


class Hearing:
    """Counts what all listeners have heard, and wakes who waits for the last of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all_heard = threading.Event()
        self._missing = 0

    def expect(self, count: int) -> None:
        self._missing = count
        self._all_heard.clear()

    def hear(self, *_: Any) -> None:
        with self._lock:
            self._missing -= 1
            if not self._missing:
                self._all_heard.set()

    def wait(self) -> None:
        if not self._all_heard.wait(HEARD_S):
            raise TimeoutError(f"{self._missing} events were not heard within {HEARD_S:g} s")


@contextmanager
def fan_out(listeners: int, count: int) -> Iterator[Block]:
    """The same through the product."""
    from orbit_zmq import Client

    hearing = Hearing()
    with deployment("flood", ["--plugin-module", "_flood"]) as (client, _), ExitStack() as stack:
        flood = client.get_plugin("bench", "flood")
        for _ in range(listeners):
            stack.enter_context(Client()).subscribe(hearing.hear, topic="flood")

        def run() -> float:
            hearing.expect(count * listeners)
            began = time.perf_counter()
            flood.tell(count, 0.0)
            hearing.wait()
            return (time.perf_counter() - began) * 1e3

        yield run

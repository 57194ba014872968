"""The 99th percentile of a call while a plugin tells events as fast as it can, beside that while none does.

From a thread and from the endpoint's loop; while the caller hears them and while nobody does; to the endpoint that tells them
and to another. A bound of 2 for the worse quartile of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from _bench_bare import WARM_UP, product

from orbit_zmq.measuring import Comparison, Report, block, p99

AT_MOST = 2.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=500, help="in each block (500)")


@contextmanager
def flooded() -> Iterator[tuple[Any, dict[str, Callable[[], None]], Any]]:
    """A client, a call to each of two endpoints, and a plugin on the first of them that can flood."""
    from orbit_zmq.children import Child, environment_of_child

    with product("rhapsody") as client, ExitStack() as stack:
        environment = environment_of_child(ORBIT_LOG_LEVEL="warning")
        plugins = ["--plugins", "rhapsody,flood", "--plugin-module", "_flood"]
        arguments = ["--url", client._link.place.address, "--name", "same", *plugins]
        endpoint = Child("orbit_zmq.endpoint", arguments, environment, None)
        stack.callback(endpoint.end)
        endpoint.wait_until_ready()
        calls = {
            "same endpoint": client.get_plugin("same", "rhapsody", backends=["noop"]).ping,
            "other endpoint": client.get_plugin("bench", "rhapsody", backends=["noop"]).ping,
        }
        yield client, calls, client.get_plugin("same", "flood")


def measure(options: argparse.Namespace) -> Report:
    report = Report("flood")
    found: dict[str, list[tuple[float, float]]] = {}
    told: list[float] = []
    with flooded() as (client, calls, flood):
        for call in calls.values():
            block(call, min(WARM_UP, options.calls))

        def tails() -> dict[str, float]:
            return {where: p99(block(call, options.calls)) * 1e3 for where, call in calls.items()}

        for _ in range(options.pairs):
            for source in ("thread", "loop"):
                for hearing in ("unheard", "heard"):
                    subscription = client.subscribe(lambda *event: None, topic="flood") if hearing == "heard" else None
                    before = tails()
                    flood.start(source)
                    began = time.monotonic()
                    during = tails()
                    told.append(flood.stop() / (time.monotonic() - began))
                    _wait_until_quiet(client)
                    if subscription is not None:
                        subscription.unsubscribe()
                    for where in calls:
                        found.setdefault(f"from a {source}, {hearing}, {where}, p99", []).append((during[where], before[where]))
    for what, pairs in found.items():
        ours, base = zip(*pairs, strict=True)
        report.comparisons.append(Comparison(what, "ms", ours, base, "without a flood", at_most=AT_MOST))
    report.comparisons.append(Comparison("told", "events/s", told))
    return report


def _wait_until_quiet(client: Any) -> None:
    """What a flood has left to be sent takes seconds, and is not to fall on the next block."""
    while client.broker_status()["rates_1s"]["events"] > 0:
        time.sleep(0.2)

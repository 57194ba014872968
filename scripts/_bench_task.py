"""One task that does nothing beside a bare echo, both with CURVE over TCP.

From its submission by the blocking client, through broker and endpoint, to its result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from _bench_bare import product
from _bench_call import beside_echo

from orbit_zmq.measuring import Report

AT_MOST = 4.0


@contextmanager
def one_task() -> Iterator[Callable[[], None]]:
    """A task of the backend noop."""
    with product("rhapsody") as client, client.get_plugin("bench", "rhapsody", backends=["noop"]) as plugin:
        task = {"executable": "/bin/true"}

        def turn() -> None:
            [submitted] = plugin.submit_tasks([task])
            [done] = plugin.wait_tasks([submitted["uid"]])
            assert done["state"] == "DONE"

        yield turn


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=500, help="tasks in each block (500)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("task")
    with one_task() as turn:
        beside_echo(report, "task, p50", turn, options.pairs, options.calls, AT_MOST)
    return report

"""A trivial call beside a bare echo, both with CURVE over TCP; and what CURVE adds to a bare echo.

The call is an operation of a plugin that does nothing, from the blocking client through broker and endpoint.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from _bench_bare import WARM_UP, bare_echo, product

from orbit_zmq.measuring import Comparison, Report, alternate, block, p50_ms, p99

AT_MOST = 2.0
SIZES = {"64 B": b"x" * 64, "1 kB": b"x" * 1_024}


@contextmanager
def one_call() -> Iterator[Callable[[], None]]:
    """A trivial operation."""
    with product("rhapsody") as client, client.get_plugin("bench", "rhapsody", backends=["noop"]) as plugin:
        yield plugin.ping


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=500, help="in each block (500)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("call")
    with one_call() as turn:
        beside_echo(report, "call, p50", turn, options.pairs, options.calls, AT_MOST)
    for size, message in SIZES.items():
        with bare_echo(message=message) as curve, bare_echo(message=message, is_encrypted=False) as plain:
            found = alternate(options.pairs, p50_ms(curve, options.calls), p50_ms(plain, options.calls))
        report.comparisons.append(Comparison(f"bare echo of {size} with CURVE, p50", "ms", *found, "without"))
    return report


def beside_echo(report: Report, what: str, turn: Callable[[], None], pairs: int, turns: int, at_most: float) -> None:
    """Compare the median of a turn with that of a bare echo; the 99th percentile is noted."""
    tails: list[float] = []

    def ours() -> float:
        times = block(turn, turns)
        tails.append(p99(times) * 1e3)
        return statistics.median(times) * 1e3

    with bare_echo() as echo:
        for one in (echo, turn):
            block(one, min(WARM_UP, turns))
        found = alternate(pairs, ours, p50_ms(echo, turns))
    report.comparisons.append(Comparison(what, "ms", *found, "bare echo", at_most=at_most))
    report.comparisons.append(Comparison(what.replace("p50", "p99"), "ms", tails))

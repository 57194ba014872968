"""What REST costs: the median of a call by HTTP beside that of the same call by the blocking client, in one run.

Broker, endpoint and gateway are processes of their own; the operation is a trivial one. HTTP is asked over one connection that
stays open, by the standard library. The bound is 5 times the native call, for the worse quartile of the pairs.
"""

from __future__ import annotations

import argparse
import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from _bench_bare import WARM_UP, product

from orbit_zmq.measuring import Comparison, Report, alternate, block, p50_ms

AT_MOST = 5.0


@contextmanager
def both() -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """One native call, and one by HTTP."""
    from orbit_zmq.children import environment_of_child, start_gateway
    from orbit_zmq.paths import gateway_dir
    from orbit_zmq.runtime_file import read_runtime_file
    from orbit_zmq.security.keys import own_user
    from orbit_zmq.security.tokens import TokenList

    with product("math") as client:
        running = read_runtime_file()
        assert running is not None
        gateway = start_gateway(
            url=f"ipc://{running.ipc}", http="127.0.0.1:0", environment=environment_of_child(ORBIT_LOG_LEVEL="warning")
        )
        try:
            headers = {"Authorization": f"Bearer {TokenList(gateway_dir()).create('bench', own_user())}"}
            line = http.client.HTTPConnection(urlsplit(gateway.ready["http"]).netloc, timeout=60)

            def ask() -> None:
                line.request("GET", "/bench/math/version", headers=headers)
                answer = line.getresponse()
                assert answer.status == 200, answer.read()
                answer.read()

            def call() -> None:
                client.call("bench", "math", "version")

            yield call, ask
        finally:
            gateway.end()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=500, help="in each block (500)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("rest")
    with both() as (call, ask):
        for turn in (call, ask):
            block(turn, min(WARM_UP, options.calls))
        found = alternate(options.pairs, p50_ms(ask, options.calls), p50_ms(call, options.calls))
    report.comparisons.append(Comparison("call by HTTP, p50", "ms", *found, "native call", at_most=AT_MOST))
    return report

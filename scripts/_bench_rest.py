"""What REST costs: the median of a call by HTTP beside that of the same call by the blocking client, in one run.

Broker, endpoint and gateway are processes of their own; the operation is a trivial one. HTTP is asked over one connection that
stays open, by the standard library. The bound is 5 times the native call, for the worse quartile of the pairs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from _bench import WARM_UP, block, p99, product, quartiles

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


def compare(pairs: int, turns: int) -> dict[str, Any]:
    """Alternating blocks of both."""
    ratios, natives, rests, tails = [], [], [], []
    with both() as (call, ask):
        block(call, WARM_UP)
        block(ask, WARM_UP)
        for _ in range(pairs):
            native, rest = block(call, turns), block(ask, turns)
            natives.append(statistics.median(native))
            rests.append(statistics.median(rest))
            tails.append(p99(rest))
            ratios.append(rests[-1] / natives[-1])
    ratio = quartiles(ratios)
    return {
        "measure": "rest",
        "pairs": pairs,
        "turns": turns,
        "ratio": {**ratio, "at_most": AT_MOST},
        "met": ratio["upper_quartile"] <= AT_MOST,
        "native_p50_ms": statistics.median(natives) * 1e3,
        "rest_p50_ms": statistics.median(rests) * 1e3,
        "rest_p99_ms": statistics.median(tails) * 1e3,
        "cpus": os.cpu_count(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks (11)")
    parser.add_argument("--calls", type=int, default=500, help="turns in each block (500)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    found = compare(options.pairs, options.calls)
    ratio = found["ratio"]
    text = (
        f"rest: {ratio['median']:.2f} native calls (quartiles {ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}, "
        f"at most {ratio['at_most']:g}); p50 {found['rest_p50_ms']:.3f} ms beside {found['native_p50_ms']:.3f} ms"
    )
    print(json.dumps(found) if options.json else text)
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

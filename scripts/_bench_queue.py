"""What it costs to be told the queues of a batch system that were found before, beside a trivial call: at most twice as much.

On a Slurm of its own, so it wants root and Debian's packages. Blocks of both alternate, from one client over TCP with CURVE; a
ratio is that of the medians of one pair of blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from typing import Any

from _bench import WARM_UP, block, product, quartiles
from slurmlab.cluster import slurm_lab
from slurmlab.install import install

AT_MOST = 2.0


def compare(pairs: int, turns: int) -> dict[str, Any]:
    """Alternating blocks of `ping` and of `get_info`."""
    ratios, pings, told = [], [], []
    with slurm_lab() as slurm:
        os.environ["SLURM_CONF"] = str(slurm.conf)
        with product("queue_info") as client:
            plugin = client.get_plugin("bench", "queue_info")
            queues = len(plugin.get_info()["queues"])
            for turn in (plugin.ping, plugin.get_info):
                block(turn, WARM_UP)
            for _ in range(pairs):
                pings.append(statistics.median(block(plugin.ping, turns)))
                told.append(statistics.median(block(plugin.get_info, turns)))
                ratios.append(told[-1] / pings[-1])
            plugin.close()
    ratio = quartiles(ratios)
    return {
        "measure": "queue",
        "pairs": pairs,
        "turns": turns,
        "queues": queues,
        "ratio": {**ratio, "at_most": AT_MOST},
        "met": ratio["upper_quartile"] <= AT_MOST,
        "ping_p50_ms": statistics.median(pings) * 1e3,
        "get_info_p50_ms": statistics.median(told) * 1e3,
        "cpus": os.cpu_count(),
    }


def show(found: dict[str, Any]) -> str:
    """The same for people."""
    ratio = found["ratio"]
    return (
        f"get_info of {found['queues']} queues from what is kept: {ratio['median']:.2f} trivial calls (quartiles "
        f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}, at most {ratio['at_most']:g}); "
        f"p50 {found['get_info_p50_ms']:.3f} ms beside {found['ping_p50_ms']:.3f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks (11)")
    parser.add_argument("--calls", type=int, default=300, help="calls in each block (300)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    if reason := install():
        print(f"Nothing is measured: {reason}.", file=sys.stderr)
        return 1
    found = compare(options.pairs, options.calls)
    print(json.dumps(found) if options.json else show(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""What it costs to be told the queues of a batch system that were found before, beside a trivial call: at most twice as much.

On a Slurm of its own, so it wants root and Debian's packages. From one client over TCP with CURVE.
"""

from __future__ import annotations

import argparse
import os

from _bench_bare import WARM_UP, product
from slurmlab.cluster import slurm_lab
from slurmlab.install import install

from orbit_zmq.measuring import Comparison, Report, alternate, block, p50_ms

AT_MOST = 2.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=300, help="in each block (300)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("queue")
    if reason := install():
        raise SystemExit(f"Nothing is measured: {reason}.")
    with slurm_lab() as slurm:
        os.environ["SLURM_CONF"] = str(slurm.conf)
        with product("queue_info") as client, client.get_plugin("bench", "queue_info") as plugin:
            queues = len(plugin.get_info()["queues"])
            for turn in (plugin.ping, plugin.get_info):
                block(turn, min(WARM_UP, options.calls))
            found = alternate(options.pairs, p50_ms(plugin.get_info, options.calls), p50_ms(plugin.ping, options.calls))
    what = f"get_info of {queues} queues from what is kept, p50"
    report.comparisons.append(Comparison(what, "ms", *found, "trivial call", at_most=AT_MOST))
    return report

"""Speed as ratios: what the product adds to the bare minimum, or how it stands beside others, side by side in one run.

Blocks of both alternate, so that what else the machine does falls on both; a ratio is that of one pair of blocks, and the
quartiles over all pairs are reported. Absolute figures stand beside them and prove nothing. A measure is a module with
`add_options(parser)` and `measure(options)`, which answers a report. The exit code is 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from types import ModuleType

from orbit_zmq.measuring import table

PAIRS = 11
MEASURES = {
    "call": "one trivial call, and what CURVE costs, beside a bare echo",
    "task": "one task that does nothing, beside a bare echo",
    "stream": "tasks by the thousand beside Rhapsody alone, 1 to 1,000,000 in one call, and memory",
    "events": "events to many listeners beside a bare publisher, and what sealing costs",
    "flood": "calls while a plugin tells events as fast as it can, beside calls while none does",
    "route": "64-byte messages through the broker beside libzmq's own proxy",
    "scale": "1,000 endpoints and 200 clients beside a bare echo",
    "peers": "the same tasks through radical.orbit, Dask, Parsl and ipyparallel",
    "execute": "programs run through us beside Rhapsody alone",
    "rest": "a call by HTTP beside the same call by the client",
    "queue": "the queues of a batch system (a Slurm of its own) beside a trivial call",
    "top": "what `orbit top` takes of a processor",
}


def usage() -> str:
    lines = [f"  {name:8} {what}" for name, what in MEASURES.items()]
    return "\n".join(["usage: scripts/bench MEASURE [--pairs N] [--json] [...]", *lines])


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The options of one measure."""
    parser = argparse.ArgumentParser(
        prog=f"scripts/bench {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=_at_least_one, default=PAIRS, help=f"pairs of blocks ({PAIRS})")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    module.add_options(parser)
    return parser


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in MEASURES:
        is_asked = name in ("-h", "--help")
        print(usage(), file=sys.stdout if is_asked else sys.stderr)
        return 0 if is_asked else 2
    module = import_module(f"_bench_{name}")
    options = parser_of(name, module).parse_args(sys.argv[2:])
    found = module.measure(options).to_item()
    print(json.dumps(found) if options.json else table(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

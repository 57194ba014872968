"""Tasks by the thousand: the product beside Rhapsody's own session in one process, in one run.

The base is `rhapsody.Session` with the backend `noop` and Rhapsody's task objects. The product is a client, a broker and an
endpoint in processes of their own, over TCP with CURVE, with the same backend. Each block is a new process, of the base or of
the client, as a script is; blocks alternate, so that what else the machine does falls on both. The time is from the submission
of all tasks of a block to the last result. A ratio is that of the rates of one pair of blocks. At the end many tasks go out in
one call, and what broker and endpoint grow meanwhile is compared with what they were after some.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bench import deployment, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from growth import Growth

TASKS = 65_536
SOME, MANY = 50_000, 1_000_000
GROWTH_BYTES = {"broker": 30 << 20, "endpoint": 150 << 20}
PROGRAM = "/bin/true"


def same(value: int) -> int:
    return value


def dicts(count: int) -> list[Any]:
    """What the plugin's own client takes."""
    return [{"executable": PROGRAM} for _ in range(count)]


def programs(count: int) -> list[Any]:
    from rhapsody.api.task import ComputeTask

    return [ComputeTask(executable=PROGRAM) for _ in range(count)]


def functions(count: int) -> list[Any]:
    """Distinct arguments each."""
    from rhapsody.api.task import ComputeTask

    return [ComputeTask(function=same, args=(number,)) for number in range(count)]


# What is measured: the tasks of the product, those of the base, and the least ratio of their rates.
CASES: dict[str, tuple[Callable[[int], list[Any]], Callable[[int], list[Any]], float]] = {
    "dicts": (dicts, programs, 1.1),
    "objects": (programs, programs, 0.9),
    "functions": (functions, functions, 0.9),
}


async def alone(case: str, count: int) -> float:
    """Rhapsody's own session in this process; its seconds."""
    import rhapsody

    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as place:
        session = rhapsody.Session([await rhapsody.get_backend("noop")], work_dir=place)
        tasks = CASES[case][1](count)
        began = time.perf_counter()
        await session.submit_tasks(tasks)
        await session.wait_tasks(tasks)
        took_s = time.perf_counter() - began
        await session.close()
    return took_s


def ours(case: str, count: int) -> float:
    """A client in this process, of a broker and an endpoint that are there; its seconds."""
    from orbit_zmq import Client

    with Client() as client, client.get_plugin("bench", "rhapsody", backends=["noop"]) as plugin:
        return stream(plugin, CASES[case][0](count))


def block(whose: str, case: str, count: int) -> float:
    """The rate of one block, in a process of its own: in one that has had many objects before, Python's collector may take
    half of the time or none."""
    arguments = [sys.executable, __file__, "block", whose, case, str(count)]
    return count / float(subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=600).stdout)


def stream(plugin: Any, tasks: list[Any]) -> float:
    """Seconds from the submission of all to the last result."""
    began = time.perf_counter()
    submitted = plugin.submit_tasks(tasks)
    wanted = [answer["uid"] for answer in submitted] if type(tasks[0]) is dict else tasks
    results = plugin.wait_tasks(wanted)
    took_s = time.perf_counter() - began
    if len(results) != len(tasks) or any(result["state"] != "DONE" for result in results):
        raise RuntimeError("a task is not done")
    return took_s


def compare(case: str, pairs: int, count: int) -> dict[str, Any]:
    """Alternating blocks of the base and of the product."""
    at_least = CASES[case][2]
    rates = [(block("alone", case, count), block("ours", case, count)) for _ in range(pairs)]
    ratio = quartiles([our / base for base, our in rates])
    return {
        "ratio": {**ratio, "at_least": at_least},
        "met": ratio["lower_quartile"] >= at_least,
        "base_per_s": statistics.median(base for base, _ in rates),
        "ours_per_s": statistics.median(our for _, our in rates),
    }


def measure_growth(plugin: Any, pids: dict[str, int], many: int) -> dict[str, Any]:
    """What broker and endpoint grow while many tasks go out in one call, beyond what they were after some."""
    stream(plugin, dicts(SOME))
    growth = Growth(**pids)
    took_s = stream(plugin, dicts(many))
    grown = growth.bytes()
    return {
        "tasks": many,
        "per_s": many / took_s,
        "before_bytes": growth.before,
        "grown_bytes": grown,
        "at_most_bytes": GROWTH_BYTES,
        "met": all(grown[name] <= bound for name, bound in GROWTH_BYTES.items()),
    }


def show(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for case, one in found["cases"].items():
        ratio = one["ratio"]
        lines.append(
            f"{case}: {ratio['median']:.2f} times Rhapsody alone (quartiles {ratio['lower_quartile']:.2f} to "
            f"{ratio['upper_quartile']:.2f}, at least {ratio['at_least']:g}); {one['ours_per_s']:.0f} tasks/s beside "
            f"{one['base_per_s']:.0f}"
        )
    if "growth" in found:
        growth = found["growth"]
        grown = ", ".join(
            f"{name} {grown / 1e6:.0f} MB (at most {growth['at_most_bytes'][name] / 1e6:.0f}) from "
            f"{growth['before_bytes'][name] / 1e6:.0f} MB"
            for name, grown in growth["grown_bytes"].items()
        )
        lines.append(f"{growth['tasks']} tasks in one call: {growth['per_s']:.0f} tasks/s; grown: {grown}")
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:2] == ["block"]:
        whose, case, count = sys.argv[2:]
        print(asyncio.run(alone(case, int(count))) if whose == "alone" else ours(case, int(count)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"in each block ({TASKS})")
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks, two at least (11); 0: only the many")
    parser.add_argument("--many", type=int, default=MANY, help=f"tasks in one call at the end ({MANY}); 0: none")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    found: dict[str, Any] = {"measure": "stream", "tasks": options.tasks, "pairs": options.pairs, "cases": {}}
    with deployment("rhapsody") as (client, pids):
        for case in CASES if options.pairs else ():
            found["cases"][case] = compare(case, options.pairs, options.tasks)
        if options.many:
            found["growth"] = measure_growth(client.get_plugin("bench", "rhapsody", backends=["noop"]), pids, options.many)
    found["met"] = all(one["met"] for one in (*found["cases"].values(), found.get("growth", {"met": True})))
    print(json.dumps({**found, "cpus": os.cpu_count()}) if options.json else show(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""Tasks by the thousand: the product beside Rhapsody's own session in one process, in one run.

The base is `rhapsody.Session` with the backend `noop` and Rhapsody's task objects. The product is a client, a broker and an
endpoint in processes of their own, over TCP with CURVE, with the same backend. Each block is a new process, of the base or of
the client, as a script is. The time is from the submission of all tasks of a block to the last result. Then the same for 1, 10,
100 ... tasks in one call. At the end many go out in one call, and what broker and endpoint grow meanwhile is compared with what
they were after some.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from _bench_bare import deployment
from growth import Growth

from orbit_zmq.measuring import Comparison, Report, alternate

TASKS = 65_536
SOME, MANY = 50_000, 1_000_000
GROWTH_MB = {"broker": 31.5, "endpoint": 157.3}  # 30 and 150 MiB
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


def rate(whose: str, case: str, count: int) -> float:
    """Tasks per second of one block, in a process of its own: in one that has had many objects before, Python's collector may
    take half of the time or none."""
    arguments = [sys.executable, __file__, whose, case, str(count)]
    return count / float(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout)


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


def compare(what: str, case: str, pairs: int, count: int, at_least: float | None) -> Comparison:
    """Alternating blocks of the base and of the product."""
    found = alternate(pairs, lambda: rate("ours", case, count), lambda: rate("alone", case, count))
    return Comparison(what, "tasks/s", *found, "Rhapsody alone", at_least=at_least)


def growth(plugin: Any, pids: dict[str, int], many: int) -> list[Comparison]:
    """What broker and endpoint grow while many tasks go out in one call, beyond what they were after some."""
    stream(plugin, dicts(min(SOME, many)))
    grown = Growth(**pids)
    took_s = stream(plugin, dicts(many))
    rows = [Comparison(f"{many:,} tasks in one call", "tasks/s", [many / took_s])]
    for name, size in grown.bytes().items():
        bound = GROWTH_MB[name]
        rows.append(
            Comparison(f"{name} grows by then, from {grown.before[name] / 1e6:.0f} MB", "MB", [size / 1e6], at_most=bound)
        )
    return rows


def sizes(largest: int) -> list[int]:
    """1, 10, 100 ... up to the largest."""
    found = [1]
    while found[-1] * 10 <= largest:
        found.append(found[-1] * 10)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"in each block ({TASKS})")
    parser.add_argument("--case", choices=sorted(CASES), action="append", help="these tasks alone; may be repeated")
    parser.add_argument(
        "--sweep", type=int, default=MANY, help=f"the most of 1, 10, 100 ... tasks in one call ({MANY}); 0: none"
    )
    parser.add_argument("--sweep-pairs", type=int, default=3, help="pairs of blocks for each of these (3)")
    parser.add_argument("--many", type=int, default=MANY, help=f"tasks in one call at the end ({MANY}); 0: none")


def measure(options: argparse.Namespace) -> Report:
    report = Report("stream")
    with deployment("rhapsody") as (client, pids):
        for case in options.case or CASES:
            what, at_least = f"{options.tasks:,} {case}", CASES[case][2]
            report.comparisons.append(compare(what, case, options.pairs, options.tasks, at_least))
        for count in sizes(options.sweep) if options.sweep else ():
            report.comparisons.append(compare(f"sweep: {count:,} dicts", "dicts", options.sweep_pairs, count, None))
        if options.many:
            plugin = client.get_plugin("bench", "rhapsody", backends=["noop"])
            report.comparisons += growth(plugin, pids, options.many)
    return report


if __name__ == "__main__":
    whose, case, count = sys.argv[1:]
    print(asyncio.run(alone(case, int(count))) if whose == "alone" else ours(case, int(count)))

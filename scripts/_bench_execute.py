"""What it costs to have executables run: the product beside Rhapsody alone, in one run.

The base is Rhapsody's own session with its backend `concurrent` in one process. The product is a client, a broker and an
endpoint, over TCP with CURVE, with the same backend. Both run /bin/true, as many times in a block as asked for; blocks
alternate, so that what else the machine does falls on both. Beside the ratio of the times stands the CPU time that the
processes took themselves, without that of the programs that they ran.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
from _bench import product, quartiles

TASKS = 2_000
AT_MOST = 1.15  # times what Rhapsody takes alone
PROGRAM = "/bin/true"
OPEN_FILES = 16_384  # Rhapsody starts all programs at once, with two pipes each

Block = Callable[[int], dict[str, float]]  # runs so many programs; answers seconds of time and of CPU


@contextmanager
def rhapsody_alone() -> Iterator[Block]:
    """A process that runs a block for each line on its standard input."""
    with ExitStack() as stack:
        base = subprocess.Popen([sys.executable, __file__, "base"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(base.wait)
        stack.callback(base.kill)
        asks, answers = base.stdin, base.stdout
        assert asks is not None and answers is not None

        def run(tasks: int) -> dict[str, float]:
            asks.write(f"{tasks}\n")
            asks.flush()
            found: dict[str, float] = json.loads(answers.readline())
            return found

        yield run


async def base() -> None:
    """The process of the base."""
    import rhapsody

    backend = await rhapsody.get_backend("concurrent")
    async with rhapsody.Session([backend]) as session:
        for line in sys.stdin:
            tasks = [rhapsody.ComputeTask(executable=PROGRAM) for _ in range(int(line))]
            cpu_s, began = time.process_time(), time.perf_counter()
            await session.submit_tasks(tasks)
            await session.wait_tasks(tasks)
            took = {"time_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_s}
            assert all(task["exit_code"] == 0 for task in tasks)
            print(json.dumps(took), flush=True)


@contextmanager
def ours() -> Iterator[Block]:
    """The same tasks from a client through a broker to an endpoint."""
    with product("rhapsody") as client, client.get_plugin("bench", "rhapsody", backends=["concurrent"]) as plugin:
        processes = [psutil.Process(), *psutil.Process().children()]

        def run(tasks: int) -> dict[str, float]:
            wanted = [{"executable": PROGRAM} for _ in range(tasks)]
            cpu_s, began = _cpu_s(processes), time.perf_counter()
            results = plugin.wait_tasks(plugin.submit_tasks(wanted))
            took = {"time_s": time.perf_counter() - began, "cpu_s": _cpu_s(processes) - cpu_s}
            assert all(result["exit_code"] == 0 for result in results)
            return took

        yield run


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(used.user + used.system for used in (process.cpu_times() for process in processes))


def compare(pairs: int, tasks: int) -> dict[str, Any]:
    """Alternating blocks of the base and of the product."""
    with rhapsody_alone() as base_run, ours() as our_run:
        for run in (base_run, our_run):
            run(max(1, tasks // 10))
        found = [(base_run(tasks), our_run(tasks)) for _ in range(pairs)]
    ratio = quartiles([our["time_s"] / base["time_s"] for base, our in found])
    return {
        "measure": "execute",
        "pairs": pairs,
        "tasks": tasks,
        "ratio": {**ratio, "at_most": AT_MOST},
        "met": ratio["upper_quartile"] <= AT_MOST,
        "base_s": statistics.median(base["time_s"] for base, _ in found),
        "ours_s": statistics.median(our["time_s"] for _, our in found),
        "base_cpu_s": statistics.median(base["cpu_s"] for base, _ in found),
        "ours_cpu_s": statistics.median(our["cpu_s"] for _, our in found),
        "cpus": os.cpu_count(),
    }


def show(found: dict[str, Any]) -> str:
    """The same for people."""
    ratio = found["ratio"]
    return (
        f"execute: {found['tasks']} programs take {ratio['median']:.2f} times what they take through Rhapsody alone "
        f"(quartiles {ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}, at most {ratio['at_most']:g}); "
        f"{found['ours_s']:.2f} s beside {found['base_s']:.2f} s, "
        f"CPU time of the processes {found['ours_cpu_s']:.2f} s beside {found['base_cpu_s']:.2f} s"
    )


def main() -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, max(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    if sys.argv[1:2] == ["base"]:
        asyncio.run(base())
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks (11)")
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"programs in each block ({TASKS})")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    found = compare(options.pairs, options.tasks)
    print(json.dumps(found) if options.json else show(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

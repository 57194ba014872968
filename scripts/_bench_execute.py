"""What it costs to have executables run: the product beside Rhapsody alone, in one run.

The base is Rhapsody's own session with its backend `concurrent` in one process. The product is a client, a broker and an
endpoint, over TCP with CURVE, with the same backend. Both run /bin/true, as many times in a block as asked for. Beside the
times stands the CPU time that the processes took themselves, without that of the programs that they ran.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from _bench_bare import ask, child, product

from orbit_zmq.measuring import Comparison, Report

TASKS = 2_000
AT_MOST = 1.15  # times what Rhapsody takes alone
PROGRAM = "/bin/true"
OPEN_FILES = 16_384  # Rhapsody starts all programs at once, with two pipes each

Block = Callable[[int], dict[str, float]]  # runs so many programs; answers seconds of time and of CPU


@contextmanager
def rhapsody_alone() -> Iterator[Block]:
    """A process that runs a block for each line on its standard input."""
    with child("base", script=__file__) as base:

        def run(tasks: int) -> dict[str, float]:
            found: dict[str, float] = json.loads(ask(base, tasks))
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"programs in each block ({TASKS})")


def measure(options: argparse.Namespace) -> Report:
    _raise_file_limit()
    with rhapsody_alone() as base_run, ours() as our_run:
        for run in (base_run, our_run):
            run(max(1, options.tasks // 10))
        found = [(base_run(options.tasks), our_run(options.tasks)) for _ in range(options.pairs)]
    report = Report("execute")
    for key, what, at_most in (("time_s", "time", AT_MOST), ("cpu_s", "CPU time", None)):
        our_s, base_s = [our[key] for _, our in found], [base[key] for base, _ in found]
        what = f"{options.tasks} programs, {what}"
        report.comparisons.append(Comparison(what, "s", our_s, base_s, "Rhapsody alone", at_most=at_most))
    return report


def _raise_file_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, max(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))


if __name__ == "__main__":
    _raise_file_limit()
    asyncio.run(base())

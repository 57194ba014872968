"""The demo: real tasks through a broker and an endpoint of its own, every result checked.

`orbit demo`, scripts/demo and `python -m orbit_zmq.demo` all come here. It uses what any user's script could use, writes
nothing outside a temporary directory, and must leave no process behind.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import orbit_zmq
from orbit_zmq.errors import OrbitError

TASKS = 4_000
PATIENCE_S = 120.0  # for one kind of tasks, on a machine that is busy with something else
ONE_AT_A_TIME = 50

Task = dict[str, Any]
Tick = Callable[[], None]


@dataclass(slots=True)
class Kind:
    """Tasks of one kind, and for each what its result has to have."""

    name: str
    tasks: list[Task]
    wanted: list[dict[str, Any]]
    together: bool = True  # all in one stream, or each sent when the one before has come back


@dataclass(slots=True)
class Tally:
    """What came back."""

    name: str
    tasks: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def take(self, result: Task, wanted: dict[str, Any], latency_s: float) -> None:
        """Check one result."""
        self.tasks += 1
        self.latencies_s.append(latency_s)
        for name, value in wanted.items():
            if result[name] != value:
                self.failures.append(f"{result['uid']}: {name} is {result[name]!r}, expected {value!r}: {result}")
                return

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s) or [0.0]
        return 1_000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def kinds(tasks: int) -> list[Kind]:
    """About that many tasks: mostly functions, and a few executables, since each of those is a process."""
    functions, paths, programs = max(1, tasks * 6 // 10), max(1, tasks * 35 // 100), max(1, tasks * 5 // 100)

    def square(number: int) -> tuple[int, int]:  # a function of this script, which the endpoint has never seen
        return number, number * number

    return [
        Kind(
            "functions of this script",
            [{"function": square, "args": (number,)} for number in range(functions)],
            [{"state": "DONE", "return_value": (number, number * number)} for number in range(functions)],
        ),
        Kind(
            "functions by name",
            [{"function": "math:gcd", "args": [number, 12]} for number in range(paths)],
            [{"state": "DONE", "return_value": _gcd(number, 12)} for number in range(paths)],
        ),
        Kind(
            "executables",
            [{"executable": "/bin/echo", "arguments": [f"line {number}"]} for number in range(programs)],
            [{"state": "DONE", "stdout": f"line {number}\n", "exit_code": 0} for number in range(programs)],
        ),
        Kind(
            "one at a time",
            [{"function": square, "args": (number,)} for number in range(ONE_AT_A_TIME)],
            [{"state": "DONE", "return_value": (number, number * number)} for number in range(ONE_AT_A_TIME)],
            together=False,
        ),
    ]


def _gcd(left: int, right: int) -> int:
    while right:
        left, right = right, left % right
    return left


def run(rhapsody: Any, kind: Kind, tick: Tick) -> Tally:
    """Send the tasks of one kind and check their results as they come."""
    tally = Tally(kind.name)
    started = time.perf_counter()
    if kind.together:
        wanted = dict(zip((answer["uid"] for answer in rhapsody.submit_tasks(kind.tasks)), kind.wanted, strict=True))
        for result in rhapsody.as_completed(wanted, timeout=PATIENCE_S):
            tally.take(result, wanted[result["uid"]], time.perf_counter() - started)
            tick()
    else:
        for task, expected in zip(kind.tasks, kind.wanted, strict=True):
            sent = time.perf_counter()
            (result,) = rhapsody.wait_tasks(rhapsody.submit_tasks([task]), timeout=PATIENCE_S)
            tally.take(result, expected, time.perf_counter() - sent)
            tick()
    tally.seconds = time.perf_counter() - started
    return tally


def show_a_failure(rhapsody: Any, console: Console) -> bool:
    """Run a task that fails, and show that its error is data; False when it is not what it should be."""

    def read_sample(name: str) -> str:
        raise LookupError("no sample", name)

    (result,) = rhapsody.wait_tasks(rhapsody.submit_tasks([{"function": read_sample, "args": ("b7",)}]), timeout=PATIENCE_S)
    error = result["exception"]
    console.print(f"A task that fails is data: state {result['state']}, exception {error!r}", markup=False, soft_wrap=True)
    for line in result["traceback"].splitlines():
        console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    return result["state"] == "FAILED" and isinstance(error, LookupError) and error.args == ("no sample", "b7")


@contextmanager
def progress(console: Console, total: int) -> Iterator[Tick]:
    """A bar on a terminal; ten plain lines elsewhere."""
    if console.is_terminal:
        columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("tasks", total=total)
            yield lambda: bar.advance(task)
        return
    done, step = 0, max(1, total // 10)

    def tick() -> None:
        nonlocal done
        done += 1
        if done % step == 0 or done == total:
            console.print(f"{done} of {total} tasks")

    yield tick


def closing_table(tallies: Sequence[Tally]) -> Table:
    table = Table(title="submit to result, through broker and endpoint")
    table.add_column("tasks of the kind")
    for heading in ("tasks", "failures", "tasks/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for tally in tallies:
        table.add_row(
            tally.name,
            str(tally.tasks),
            str(len(tally.failures)),
            f"{tally.tasks / tally.seconds:,.0f}" if tally.seconds else "-",
            f"{tally.percentile_ms(0.50):.1f}",
            f"{tally.percentile_ms(0.99):.1f}",
        )
    return table


def demonstrate(tasks: int, console: Console) -> bool:
    """Everything, from starting a broker to stopping it; whether all of it went as it should."""
    started = time.perf_counter()
    with orbit_zmq.local(plugins="rhapsody", name="demo") as orbit, orbit.client() as client:
        console.print(f"A broker and the endpoint 'demo' run after {time.perf_counter() - started:.1f} s.")
        rhapsody = client.get_plugin("demo", "rhapsody", backends=["concurrent"])
        planned = kinds(tasks)
        with progress(console, sum(len(kind.tasks) for kind in planned)) as tick:
            tallies = [run(rhapsody, kind, tick) for kind in planned]
        error_is_data = show_a_failure(rhapsody, console)
        rhapsody.close()
    complete = all(tally.tasks == len(kind.tasks) for tally, kind in zip(tallies, planned, strict=True))
    failures = [failure for tally in tallies for failure in tally.failures]
    console.print(closing_table(tallies))
    for failure in failures[:5]:
        console.print(f"wrong: {failure}", markup=False, soft_wrap=True)
    good = complete and not failures and error_is_data
    verdict = "All results are right, and everything is stopped." if good else "Something is wrong; see above."
    console.print(f"{verdict} {time.perf_counter() - started:.1f} s in all.")
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0 when every check held, 1 when one did not."""
    parser = argparse.ArgumentParser(prog="orbit demo", description="Stream tasks through a broker and an endpoint.")
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N", help=f"about how many tasks (default {TASKS})")
    chosen = parser.parse_args(arguments)
    if chosen.tasks < 1:
        parser.error("--tasks is at least 1")
    console = Console()
    try:
        return 0 if demonstrate(chosen.tasks, console) else 1
    except OrbitError as error:
        console.print(f"The demo failed: {error}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

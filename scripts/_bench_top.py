"""What `orbit top` costs: the processor time of its process on a terminal, as a share of one core.

Twice: with one endpoint that does nothing, and with many in a few processes. The bounds are 1 % and 10 %. The broker's own
share stands beside them. Figures are of processor time, so that a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
from _bench_bare import child, own_place, said

from orbit_zmq.measuring import Comparison, Report

WARM_UP_S = 5.0
SHOWN_S = 60.0  # for the screen to show all of them
PROCESSES = 4
BOUNDS = {"idle": 0.01, "many": 0.10}  # of one core


def serve(url: str, first: str, count: str) -> None:
    """Endpoints of this process, until standard input is closed."""
    from orbit_zmq import Endpoint

    with ExitStack() as stack:
        for number in range(int(first), int(first) + int(count)):
            stack.enter_context(Endpoint(f"hpc{number:03}", url=url, plugins=["math"]))
        print("ready", flush=True)
        sys.stdin.read()


@contextmanager
def endpoints(url: str, count: int, processes: int) -> Iterator[None]:
    share = -(-count // processes)
    with ExitStack() as stack:
        started = [
            stack.enter_context(child("serve", url, str(first), str(min(share, count - first)), script=__file__))
            for first in range(0, count, share)
        ]
        for one in started:
            said(one)
        yield


@contextmanager
def top_on_a_terminal(environment: dict[str, str], drawn: list[bytes]) -> Iterator[psutil.Process]:
    """`orbit top`, refreshed once a second, and somebody who reads what it draws."""
    near, far = pty.openpty()
    command = [sys.executable, "-m", "orbit_zmq.cli", "top"]
    environment = {**environment, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(command, stdin=far, stdout=far, stderr=far, env=environment)
    threading.Thread(target=_drain, args=(near, drawn), daemon=True).start()
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()
        os.close(far)


def _drain(near: int, drawn: list[bytes]) -> None:
    try:
        while part := os.read(near, 65_536):
            drawn.append(part)
    except OSError:
        pass


def _is_shown(drawn: list[bytes], count: int) -> bool:
    shown = b"".join(drawn)
    return b"hpc000" in shown and b"unreachable" not in shown and (count <= 20 or b"... and " in shown)


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def shares(count: int, processes: int, seconds: float) -> dict[str, float]:
    """The shares of `orbit top` and of the broker over so many seconds."""
    from orbit_zmq.children import environment_of_child, start_broker

    with own_place(), ExitStack() as stack:
        environment = environment_of_child(ORBIT_LOG_LEVEL="error")
        broker = start_broker(environment=environment)
        stack.callback(broker.end)
        stack.enter_context(endpoints(f"ipc://{broker.ready['ipc']}", count, processes))
        drawn: list[bytes] = []
        watched = {"top": stack.enter_context(top_on_a_terminal(environment, drawn)), "broker": psutil.Process(broker.pid)}
        ends_at = time.monotonic() + SHOWN_S
        while not _is_shown(drawn, count):
            if time.monotonic() > ends_at:
                raise RuntimeError(f"the screen does not show them: {b''.join(drawn)[-2000:]!r}")
            time.sleep(0.1)
        time.sleep(WARM_UP_S)
        began, before = time.monotonic(), {name: used_s(process) for name, process in watched.items()}
        time.sleep(seconds)
        elapsed_s = time.monotonic() - began
        return {name: (used_s(process) - before[name]) / elapsed_s for name, process in watched.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoints", type=int, default=300, help="how many are many (300)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each is measured (20); --pairs has no meaning here"
    )


def measure(options: argparse.Namespace) -> Report:
    report = Report("top")
    for name, count, processes in (("idle", 1, 1), ("many", options.endpoints, PROCESSES)):
        found = shares(count, processes, options.seconds)
        of = f"of a core, {count} endpoint{'s' * (count > 1)}"
        report.comparisons.append(Comparison("orbit top", of, [found["top"]], at_most=BOUNDS[name]))
        report.comparisons.append(Comparison("the broker meanwhile", of, [found["broker"]]))
    return report


if __name__ == "__main__":
    serve(*sys.argv[2:])

"""What `orbit top` costs: the processor time of its process on a terminal, as a share of one core.

Twice: with one endpoint that does nothing, and with many in a few processes. The bounds are 1 % and 10 %. The broker's own
share stands beside them. Figures are of processor time, so that a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

WARM_UP_S = 5.0
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
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "serve", url, str(first), str(min(share, count - first))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in range(0, count, share)
    ]
    try:
        for one in started:
            assert one.stdout is not None
            one.stdout.readline()
        yield
    finally:
        for one in started:
            one.kill()
            one.communicate()


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


def used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(count: int, processes: int, seconds: float) -> dict[str, float]:
    """The shares of `orbit top` and of the broker over so many seconds."""
    from orbit_zmq.children import environment_of_child, start_broker

    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as place, ExitStack() as stack:
        for name in ("STATE", "RUNTIME", "CONFIG"):
            os.environ[f"ORBIT_{name}_DIR"] = str(Path(place) / name.lower())
        environment = environment_of_child(ORBIT_LOG_LEVEL="error")
        broker = start_broker(environment=environment)
        stack.callback(broker.end)
        stack.enter_context(endpoints(f"ipc://{broker.ready['ipc']}", count, processes))
        drawn: list[bytes] = []
        watched = {"top": stack.enter_context(top_on_a_terminal(environment, drawn)), "broker": psutil.Process(broker.pid)}
        time.sleep(WARM_UP_S)
        began, before = time.monotonic(), {name: used_s(process) for name, process in watched.items()}
        time.sleep(seconds)
        elapsed_s = time.monotonic() - began
        shown = b"".join(drawn)
        if b"hpc000" not in shown or b"unreachable" in shown or (count > 20 and b"... and 2" not in shown):
            raise RuntimeError(f"the screen does not show them: {shown[-2000:]!r}")
        return {name: (used_s(process) - before[name]) / elapsed_s for name, process in watched.items()}


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=300, help="how many are many (300)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each is measured (20)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "idle": measure(1, 1, options.seconds),
        "many": measure(options.endpoints, PROCESSES, options.seconds),
    }
    met = all(found[name]["top"] <= bound for name, bound in BOUNDS.items())
    if options.json:
        print(json.dumps({**found, "endpoints": options.endpoints, "met": met, "cpus": os.cpu_count()}))
    else:
        for name, shares in found.items():
            print(f"{name}: top {shares['top']:.2%} of a core (at most {BOUNDS[name]:.0%}), broker {shares['broker']:.2%}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

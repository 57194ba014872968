"""Many endpoints and clients at one broker, all in a few processes, over TCP with CURVE.

Calls: all clients together make so many calls a second, each at its own pace, of all endpoints in turn; the 99th percentile
stands beside the median of a bare echo while all of them are connected. Events: one endpoint tells so many a second to many
subscribers, each a client of its own; what they have neither heard nor been told that they missed is lost without a word.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from _bench_bare import bare_echo, child, deployment, said
from chaoslab.world import raise_file_limit

from orbit_zmq.measuring import Comparison, Report, alternate, block, p99

AT_MOST = 40.0  # bare echoes
TURNS = 300  # of the bare echo, in each block
ENDPOINT_PROCESSES, CLIENT_PROCESSES = 10, 4
SETTLE_S = 60.0  # for the last event to be heard, or be said to be missed
START_S = 300.0  # for a thousand endpoints on a machine that is busy with something else


async def call(url: str, first: str, clients: str, endpoints: str) -> None:
    """Clients that make calls, `RATE SECONDS` at a time; the answer is how long each took, in seconds."""
    from orbit_zmq import AsyncClient

    raise_file_limit()
    names = [_name(number) for number in range(int(endpoints))]
    async with AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(AsyncClient(url=url)) for _ in range(int(clients))]
        for number, client in enumerate(crowd):
            random.Random(int(first) + number).shuffle(names)
            await client.call(names[0], "math", "version")
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            rate, seconds = map(float, line.split())
            took: list[float] = []
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(crowd):
                    group.create_task(_pace(client, names, rate / len(crowd), seconds, number / rate, took))
            print(json.dumps(took), flush=True)


async def _pace(client: Any, names: list[str], rate: float, seconds: float, after_s: float, took: list[float]) -> None:
    """Calls at a pace. One that had to wait for the one before counts from when it was due."""
    due = time.perf_counter() + after_s
    for number in range(int(rate * seconds)):
        is_late = time.perf_counter() > due
        await asyncio.sleep(due - time.perf_counter())
        began = due if is_late else time.perf_counter()
        await client.call(names[(number * 7919 + int(after_s * 1e4)) % len(names)], "math", "version")
        took.append(time.perf_counter() - began)
        due += 1 / rate


async def listen(url: str, subscribers: str) -> None:
    """Subscribers that count; `TOLD` waits until each knows of so many more, and answers what became of them."""
    from orbit_zmq import AsyncClient

    raise_file_limit()
    heard, missed = [0] * int(subscribers), [0] * int(subscribers)
    async with AsyncExitStack() as stack:
        for number in range(int(subscribers)):
            client = await stack.enter_async_context(AsyncClient(url=url))

            def hear(*_: Any, number: int = number) -> None:
                heard[number] += 1

            def miss(_: str, count: int, number: int = number) -> None:
                missed[number] += count

            await client.subscribe(hear, topic="flood", on_missed=miss)
        print("ready", flush=True)
        told = 0
        while line := await asyncio.to_thread(sys.stdin.readline):
            told += int(line)
            ends_at = time.monotonic() + SETTLE_S
            while sum(heard) + sum(missed) < told * len(heard) and time.monotonic() < ends_at:  # noqa: ASYNC110 - two counts
                await asyncio.sleep(0.05)
            lost = sum(max(0, told - one - other) for one, other in zip(heard, missed, strict=True))
            print(json.dumps({"heard": sum(heard), "missed": sum(missed), "lost": lost}), flush=True)


@contextmanager
def endpoints(url: str, count: int) -> Iterator[None]:
    """So many endpoints in a few processes."""
    from orbit_zmq.children import Child, environment_of_child

    shares = [[_name(number) for number in range(first, count, ENDPOINT_PROCESSES)] for first in range(ENDPOINT_PROCESSES)]
    environment = environment_of_child(ORBIT_LOG_LEVEL="error")
    log = Path(os.environ["ORBIT_STATE_DIR"]).with_name("crowd.log")
    with ExitStack() as stack:
        crowds = []
        for names in filter(None, shares):
            arguments = ["--url", url, "--names", ",".join(names), "--plugins", "math"]
            crowds.append(Child("chaoslab.crowd", arguments, environment, log))
            stack.callback(crowds[-1].end)
        for crowd in crowds:
            crowd.wait_until_ready(START_S)
        yield


@contextmanager
def crowds(mode: str, url: str, count: int, *more: object) -> Iterator[list[subprocess.Popen[str]]]:
    """So many clients in a few processes."""
    with ExitStack() as stack:
        started = []
        for number in range(CLIENT_PROCESSES):
            share = len(range(number, count, CLIENT_PROCESSES))
            if share:
                words = [str(word) for word in ([url, number, share, *more] if mode == "call" else [url, share])]
                started.append(stack.enter_context(child(mode, *words, script=__file__)))
        for one in started:
            said(one)
        yield started


def together(processes: list[subprocess.Popen[str]], *words: object) -> list[Any]:
    """Ask all of them at once."""
    for one in processes:
        assert one.stdin is not None
        print(*words, file=one.stdin, flush=True)
    return [json.loads(said(one)) for one in processes]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoints", type=int, default=1_000, help="(1,000)")
    parser.add_argument("--clients", type=int, default=200, help="that make calls (200)")
    parser.add_argument("--calls", type=float, default=1_000.0, help="a second, of all clients together (1,000)")
    parser.add_argument("--subscribers", type=int, default=1_000, help="(1,000)")
    parser.add_argument("--events", type=float, default=50.0, help="a second, each to every subscriber (50)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block of calls, and twice as long of events (5)")


def measure(options: argparse.Namespace) -> Report:
    raise_file_limit()
    report = Report("scale")
    os.environ["ORBIT_LOG_LEVEL"] = "error"
    with deployment("flood", ["--plugin-module", "_flood"]) as (client, pids):
        url = os.environ["ORBIT_URL"]
        with endpoints(url, options.endpoints), crowds("call", url, options.clients, options.endpoints) as processes:
            report.comparisons.append(calls(processes, options))
            report.comparisons.append(idle(pids["broker"], options))
        with crowds("listen", url, options.subscribers) as processes:
            report.comparisons += events(client, processes, options)
    return report


def calls(processes: list[subprocess.Popen[str]], options: argparse.Namespace) -> Comparison:
    """Alternating blocks of a bare echo and of calls."""

    def ours() -> float:
        took = together(processes, options.calls / len(processes), options.seconds)
        return p99([one for share in took for one in share]) * 1e3

    with bare_echo() as echo:
        block(echo, TURNS)
        ours()
        found = alternate(options.pairs, ours, lambda: statistics.median(block(echo, TURNS)) * 1e3)
    what = f"{options.calls:,.0f} calls/s of {options.clients} clients to {options.endpoints:,} endpoints, p99"
    return Comparison(what, "ms", *found, "bare echo, p50", at_most=AT_MOST)


def idle(pid: int, options: argparse.Namespace) -> Comparison:
    """What the broker takes of a core while all are connected and nobody calls."""
    process = psutil.Process(pid)
    process.cpu_percent()
    share = process.cpu_percent(options.seconds) / 100
    return Comparison(f"broker of {options.endpoints:,} endpoints while nobody calls", "of a core", [share])


def events(client: Any, processes: list[subprocess.Popen[str]], options: argparse.Namespace) -> list[Comparison]:
    """One endpoint tells; what became of it at all subscribers."""
    count = max(1, int(options.events * options.seconds * 2))
    client.get_plugin("bench", "flood").tell(count, options.events)
    told = count * options.subscribers
    answers = together(processes, count)
    found = {key: sum(one[key] for one in answers) for key in ("heard", "missed", "lost")}
    what = f"{options.events:g} events/s to {options.subscribers:,} subscribers, {told:,} in all"
    return [
        Comparison(f"{what}: heard", "events", [found["heard"]]),
        Comparison(f"{what}: said to be missed", "events", [found["missed"]]),
        Comparison(f"{what}: lost without a word", "events", [found["lost"]], at_most=0),
    ]


def _name(number: int) -> str:
    return f"e{number:04}"


CHILDREN: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"call": call, "listen": listen}

if __name__ == "__main__":
    asyncio.run(CHILDREN[sys.argv[1]](*sys.argv[2:]))

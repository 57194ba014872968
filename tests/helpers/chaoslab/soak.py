"""The soak: steady work for a long time, after which nobody has grown. `scripts/soak` calls `main`.

Calls small and large, tasks, events, sessions and connections that come and go. Memory is read all the time and compared
between a quarter of the run and its end; objects and open files are counted when nothing is open, before and after.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from lab import within

from chaoslab.world import World, say
from orbit_zmq import Client
from orbit_zmq.allocator import limit_arenas
from orbit_zmq.rules.ended import CALLERS

SAMPLE_S = 1.0
WARM_UP = 0.25  # of the run, after which nothing may grow
GROWTH_MB = 2.0
OBJECTS = 500  # that caches may keep
ENDED_IDS = 10_000  # of sessions that an endpoint still tells closed from unknown
WORKERS = 4
TURNS = 50  # of one session
GUEST_TURNS = 20  # after which another client comes, with a session of its own
FILL_BATCHES, FILL_TASKS = 12, 10_000  # a stream of events keeps 8 MiB


@dataclass(slots=True)
class Soak:
    """What was read."""

    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by process: (seconds, MB)
    before: dict[str, dict[str, int]] = field(default_factory=dict)
    after: dict[str, dict[str, int]] = field(default_factory=dict)
    turns: int = 0
    errors: list[str] = field(default_factory=list)

    def growth_mb(self, name: str, duration_s: float) -> float:
        """From the median around a quarter of the run to the median at its end."""
        width = max(5.0, 0.05 * duration_s)
        early = [mb for at, mb in self.memory[name] if abs(at - WARM_UP * duration_s) <= width]
        late = [mb for at, mb in self.memory[name] if at >= duration_s - 2 * width]
        return statistics.median(late) - statistics.median(early)


def run(duration_s: float, place: Path, verbose: bool = False) -> Soak:
    """Work that long and answer what was read."""
    soak = Soak()
    with within(place), World(place) as world:
        world.start_broker()
        world.start_endpoint("hpc1", on_line=False)
        with Client(url=world.tcp) as client:
            _fill(client, world)
            _work_once(client, world, itertools.count(), Soak(), threading.Event())
            soak.before = _census(client, world)
            began, stop = time.monotonic(), threading.Event()
            numbers = itertools.count()
            workers = [threading.Thread(target=_work, args=(client, world, numbers, soak, stop)) for _ in range(WORKERS)]
            for worker in workers:
                worker.start()
            _sample(world, soak, began, duration_s, verbose)
            stop.set()
            for worker in workers:
                worker.join(60)
            time.sleep(2.0)  # what was closed is gone once the other side has heard of it
            soak.after = _census(client, world)
    return soak


def _fill(client: Client, world: World) -> None:
    """What an endpoint keeps for a while, events above all, is full from the start: it may not count as growth."""
    with client.get_plugin("hpc1", "rhapsody", backends=["noop"]) as session:
        for _ in range(FILL_BATCHES):
            session.wait_tasks(session.submit_tasks([{"executable": "/bin/true"}] * FILL_TASKS), timeout=60)
    for _ in range(ENDED_IDS):
        client.get_plugin("hpc1", "chaos").unregister_session()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda number: _come_and_go(world, f"f{number}"), range(CALLERS)))


def _come_and_go(world: World, key: str) -> None:
    with Client(url=world.tcp) as guest:
        guest.call("hpc1", "chaos", "once", {"key": key, "number": 0, "padding": b"", "size": 0})


def _work(client: Client, world: World, numbers: Iterator[int], soak: Soak, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            _work_once(client, world, numbers, soak, stop)
        except Exception as error:
            soak.errors.append(repr(error))


def _work_once(client: Client, world: World, numbers: Iterator[int], soak: Soak, stop: threading.Event) -> None:
    """One session; what it has kept of its tasks goes with it."""
    with client.get_plugin("hpc1", "rhapsody", backends=["concurrent"]) as session:
        for number in itertools.islice(numbers, TURNS):
            if stop.is_set():
                return
            _turn(client, session, world, number)
            soak.turns += 1


def _turn(client: Client, session: Any, world: World, number: int) -> None:
    """A bit of everything."""
    key = f"s{number}"
    for _ in range(10):
        client.call("hpc1", "chaos", "look", {"key": key, "number": number})
    size = 200_000 if number % 5 == 0 else 10
    client.call("hpc1", "chaos", "once", {"key": key, "number": number, "padding": bytes(size), "size": size})
    session.wait_tasks(session.submit_tasks([{"function": "math:gcd", "args": [number, n]} for n in range(20)]), timeout=60)
    if number % GUEST_TURNS == 0:
        with Client(url=world.tcp) as other, other.get_plugin("hpc1", "rhapsody", backends=["noop"]) as another:
            subscription = other.subscribe(lambda *event: None)
            another.wait_tasks(another.submit_tasks([{"executable": "/bin/true"}]), timeout=60)
            subscription.unsubscribe()


def _census(client: Client, world: World) -> dict[str, dict[str, int]]:
    gc.collect()
    status = client.broker_status()
    broker = {"files": status["open_files"], "participants": len(status["participants"]), "sessions": status["sessions"]}
    broker |= {"calls": status["calls"]["in_flight"], "held": status["calls"]["held"]}
    endpoint = client.call("hpc1", "chaos", "census")
    own = {"objects": len(gc.get_objects()), "files": len(os.listdir("/proc/self/fd"))}
    return {"broker": broker, "hpc1": endpoint, "client": own}


def _sample(world: World, soak: Soak, began: float, duration_s: float, verbose: bool) -> None:
    processes = {"broker": psutil.Process(world.children["broker"].pid), "hpc1": psutil.Process(world.children["hpc1"].pid)}
    processes["client"] = psutil.Process()
    soak.memory = {name: [] for name in processes}
    told = 0
    while (at := time.monotonic() - began) < duration_s:
        for name, process in processes.items():
            soak.memory[name].append((at, process.memory_info().rss / 2**20))
        if verbose and at >= told * 60:
            told += 1
            latest = {name: round(values[-1][1], 1) for name, values in soak.memory.items()}
            say(f"{at / 60:5.1f} min  {soak.turns} turns  memory in MB: {latest}")
        time.sleep(SAMPLE_S)


def problems(soak: Soak, duration_s: float) -> list[str]:
    """What is not as it should be."""
    found = [f"{name} grew by {mb:.2f} MB" for name in soak.memory if (mb := soak.growth_mb(name, duration_s)) > GROWTH_MB]
    for name, before in soak.before.items():
        for what, count in before.items():
            allowed = OBJECTS if what == "objects" else 0
            if soak.after[name][what] > count + allowed:
                found.append(f"{name}: {what} were {count} and are {soak.after[name][what]}")
    return found + soak.errors[:10]


def main() -> int:
    """The command; 0 when nobody has grown."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Steady work for a long time; nobody may grow.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (5)")
    options = parser.parse_args()
    limit_arenas()  # as our own programs do: what is compared is what is held, and not what glibc keeps for ended threads
    place = Path(tempfile.mkdtemp(prefix="orbit-soak-"))
    try:
        soak = run(options.minutes * 60, place, verbose=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    found = problems(soak, options.minutes * 60)
    growth = {name: round(soak.growth_mb(name, options.minutes * 60), 2) for name in soak.memory}
    print(f"{soak.turns} turns; growth in MB from a quarter of the time to its end: {growth} (at most {GROWTH_MB:g})")
    print(f"before: {soak.before}")
    print(f"after:  {soak.after}")
    for problem in found:
        print(f"GREW: {problem}")
    print(json.dumps({"minutes": options.minutes, "growth_mb": growth, "good": not found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

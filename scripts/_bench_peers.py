"""The product beside others that run tasks somewhere else, in one run.

Each peer has an environment of its own, made once below the user's cache directory, a HOME of its own, and a script of ours
that drives it. Blocks of the peer and of the product alternate, so that what else the machine does falls on both: many no-op
tasks at once, and one after the other. Both ways of the product are measured as the peer's are: through its own client, and
with Rhapsody's task objects where the peer is a backend of Rhapsody.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _bench import product, quartiles
from _bench_stream import dicts, programs, stream

SINGLES = 5  # one task at a time, in each pair
BLOCK_S = 120.0  # a peer that takes longer for a block hangs
SETUP_S = 600.0


@dataclass(frozen=True)
class Peer:
    """Another product: what to install, what drives it, the ways to do so, and what the product has to reach beside it."""

    requirements: tuple[str, ...]
    script: str
    ways: dict[str, Callable[[int], list[Any]]]  # each with the product's tasks for the same
    tasks: int  # at once
    rate_at_least: float
    latency_at_most: float


PEERS = {
    "radical.orbit": Peer(
        ("radical.orbit==0.7.0", "rhapsody-py", "psij-python", "opentelemetry-sdk"),
        "_peer_radical_orbit.py",
        {"client": dicts, "rhapsody": programs},
        tasks=4_096,  # with 16,384 it never returns
        rate_at_least=4.0,
        latency_at_most=0.01,
    ),
}

Run = Callable[[str, int], float]  # way, number of tasks; seconds


def environment_of(name: str, peer: Peer) -> Path:
    """The Python of a peer's environment, which is made where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "orbit-zmq-bench" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = place / "bin" / "python", place / ".stamp"
    wanted = "\n".join(peer.requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {place} (once) ...", file=sys.stderr)
        venv.create(place, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.requirements]
        subprocess.run(command, check=True, timeout=SETUP_S)
        stamp.write_text(wanted)
    return python


@contextmanager
def running(name: str, peer: Peer) -> Iterator[Run]:
    """A peer that waits for blocks; TimeoutError where it hangs."""
    python = environment_of(name, peer)
    with tempfile.TemporaryDirectory(prefix="orbit-peer-") as home, ExitStack() as stack:
        command = [str(python), str(Path(__file__).with_name(peer.script)), home]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=home
        )
        stack.callback(process.wait)
        asks, said = process.stdin, process.stdout
        assert asks is not None and said is not None
        stack.callback(asks.close)  # it ends its own processes then
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(said, answers), daemon=True).start()

        def answer() -> str:
            try:
                line = answers.get(timeout=BLOCK_S)
            except queue.Empty:
                process.terminate()
                raise TimeoutError(f"{name} does not answer within {BLOCK_S:g} s") from None
            if not line:
                raise RuntimeError(f"{name} has ended")
            return line

        def run(way: str, tasks: int) -> float:
            asks.write(f"{way} {tasks}\n")
            asks.flush()
            return float(answer())

        while answer() != "ready\n":
            pass
        yield run


def _read(said: Any, answers: queue.SimpleQueue[str]) -> None:
    for line in said:
        answers.put(line)
    answers.put("")


def compare(peer: Peer, way: str, theirs: Run, plugin: Any, pairs: int) -> dict[str, Any]:
    """Alternating blocks, of many tasks at once and of one at a time."""
    make = peer.ways[way]
    for count in (1, peer.tasks):
        theirs(way, count)
        stream(plugin, make(count))
    many: list[tuple[float, float]] = []
    one: list[tuple[float, float]] = []
    for _ in range(pairs):
        many.append((theirs(way, peer.tasks), stream(plugin, make(peer.tasks))))
        their_s = statistics.median(theirs(way, 1) for _ in range(SINGLES))
        one.append((their_s, statistics.median(stream(plugin, make(1)) for _ in range(SINGLES))))
    rate = quartiles([their_s / our_s for their_s, our_s in many])
    latency = quartiles([our_s / their_s for their_s, our_s in one])
    return {
        "tasks": peer.tasks,
        "rate": {**rate, "at_least": peer.rate_at_least},
        "latency": {**latency, "at_most": peer.latency_at_most},
        "met": rate["lower_quartile"] >= peer.rate_at_least and latency["upper_quartile"] <= peer.latency_at_most,
        "their_per_s": peer.tasks / statistics.median(their_s for their_s, _ in many),
        "our_per_s": peer.tasks / statistics.median(our_s for _, our_s in many),
        "their_latency_ms": statistics.median(their_s for their_s, _ in one) * 1e3,
        "our_latency_ms": statistics.median(our_s for _, our_s in one) * 1e3,
    }


def show(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for name, ways in found["peers"].items():
        for way, one in ways.items():
            rate, latency = one["rate"], one["latency"]
            lines.append(
                f"{name}, {way}: {rate['median']:.1f} times its rate (lower quartile {rate['lower_quartile']:.1f}, at least "
                f"{rate['at_least']:g}) at {one['tasks']} tasks, {one['our_per_s']:.0f}/s beside {one['their_per_s']:.0f}/s; "
                f"{latency['median']:.4f} of its latency (upper quartile {latency['upper_quartile']:.4f}, at most "
                f"{latency['at_most']:g}), {one['our_latency_ms']:.2f} ms beside {one['their_latency_ms']:.0f} ms"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=sorted(PEERS), action="append", help="this one alone; may be repeated")
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks, two at least (11)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    found: dict[str, Any] = {"measure": "peers", "pairs": options.pairs, "peers": {}}
    with product("rhapsody") as client:
        plugin = client.get_plugin("bench", "rhapsody", backends=["noop"])
        for name in options.peer or PEERS:
            peer = PEERS[name]
            with running(name, peer) as theirs:
                found["peers"][name] = {way: compare(peer, way, theirs, plugin, options.pairs) for way in peer.ways}
        plugin.close()
    found["met"] = all(one["met"] for ways in found["peers"].values() for one in ways.values())
    print(json.dumps({**found, "cpus": os.cpu_count()}) if options.json else show(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""The product beside others that run tasks somewhere else, in one run.

Each peer has an environment of its own, made once below the user's cache directory, a HOME of its own, and a script of ours
that drives it. Many tasks at once, and one after the other: functions that return their argument beside those with two
workers, through our `Executor.map` with a chunk size of 1; beside radical.orbit tasks of the backend noop, through both sides'
own client and with Rhapsody's task objects. A peer that cannot be installed or does not answer is a line with the reason.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from _bench_bare import product
from _bench_stream import dicts, programs, same, stream

from orbit_zmq.measuring import Comparison, Report

SINGLES = 5  # one task at a time, in each pair
BLOCK_S = 120.0  # a peer that takes longer for a block hangs
SETUP_S = 600.0
END_S = 30.0

Run = Callable[[int], float]  # number of tasks; seconds


@dataclass(frozen=True)
class Peer:
    """Another product: what to install, what drives it, the ways to do so with ours for each, and what ours has to reach."""

    requirements: tuple[str, ...]
    script: str
    ways: dict[str, str]
    tasks: int  # at once
    rate_at_least: float
    latency_at_most: float | None = None


PEERS = {
    "radical.orbit": Peer(
        ("radical.orbit==0.7.0", "rhapsody-py", "psij-python", "opentelemetry-sdk"),
        "_peer_radical_orbit.py",
        {"client": "dicts", "rhapsody": "objects"},
        tasks=4_096,  # with 16,384 it never returns
        rate_at_least=4.0,
        latency_at_most=0.01,
    ),
    "distributed": Peer(("distributed",), "_peer_dask.py", {"map": "executor"}, tasks=10_000, rate_at_least=5.0),
    "parsl": Peer(("parsl",), "_peer_parsl.py", {"map": "executor"}, tasks=10_000, rate_at_least=5.0),
    "ipyparallel": Peer(("ipyparallel",), "_peer_ipyparallel.py", {"map": "executor"}, tasks=10_000, rate_at_least=5.0),
}


class PeerFailed(Exception):
    """Why a peer cannot be measured."""


def environment_of(name: str, peer: Peer) -> Path:
    """The Python of a peer's environment, which is made where there is none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "orbit-zmq-bench" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python, stamp = place / "bin" / "python", place / ".stamp"
    wanted = "\n".join(peer.requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {place} (once) ...", file=sys.stderr)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.requirements]
        try:
            venv.create(place, clear=True, with_pip=True)
            subprocess.run(command, check=True, timeout=SETUP_S, capture_output=True, text=True)
            stamp.write_text(wanted)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or b"") or str(error)
            text = said if isinstance(said, str) else said.decode(errors="replace")
            raise PeerFailed(f"cannot be installed: {text.strip().splitlines()[-1]}") from None
        except (subprocess.TimeoutExpired, OSError) as error:
            raise PeerFailed(f"cannot be installed: {error}") from None
    return python


def version_of(name: str, python: Path) -> str:
    command = [str(python), "-c", f"from importlib.metadata import version; print(version({name!r}))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Driven:
    """The script of a peer, which waits for blocks; PeerFailed where it hangs or has ended."""

    def __init__(self, python: Path, script: str, home: str, log: Path) -> None:
        own = Path(__file__).parent
        path = os.pathsep.join((str(python.parent), os.environ["PATH"]))  # some peers look for their own scripts there
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                [str(python), str(own / script), home],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                cwd=home,
                env={**os.environ, "HOME": home, "PATH": path, "PYTHONPATH": str(own)},
            )
        self._log = log
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def run(self, way: str, tasks: int) -> float:
        assert self._process.stdin is not None
        try:
            print(way, tasks, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise PeerFailed(f"has ended: {self._last_words()}") from None
        return float(self._answer())

    def wait_until_ready(self) -> None:
        while self._answer() != "ready\n":
            pass

    def end(self) -> None:
        """It ends its own processes when its input is closed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> str:
        try:
            line = self._lines.get(timeout=BLOCK_S)
        except queue.Empty:
            self._process.terminate()
            raise PeerFailed(f"does not answer within {BLOCK_S:g} s") from None
        if not line:
            raise PeerFailed(f"has ended: {self._last_words()}")
        return line

    def _last_words(self) -> str:
        return next(iter(self._log.read_text(errors="replace").strip().splitlines()[-1:]), "it said nothing")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                self._lines.put(line)
        self._lines.put("")


@contextmanager
def running(name: str, peer: Peer, python: Path) -> Iterator[Driven]:
    with tempfile.TemporaryDirectory(prefix="orbit-peer-", ignore_cleanup_errors=True) as home, ExitStack() as stack:
        driven = Driven(python, peer.script, home, Path(home) / "bench.log")
        stack.callback(driven.end)
        driven.wait_until_ready()
        yield driven


@contextmanager
def our_ways() -> Iterator[dict[str, Run]]:
    """The product's ways to do the same."""
    from orbit_zmq import Executor

    with product("rhapsody") as client, ExitStack() as stack:
        plugin = stack.enter_context(client.get_plugin("bench", "rhapsody", backends=["noop"]))
        executor = stack.enter_context(Executor("bench", client=client))

        def mapped(count: int) -> float:
            began = time.perf_counter()
            values = list(executor.map(same, range(count)))
            took_s = time.perf_counter() - began
            assert values == list(range(count))
            return took_s

        yield {
            "dicts": lambda count: stream(plugin, dicts(count)),
            "objects": lambda count: stream(plugin, programs(count)),
            "executor": mapped,
        }


def compare(name: str, peer: Peer, way: str, theirs: Run, ours: Run, pairs: int, tasks: int) -> list[Comparison]:
    """Alternating blocks, of many tasks at once and of one at a time."""
    for count in (1, tasks):
        theirs(count)
        ours(count)
    many: list[tuple[float, float]] = []
    one: list[tuple[float, float]] = []
    for _ in range(pairs):
        many.append((tasks / theirs(tasks), tasks / ours(tasks)))
        their_s = statistics.median(theirs(1) for _ in range(SINGLES))
        one.append((their_s * 1e3, statistics.median(ours(1) for _ in range(SINGLES)) * 1e3))
    rates, times = [list(zip(*found, strict=True)) for found in (many, one)]
    what = f"{tasks:,} tasks, {peer.ways[way]}"
    beside = f"{name}, {way}"
    return [
        Comparison(what, "tasks/s", rates[1], rates[0], beside, at_least=peer.rate_at_least),
        Comparison(f"one task, {peer.ways[way]}", "ms", times[1], times[0], beside, at_most=peer.latency_at_most),
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", choices=sorted(PEERS), action="append", help="this one alone; may be repeated")
    parser.add_argument("--tasks", type=int, help="at once (4,096 beside radical.orbit, 10,000 beside others)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("peers")
    with our_ways() as ours:
        for name in options.peer or PEERS:
            peer = PEERS[name]
            try:
                python = environment_of(name, peer)
                with running(name, peer, python) as driven:
                    for way, our_way in peer.ways.items():
                        theirs = _run(driven, way)
                        found = compare(name, peer, way, theirs, ours[our_way], options.pairs, options.tasks or peer.tasks)
                        report.comparisons += found
                report.notes.append(f"{name} {version_of(name, python)}")
            except PeerFailed as error:
                report.notes.append(f"{name} {error}")
    return report


def _run(driven: Driven, way: str) -> Run:
    return lambda count: driven.run(way, count)

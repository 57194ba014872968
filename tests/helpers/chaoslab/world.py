"""The world that faults happen to: a broker, endpoints and workloads as processes, each behind a line of its own.

The broker is started again on the same addresses and state, as a supervisor would; endpoints, too, under their names.
Histories are written to `place`; what plugins execute comes through a pipe, so that it is written on a full disk as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from lab import directories, lasting_port, wait_until

from chaoslab.history import Record, read_history
from chaoslab.line import Line
from orbit_zmq.children import BROKER, ENDPOINT, Child, environment_of_child

HELPERS = Path(__file__).resolve().parents[1]
PLUGINS = "chaos,rhapsody"
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
END_S = 100.0  # a workload waits that long for its last call


class World:
    """Everything that runs in one directory; `close` ends it."""

    def __init__(self, place: Path, seed: int = 1, log_level: str = "warning") -> None:
        self.place = place
        self.seed = seed
        self.stack = ExitStack()
        self.children: dict[str, Child] = {}
        self.lines: dict[str, Line] = {}
        self.away: list[tuple[float, float]] = []  # when an endpoint was
        self._arguments: dict[str, tuple[str, list[str]]] = {}
        self._faults: dict[str, str] = {}
        self._clock = place / "clock"
        self._pipe = place / "executions.pipe"
        self._taking = threading.Lock()
        self._ends: tuple[int, int] | None = None  # of the pipe and of the file that it is copied to
        self._log_level = log_level
        self.environment = environment_of_child(
            **directories(place),
            ORBIT_LOG_LEVEL=log_level,
            ORBIT_CHAOS_LOG=str(self._pipe),
            ORBIT_CHAOS_CLOCK=str(self._clock),
        )
        self.environment["PYTHONPATH"] = os.pathsep.join(
            (str(HELPERS / "chaosclock"), str(HELPERS), str(HELPERS.parent / "plugins"), self.environment["PYTHONPATH"])
        )
        self._copy_executions()

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for child in self.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)
        for name in sorted(self.children, key=lambda name: name == "broker"):
            self.children[name].end()
        self.stack.close()

    # Processes

    def start_broker(self, *arguments: str, with_line: bool = True) -> Child:
        """The first start, on ports that nobody takes while it is away; `restart("broker")` takes the same ones."""
        self.tcp, events = (f"tcp://127.0.0.1:{lasting_port()}" for _ in range(2))
        broker = self._start("broker", BROKER, ["--tcp", self.tcp, "--events-tcp", events, *arguments])
        self.ipc = f"ipc://{broker.ready['ipc']}"
        return broker

    def start_endpoint(self, name: str, *, on_line: bool = True, plugins: str = PLUGINS) -> Child:
        url = self.line(name).address if on_line else self.ipc
        modules = ["--plugin-module", "orbit_chaosplugin.service"]
        return self._start(name, ENDPOINT, ["--url", url, "--name", name, "--plugins", plugins, *modules])

    def start_workload(
        self, name: str, endpoints: list[str], rate: float, kinds: str = "", *, on_line: bool = True, deadline_s: float = 2.0
    ) -> Child:
        url = self.line(name).address if on_line else self.ipc
        arguments = ["--url", url, "--history", str(self.place / f"{name}.history"), "--endpoints", ",".join(endpoints)]
        arguments += ["--name", name, "--seed", str(self.seed), "--rate", str(rate), "--kinds", kinds]
        arguments += ["--deadline", str(deadline_s)]
        return self._start(name, "chaoslab.workload", arguments)

    def plant(self, name: str, faults: str) -> None:
        """Give fault points to the next process of that name."""
        self._faults[name] = faults

    def start_crowd(self, process: str, names: list[str]) -> Child:
        """Many endpoints in one process, straight to the broker."""
        return self._start(process, "chaoslab.crowd", ["--url", self.ipc, "--names", ",".join(names)])

    def restart(self, name: str) -> Child:
        """Start again what has ended, with the same arguments."""
        self.children[name].end()
        return self._start(name, *self._arguments[name])

    def end_workload(self, name: str) -> None:
        """Have it begin nothing new, and wait until all it began has ended."""
        child = self.children[name]
        assert child._popen.stdin is not None
        child._popen.stdin.close()
        with contextlib.suppress(AssertionError):  # the history says that it did not end
            wait_until(lambda: child.exit_code() is not None, END_S, f"the end of {name}")

    def signal(self, name: str, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.children[name].pid, number)

    def kill(self, name: str) -> None:
        """kill -9, and wait for the end of the process."""
        child = self.children[name]
        self.signal(name, signal.SIGKILL)
        wait_until(lambda: child.exit_code() is not None, 60, f"the end of {name}")

    def terminate(self, name: str) -> None:
        """SIGTERM, and wait for the end of the process."""
        self.signal(name, signal.SIGTERM)
        wait_until(lambda: self.children[name].exit_code() is not None, 60, f"the end of {name}")

    def limit(self, name: str, which: int, soft: int | None) -> None:
        """Change a limit of a running process; None takes it back to the hard one."""
        pid = self.children[name].pid
        with contextlib.suppress(ProcessLookupError):
            hard = resource.prlimit(pid, which)[1]
            resource.prlimit(pid, which, (hard if soft is None else soft, hard))

    def jump_clock(self, seconds: float) -> None:
        """The wall clock of all processes, from now on."""
        self._clock.write_text(str(seconds))

    def line(self, name: str) -> Line:
        """The line between that participant and the broker."""
        if name not in self.lines:
            self.lines[name] = self.stack.enter_context(Line(self.tcp, self.seed))
        return self.lines[name]

    # Histories

    def history(self, name: str) -> list[Record]:
        return list(read_history(self.place / f"{name}.history"))

    def tail(self, name: str, size_bytes: int = 200_000) -> list[Record]:
        """The last records of a history, for whoever looks often."""
        with (self.place / f"{name}.history").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size_bytes))
            lines = file.read().split(b"\n")[1:-1]
        return [json.loads(line) for line in lines]

    def executions(self) -> list[Record]:
        """All that the plugins have written until now."""
        self._take_executions()
        return list(read_history(self.place / "executions"))

    def log_of(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, module: str, arguments: list[str]) -> Child:
        faults = self._faults.pop(name, "")  # of its first start alone
        environment = {**self.environment, "ORBIT_FAULTPOINTS": faults} if faults else self.environment
        child = Child(module, arguments, environment, self.place / f"{name}.log")
        self.children[name] = child
        self._arguments[name] = (module, arguments)
        child.wait_until_ready()
        return child

    def _copy_executions(self) -> None:
        """What the plugins write to the pipe goes to a file, whatever they may write to themselves."""
        os.mkfifo(self._pipe, 0o600)
        pipe = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK)  # for both, so that it is open while no endpoint lives
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
        file = os.open(self.place / "executions", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._ends = pipe, file
        ended = threading.Event()

        def copy() -> None:
            while not ended.is_set():
                select.select([pipe], [], [], 0.05)
                self._take_executions()

        thread = threading.Thread(target=copy, name="chaos-executions", daemon=True)
        thread.start()
        self.stack.callback(self._close_pipe)
        self.stack.callback(thread.join)
        self.stack.callback(ended.set)

    def _take_executions(self) -> None:
        with self._taking:
            while self._ends is not None and select.select([self._ends[0]], [], [], 0)[0]:
                os.write(self._ends[1], os.read(self._ends[0], PIPE_BYTES))

    def _close_pipe(self) -> None:
        self._take_executions()
        with self._taking:
            ends, self._ends = self._ends, None
        for end in ends or ():
            os.close(end)


def raise_file_limit() -> None:
    """Many sockets in one process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def say(text: str) -> None:
    """For people who watch a run by hand."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

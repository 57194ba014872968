"""Broker, endpoint and gateway as child processes of this one: started, waited for, and ended for sure.

A child says that it is ready with one line of JSON on its standard output, and ends when its standard input is closed; so it
ends with its parent, however that one ends. Each child leads a process group of its own, so that Ctrl-C in a terminal
reaches the parent alone, which ends its children in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from orbit_zmq.errors import DeadlineExceeded, InternalError, Unsupported, error_from_body

BROKER = "orbit_broker"
ENDPOINT = "orbit_zmq.endpoint"
GATEWAY = "orbit_gateway"
READY_S = 60.0  # a cold import over a slow shared file system takes most of it
END_S = 10.0  # for a child to say goodbye and to end what runs in it
KILL_S = 5.0
MAX_READY_BYTES = 1 << 20
TAIL_CHARS = 2_000


class Child:
    """One child process and what it said when it was ready."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
        self.module = module
        self.ready: dict[str, Any] = {}
        self._log = log
        with contextlib.ExitStack() as stack:
            errors: IO[bytes] | None = stack.enter_context(log.open("ab")) if log else None
            self._popen = subprocess.Popen(
                [*command_of(module), "--exit-with-parent", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def wait_until_ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """What the child said. Where it failed instead, its own error is raised here."""
        stdout = self._popen.stdout
        said = read_ready(stdout.fileno(), timeout_s) if stdout else None
        if said is not None:
            self.ready = said
            return said
        is_slow = self._popen.poll() is None
        self.end()
        if is_slow:
            raise DeadlineExceeded(f"{self.module} was not ready within {timeout_s:g} s.", hint=self._where_to_look())
        raise InternalError(
            f"{self.module} ended with exit code {self.exit_code()} before it was ready.", hint=self._where_to_look()
        )

    def wait(self) -> int:
        """Until it has ended by itself. Answers the exit code."""
        return self._popen.wait()

    def terminate(self) -> None:
        """Ask it by SIGTERM to end; does not wait."""
        self._popen.terminate()

    def end(self) -> int:
        """End it: ask by closing its input, then by SIGTERM, then kill its whole group. Answers the exit code."""
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        for number, patience_s in ((None, END_S), (signal.SIGTERM, KILL_S), (signal.SIGKILL, KILL_S)):
            if number is not None and self._popen.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._popen.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._popen.wait(patience_s)
        return -signal.SIGKILL

    def _where_to_look(self) -> str:
        if self._log is None:
            return "What it wrote above says why."
        with contextlib.suppress(OSError):
            if tail := self._log.read_text(errors="replace")[-TAIL_CHARS:].strip():
                return f"The end of what it wrote: {tail}"
        return f"It wrote nothing to {self._log}."


def start_broker(
    *,
    tcp: str | None = None,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    options: Sequence[str] = (),
) -> Child:
    """Start a broker on this machine's ipc, and on a TCP address where one is given, and wait until it listens."""
    return _start(BROKER, [*(["--tcp", tcp] if tcp else []), *options], environment, log)


def start_endpoint(
    *,
    url: str,
    name: str | None = None,
    plugins: Sequence[str] = ("default",),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    options: Sequence[str] = (),
) -> Child:
    """Start an endpoint and wait until the broker has taken it in. `options` are more of the command's."""
    arguments = ["--url", url, *(["--name", name] if name else []), "--plugins", ",".join(plugins), *options]
    return _start(ENDPOINT, arguments, environment, log)


def start_gateway(
    *,
    url: str,
    http: str,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    options: Sequence[str] = (),
) -> Child:
    """Start a gateway at `HOST:PORT` and wait until it listens; it needs the extra `gateway`."""
    check_gateway_is_installed()
    return _start(GATEWAY, ["--url", url, "--http", http, *options], environment, log)


def check_gateway_is_installed() -> None:
    """Raise Unsupported where the packages of the extra `gateway` are not there."""
    if any(find_spec(package) is None for package in ("starlette", "uvicorn", "prometheus_client")):
        raise Unsupported("HTTP needs packages that are not installed.", hint="pip install 'orbit-zmq[gateway]'")


def read_ready(descriptor: int, timeout_s: float) -> dict[str, Any] | None:
    """The ready line that a child prints; None where none came. The error that it prints instead is raised."""
    try:
        said = json.loads(_read_line(descriptor, timeout_s))
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    if "error" in said:
        raise error_from_body(said["error"])
    return said


def _read_line(descriptor: int, timeout_s: float) -> bytes:
    """The first line from a pipe, or what there was when it closed or the time was over."""
    deadline = time.monotonic() + timeout_s
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n") and len(line) < MAX_READY_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            part = os.read(descriptor, 65_536)
            if not part:
                break
            line += part
    return line


def command_of(module: str) -> list[str]:
    """How a module of ours is run; -P keeps files of the current directory from standing in for installed modules."""
    return [sys.executable, "-P", "-m", module]


def environment_of_child(**changes: str) -> dict[str, str]:
    """This process's environment; what it can import beside installed packages, its child can import, too."""
    own = [entry or os.getcwd() for entry in sys.path if not entry.startswith((sys.prefix, sys.base_prefix))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(own), **changes}


def _start(module: str, arguments: list[str], environment: Mapping[str, str] | None, log: Path | None) -> Child:
    child = Child(module, arguments, environment_of_child() if environment is None else environment, log)
    try:
        child.wait_until_ready()
    except BaseException:  # Ctrl-C during the start, too, must not leave a child behind
        child.end()
        raise
    return child

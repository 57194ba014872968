"""The command `orbit` as a user types it, in one set of directories, with or without a terminal."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil

ORBIT = [sys.executable, "-m", "orbit_zmq.cli"]


class Shell:
    """Runs commands; what is left of them at the end is killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.stack = ExitStack()

    def run(self, *arguments: str, timeout_s: float = 100.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ORBIT, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def json(self, *arguments: str) -> Any:
        """The item, or the items, that a command shows with --json."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        return said["items"] if "items" in said else said["item"]

    def endpoints(self) -> list[str]:
        """Their names; none where there is no broker."""
        return self.run("endpoint", "list", "-q").stdout.split()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [*ORBIT, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.stack.callback(started.wait, 60)
        self.stack.callback(started.kill)
        return started

    def stop_all(self) -> None:
        """End what was left in the background, whether it can be asked to or not."""
        self.run("broker", "stop")
        left = [process for process in psutil.process_iter() if self._has_made(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, 60)

    def _has_made(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("ORBIT_STATE_DIR") == self.environment["ORBIT_STATE_DIR"]
        except psutil.Error:
            return False


class Terminal:
    """A command on a terminal of 80 by 24."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(far)
        self._far = far
        self.process = subprocess.Popen(
            [*ORBIT, *arguments],
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
            stdin=far,
            stdout=far,
            stderr=far,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in two pieces

    def press(self, keys: str) -> None:
        os.write(self.near, keys.encode())

    def read(self, for_s: float = 0.1) -> str:
        """What is drawn within that time."""
        found, ends_at = b"", time.monotonic() + for_s
        while select.select([self.near], [], [], max(0.0, ends_at - time.monotonic()))[0]:
            try:
                found += os.read(self.near, 65_536)
            except OSError:  # nobody has the other end open any more
                break
        text = self._decoder.decode(found)
        self.seen += text
        return text

    def wait_for(self, words: str, within_s: float = 60.0) -> str:
        """Until the words are drawn; all that was drawn till then since the last time."""
        drawn, deadline = "", time.monotonic() + within_s
        while words not in drawn:
            assert time.monotonic() < deadline, f"{words!r} was not drawn: {drawn[-2000:]}"
            drawn += self.read()
        return drawn

    def wait(self, timeout_s: float = 60.0) -> int:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it has not ended"
            self.read()
        self.read()
        return self.process.returncode

    def is_sane(self) -> bool:
        """Whether the settings are those from before, and the other screen has been left."""
        entered, left = self.seen.count("\x1b[?1049h"), self.seen.count("\x1b[?1049l")
        return termios.tcgetattr(self._far) == self.before and entered == left

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.near)
        os.close(self._far)


@contextlib.contextmanager
def terminal(environment: dict[str, str], *arguments: str) -> Iterator[Terminal]:
    made = Terminal(environment, *arguments)
    try:
        yield made
    finally:
        made.close()

"""The peer radical.orbit, run by a Python that has it: its broker, its endpoint and a client, driven by lines on stdin.

`MODE COUNT` has so many no-op tasks run, by `client`, its own client, or by `rhapsody`, Rhapsody's session with its backend;
the answer is the seconds from the submission to the last result. It has a HOME of its own, which is the first argument.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

START_S = 60.0
ENDPOINT = "ep1"
PROGRAM = "/bin/true"


def certificate(home: Path) -> None:
    place = home / ".radical" / "orbit"
    place.mkdir(parents=True)
    key, cert = place / "broker_key.pem", place / "broker_cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(stack: ExitStack, home: Path, name: str, *arguments: str) -> Path:
    """Start one of its scripts; answers its log."""
    log = home / f"{name}.log"
    script = Path(sys.executable).parent / f"radical-orbit-{name}.py"
    environment = {**os.environ, "PATH": str(script.parent)}  # where it finds a scheduler it has no plugin for tasks
    with log.open("wb") as written:
        command = [sys.executable, str(script), *arguments]
        process = subprocess.Popen(command, stdout=written, stderr=written, cwd=home, env=environment)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return log


def wait_for(log: Path, words: str) -> None:
    deadline = time.monotonic() + START_S
    while words not in log.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {words!r} in {log}: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Peer:
    """Both ways to run tasks, each made when it is first asked for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._plugin: Any = None
        self._backend: Any = None
        self._session: Any = None

    def client(self, count: int) -> float:
        if self._plugin is None:
            runtime = importlib.import_module("radical.orbit").EndpointRuntime()
            runtime.start()
            deadline = time.monotonic() + START_S
            while self._plugin is None:
                try:
                    self._plugin = runtime.get_plugin(ENDPOINT, "rhapsody", backends=["noop"])
                except RuntimeError:  # the endpoint is not in its topology yet
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
        tasks = [{"executable": PROGRAM} for _ in range(count)]
        began = time.perf_counter()
        uids = [task["uid"] for task in self._plugin.submit_tasks(tasks)]
        results = self._plugin.wait_tasks(uids, timeout=START_S)
        took_s = time.perf_counter() - began
        assert len(results) == count
        return took_s

    def rhapsody(self, count: int) -> float:
        return self._loop.run_until_complete(self._rhapsody(count))

    async def _rhapsody(self, count: int) -> float:
        import rhapsody
        from rhapsody.api.task import ComputeTask

        if self._session is None:
            self._backend = await rhapsody.get_backend("orbit", backends=["noop"])
            self._session = rhapsody.Session([self._backend])
        tasks = [ComputeTask(executable=PROGRAM) for _ in range(count)]
        began = time.perf_counter()
        await self._session.submit_tasks(tasks)
        await self._session.wait_tasks(tasks, timeout=START_S)
        return time.perf_counter() - began


def main() -> None:
    home = Path(sys.argv[1])
    os.environ.update(HOME=str(home), RADICAL_ORBIT_LOG_LVL="INFO")
    certificate(home)
    port = free_port()
    with ExitStack() as stack:
        start(stack, home, "broker", "--no-auth", "--host", "127.0.0.1", "--port", str(port))
        wait_for_port(port)
        log = start(stack, home, "endpoint", "--name", ENDPOINT, "--url", f"wss://127.0.0.1:{port}", "-p", "rhapsody,sysinfo")
        wait_for(log, "registered as")
        os.environ["RADICAL_ORBIT_BROKER_URL"] = f"https://127.0.0.1:{port}"
        print("ready", flush=True)
        peer = Peer()
        for line in sys.stdin:
            mode, count = line.split()
            print(getattr(peer, mode)(int(count)), flush=True)


if __name__ == "__main__":
    main()

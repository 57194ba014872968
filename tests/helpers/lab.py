"""A broker and endpoints in processes and directories of their own, and a line between them that can be cut."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import psutil

from orbit_zmq.children import Child, environment_of_child, start_broker

T = TypeVar("T")


def wait_until(is_so: Callable[[], T], within_s: float = 60.0, what: str = "") -> T:
    """Look again and again until it is so; an AssertionError names what was waited for."""
    deadline = time.monotonic() + within_s
    while True:
        found = is_so()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or is_so}")
        threading.Event().wait(0.02)


def is_gone(pid: int) -> bool:
    """Whether that process has ended, though its parent may not have been told."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def directories(place: Path) -> dict[str, str]:
    """The variables that keep a process within one directory."""
    return {f"ORBIT_{name.upper()}_DIR": str(place / name) for name in ("config", "state", "runtime")}


class Lab:
    """What one test runs."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.stack = ExitStack()
        self.environment = environment_of_child(
            **directories(place), ORBIT_LOG_LEVEL="info", ORBIT_TESTPLUGIN_LOG=str(place / "executions")
        )
        self.broker: Child | None = None
        self.url = ""
        self.tcp = ""

    def start_broker(self, tcp: str | None = "tcp://127.0.0.1:0", options: Sequence[str] = ()) -> Child:
        log = self.place / "broker.log"
        self.broker = start_broker(tcp=tcp, environment=self.environment, log=log, options=options)
        self.stack.callback(self.broker.end)
        self.url = f"ipc://{self.broker.ready['ipc']}"
        self.tcp = self.broker.ready["tcp"] or ""
        return self.broker

    def start_endpoint(
        self, name: str = "hpc1", *, url: str | None = None, plugins: str = "test", share: str = "", options: Sequence[str] = ()
    ) -> Child:
        arguments = ["--url", url or self.url, "--name", name, "--plugins", plugins, "--plugin-module", "orbit_testplugin"]
        arguments += [*(["--share", share] if share else []), *options]
        child = Child("orbit_zmq.endpoint", arguments, self.environment, self.place / f"{name}.log")
        self.stack.callback(child.end)
        child.wait_until_ready()
        return child

    def start_gateway(self, *options: str, http: str = "127.0.0.1:0") -> Child:
        """An HTTP gateway; `ready["http"]` is its address."""
        child = Child(
            "orbit_gateway", ["--url", self.url, "--http", http, *options], self.environment, self.place / "gateway.log"
        )
        self.stack.callback(child.end)
        child.wait_until_ready()
        return child

    def token(self, name: str = "tester", **limits: Any) -> str:
        """A bearer token of this user, or of the one named in `limits`."""
        from orbit_zmq.paths import gateway_dir
        from orbit_zmq.security.keys import own_user
        from orbit_zmq.security.tokens import TokenList

        user = limits.pop("user", own_user())
        with within(self.place):
            return TokenList(gateway_dir()).create(name, user, **limits)

    def client(self, url: str | None = None) -> Any:
        from orbit_zmq import Client

        return self.stack.enter_context(Client(url=url or self.url, connect_timeout_s=60.0))

    def proxy(self, address: str) -> CuttableProxy:
        return self.stack.enter_context(CuttableProxy(address))

    def executed(self) -> list[str]:
        """The keys that the test plugin has counted, one for each execution."""
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "executions").read_text().split()
        return []

    def log_of(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text()

    def close(self) -> None:
        self.stack.close()


class CuttableProxy:
    """Passes TCP connections on, and resets all of them when told to."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> CuttableProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(30)

    def cut(self) -> int:
        """Reset all connections that are open now; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
                    end.close()
        return len(pairs)

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def lasting_port() -> int:
    """A port for whoever comes back to it: below those that the system gives out, so that nobody has it meanwhile."""
    first_given_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10_000, first_given_out // 2), first_given_out)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def running_lab(*options: str) -> Iterator[Lab]:
    """A broker on ipc and TCP in a directory of its own, with these options of its command."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))  # pytest's own paths are too long for sockets
    made = Lab(place)
    with within(place):
        try:
            made.start_broker(options=options)
            yield made
        finally:
            made.close()
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def within(place: Path) -> Iterator[None]:
    """This process finds keys and brokers only there."""
    before = {name: os.environ.get(name) for name in directories(place)}
    os.environ.update(directories(place))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

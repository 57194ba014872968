"""A broker as a real process, and peers that are nothing but pyzmq and msgpack. Waits have deadlines; nothing sleeps."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq

PATIENCE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
ROOTS = [str(ROOT / part) for part in (".", "brokers", "plugins", "tests/helpers")]
QUICK = ("heartbeat_s=0.5", "suspect_s=2", "lost_s=4", "closed_lost_s=0.5", "name_probe_s=0.3", "settle_s=0.1")


class BrokerProcess:
    """`python -m orbit_broker` with directories of its own."""

    def __init__(self, place: Path, *arguments: str, intervals: tuple[str, ...] = QUICK) -> None:
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
        self.state_dir = place / "state"
        self.log = place / "broker.log"
        self.environment = os.environ | {
            "ORBIT_STATE_DIR": str(self.state_dir),
            "ORBIT_RUNTIME_DIR": str(place / "run"),
            "ORBIT_CONFIG_DIR": str(place / "config"),
            "PYTHONPATH": os.pathsep.join(ROOTS),
        }
        given = [part for change in intervals for part in ("--interval", change)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orbit_broker", *given, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready: dict[str, Any] = json.loads(line) if line else {}

    @property
    def address(self) -> str:
        return f"ipc://{self.ready['ipc']}"

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return code


@contextlib.contextmanager
def running_broker(place: Path, *arguments: str, **settings: Any) -> Iterator[BrokerProcess]:
    broker = BrokerProcess(place, *arguments, **settings)
    try:
        yield broker
    finally:
        if broker.process.poll() is None:
            broker.process.kill()
        broker.wait()


class Peer:
    """One connection and what it says. Frames are written and read here by hand."""

    def __init__(
        self, context: zmq.Context[Any], address: str, curve: tuple[str, str, str] | None = None, monitored: int = 0
    ) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(15))
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))  # a connection that was refused takes nothing any more
        if curve is not None:
            self.socket.curve_serverkey, self.socket.curve_publickey, self.socket.curve_secretkey = (
                key.encode() for key in curve
            )
        self.monitor = self.socket.get_monitor_socket(monitored) if monitored else None
        self.socket.connect(address)
        self.incarnation = secrets.token_bytes(16)

    def send(self, header: dict[str, Any], body: Any = b"") -> None:
        packed = body if isinstance(body, bytes) else msgpack.packb(body)
        self.socket.send_multipart([msgpack.packb(header), packed])

    def receive(self, timeout_s: float = PATIENCE_S) -> tuple[dict[str, Any], bytes]:
        """The next message that is no heartbeat."""
        ends_at = time.monotonic() + timeout_s
        while self.socket.poll(max(0, int((ends_at - time.monotonic()) * 1000))):
            header, body = self.socket.recv_multipart()
            fields = msgpack.unpackb(header)
            if fields["k"] != 5 or (fields.get("f") and not fields.get("i")):  # one with an id measures how soon we answer
                return fields, body
        raise TimeoutError("nothing was received")

    def hello(self, role: str = "client", **facts: Any) -> dict[str, Any]:
        """Say hello; the welcome, or the error."""
        self.send({"k": 1}, {"versions": [1, 1], "incarnation": self.incarnation, "role": role, "limits": {}, **facts})
        value: dict[str, Any] = msgpack.unpackb(self.receive()[1])
        return value

    def call(self, call_id: int, endpoint: str, operation: str, arguments: Any = b"", **fields: Any) -> None:
        header = {"k": 7, "i": call_id, "e": endpoint, "p": "p", "o": operation, "l": 20.0}
        self.send({key: value for key, value in (header | fields).items() if value != ""}, arguments)

    def ask_broker(self, call_id: int, operation: str, arguments: Any = b"") -> Any:
        """The result, or the error's body."""
        self.call(call_id, "broker", operation, arguments)
        header, body = self.receive()
        assert header["i"] == call_id
        return msgpack.unpackb(body)

    def serve_one(self) -> dict[str, Any]:
        """Take one request and send its arguments back."""
        header, body = self.receive()
        assert header["k"] == 7
        self.send({"k": 8, "i": header["i"], "c": header["c"], "t": self.incarnation}, body)
        return header

    def close(self) -> None:
        if self.monitor is not None:
            self.socket.disable_monitor()
        self.socket.close(0)


def until(what: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """The first true answer."""
    ends_at = time.monotonic() + timeout_s
    while time.monotonic() < ends_at:
        if found := what():
            return found
        time.sleep(0.005)
    raise TimeoutError("it did not become true")

"""The bases of the measures: a bare echo and a bare publisher, and the product in processes of its own beside them.

The bare echo is three processes, blocking sockets, DEALER - ROUTER - DEALER, one message of 64 bytes in flight. The bare
publisher is an XPUB and its SUBs. With CURVE or without, sealed or plain. Nothing here measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq

MESSAGE = b"x" * 64
WARM_UP = 200
EVENT = b"x" * 500
TOPIC = b"topic/"
IDENTITY, KEY = b"i" * 8, b"k" * 32  # of the seal


@contextmanager
def child(*arguments: str, script: str = __file__) -> Iterator[subprocess.Popen[str]]:
    """A script of ours as a process; it ends with the block."""
    command = [sys.executable, script, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a child writes; RuntimeError where it has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} has ended")
    return line.strip()


def ask(process: subprocess.Popen[str], *words: object) -> str:
    """Write a line to a child and wait for the one that it answers."""
    assert process.stdin is not None
    print(*words, file=process.stdin, flush=True)
    return said(process)


def bare_router(public: str, secret: str) -> None:
    """Pass messages between two dealers, as they come."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    if secret:
        socket.curve_server = True
        socket.curve_secretkey = secret.encode()
        socket.curve_publickey = public.encode()
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    peers: dict[bytes, bytes] = {}
    while True:
        sender, *frames = socket.recv_multipart()
        if frames == [b"serve"]:
            peers[b"server"] = sender
        elif sender == peers.get(b"server"):
            socket.send_multipart([peers[b"client"], *frames])
        elif b"server" in peers:
            peers[b"client"] = sender
            socket.send_multipart([peers[b"server"], *frames])


def bare_dealer(port: str, server_key: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    if server_key:
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


def bare_server(port: str, server_key: str) -> None:
    socket = bare_dealer(port, server_key)
    socket.send(b"serve")
    while True:
        socket.send_multipart(socket.recv_multipart())


@contextmanager
def bare_echo(*, message: bytes = MESSAGE, is_encrypted: bool = True) -> Iterator[Callable[[], None]]:
    """One round trip of the base."""
    public, secret = (key.decode() for key in zmq.curve_keypair()) if is_encrypted else ("", "")
    with ExitStack() as stack:
        port = said(stack.enter_context(child("router", public, secret)))
        stack.enter_context(child("server", port, public))
        socket = bare_dealer(port, public)
        stack.callback(socket.close, 0)
        for _ in range(300):  # until the server is there, messages go nowhere
            socket.send(message)
            if socket.poll(200):
                break
        else:
            raise RuntimeError("the bare echo does not answer")
        while socket.poll(300):
            socket.recv()

        def turn() -> None:
            socket.send(message)
            socket.recv()

        yield turn


def bare_publisher(mode: str, subscribers: str) -> None:
    """Publish events, sealed or plain, as many as somebody asks for on standard input."""
    from orbit_zmq.wire.seal import Sealer

    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.XPUB_VERBOSE, 1)
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    for _ in range(int(subscribers)):
        socket.recv()
    sealer = Sealer(IDENTITY, KEY)
    for line in sys.stdin:
        print("begun", flush=True)
        for _ in range(int(line)):
            socket.send_multipart(sealer.seal(TOPIC, b"", EVENT) if mode == "sealed" else (TOPIC, b"", EVENT))


def bare_subscriber(port: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.set(zmq.RCVHWM, 0)
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.subscribe(TOPIC)
    return socket


@contextmanager
def product(plugins: str) -> Iterator[Any]:
    """A client of a broker and an endpoint in processes of their own, over TCP with CURVE."""
    with deployment(plugins) as (client, _):
        yield client


@contextmanager
def deployment(plugins: str, options: Sequence[str] = ()) -> Iterator[tuple[Any, dict[str, int]]]:
    """The same, with the ids of the two processes; `options` are the endpoint's."""
    from orbit_zmq import Client
    from orbit_zmq.children import environment_of_child, start_broker, start_endpoint

    with ExitStack() as stack:
        stack.enter_context(own_place())
        environment = environment_of_child(ORBIT_LOG_LEVEL="warning")
        broker = start_broker(tcp="tcp://127.0.0.1:0", environment=environment)
        stack.callback(broker.end)
        url = os.environ["ORBIT_URL"] = broker.ready["tcp"]  # for clients in other processes, too
        endpoint = start_endpoint(url=url, name="bench", plugins=[plugins], environment=environment, options=options)
        stack.callback(endpoint.end)
        client = stack.enter_context(Client(url=url))
        yield client, {"broker": broker.pid, "endpoint": endpoint.pid}


@contextmanager
def own_place() -> Iterator[Path]:
    """Directories of its own for whatever is started within the block."""
    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as place:
        for name in ("STATE", "RUNTIME", "CONFIG"):
            os.environ[f"ORBIT_{name}_DIR"] = str(Path(place) / name.lower())
        yield Path(place)


CHILDREN = {"router": bare_router, "server": bare_server, "publisher": bare_publisher}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](*sys.argv[2:])

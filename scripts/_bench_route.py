"""Raw routing: calls of 64 bytes through the broker beside libzmq's own proxy between the same peers.

The peers are nothing but pyzmq and msgpack: a caller that keeps a window of calls open, and a server that answers each, in
processes of their own. Through the broker a call is what it always is: its header is read and checked, permission is looked
up, source and user are stamped, and a record is kept until the reply. The proxy (`zmq_proxy` between ROUTER and DEALER) passes
the same frames on and knows nothing of them. Without CURVE both go over ipc, where the broker has none, with CURVE over TCP.
Beside the rates stands the processor time of whoever routes, its I/O thread's included: it changes little on a busy machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import msgpack
import zmq
from _bench_bare import ask, child, own_place, said
from raw_peer import Peer

from orbit_zmq.measuring import Comparison, Report

AT_LEAST = 0.45  # of the proxy's rate, without CURVE
REQUEST, REPLY = 7, 8
KIND_AT = 3  # a header begins with its size, the key k, and the kind
BODY = b"x" * 64
ENDPOINT = "bench"
WINDOW = 500
NO_CURVE = ("", "", "")

Curve = tuple[str, str, str]  # the public key of whom one connects to, and one's own public and secret key


@dataclass(frozen=True)
class Route:
    """A caller and a server, and the process between them."""

    caller: subprocess.Popen[str]
    pid: int

    def block(self, calls: int) -> tuple[float, float]:
        """Calls a second of so many, and the microseconds of a processor that each took between the peers."""
        before = self._cpu_s()
        rate = float(ask(self.caller, calls))
        return rate, (self._cpu_s() - before) / calls * 1e6

    def _cpu_s(self) -> float:
        """Of all its threads, to the nanosecond."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def proxy(front: str, back: str, public: str, secret: str) -> None:
    """libzmq's own, between a caller and a server."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    sides = []
    for kind, address in ((zmq.ROUTER, front), (zmq.DEALER, back)):
        socket: zmq.Socket[bytes] = context.socket(kind)
        if secret:
            socket.curve_server = True
            socket.curve_secretkey, socket.curve_publickey = secret.encode(), public.encode()
        socket.bind(address)
        sides.append(socket)
    print(*(side.get_string(zmq.LAST_ENDPOINT).rstrip("\0") for side in sides), flush=True)
    zmq.proxy(*sides)


def serve(address: str, way: str, *curve: str) -> None:
    """Answer each call with its own body, for ever."""
    peer = Peer(zmq.Context.instance(), address, _curve(curve))
    if way == "broker":
        peer.hello("endpoint", name=ENDPOINT)
    print("ready", flush=True)
    socket, unpack, pack, incarnation = peer.socket, msgpack.unpackb, msgpack.packb, peer.incarnation
    while True:
        *before, header, body = socket.recv_multipart()
        said = unpack(header)
        if said["k"] == REQUEST:
            reply = pack({"k": REPLY, "i": said["i"], "c": said.get("c", b""), "t": incarnation})
            socket.send_multipart([*before, reply, body])


def call(address: str, way: str, *curve: str) -> None:
    """Make as many calls as standard input asks for, and say how many a second that was."""
    peer = Peer(zmq.Context.instance(), address, _curve(curve))
    if way == "broker":
        peer.hello()
    print("ready", flush=True)
    made = 0
    for line in sys.stdin:
        calls = int(line)
        request = {"e": ENDPOINT, "p": "bench", "o": "echo", "l": 60.0}
        headers = [msgpack.packb({"k": REQUEST, "i": made + number, **request}) for number in range(1, calls + 1)]
        made += calls
        print(calls / _window(peer.socket, headers), flush=True)


def _window(socket: zmq.Socket[bytes], headers: list[bytes]) -> float:
    """Seconds for these calls, a window of them open at once."""
    rest = iter(headers)
    began, answered = perf_counter(), 0
    for header in islice(rest, WINDOW):
        socket.send_multipart([header, BODY])
    while answered < len(headers):
        if socket.recv_multipart()[0][KIND_AT] == REPLY:
            answered += 1
            if header := next(rest, b""):
                socket.send_multipart([header, BODY])
    return perf_counter() - began


def _curve(keys: tuple[str, ...]) -> Curve | None:
    return (keys[0], keys[1], keys[2]) if any(keys) else None


def _pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


@contextmanager
def between(pid: int, front: str, back: str, way: str, keys: Curve) -> Iterator[Route]:
    """A caller and a server on two addresses of that process."""
    with child("serve", back, way, *keys, script=__file__) as server:
        said(server)
        with child("call", front, way, *keys, script=__file__) as caller:
            said(caller)
            yield Route(caller, pid)


@contextmanager
def through_proxy(place: Path, *, has_curve: bool) -> Iterator[Route]:
    """The base, over TCP with CURVE, or over ipc without."""
    (public, secret), own = (_pair() if has_curve else ("", "") for _ in range(2))
    addresses = ("tcp://127.0.0.1:*",) * 2 if has_curve else (f"ipc://{place}/front", f"ipc://{place}/back")
    with child("proxy", *addresses, public, secret, script=__file__) as process:
        front, back = said(process).split()
        with between(process.pid, front, back, "proxy", (public, *own)) as route:
            yield route


@contextmanager
def through_broker(*, has_curve: bool) -> Iterator[Route]:
    """The product's broker, the same way."""
    from orbit_zmq.children import environment_of_child, start_broker
    from orbit_zmq.place import find_broker

    broker = start_broker(tcp="tcp://127.0.0.1:0", environment=environment_of_child(ORBIT_LOG_LEVEL="warning"))
    try:
        address = broker.ready["tcp"] if has_curve else f"ipc://{broker.ready['ipc']}"
        place = find_broker(url=address)
        keys = NO_CURVE
        if place.keys is not None and place.server_key is not None:
            keys = (place.server_key, place.keys.public, place.keys.secret)
        with between(broker.pid, address, address, "broker", keys) as route:
            yield route
    finally:
        broker.end()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=50_000, help="in each block (50,000)")


def measure(options: argparse.Namespace) -> Report:
    report = Report("route")
    for has_curve in (False, True):
        report.comparisons += compare(options, has_curve=has_curve)
    return report


def compare(options: argparse.Namespace, *, has_curve: bool) -> list[Comparison]:
    """Alternating blocks of the proxy and of the broker."""
    with own_place() as place, ExitStack() as stack:
        theirs = stack.enter_context(through_proxy(place, has_curve=has_curve))
        ours = stack.enter_context(through_broker(has_curve=has_curve))
        for route in (theirs, ours):
            route.block(max(1, options.calls // 5))
        found = [(theirs.block(options.calls), ours.block(options.calls)) for _ in range(options.pairs)]
    what = "calls of 64 bytes over TCP with CURVE" if has_curve else "calls of 64 bytes over ipc"
    (base, base_us), (rates, our_us) = [list(zip(*side, strict=True)) for side in zip(*found, strict=True)]
    beside = "libzmq's proxy"
    return [
        Comparison(what, "calls/s", rates, base, beside, at_least=None if has_curve else AT_LEAST),
        Comparison(f"{what}: processor time of each", "us", our_us, base_us, beside),
    ]


CHILDREN: dict[str, Callable[..., None]] = {"proxy": proxy, "serve": serve, "call": call}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](*sys.argv[2:])

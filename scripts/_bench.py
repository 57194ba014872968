"""Speed as ratios: what the product adds to the bare minimum, measured side by side in one run.

The base is a bare echo: three processes, blocking sockets, DEALER - ROUTER - DEALER under CURVE, one message of 64 bytes in
flight. Blocks of both alternate, so that what else the machine does falls on both; a ratio is that of the medians of one
pair of blocks, and the quartiles over all pairs are reported. Absolute times stand beside them and prove nothing.

`call` also reports what CURVE costs, by the same bare echo without it; `events` what sealing costs, by a bare publisher and
subscriber with and without it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq

MESSAGE = b"x" * 64
WARM_UP = 200


def bare_router(public: str, secret: str) -> None:
    """Pass messages between two dealers, as they come."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    if secret:
        socket.curve_server = True
        socket.curve_secretkey = secret.encode()
        socket.curve_publickey = public.encode()
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(port, flush=True)
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
        router = stack.enter_context(child("bare-router", public, secret))
        assert router.stdout is not None
        port = router.stdout.readline().strip()
        stack.enter_context(child("bare-server", port, public))
        socket = bare_dealer(port, public)
        for _ in range(50):  # until the server is there, messages go nowhere
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
        socket.close(0)


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@contextmanager
def product(plugins: str) -> Iterator[Any]:
    """A client of a broker and an endpoint in processes of their own, over TCP with CURVE."""
    from orbit_zmq import Client
    from orbit_zmq.children import environment_of_child, start_broker, start_endpoint

    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as place, ExitStack() as stack:
        for variable in ("ORBIT_STATE_DIR", "ORBIT_RUNTIME_DIR", "ORBIT_CONFIG_DIR"):
            os.environ[variable] = str(Path(place) / variable.lower())
        environment = environment_of_child(ORBIT_LOG_LEVEL="warning")
        broker = start_broker(tcp="tcp://127.0.0.1:0", environment=environment)
        stack.callback(broker.end)
        url = broker.ready["tcp"]
        endpoint = start_endpoint(url=url, name="bench", plugins=[plugins], environment=environment)
        stack.callback(endpoint.end)
        client = stack.enter_context(Client(url=url))
        yield client


@contextmanager
def one_call() -> Iterator[Callable[[], None]]:
    """A trivial operation of a plugin, from the blocking client."""
    with product("rhapsody") as client:
        plugin = client.get_plugin("bench", "rhapsody", backends=["noop"])
        yield plugin.ping
        plugin.close()


@contextmanager
def one_task() -> Iterator[Callable[[], None]]:
    """One task that does nothing, from submit to its result."""
    with product("rhapsody") as client:
        plugin = client.get_plugin("bench", "rhapsody", backends=["noop"])
        task = {"executable": "/bin/true"}

        def turn() -> None:
            [submitted] = plugin.submit_tasks([task])
            [done] = plugin.wait_tasks([submitted["uid"]])
            assert done["state"] == "DONE"

        yield turn
        plugin.close()


MEASURES = {"call": (one_call, 2.0), "task": (one_task, 6.0)}  # what, and the most that it may cost in bare echoes


SIZES = {"64 B": b"x" * 64, "1 kB": b"x" * 1_024}
EVENTS = 1_000  # in one turn of the bare publisher
EVENT = b"x" * 500


def bare_publisher(mode: str) -> None:
    """Publish events, sealed or plain, as many as somebody asks for on standard input."""
    from orbit_zmq.wire.seal import Sealer

    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XPUB)
    socket.set(zmq.SNDHWM, 0)
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    socket.recv()  # the subscription
    sealer = Sealer(b"i" * 8, b"k" * 32)
    for line in sys.stdin:
        for _ in range(int(line)):
            if mode == "sealed":
                socket.send_multipart(sealer.seal(b"topic/", b"", EVENT))
            else:
                socket.send_multipart((b"topic/", b"", EVENT))


@contextmanager
def bare_events(mode: str) -> Iterator[Callable[[], None]]:
    """A thousand events from one process to another."""
    from orbit_zmq.wire.seal import Opener

    with child("bare-publisher", mode) as publisher:
        assert publisher.stdout is not None and publisher.stdin is not None
        asks = publisher.stdin
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        socket.set(zmq.RCVHWM, 0)
        socket.connect(f"tcp://127.0.0.1:{publisher.stdout.readline().strip()}")
        socket.subscribe(b"topic/")
        opener = Opener(b"k" * 32)

        def turn() -> None:
            asks.write(f"{EVENTS}\n")
            asks.flush()
            for _ in range(EVENTS):
                topic, mark, sealed = socket.recv_multipart()
                if mode == "sealed":
                    opener.open(topic, mark, sealed)

        yield turn
        socket.close(0)


def cost(with_it: Any, without_it: Any, pairs: int, turns: int) -> dict[str, float]:
    """The ratio of two turns, with something and without it, in alternating blocks."""
    ratios, withs, withouts = [], [], []
    with with_it as first, without_it as second:
        for turn in (first, second):
            block(turn, max(1, turns // 5))
        for _ in range(pairs):
            withs.append(statistics.median(block(first, turns)))
            withouts.append(statistics.median(block(second, turns)))
            ratios.append(withs[-1] / withouts[-1])
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {
        "lower_quartile": lower,
        "ratio": middle,
        "upper_quartile": upper,
        "with_ms": statistics.median(withs) * 1e3,
        "without_ms": statistics.median(withouts) * 1e3,
    }


def cost_of_curve(pairs: int, turns: int) -> dict[str, dict[str, float]]:
    """What encryption adds to one bare echo."""
    return {
        size: cost(bare_echo(message=message), bare_echo(message=message, is_encrypted=False), pairs, turns)
        for size, message in SIZES.items()
    }


def cost_of_sealing(pairs: int, turns: int) -> dict[str, dict[str, float]]:
    """What sealing and opening add to a thousand events from one process to another."""
    return {f"{EVENTS} events of {len(EVENT)} B": cost(bare_events("sealed"), bare_events("plain"), pairs, turns)}


def show_costs(what: str, costs: dict[str, dict[str, float]]) -> None:
    for size, found in costs.items():
        print(
            f"{what}, {size}: {found['ratio']:.2f} times what it takes without (quartiles {found['lower_quartile']:.2f} to "
            f"{found['upper_quartile']:.2f}); {found['with_ms']:.3f} ms beside {found['without_ms']:.3f} ms"
        )


def block(turn: Callable[[], None], turns: int) -> list[float]:
    """The time of each turn, in seconds."""
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        turn()
        times.append(time.perf_counter() - began)
    return times


def compare(measure: str, pairs: int, turns: int) -> dict[str, Any]:
    """Alternating blocks of the base and of the product."""
    make, at_most = MEASURES[measure]
    ratios, bases, products, tails = [], [], [], []
    with bare_echo() as base, make() as ours:
        block(base, WARM_UP)
        block(ours, WARM_UP)
        for _ in range(pairs):
            base_times, our_times = block(base, turns), block(ours, turns)
            bases.append(statistics.median(base_times))
            products.append(statistics.median(our_times))
            tails.append(statistics.quantiles(our_times, n=100)[98])
            ratios.append(products[-1] / bases[-1])
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {
        "measure": measure,
        "pairs": pairs,
        "turns": turns,
        "ratio": {"lower_quartile": lower, "median": middle, "upper_quartile": upper, "at_most": at_most},
        "met": upper <= at_most,
        "base_p50_ms": statistics.median(bases) * 1e3,
        "ours_p50_ms": statistics.median(products) * 1e3,
        "ours_p99_ms": statistics.median(tails) * 1e3,
        "cpus": os.cpu_count(),
    }


def main() -> int:
    if sys.argv[1:2] == ["bare-router"]:
        bare_router(*sys.argv[2:])
    if sys.argv[1:2] == ["bare-server"]:
        bare_server(*sys.argv[2:])
    if sys.argv[1:2] == ["bare-publisher"]:
        bare_publisher(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=sorted((*MEASURES, "events")))
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks (11)")
    parser.add_argument("--calls", type=int, default=500, help="turns in each block (500)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    if options.measure == "events":
        sealing = cost_of_sealing(options.pairs, max(1, options.calls // 50))
        if options.json:
            print(json.dumps({"measure": "events", "sealing": sealing}))
        else:
            show_costs("sealing", sealing)
        return 0
    found = compare(options.measure, options.pairs, options.calls)
    if options.measure == "call":
        found["curve"] = cost_of_curve(options.pairs, options.calls)
    if options.json:
        print(json.dumps(found))
    else:
        show_costs("CURVE", found.get("curve", {}))
        ratio = found["ratio"]
        print(
            f"{options.measure}: {ratio['median']:.2f} bare echoes (quartiles {ratio['lower_quartile']:.2f} to "
            f"{ratio['upper_quartile']:.2f}, at most {ratio['at_most']:g}); p50 {found['ours_p50_ms']:.3f} ms "
            f"beside {found['base_p50_ms']:.3f} ms"
        )
    return 0 if found["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

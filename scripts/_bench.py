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
    with deployment(plugins) as (client, _):
        yield client


@contextmanager
def deployment(plugins: str) -> Iterator[tuple[Any, dict[str, int]]]:
    """The same, with the ids of the two processes."""
    from orbit_zmq import Client
    from orbit_zmq.children import environment_of_child, start_broker, start_endpoint

    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as place, ExitStack() as stack:
        for variable in ("ORBIT_STATE_DIR", "ORBIT_RUNTIME_DIR", "ORBIT_CONFIG_DIR"):
            os.environ[variable] = str(Path(place) / variable.lower())
        environment = environment_of_child(ORBIT_LOG_LEVEL="warning")
        broker = start_broker(tcp="tcp://127.0.0.1:0", environment=environment)
        stack.callback(broker.end)
        url = os.environ["ORBIT_URL"] = broker.ready["tcp"]  # for clients in other processes, too
        endpoint = start_endpoint(url=url, name="bench", plugins=[plugins], environment=environment)
        stack.callback(endpoint.end)
        client = stack.enter_context(Client(url=url))
        yield client, {"broker": broker.pid, "endpoint": endpoint.pid}


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


FLOOD_AT_MOST = 2.0  # times the 99th percentile without a flood
MEASURES = {"call": (one_call, 2.0), "task": (one_task, 4.0)}  # what, and the most that it may cost in bare echoes


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
            tails.append(p99(our_times))
            ratios.append(products[-1] / bases[-1])
    ratio = quartiles(ratios)
    return {
        "measure": measure,
        "pairs": pairs,
        "turns": turns,
        "ratio": {**ratio, "at_most": at_most},
        "met": ratio["upper_quartile"] <= at_most,
        "base_p50_ms": statistics.median(bases) * 1e3,
        "ours_p50_ms": statistics.median(products) * 1e3,
        "ours_p99_ms": statistics.median(tails) * 1e3,
        "cpus": os.cpu_count(),
    }


@contextmanager
def flooded() -> Iterator[tuple[Any, dict[str, Callable[[], None]], Any]]:
    """A client, a call to each of two endpoints, and a plugin on the first of them that can flood."""
    from orbit_zmq.children import Child, environment_of_child

    with product("rhapsody") as client, ExitStack() as stack:
        environment = environment_of_child(ORBIT_LOG_LEVEL="warning")
        plugins = ["--plugins", "rhapsody,flood", "--plugin-module", "_flood"]
        arguments = ["--url", client._link.place.address, "--name", "same", *plugins]
        endpoint = Child("orbit_zmq.endpoint", arguments, environment, None)
        stack.callback(endpoint.end)
        endpoint.wait_until_ready()
        calls = {
            "same endpoint": client.get_plugin("same", "rhapsody", backends=["noop"]).ping,
            "other endpoint": client.get_plugin("bench", "rhapsody", backends=["noop"]).ping,
        }
        yield client, calls, client.get_plugin("same", "flood")


def compare_floods(pairs: int, turns: int) -> dict[str, Any]:
    """Alternating blocks with and without a flood, for each way to flood and each way to be hit by it."""
    ratios: dict[str, list[float]] = {}
    quiet: list[float] = []
    told: list[float] = []
    with flooded() as (client, calls, flood):
        for call in calls.values():
            block(call, WARM_UP)
        for _ in range(pairs):
            for source in ("thread", "loop"):
                for hearing in ("unheard", "heard"):
                    subscription = client.subscribe(lambda *event: None, topic="flood") if hearing == "heard" else None
                    before = {where: p99(block(call, turns)) for where, call in calls.items()}
                    flood.start(source)
                    began = time.monotonic()
                    during = {where: p99(block(call, turns)) for where, call in calls.items()}
                    told.append(flood.stop() / (time.monotonic() - began))
                    wait_until_quiet(client)
                    if subscription is not None:
                        subscription.unsubscribe()
                    quiet += before.values()
                    for where in calls:
                        ratios.setdefault(f"{source}, {hearing}, {where}", []).append(during[where] / before[where])
    cases = {case: quartiles(found) for case, found in ratios.items()}
    return {
        "measure": "flood",
        "pairs": pairs,
        "turns": turns,
        "ratios": cases,
        "at_most": FLOOD_AT_MOST,
        "met": all(found["upper_quartile"] <= FLOOD_AT_MOST for found in cases.values()),
        "quiet_p99_ms": statistics.median(quiet) * 1e3,
        "told_per_s": statistics.median(told),
        "cpus": os.cpu_count(),
    }


def wait_until_quiet(client: Any) -> None:
    """What a flood has left to be sent takes seconds, and is not to fall on the next block."""
    while client.broker_status()["rates_1s"]["events"] > 0:
        time.sleep(0.2)


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def quartiles(ratios: list[float]) -> dict[str, float]:
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {"lower_quartile": lower, "median": middle, "upper_quartile": upper}


def show(found: dict[str, Any]) -> str:
    """The same for people."""
    if found["measure"] == "flood":
        lines = [
            f"{ratio['median']:5.2f} (quartiles {ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})  {case}"
            for case, ratio in found["ratios"].items()
        ]
        said = f"p99 beside that without a flood, at most {found['at_most']:g}; {found['told_per_s']:.0f} events/s were told, "
        return "\n".join([*lines, f"{said}quiet p99 {found['quiet_p99_ms']:.3f} ms"])
    costs = [(what, size, cost) for what in ("curve", "sealing") for size, cost in found.get(what, {}).items()]
    lines = [cost_line(*cost) for cost in costs]
    if found["measure"] == "events":
        return "\n".join(lines)
    ratio = found["ratio"]
    lines.append(
        f"{found['measure']}: {ratio['median']:.2f} bare echoes (quartiles {ratio['lower_quartile']:.2f} to "
        f"{ratio['upper_quartile']:.2f}, at most {ratio['at_most']:g}); p50 {found['ours_p50_ms']:.3f} ms "
        f"beside {found['base_p50_ms']:.3f} ms"
    )
    return "\n".join(lines)


def cost_line(what: str, size: str, cost: dict[str, float]) -> str:
    return (
        f"{what}, {size}: {cost['ratio']:.2f} times what it takes without (quartiles {cost['lower_quartile']:.2f} to "
        f"{cost['upper_quartile']:.2f}); {cost['with_ms']:.3f} ms beside {cost['without_ms']:.3f} ms"
    )


def measured(measure: str, pairs: int, turns: int) -> dict[str, Any]:
    """What is asked for."""
    if measure == "flood":
        return compare_floods(pairs, turns)
    if measure == "events":
        return {"measure": "events", "sealing": cost_of_sealing(pairs, max(1, turns // 50))}
    found = compare(measure, pairs, turns)
    return found | {"curve": cost_of_curve(pairs, turns)} if measure == "call" else found


def main() -> int:
    if sys.argv[1:2] == ["bare-router"]:
        bare_router(*sys.argv[2:])
    if sys.argv[1:2] == ["bare-server"]:
        bare_server(*sys.argv[2:])
    if sys.argv[1:2] == ["bare-publisher"]:
        bare_publisher(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=sorted((*MEASURES, "events", "flood")))
    parser.add_argument("--pairs", type=int, default=11, help="pairs of blocks (11)")
    parser.add_argument("--calls", type=int, default=500, help="turns in each block (500)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    found = measured(options.measure, options.pairs, options.calls)
    print(json.dumps(found) if options.json else show(found))
    return 0 if found.get("met", True) else 1


if __name__ == "__main__":
    sys.exit(main())

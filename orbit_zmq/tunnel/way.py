"""The child's side: a way to the broker from a machine that has none, open before the endpoint dials out.

`forward` runs ssh here, to a host that reaches the broker. `reverse` asks the endpoint that started this one to run ssh the
other way. Either way the broker's two addresses are two ports of this machine, which stay the same as long as it lives.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orbit_zmq.errors import InvalidArgument, TunnelFailed
from orbit_zmq.place import Place
from orbit_zmq.tunnel.keeping import KeptTunnel
from orbit_zmq.tunnel.rendezvous import Rendezvous, Report, Request
from orbit_zmq.tunnel.ssh import Forward, Ssh

FORWARD_S = 40.0  # to open the first tunnel
ANSWER_S = 180.0  # for the other side, which may look for a request once a second and try for REACH_S
LOOK_S = 0.25
REQUESTS = 3  # with other ports each
SUBMITTED_FROM = ("PBS_O_HOST", "SLURM_SUBMIT_HOST", "LSB_SUB_HOST")  # where the job was submitted


@contextlib.contextmanager
def way_to(place: Place, tunnel: str, name: str, via: str | None = None) -> Iterator[Place]:
    """The place itself, or where its tunnel of that kind begins here: `none`, `forward` or `reverse`."""
    if tunnel == "none":
        yield place
        return
    with forward(place, name, via) if tunnel == "forward" else reverse(place, name) as way:
        yield way


@contextlib.contextmanager
def forward(place: Place, name: str, via: str | None = None, options: Sequence[str] = ()) -> Iterator[Place]:
    """A tunnel by ssh to `via`, else to the host where the job was submitted; TunnelFailed where it cannot be opened."""
    host = via or next((os.environ[variable] for variable in SUBMITTED_FROM if os.environ.get(variable)), "")
    if not host:
        raise InvalidArgument("a tunnel needs a host to log in to", hint="Name it with --tunnel-via HOST.")
    targets = broker_of(place)
    ports = list(free_ports(2))

    def make(was_open: bool) -> Ssh:
        if not was_open:
            ports[:] = free_ports(2)
        return Ssh("L", host, [Forward(port, *target) for port, target in zip(ports, targets, strict=True)], options)

    rendezvous = Rendezvous(name)
    tunnel = KeptTunnel(name, make, lambda kept: rendezvous.report(report_of(kept, 1, ports[0], host)))
    try:
        tunnel.open(FORWARD_S)
        yield through(place, *ports)
    finally:
        tunnel.close()


@contextlib.contextmanager
def reverse(place: Place, name: str) -> Iterator[Place]:
    """A tunnel that the endpoint on the login node opens to here, on request; TunnelFailed with its reason."""
    rendezvous = Rendezvous(name)
    reason = ""
    for number in range(1, REQUESTS + 1):
        ports = free_ports(2)
        rendezvous.ask(Request(name, socket.gethostname(), ports[0], ports[1], number, time.time()))
        report = _answer(rendezvous, number)
        if report.state == "active":
            yield through(place, *ports)
            return
        reason, hint = report.reason, report.hint
        if "port" not in reason:
            break
    raise TunnelFailed(f"no tunnel was opened to here: {reason}", hint=hint)


def _answer(rendezvous: Rendezvous, number: int) -> Report:
    ends_at = time.monotonic() + ANSWER_S
    while time.monotonic() < ends_at:
        report = rendezvous.reported()
        if report is not None and report.number == number and report.state in ("active", "failed"):
            return report
        time.sleep(LOOK_S)
    raise TunnelFailed(
        f"nobody has opened a tunnel to here within {ANSWER_S:g} s",
        hint="The endpoint that submitted this job opens it: look whether it runs, and whether both see one state directory.",
    )


def broker_of(place: Place) -> tuple[tuple[str, int], tuple[str, int]]:
    """Host and port of the broker's requests and of its events."""
    if place.events is None or not place.address.startswith("tcp://") or not place.events.startswith("tcp://"):
        raise InvalidArgument(
            f"a tunnel needs both TCP addresses of the broker, and {place.found_in} does not name them",
            hint="Use a join string: `orbit invite` makes one.",
        )
    return host_and_port(place.address), host_and_port(place.events)


def host_and_port(address: str) -> tuple[str, int]:
    """Of a TCP address."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def through(place: Place, port: int, events_port: int) -> Place:
    """The same broker and keys, at these ports of this machine."""
    return replace(place, address=f"tcp://127.0.0.1:{port}", events=f"tcp://127.0.0.1:{events_port}", others=())


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of the loopback that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(one.getsockname()[1] for one in sockets)


def report_of(kept: KeptTunnel, number: int, port: int, host: str) -> Report:
    return Report(number, kept.state, port, kept.pid, host, kept.since, kept.reason, kept.hint)

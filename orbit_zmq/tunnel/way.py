"""The child's side: a way to the broker from a machine that has none, open before the endpoint dials out.

`forward` runs ssh here, to a host that reaches the broker. `reverse` asks the endpoint that started this one to run ssh the
other way. Either way the broker's two addresses are two ports of this machine, which stay the same as long as it lives.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from orbit_zmq.addresses import host_and_port, tcp_address
from orbit_zmq.errors import InvalidArgument, OrbitError, TunnelFailed
from orbit_zmq.log import get_logger
from orbit_zmq.place import Place
from orbit_zmq.tunnel.keeping import KeptTunnel
from orbit_zmq.tunnel.rendezvous import Rendezvous, Report, Request
from orbit_zmq.tunnel.ssh import Forward, Ssh

FORWARD_S = 40.0  # to open the first tunnel
PROBE_S = 12.0  # to find out whether one can be opened
SPEAKS_S = 10.0  # for the first byte through an open tunnel
REACH_S = 3.0  # to connect to the broker itself
ANSWER_S = 180.0  # for the other side, which may look for a request once a second and try for REACH_S
LOOK_S = 0.1
HERE = "127.0.0.1"
REQUESTS = 3  # with other ports each
SUBMITTED_FROM = ("PBS_O_HOST", "SLURM_SUBMIT_HOST", "LSB_SUB_HOST")  # where the job was submitted

log = get_logger(__name__)


@contextlib.contextmanager
def way_to(place: Place, tunnel: str, name: str, via: str | None = None) -> Iterator[Place]:
    """The place itself, or where its tunnel of that kind begins here: `none`, `forward`, `reverse`, or `auto`."""
    with contextlib.ExitStack() as stack:
        if tunnel == "auto":
            yield stack.enter_context(first_way(place, name, via))
        elif tunnel == "forward":
            yield stack.enter_context(forward(place, name, via))
        elif tunnel == "reverse":
            yield stack.enter_context(reverse(place, name))
        else:
            yield place


@contextlib.contextmanager
def first_way(place: Place, name: str, via: str | None = None) -> Iterator[Place]:
    """What the site allows, found out: the broker itself, else a tunnel from here, else one to here."""
    if any(is_reached(one.address) for one in place.in_order()):
        Rendezvous(name).report(Report(0, "no_tunnel", "none", since=time.time()))
        yield place
        return
    with contextlib.ExitStack() as stack:
        try:
            way = stack.enter_context(forward(place, name, via, PROBE_S))
        except OrbitError as error:
            log.info("no-forward-tunnel", endpoint=name, reason=error.message)
            way = stack.enter_context(reverse(place, name))
        yield way


def is_reached(address: str) -> bool:
    """Whether something takes connections at a TCP address."""
    try:
        with socket.create_connection(host_and_port(address), REACH_S):
            return True
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def forward(place: Place, name: str, via: str | None = None, within_s: float = FORWARD_S) -> Iterator[Place]:
    """A tunnel by ssh to `via`, else to the host where the job was submitted; TunnelFailed where it cannot be opened."""
    host = via or next((os.environ[variable] for variable in SUBMITTED_FROM if os.environ.get(variable)), "")
    if not host:
        raise InvalidArgument("a tunnel needs a host to log in to", hint="Name it with --tunnel-via HOST.")
    targets = broker_of(place)
    ports = list(free_ports(2))

    def make(was_open: bool) -> Ssh:
        if not was_open:
            ports[:] = free_ports(2)
        return Ssh("L", host, [Forward(port, *target) for port, target in zip(ports, targets, strict=True)])

    def tell(kept: KeptTunnel) -> None:
        if kept.state != "failed" or within_s > PROBE_S:  # of an attempt to find out, only a success is told
            rendezvous.report(report_of(kept, "forward", 1, ports[0], host))

    rendezvous = Rendezvous(name)
    tunnel = KeptTunnel(name, make, tell)
    try:
        tunnel.open(within_s)
        check_answers(ports[0], f"{targets[0][0]}:{targets[0][1]} from {host}")
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
            check_answers(ports[0], "the broker from the login node")
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


def check_answers(port: int, way: str) -> None:
    """TunnelFailed where nothing speaks at the other end of an open tunnel: who takes ZeroMQ connections speaks first."""
    try:
        with socket.create_connection(("127.0.0.1", port), SPEAKS_S) as one:
            spoke = one.recv(1) != b""
    except OSError:
        spoke = False
    if not spoke:
        raise TunnelFailed(
            f"the tunnel is open, and nothing answers at {way}",
            hint="The other end of the tunnel has to reach the broker's address: look there with `orbit broker status`.",
        )


def broker_of(place: Place) -> tuple[tuple[str, int], tuple[str, int]]:
    """Host and port of the broker's requests and of its events, by the last address: that of the other end of the tunnel."""
    place = place.in_order()[-1]
    if place.events is None or not place.address.startswith("tcp://") or not place.events.startswith("tcp://"):
        raise InvalidArgument(
            f"a tunnel needs both TCP addresses of the broker, and {place.found_in} does not name them",
            hint="Use a join string: `orbit invite` makes one.",
        )
    return host_and_port(place.address), host_and_port(place.events)


def through(place: Place, port: int, events_port: int) -> Place:
    """The same broker and keys, at these ports of this machine."""
    return replace(place, address=tcp_address(HERE, port), events=tcp_address(HERE, events_port), others=())


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of the loopback that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(one.getsockname()[1] for one in sockets)


def report_of(kept: KeptTunnel, mode: str, number: int, port: int, host: str) -> Report:
    """How a tunnel is, for the file that both sides read."""
    return Report(number, kept.state, mode, port, kept.pid, host, kept.since, kept.reason, kept.hint)

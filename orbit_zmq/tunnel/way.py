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
from orbit_zmq.tunnel.deadlines import ANSWER_S, FORWARD_S, HEARD_S, PROBE_S, PROBE_SPEAKS_S, REACH_S, SPEAKS_S
from orbit_zmq.tunnel.keeping import KeptTunnel
from orbit_zmq.tunnel.rendezvous import REQUESTS, Rendezvous, Report, Request
from orbit_zmq.tunnel.ssh import WANTS_OTHER_PORT, Forward, Ssh

LOOK_S = 0.1  # between two looks for an answer
SPEAK_AGAIN_S = 0.5
HERE = "127.0.0.1"
SUBMITTED_FROM = ("PBS_O_HOST", "SLURM_SUBMIT_HOST", "LSB_SUB_HOST")  # where the job was submitted

log = get_logger(__name__)


@contextlib.contextmanager
def way_to(place: Place, tunnel: str, name: str, via: str | None = None) -> Iterator[Place]:
    """The place itself, or where its tunnel of that kind begins here: `none`, `forward`, `reverse`, or `auto`."""
    if tunnel == "none":
        yield place
        return
    with contextlib.ExitStack() as stack:
        try:
            way = stack.enter_context(_way_of(place, tunnel, name, via))
        except OrbitError as error:
            _say_failed(Rendezvous(name), tunnel, error)
            raise
        yield way


def _way_of(place: Place, tunnel: str, name: str, via: str | None) -> contextlib.AbstractContextManager[Place]:
    if tunnel == "auto":
        return first_way(place, name, via)
    return forward(place, name, via) if tunnel == "forward" else reverse(place, name)


def _say_failed(rendezvous: Rendezvous, tunnel: str, error: OrbitError) -> None:
    """Unless it has been said."""
    before = rendezvous.reported()
    if before is None or before.state != "failed":
        rendezvous.report(Report(0, "failed", tunnel, since=time.time(), reason=error.message, hint=error.hint))


@contextlib.contextmanager
def first_way(place: Place, name: str, via: str | None = None) -> Iterator[Place]:
    """What the site allows, found out: the broker itself, else a tunnel from here, else one to here."""
    if any(is_reached(one.address) for one in place.in_order()):
        Rendezvous(name).report(Report(0, "no_tunnel", "none", since=time.time()))
        yield place
        return
    with contextlib.ExitStack() as stack:
        try:
            way = stack.enter_context(forward(place, name, via, within_s=PROBE_S, is_probe=True))
        except OrbitError as error:
            log.info("no-forward-tunnel", endpoint=name, reason=error.message)
            way = stack.enter_context(reverse(place, name, tried=error.message))
        yield way


def is_reached(address: str) -> bool:
    """Whether something at a TCP address takes a connection and speaks first, as a broker does: some firewalls only take it."""
    try:
        with socket.create_connection(host_and_port(address), REACH_S) as one:
            return one.recv(1) != b""
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def forward(
    place: Place, name: str, via: str | None = None, *, within_s: float = FORWARD_S, is_probe: bool = False
) -> Iterator[Place]:
    """A tunnel by ssh to `via`, else to the host where the job was submitted; TunnelFailed where it cannot be opened.

    Of a probe only a success is told, and it is one attempt: another kind of tunnel is tried next.
    """
    host = via or next((os.environ[variable] for variable in SUBMITTED_FROM if os.environ.get(variable)), "")
    if not host:
        raise InvalidArgument("a tunnel needs a host to log in to", hint="Name it with --tunnel-via HOST.")
    targets = broker_of(place)
    ports = list(free_ports(2))
    rendezvous = Rendezvous(name)

    def make(was_open: bool) -> Ssh:
        if not was_open:
            ports[:] = free_ports(2)
        return Ssh("L", host, [Forward(port, *target) for port, target in zip(ports, targets, strict=True)])

    def tell(kept: KeptTunnel) -> None:
        if kept.was_open or not is_probe:
            rendezvous.report(report_of(kept, "forward", 1, ports[0], host))

    def check() -> None:
        speaks_s = PROBE_SPEAKS_S if is_probe else SPEAKS_S
        check_answers(ports[0], f"{targets[0][0]}:{targets[0][1]} from {host}", speaks_s)

    tunnel = KeptTunnel(name, make, tell)
    try:
        tunnel.open(within_s, check, once=is_probe)
        yield through(place, *ports)
    finally:
        tunnel.close()


@contextlib.contextmanager
def reverse(
    place: Place, name: str, *, tried: str = "", heard_s: float = HEARD_S, answer_s: float = ANSWER_S
) -> Iterator[Place]:
    """A tunnel that the endpoint on the login node opens to here, on request; TunnelFailed with its reason.

    `tried` is what has failed before. The request is withdrawn when nobody waits for the tunnel any more.
    """
    rendezvous = Rendezvous(name)
    port, events_port = free_ports(2)
    request = Request(name, socket.gethostname(), port, events_port, asked_at=time.time(), tried=tried)
    try:
        request = _granted(rendezvous, request, heard_s, answer_s)
        check_answers(request.port, "the broker from the login node")
    except TunnelFailed as error:
        _last_word(rendezvous, request, "failed", error)
        raise
    try:
        yield through(place, request.port, request.events_port)
    finally:
        _last_word(rendezvous, request, "done")


def _granted(rendezvous: Rendezvous, request: Request, heard_s: float, answer_s: float) -> Request:
    """The request for which a tunnel was opened: this one, or the same for other ports."""
    over_at = time.monotonic() + heard_s + answer_s
    while True:
        rendezvous.ask(request)
        report = _answer(rendezvous, request, heard_s, answer_s, over_at)
        if report.state == "active":
            return request
        if not report.wants_other_port or request.number == REQUESTS:
            raise TunnelFailed(f"no tunnel was opened to here: {report.reason}", hint=report.hint)
        port, events_port = free_ports(2)
        request = replace(request, number=request.number + 1, port=port, events_port=events_port, asked_at=time.time())


def _answer(rendezvous: Rendezvous, request: Request, heard_s: float, answer_s: float, over_at: float) -> Report:
    """What the other side has made of it; TunnelFailed where it does not say so in time."""
    ends_at, said = min(over_at, time.monotonic() + heard_s), None
    while time.monotonic() < ends_at:
        report = rendezvous.reported()
        if report is not None and report.answers(request):
            if report.state in ("active", "failed") or report.wants_other_port:
                return report
            ends_at = min(over_at, time.monotonic() + answer_s) if said is None else ends_at
            said = report
        time.sleep(LOOK_S)
    if said is None:
        raise TunnelFailed(
            f"nobody has read the request for a tunnel to here within {heard_s:g} s",
            hint="The endpoint that submitted this job opens it: does it run, and do both see one state directory?",
        )
    raise TunnelFailed(
        f"the endpoint that submitted this job has not opened a tunnel to here in time{said.reason and f': {said.reason}'}",
        hint=said.hint or "Look whether it still runs; its log says how the tunnel is.",
    )


def _last_word(rendezvous: Rendezvous, request: Request, state: str, error: OrbitError | None = None) -> None:
    """The child ends, and wants no tunnel any more."""
    report = Report(request.number, state, "reverse", request.port, ssh_host=request.hostname, since=time.time())
    if error is not None:
        report = replace(report, reason=error.message, hint=error.hint)
    rendezvous.report(report)
    rendezvous.withdraw()


def check_answers(port: int, way: str, within_s: float = SPEAKS_S) -> None:
    """TunnelFailed where nothing speaks at the other end of an open tunnel: who takes ZeroMQ connections speaks first."""
    ends_at = time.monotonic() + within_s
    while (left_s := ends_at - time.monotonic()) > 0:
        try:
            with socket.create_connection(("127.0.0.1", port), left_s) as one:
                if one.recv(1):
                    return
        except OSError:
            pass
        time.sleep(SPEAK_AGAIN_S)
    raise TunnelFailed(
        f"the tunnel is open, and nothing answers at {way}",
        hint="The other end of the tunnel has to reach the broker's address: look there with `orbit broker status`.",
        transient=False,
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
    failure = kept.failure
    reason, hint = (failure.message, failure.hint) if failure is not None else ("", "")
    wants_other_port = failure is not None and kept.state == "failed" and bool(failure.details.get(WANTS_OTHER_PORT))
    return Report(number, kept.state, mode, port, kept.pid, host, kept.since, reason, hint, wants_other_port)

"""`python -m orbit_broker`: the broker as a process in the foreground.

Makes keys on the first start, listens, checks that strangers are refused, says on standard output where it listens, and
runs until SIGTERM, SIGINT, `drain`, or the end of its parent.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import zmq

from orbit_broker.audit import Audit
from orbit_broker.keyring import Keyring
from orbit_broker.loop import Loop
from orbit_broker.selftest import WILDCARDS, refuse_to_start_open
from orbit_broker.state import SETTLE_S, State
from orbit_zmq import __version__
from orbit_zmq.addresses import host_of, port_of, tcp_address
from orbit_zmq.allocator import limit_arenas
from orbit_zmq.cli.main import complain, exit_code_of
from orbit_zmq.errors import InvalidArgument, OrbitError
from orbit_zmq.exit_with_parent import say_failed, say_ready, watch_parent
from orbit_zmq.files import make_private_directory
from orbit_zmq.log import configure_logging, get_logger
from orbit_zmq.paths import socket_path, state_dir
from orbit_zmq.runtime_file import RuntimeFile, remove_runtime_file, write_runtime_file
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import BROKER_KEY, KEY_LIST, KeyPair, load_or_make_keypair
from orbit_zmq.supervise import WILL_RETURN
from orbit_zmq.transport.sockets import ZAP_DOMAIN, Sockets
from orbit_zmq.transport.zap import ZapHandler
from orbit_zmq.wire.limits import PROTOCOL_VERSIONS, Intervals

log = get_logger("orbit_broker")

AUDIT_LOG = "audit.log"  # in the state directory


def main() -> int:
    """Parse, run, and say why when it did not work."""
    arguments = _parser().parse_args()
    try:
        configure_logging(arguments.log_level, arguments.log_format, arguments.log_file)
        is_final = run(arguments)
    except OrbitError as error:
        if sys.stdout.isatty():
            complain(str(error))
        else:
            log.error("start-failed", code=error.code, reason=error.message, hint=error.hint)
            say_failed(error)
        return exit_code_of(error)
    return 0 if is_final or not arguments.supervised else WILL_RETURN


def run(arguments: argparse.Namespace) -> bool:
    """Listen and serve until the end; whether that is one for good."""
    limit_arenas()
    limit = _raise_file_limit()
    intervals, settle_s = _intervals(arguments.interval)
    directory = state_dir()
    if arguments.state_dir:
        directory = make_private_directory(Path(arguments.state_dir).absolute(), "ORBIT_STATE_DIR")
    pair = load_or_make_keypair(directory / BROKER_KEY)
    keyring = Keyring(KeyList.load(directory / KEY_LIST))
    audit = Audit(directory / AUDIT_LOG)
    ipc = arguments.ipc or socket_path("broker.sock")
    sockets = Sockets()
    try:
        zap_socket = sockets.zap()
        keys = pair if arguments.tcp else None
        router, tcp = sockets.router(ipc_path=ipc, tcp=arguments.tcp, keys=keys)
        events_ipc = events_path(ipc)
        events_tcp = arguments.events_tcp or next_port(arguments.tcp)
        publisher, events_tcp = sockets.publisher(ipc_path=events_ipc, tcp=events_tcp if keys else None, keys=keys)
        state = State(
            epoch=secrets.token_bytes(16),
            started_at=time.monotonic(),
            version=__version__,
            intervals=intervals,
            settle_s=settle_s,
            facts=_facts(ipc, tcp, limit),
            measure=_measurer(),
            keys=keyring,
            public_key=pair.public,
            reachable=reachable,
        )
        zap = ZapHandler(zap_socket, keyring.is_known, os.geteuid(), ZAP_DOMAIN)
        state.events_at = {"ipc": f"ipc://{events_ipc}", "tcp": events_tcp}
        ports = [port_of(address) for address in (tcp, events_tcp) if address]
        loop = Loop(state, router, publisher, zap_socket, zap, keyring, audit, ports)
        _watch_for_the_end(loop, arguments.exit_with_parent, is_supervised=arguments.supervised)
        if tcp is not None:
            state.facts["tcp"] = tcp
            refuse_to_start_open(sockets, loop, tcp, pair.public)
        if events_tcp is not None:
            state.facts["events_tcp"] = events_tcp
            refuse_to_start_open(sockets, loop, events_tcp, pair.public, is_for_events=True)
            zap.refused = 0  # that was ourselves
        _serve(loop, ipc, tcp, pair, (events_ipc, events_tcp))
        loop.close()
        return loop.ended_for_good
    finally:
        sockets.close()
        audit.close()


def _serve(loop: Loop, ipc: str, tcp: str | None, pair: KeyPair, events: tuple[str, str | None]) -> None:
    pid = os.getpid()
    record = RuntimeFile(pid, socket.gethostname(), ipc, tcp, pair.public, loop.state.epoch.hex(), time.time(), *events)
    write_runtime_file(record)
    try:
        log.info("listening", ipc=ipc, tcp=tcp, public_key=pair.public, libzmq=zmq.zmq_version(), version=__version__)
        facts = {
            "ipc": ipc,
            "tcp": tcp,
            "events_ipc": events[0],
            "events_tcp": events[1],
            "public_key": pair.public,
            "pid": pid,
        }
        say_ready(facts, f"broker {pid} listens at {f'{tcp} and ' if tcp else ''}ipc://{ipc}; Ctrl-C ends it")
        loop.run()
        log.info("ended", uptime_s=round(time.monotonic() - loop.state.started_at, 1))
    finally:
        remove_runtime_file(pid)


def events_path(ipc: str) -> str:
    """The socket for events lies beside the one for requests."""
    return f"{ipc.removesuffix('.sock')}-events.sock"


def next_port(tcp: str | None) -> str | None:
    """The address with the next port; any port stays any port."""
    if not tcp:
        return None
    try:
        port = port_of(tcp)
    except ValueError:  # libzmq has a word for any port
        return tcp
    return tcp_address(host_of(tcp), port + 1) if port else tcp


def reachable(address: str) -> list[str]:
    """Where others find what listens at an address: that address, or one for each network that this machine is in."""
    host, port = host_of(address), port_of(address)
    if host not in WILDCARDS:
        return [address]
    found = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    hosts = [entry.address for entry in found if entry.family == socket.AF_INET]
    hosts += [entry.address for entry in found if entry.family == socket.AF_INET6 and "%" not in entry.address]
    outside = [one for one in hosts if not one.startswith("127.") and one != "::1"]
    return [tcp_address(one, port) for one in outside or hosts or ["127.0.0.1"]]


def _watch_for_the_end(loop: Loop, exit_with_parent: bool, *, is_supervised: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: loop.stop(final=False))
    if exit_with_parent:
        watch_parent(lambda: loop.stop(final=not is_supervised))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orbit_broker", description="The ORBIT-ZMQ broker.")
    parser.add_argument("--ipc", metavar="PATH", help="socket for programs on this machine (default: in the runtime directory)")
    parser.add_argument("--tcp", metavar="tcp://HOST:PORT", help="also listen here, for parties with a key; port 0 takes any")
    parser.add_argument(
        "--events-tcp", metavar="tcp://HOST:PORT", help="where events are published (default: the port after that of --tcp)"
    )
    parser.add_argument("--state-dir", metavar="DIRECTORY", help="keys and the list of keys (default: ORBIT_STATE_DIR)")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical")
    parser.add_argument("--log-format", metavar="FORMAT", help="console or json (default: by standard error)")
    parser.add_argument("--log-file", metavar="PATH", type=Path, help="write the log there, in files of 10 MiB")
    parser.add_argument(
        "--interval",
        action="append",
        default=[],
        metavar="NAME=SECONDS",
        help="change one of the intervals that welcome announces",
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input is closed")
    parser.add_argument(
        "--supervised", action="store_true", help=f"somebody starts it again: exit code {WILL_RETURN} unless it ends for good"
    )
    return parser


def _intervals(changes: list[str]) -> tuple[Intervals, float]:
    """The intervals with the changes of the command line, and the time to settle."""
    names = [field.name for field in fields(Intervals)]
    changed: dict[str, float] = {}
    for change in changes:
        name, _, text = change.partition("=")
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if name not in (*names, "settle_s") or not 0 < seconds < float("inf"):
            raise InvalidArgument(
                f"--interval {change} is not NAME=SECONDS", hint=f"Names are {', '.join(names)} and settle_s."
            )
        changed[name] = seconds
    settle_s = changed.pop("settle_s", SETTLE_S)
    return replace(Intervals(), **changed), settle_s


def _raise_file_limit() -> int:
    """Each participant takes a file descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _facts(ipc: str, tcp: str | None, open_files_limit: int) -> dict[str, Any]:
    return {
        "protocol_versions": PROTOCOL_VERSIONS,
        "versions": {
            "python": platform.python_version(),
            "pyzmq": zmq.__version__,
            "libzmq": zmq.zmq_version(),
            "msgpack": metadata.version("msgpack"),
        },
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "ipc": ipc,
        "tcp": tcp,
        "events_ipc": events_path(ipc),
        "events_tcp": None,
        "open_files_limit": open_files_limit,
    }


def _measurer() -> Callable[[], dict[str, Any]]:
    process = psutil.Process()
    return lambda: {"memory_bytes": process.memory_info().rss, "open_files": process.num_fds()}


if __name__ == "__main__":
    sys.exit(main())

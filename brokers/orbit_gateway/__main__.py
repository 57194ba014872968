"""`python -m orbit_gateway`: the gateway as a process in the foreground.

It connects to the broker, listens, says on standard output where, and runs until SIGTERM, SIGINT, the end of its parent, or
the broker's refusal.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from orbit_gateway.app import PARTS, Gateway, Options, check_parts, make_app
from orbit_gateway.backend import BESIDE_S, CONNECT_S, Backend
from orbit_gateway.guard import HEAD_S, GuardedProtocol
from orbit_gateway.tls import Certificate, certificate_for, given_certificate, is_loopback
from orbit_gateway.users import make_identifier
from orbit_zmq import __version__
from orbit_zmq.addresses import host_and_port
from orbit_zmq.allocator import limit_arenas
from orbit_zmq.cli.main import failed
from orbit_zmq.errors import AddressTaken, Conflict, InvalidArgument, NotPermitted, OrbitError
from orbit_zmq.exit_with_parent import say_failed, say_ready, watch_parent
from orbit_zmq.log import configure_logging, get_logger
from orbit_zmq.paths import gateway_dir
from orbit_zmq.place import find_broker

STUCK_MS = 30_000  # a peer that takes nothing for so long is cut off by the kernel
BACKLOG = 2_048
HEADER_BYTES = 32_768  # of one request's head
RESERVED = 64  # descriptors that are not for connections
COMPLAIN_S = 10.0
KEEP_ALIVE_S = 30  # between two requests of one connection
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
GRACE_S = 2  # for requests to end when the gateway does; what else there is to end takes less than a second

log = get_logger("orbit_gateway")


def main() -> int:
    """Parse, run, and say why when it did not work."""
    arguments = _parser().parse_args()
    try:
        configure_logging(arguments.log_level, arguments.log_format, arguments.log_file)
        limit_arenas()
        GuardedProtocol.most = min(GuardedProtocol.most, _descriptors() - RESERVED)
        asyncio.run(run(arguments))
    except OrbitError as error:
        return _failed(error)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return _failed(
            NotPermitted(f"The gateway's state cannot be written: {error}.", hint="Make room, or set ORBIT_STATE_DIR.")
        )
    return 0


def _failed(error: OrbitError) -> int:
    if not sys.stdout.isatty():  # who waits for the ready line reads it there
        say_failed(error)
    return failed(error, sys.argv[1:])


async def run(arguments: argparse.Namespace) -> None:
    """Listen and serve until the end."""
    asyncio.get_running_loop().set_exception_handler(_complainer())
    directory = gateway_dir()
    lock = _only_one(directory)
    listener, host = _listen(arguments.http)
    certificate = _certificate(arguments, directory, host)
    backend = Backend(find_broker(arguments.url, arguments.join, arguments.context))
    try:
        await backend.open(BESIDE_S if arguments.exit_with_parent else CONNECT_S)
        port = listener.getsockname()[1]
        options = Options(host, port, certificate is not None, tuple(arguments.allow_host))
        identifier = make_identifier(directory)
        gateway = Gateway(backend, identifier, directory, options)
        config = uvicorn.Config(
            make_app(gateway, arguments.only),
            http=GuardedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=1,  # of one turn of asyncio's: without descriptors it tries and complains so often at once
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=certificate.certificate if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
        )
        server = Server(config, gateway, _teller(gateway, certificate))
        if arguments.exit_with_parent:
            watch_parent(lambda: server.handle_exit(signal.SIGTERM, None))
        await _serve(server, listener, backend)
    finally:
        listener.close()
        await backend.close()
        os.close(lock)


class Server(uvicorn.Server):
    """uvicorn's server, which says when it listens, and ends streams when it ends."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in order; uvicorn itself would die of the signal in the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.is_ssl:
            loop = asyncio.get_running_loop()  # uvicorn itself would wait a minute for a silent peer
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=HEAD_S)  # type: ignore[method-assign]
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(BACKLOG)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.hub.close()
        await super().shutdown(sockets)
        self._gateway.hub.index.close()


async def _serve(server: Server, listener: socket.socket, backend: Backend) -> None:
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    refused = asyncio.get_running_loop().create_task(backend.wait_until_refused())
    await asyncio.wait((serving, refused), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    if refused.done():
        await refused
    refused.cancel()


def _descriptors() -> int:
    """How many files and connections this process may have open; as many as it may allow itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def _complainer() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """What asyncio cannot raise anywhere; that there are no descriptors left is said once in a while."""
    again_at = 0.0

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal again_at
        fault = context.get("exception")
        if not isinstance(fault, OSError) or fault.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= again_at:
            again_at = loop.time() + COMPLAIN_S
            log.error("no-descriptors-left", reason=str(fault), effect="new connections wait")

    return complain


def _teller(gateway: Gateway, certificate: Certificate | None) -> Callable[[], None]:
    options = gateway.options
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"{'https' if options.tls else 'http'}://{host}:{options.port}"
    facts: dict[str, Any] = {"http": url, "pid": os.getpid(), "broker": gateway.backend.url}
    if certificate is not None:
        facts["fingerprint"] = certificate.fingerprint

    def tell() -> None:
        log.info("listening", url=url, broker=gateway.backend.url, version=__version__)
        shown = f", certificate {certificate.fingerprint}" if certificate is not None else ""
        say_ready(facts, f"gateway {os.getpid()} listens at {url}{shown}; Ctrl-C ends it")

    return tell


def _certificate(arguments: argparse.Namespace, directory: Path, host: str) -> Certificate | None:
    """What it proves to be itself by: the certificate given, else one of its own making where others than this machine ask."""
    if arguments.tls_cert:
        return given_certificate(Path(arguments.tls_cert), Path(arguments.tls_key))
    if arguments.insecure or is_loopback(host):
        return None
    return certificate_for(directory, host, tuple(arguments.allow_host))


def _listen(address: str) -> tuple[socket.socket, str]:
    """A socket that listens at HOST:PORT; InvalidArgument and AddressTaken say what is wrong with it."""
    try:
        named, port = host_and_port(address)
    except ValueError:
        raise InvalidArgument(f"{address!r} is no HOST:PORT", hint="For example 127.0.0.1:8000.") from None
    host = named or "127.0.0.1"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise AddressTaken(f"{address} cannot be listened at: {error.strerror}", hint="Choose another with --http.") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it: head and body are two writes
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
    return listener, host


def _only_one(directory: Path) -> int:
    """A lock, for two processes that number events would contradict each other; Conflict where another one has it."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Conflict(
            "A gateway of this user runs here already.", hint="Use it, or give this one a directory with ORBIT_STATE_DIR."
        ) from None
    return descriptor


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orbit_gateway", description="The ORBIT-ZMQ gateway.")
    parser.add_argument("--http", metavar="HOST:PORT", default="127.0.0.1:8000", help="where to listen; port 0 takes any")
    parser.add_argument("--only", metavar="PART,...", type=_parts, default=PARTS, help=f"parts to serve: {', '.join(PARTS)}")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, PEM")
    parser.add_argument("--insecure", action="store_true", help="no TLS, wherever it listens")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="one more name by which browsers ask")
    parser.add_argument("--url", metavar="URL", help="the broker: tcp://host:port or ipc:///path")
    parser.add_argument("--join", metavar="FILE", help="a file with a join string; - for standard input")
    parser.add_argument("--context", metavar="NAME", help="a stored context")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical")
    parser.add_argument("--log-format", metavar="FORMAT", help="console or json (default: by standard error)")
    parser.add_argument("--log-file", metavar="PATH", type=Path, help="write the log there, in files of 10 MiB")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input is closed")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    try:
        return check_parts([part.strip() for part in text.split(",")])
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())

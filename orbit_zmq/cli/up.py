"""`orbit up`: a broker and an endpoint on this machine, in the foreground, for trying things out."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from orbit_zmq.cli.gateway import HTTP_ADDRESS
from orbit_zmq.cli.running import log_options

POLL_S = 0.2  # how soon a child that has ended by itself is noticed


@click.command()
@click.option("-n", "--name", metavar="NAME", help="Name of the endpoint; the host name where it is left out.")
@click.option("-p", "--plugins", default="default,rhapsody", show_default=True, help="Plugins to serve, with commas.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address for --port.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on TCP as well; 0 takes any free port.")
@click.option("--http", type=HTTP_ADDRESS, help="Serve HTTP, too.")
@log_options
def up(
    name: str | None,
    plugins: str,
    host: str,
    port: int | None,
    http: str | None,
    log_level: str | None,
    log_format: str | None,
    log_file: Path | None,
) -> None:
    """Run a broker and an endpoint on this machine until Ctrl-C. Clients of this user find them by themselves."""
    from orbit_zmq.children import start_broker, start_endpoint
    from orbit_zmq.cli.broker import refuse_a_second_broker
    from orbit_zmq.errors import InternalError

    refuse_a_second_broker()
    given = {"--log-level": log_level, "--log-format": log_format, "--log-file": log_file}
    logs = [str(part) for option, value in given.items() if value for part in (option, value)]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: both children are ended in order
    with ExitStack() as stack:
        broker = start_broker(tcp=None if port is None else f"tcp://{host}:{port}", options=logs)
        stack.callback(broker.end)
        url = f"ipc://{broker.ready['ipc']}"
        endpoint = start_endpoint(url=url, name=name, plugins=plugins.split(","), options=logs)
        stack.callback(endpoint.end)
        if http:
            from orbit_zmq.supervise import KeptGateway

            kept = KeptGateway(url, http, logs)
            stack.callback(kept.end)
        click.echo(f"broker at {url}" + (f" and {broker.ready['tcp']}" if broker.ready.get("tcp") else ""))
        click.echo(f"endpoint {endpoint.ready['name']} with {', '.join(endpoint.ready['plugins']) or 'no plugin'}")
        if http:
            shown = f", certificate {kept.facts['fingerprint']}" if "fingerprint" in kept.facts else ""
            click.echo(f"HTTP at {kept.address}{shown}")
        click.echo("Ctrl-C ends all of them." if http else "Ctrl-C ends both.")
        with suppress(KeyboardInterrupt):
            while broker.exit_code() is None and endpoint.exit_code() is None:
                time.sleep(POLL_S)
            if broker.exit_code() == 0:
                click.echo("The broker was stopped, so the endpoint ends, too.")
                return
            ended = endpoint if broker.exit_code() is None else broker
            raise InternalError(
                f"{ended.module} ended with exit code {ended.exit_code()}.", hint="What it wrote above says why."
            )

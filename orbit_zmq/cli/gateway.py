"""`orbit gateway`: start the HTTP gateway. The gateway itself is another program, run as a process."""

from __future__ import annotations

import os
from pathlib import Path

import click

from orbit_zmq.addresses import host_of, port_of
from orbit_zmq.cli.connection import Where, broker_options
from orbit_zmq.cli.running import log_options

HTTP = "127.0.0.1:8000"


class HttpAddress(click.ParamType):  # type: ignore[type-arg]  # newer releases of click make it generic
    """PORT or HOST:PORT."""

    name = "[HOST:]PORT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return f"{host_of(value) or '127.0.0.1'}:{port_of(value)}"
        except ValueError:
            self.fail(f"{value!r} is no PORT or HOST:PORT, such as {HTTP}.", param, ctx)


HTTP_ADDRESS = HttpAddress()


@click.group()
def gateway() -> None:
    """Serve REST and events over HTTP."""


@gateway.command()
@click.option("--http", type=HTTP_ADDRESS, default=HTTP, show_default=True, help="Where to listen; port 0 takes any free one.")
@click.option("--only", metavar="PART,...", help="Serve these parts alone, such as rest,sse; all where left out.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), help="Certificate, PEM; --tls-key has its key.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), help="The key of --tls-cert, PEM.")
@click.option("--insecure", is_flag=True, help="Listen on the network without TLS: everybody on the way can read tokens.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="One more name by which browsers may ask.")
@log_options
@broker_options
def start(
    http: str,
    only: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    insecure: bool,
    hosts: tuple[str, ...],
    log_level: str | None,
    log_format: str | None,
    log_file: Path | None,
    where: Where,
) -> None:
    """Serve a broker over HTTP until Ctrl-C or SIGTERM.

    On the network it serves HTTPS, with a certificate of its own making where none is given.
    """
    from orbit_zmq.children import GATEWAY, check_gateway_is_installed, command_of

    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    check_gateway_is_installed()
    given = {"--http": http, "--only": only, "--tls-cert": tls_cert, "--tls-key": tls_key}
    given |= {f"--{name}": value for name, value in where._asdict().items()}
    given |= {"--log-level": log_level, "--log-format": log_format, "--log-file": str(log_file) if log_file else None}
    command = [*command_of(GATEWAY), *(part for option, value in given.items() if value for part in (option, value))]
    command += [part for host in hosts for part in ("--allow-host", host)]
    if insecure:
        command.append("--insecure")
    os.execv(command[0], command)  # signals then reach the gateway itself

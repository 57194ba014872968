"""Units for systemd: how a broker or an endpoint is run for a user by the machine itself. They are printed, never installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

UNIT = """\
# Save as ~/.config/systemd/user/{unit}.service, then run:
#   systemctl --user daemon-reload
#   systemctl --user enable --now {unit}
# `loginctl enable-linger` keeps it running when you log out.
[Unit]
Description=ORBIT-ZMQ {what}
After=network-online.target

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec=1
TimeoutStopSec=20

[Install]
WantedBy=default.target
"""


def install_options(command: Command) -> Command:
    """--print, which has to be there, and the arguments of what is run."""
    for option in (
        click.option("--print", "prints", is_flag=True, required=True, expose_value=False, help="Print the unit."),
        click.argument("arguments", nargs=-1, type=click.UNPROCESSED),
    ):
        command = option(command)
    return command


def show_unit(noun: str, name: str, start: click.Command, arguments: Sequence[str]) -> None:
    """Print the unit that runs `orbit NOUN start` with these arguments, which are checked first."""
    from orbit_zmq.background import check_no_secret
    from orbit_zmq.children import command_of

    with start.make_context(f"orbit {noun} start", list(arguments)) as parsed:
        if parsed.params.get("detach"):
            raise click.UsageError("systemd runs it in the background: leave --detach out.")
        check_no_secret(parsed.params.get("join"))
    command = [*command_of("orbit_zmq.cli"), noun, "start", *arguments]
    unit = f"orbit-{noun}" if name == noun else f"orbit-{noun}-{name}"
    click.echo(
        UNIT.format(
            unit=unit,
            what=noun if name == noun else f"{noun} {name}",
            command=" ".join(_quoted(word).replace("$", "$$") for word in command),
            environment="".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in _environment()),
        ),
        nl=False,
    )


def _environment() -> list[tuple[str, str]]:
    """Our variables as they are now; paths do not depend on the directory that this was asked in."""
    from orbit_zmq.settings import VARIABLES, environment

    found = [(name, value) for name in VARIABLES if (value := environment(name)) is not None]
    is_path = ("_DIR", "_FILE")
    return [(name, str(Path(value).expanduser().absolute()) if name.endswith(is_path) else value) for name, value in found]


def _quoted(text: str) -> str:
    """One word of a unit, where % means something."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return f'"{escaped}"' if any(c in escaped for c in " '\"\\;") or not escaped else escaped

"""What commands that run something share: where and how it logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def _absolute(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """What is kept in a record is read in another directory."""
    return value.absolute() if value is not None else None


def log_options(command: Command) -> Command:
    """--log-level, --log-format and --log-file, as `configure_logging` takes them."""
    for option in (
        click.option(
            "--log-file",
            type=click.Path(dir_okay=False, path_type=Path),
            callback=_absolute,
            help="Write the log there and not to standard error; it is rotated at 10 MiB.",
        ),
        click.option(
            "--log-format", type=click.Choice(["console", "json"]), help="For people or for programs; by the terminal."
        ),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical."),
    ):
        command = option(command)
    return command

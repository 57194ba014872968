"""What commands that run something share: where and how it logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def log_options(command: Command) -> Command:
    """--log-level, --log-format and --log-file, as `configure_logging` takes them."""
    for option in (
        click.option(
            "--log-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write the log there and not to standard error; it is rotated at 10 MiB.",
        ),
        click.option(
            "--log-format", type=click.Choice(["console", "json"]), help="For people or for programs; by the terminal."
        ),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning, error or critical."),
    ):
        command = option(command)
    return command

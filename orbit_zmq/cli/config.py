"""`orbit config`: the settings, where each comes from, and the file of settings."""

from __future__ import annotations

import click

from orbit_zmq.cli.output import Column, Output, output_options

COLUMNS = (Column("SETTING", "setting"), Column("VALUE", "value"), Column("MEANING", "meaning"))
ORIGIN = Column("ORIGIN", "origin")


@click.group()
def config() -> None:
    """Show and change settings."""


@config.command()
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@output_options
def show(origin: bool, output: Output) -> None:
    """Show the settings in force: environment before context in use, config file, and default.

    Where the config file is damaged, those that do not come from it, and what is wrong.
    """
    from orbit_zmq.configuration import Values, settings_and_origins  # reads the file
    from orbit_zmq.errors import InvalidArgument

    fault = None
    try:
        settings, origins = settings_and_origins()
    except InvalidArgument as error:
        fault = error
        settings, origins = settings_and_origins(with_file=False)
    rows = [
        {"setting": name, "value": getattr(settings, name), "origin": origins[name], "meaning": field.description}
        for name, field in Values.model_fields.items()
    ]
    columns = (*COLUMNS[:2], ORIGIN, COLUMNS[2]) if origin else COLUMNS
    output.items("orbit.config.show", rows, columns, id_key="setting")
    if fault is not None:
        raise fault


@config.command("set")
@click.argument("key")
@click.argument("value")
def set_value(key: str, value: str) -> None:
    """Write one setting to the config file."""
    from orbit_zmq.configuration import write_setting

    click.echo(f"{key} is {value} in {write_setting(key, value)}")


@config.command()
@click.argument("key")
def unset(key: str) -> None:
    """Take one setting out of the config file."""
    from orbit_zmq.configuration import write_setting

    click.echo(f"{key} is no more in {write_setting(key, None)}")

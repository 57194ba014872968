"""`orbit errors`: the table of errors, as the library has it."""

from __future__ import annotations

import click

from orbit_zmq.cli.output import Column, Output, output_options
from orbit_zmq.cli.parameters import one_of
from orbit_zmq.errors import ERRORS, OrbitError

COLUMNS = (
    Column("CODE", "code"),
    Column("WHAT HAPPENED", "what_happened"),
    Column("WHAT TO DO", "what_to_do"),
    Column("TRANSIENT", "transient"),
    Column("EXIT", "exit_code"),
)


@click.command()
@click.argument(
    "code", required=False, shell_complete=lambda ctx, param, begun: [c for c in sorted(ERRORS) if c.startswith(begun)]
)
@output_options
def errors(code: str | None, output: Output) -> None:
    """Say what the error CODE means and what to do about it; without CODE all of them."""
    if code is not None:
        output.item("orbit.errors.show", _row(ERRORS[one_of("error", code, ERRORS)]), id_key="code")
    else:
        output.items("orbit.errors.list", map(_row, ERRORS.values()), COLUMNS, id_key="code")


def _row(kind: type[OrbitError]) -> dict[str, object]:
    from orbit_zmq.cli.main import exit_code_of

    return {
        "code": kind.code,
        "what_happened": kind.sentence,
        "what_to_do": kind.default_hint,
        "transient": kind.transient,
        "exit_code": exit_code_of(kind()),
        "http_status": kind.http_status,
        "python": kind.__name__,
    }

"""The files of a tunnel: nothing of one child is left when they are cleared, and nothing of another is touched."""

from __future__ import annotations

import secrets
from pathlib import Path

from orbit_zmq.files import TOKEN_BYTES
from orbit_zmq.tunnel.rendezvous import Rendezvous, Report, Request


def test_what_a_child_was_killed_over_while_it_wrote_it_is_cleared_too(tmp_path: Path) -> None:
    directory = tmp_path / "tunnels"
    mine, other = Rendezvous("login.x", directory), Rendezvous("login.x.port", directory)
    for one in (mine, other):
        one.ask(Request("login.x", "node", 1, 2))
        one.report(Report(1, "active", "reverse", pid=7))
    kept = {path.name for path in directory.iterdir() if path.name.startswith("login.x.port.")}
    begun = f".login.x.port.port.{secrets.token_hex(TOKEN_BYTES)}"  # of the other one
    for name in (begun, *(f".login.x{suffix}.{secrets.token_hex(TOKEN_BYTES)}" for suffix in (".req", ".port", ".pid"))):
        (directory / name).write_text("half of")

    mine.clear()

    assert {path.name for path in directory.iterdir()} == kept | {begun}

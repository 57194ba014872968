"""Stored contexts: brokers that are reached by a name. Each is a file of the configuration directory with a join string, or
with the address of a broker. Nothing here connects, and nothing quotes a join string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from orbit_zmq.errors import Conflict, InvalidArgument, NotFound
from orbit_zmq.files import create_private, make_private_directory, read_private
from orbit_zmq.paths import config_dir
from orbit_zmq.security.join import PREFIX, JoinString

CONTEXT_NAME = re.compile(r"[a-z0-9._-]+")
DIRECTORY = "contexts"


@dataclass(frozen=True, slots=True)
class Context:
    """One stored context: a join string, or an address alone."""

    name: str
    url: str
    join: JoinString | None = None


def context_names() -> list[str]:
    """The names of all."""
    directory = config_dir() / DIRECTORY
    return sorted(path.name for path in directory.glob("*") if CONTEXT_NAME.fullmatch(path.name) and path.name[0] != ".")


def read_context(name: str) -> Context:
    """One of them; InvalidArgument when there is none of that name, NotPermitted when others could have read it."""
    path = _path_of(name)
    try:
        text = read_private(path).strip()
    except FileNotFoundError:
        hint = f"There is: {', '.join(context_names()) or 'none'}. `orbit context add {name}` stores one."
        raise InvalidArgument(f"There is no context {name}.", hint=hint) from None
    if text.startswith(PREFIX):
        join = JoinString.decode(text)
        return Context(name, join.requests[0], join)
    return Context(name, text)


def store_context(name: str, text: str) -> None:
    """Store a join string or an address under a new name; Conflict where there is one already."""
    path = _path_of(name)
    make_private_directory(path.parent, "ORBIT_CONFIG_DIR")
    if not create_private(path, text.strip() + "\n"):
        raise Conflict(f"There is a context {name} already.", hint=f"Choose another name, or `orbit context remove {name}`.")


def remove_context(name: str) -> None:
    """Forget it; NotFound where there is none of that name."""
    try:
        _path_of(name).unlink()
    except FileNotFoundError:
        raise NotFound(f"There is no context {name}.", hint="`orbit context list` shows them.") from None


def _path_of(name: str) -> Path:
    if CONTEXT_NAME.fullmatch(name) is None or name[0] == ".":
        raise InvalidArgument(f"{name!r} is no name of a context.", hint="Names are of a-z 0-9 . _ -")
    return config_dir() / DIRECTORY / name

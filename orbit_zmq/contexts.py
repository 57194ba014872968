"""Stored contexts: join strings by name, each in a file of its own (0600), and which of them is the current one.

A context is what a machine keeps of an invitation. Nothing here connects, and nothing quotes what is inside.
"""

from __future__ import annotations

import re
from pathlib import Path

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.files import read_private, write_private
from orbit_zmq.paths import config_dir
from orbit_zmq.security.join import JoinString

NAME = re.compile(r"[a-z0-9._-]{1,255}")
CURRENT = "current-context"  # beside the directory of contexts: one line, a name


def context_path(name: str) -> Path:
    """Where the context of that name lies, or would lie; InvalidArgument for what is no name."""
    if NAME.fullmatch(name) is None or name in (".", ".."):
        raise InvalidArgument(f"{name!r} is no name of a context.", hint="Names are of a-z 0-9 . _ -")
    return config_dir() / "contexts" / name


def read_context(name: str) -> JoinString:
    """A stored context; InvalidArgument where there is none of that name."""
    path = context_path(name)
    if not path.exists():
        raise InvalidArgument(f"There is no context {name}.", hint=f"Store a join string as {path} with `orbit join`.")
    return JoinString.read(path)


def store_context(name: str, joined: JoinString) -> bool:
    """Store it, and make it the current one where there is none yet; whether it is the current one now."""
    path = context_path(name)
    path.parent.mkdir(mode=0o700, exist_ok=True)  # within a directory that nobody else may enter
    joined.write(path)
    if current_context() is None:
        write_private(config_dir() / CURRENT, name + "\n")
    return current_context() == name


def current_context() -> str | None:
    """The name of the current context, or None; one whose file is gone counts as none."""
    try:
        name = read_private(config_dir() / CURRENT).strip()
    except FileNotFoundError:
        return None
    return name if NAME.fullmatch(name) and context_path(name).exists() else None

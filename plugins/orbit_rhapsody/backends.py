"""Finding and starting Rhapsody's backends by name; what is missing is said with the way to install it.

Rhapsody is imported here and only when a session starts. This module must not run tasks.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from orbit_rhapsody.values import describe
from orbit_rhapsody.workers import DaemonThreads
from orbit_zmq.errors import InternalError, InvalidArgument, OrbitError, Unsupported
from orbit_zmq.settings import setting

DEFAULT_BACKEND = "concurrent"
ALIASES = {"dragon_v3": "dragon"}

# What each backend needs beside Rhapsody: the module to look for, and how to get it.
REQUIREMENTS: dict[str, tuple[str, str]] = {
    "concurrent": ("", ""),
    "noop": ("", ""),
    "dask": ("distributed", "pip install 'orbit-zmq[dask]'"),
    "dragon": ("dragon", "pip install 'orbit-zmq[dragon]', and start the endpoint under the dragon launcher"),
    "radical_pilot": ("radical.pilot", "pip install 'orbit-zmq[lucid]'"),
}
_INSTALL_RHAPSODY = "pip install 'orbit-zmq[rhapsody]'"


def chosen_backends(backends: Sequence[str] | None) -> list[str]:
    """The backends of a session: as asked for, else by the setting rhapsody_backend, else the default one."""
    if isinstance(backends, str) or not all(isinstance(name, str) for name in backends or ()):
        raise InvalidArgument("backends is a list of names", details={"field": "backends"})
    asked = list(backends or ())
    if not asked:
        named = setting("rhapsody_backend") or ""
        asked = [name.strip() for name in named.split(",") if name.strip()] or [DEFAULT_BACKEND]
    return list(dict.fromkeys(ALIASES.get(name, name) for name in asked))


def absent_backends() -> dict[str, str]:
    """What cannot be used on this machine, and how to install it."""
    if not _is_there("rhapsody"):
        return dict.fromkeys(REQUIREMENTS, _INSTALL_RHAPSODY)
    return {name: hint for name, (module, hint) in REQUIREMENTS.items() if module and not _is_there(module)}


def available_backends() -> list[str]:
    absent = absent_backends()
    return [name for name in REQUIREMENTS if name not in absent]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around it is not there
        return False


async def start_backend(name: str) -> Any:
    """A running backend; the error names it, those that can be had here, and what to install."""
    if name not in REQUIREMENTS:
        raise InvalidArgument(
            f"unknown Rhapsody backend {name!r}; available here: {', '.join(available_backends()) or 'none'}",
            hint=f"Rhapsody plugin backends are {', '.join(REQUIREMENTS)}.",
            details={"field": "backends", "backend": name},
        )
    missing = absent_backends().get(name)
    if missing is not None:
        raise _absent(name, "it is not installed", missing)
    discovery = importlib.import_module("rhapsody.backends.discovery")
    arguments = {"executor": DaemonThreads()} if name == "concurrent" else {}
    try:
        return await discovery.get_backend(name, **arguments)
    except ImportError as error:
        raise _absent(name, describe(error), REQUIREMENTS[name][1] or _INSTALL_RHAPSODY) from error
    except OrbitError:
        raise
    except Exception as error:
        raise InternalError(
            f"the Rhapsody backend {name!r} did not start: {describe(error)}",
            hint=REQUIREMENTS[name][1],
            details={"backend": name},
        ) from error


def _absent(name: str, reason: str, install: str) -> Unsupported:
    available = available_backends()
    return Unsupported(
        f"the Rhapsody backend {name!r} cannot be used here ({reason}); available: {', '.join(available) or 'none'}",
        hint=f"To install it where the endpoint runs: {install}",
        details={"backend": name, "available": available},
    )

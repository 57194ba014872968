"""Finding and starting Rhapsody's backends by name; what is missing is said with the way to install it.

Rhapsody is imported here and only when a session starts. This module must not run tasks.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit_rhapsody.drivers import ConcurrentDriver, DaskDriver, DragonDriver, Driver, PilotDriver
from orbit_rhapsody.registration import REGISTRY
from orbit_rhapsody.values import describe
from orbit_zmq.errors import InternalError, InvalidArgument, OrbitError, Unsupported
from orbit_zmq.settings import setting

ALIASES = {"dragon_v3": "dragon"}
_INSTALL_RHAPSODY = "pip install 'orbit-zmq[rhapsody]'"
_UNDER_DRAGON = "DRAGON_MY_PUID"  # the launcher says it to every process that it starts


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend of Rhapsody, and what it needs beside Rhapsody."""

    driver: type[Driver]
    module: str = "rhapsody"
    install: str = _INSTALL_RHAPSODY


BACKENDS: dict[str, Backend] = {
    "concurrent": Backend(ConcurrentDriver),
    "noop": Backend(Driver),
    "dask": Backend(DaskDriver, "distributed", "pip install 'orbit-zmq[dask]'"),
    "dragon": Backend(DragonDriver, "dragon", "pip install 'orbit-zmq[dragon]', with Python 3.11 or 3.12"),
    "radical_pilot": Backend(PilotDriver, "radical.pilot", "pip install 'orbit-zmq[lucid]'"),
}


def chosen_backends(backends: Sequence[str] | None) -> list[str]:
    """The backends of a session: as asked for, else by the setting rhapsody_backend, else the default one."""
    if isinstance(backends, str) or not all(isinstance(name, str) for name in backends or ()):
        raise InvalidArgument("backends is a list of names", details={"field": "backends"})
    asked = list(backends or ())
    if not asked:
        named = setting("rhapsody_backend") or ""
        asked = [name.strip() for name in named.split(",") if name.strip()] or [default_backend()]
    return list(dict.fromkeys(ALIASES.get(name, name) for name in asked))


def chosen_options(options: Mapping[str, Mapping[str, Any]] | None, backends: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the backends are made with; InvalidArgument for a backend that is not one of these."""
    chosen = {ALIASES.get(name, name): dict(made_with) for name, made_with in (options or {}).items()}
    for name in chosen.keys() - set(backends):
        raise InvalidArgument(
            f"backend_options for {name!r}, which is not among the backends {', '.join(backends)}",
            details={"field": "backend_options", "backend": name},
        )
    return chosen


def default_backend() -> str:
    """Dragon in a process that its launcher has started, else threads and child processes."""
    return "dragon" if _UNDER_DRAGON in os.environ else "concurrent"


def absent_backends() -> dict[str, tuple[str, str]]:
    """Why a backend cannot be used in this process, and what to do about it."""
    absent: dict[str, tuple[str, str]] = {}
    for name, backend in BACKENDS.items():
        for module, install in (("rhapsody", _INSTALL_RHAPSODY), (backend.module, backend.install)):
            if not _is_there(module):
                absent.setdefault(name, (f"the package {module} is not installed", install))
    if "dragon" not in absent and _UNDER_DRAGON not in os.environ:
        launch = "start the endpoint through the launcher: orbit endpoint start --launcher dragon"
        absent["dragon"] = ("the endpoint was not started by the dragon launcher", launch)
    return absent


def available_backends() -> list[str]:
    absent = absent_backends()
    return [name for name in BACKENDS if name not in absent]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around it is not there
        return False


def preload_rhapsody() -> None:
    """Import it where that is safe beside something else: it looks for all of its backends, which takes a while."""
    if _is_there("rhapsody") and _UNDER_DRAGON not in os.environ:
        importlib.import_module(REGISTRY)


async def start_backend(name: str, output_directory: Path | None = None, options: Mapping[str, Any] | None = None) -> Driver:
    """A running backend; the error names it, those that can be had here, and what to install."""
    backend = BACKENDS.get(name)
    if backend is None:
        raise InvalidArgument(
            f"unknown Rhapsody backend {name!r}; available here: {', '.join(available_backends()) or 'none'}",
            hint=f"Rhapsody plugin backends are {', '.join(BACKENDS)}.",
            details={"field": "backends", "backend": name},
        )
    missing = absent_backends().get(name)
    if missing is not None:
        raise _absent(name, *missing)
    discovery = importlib.import_module(REGISTRY)
    try:
        started = await discovery.get_backend(name, **backend.driver.arguments(dict(options or {})))
        return backend.driver(name, started, output_directory)
    except ImportError as error:
        raise _absent(name, describe(error), backend.install) from error
    except OrbitError:
        raise
    except Exception as error:
        raise InternalError(
            f"the Rhapsody backend {name!r} did not start: {describe(error)}",
            hint="The endpoint's log has the whole of it.",
            details={"backend": name, "stage": "starting"},
        ) from error


def _absent(name: str, reason: str, install: str) -> Unsupported:
    available = available_backends()
    return Unsupported(
        f"the Rhapsody backend {name!r} cannot be used here ({reason}); available: {', '.join(available) or 'none'}",
        hint=f"Where the endpoint runs: {install}",
        details={"field": "backends", "backend": name, "available": available},
    )

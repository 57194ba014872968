"""Tells Rhapsody's registry of the backend `orbit_zmq`, at once or when Rhapsody is imported later.

Rhapsody takes half a second to import, and a client need not have it: this module must not import it. The registry is given
the name of the class, and imports that when somebody asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

REGISTRY = "rhapsody.backends.discovery"
NAME = "orbit_zmq"
BACKEND = "orbit_rhapsody.backend.OrbitZmqBackend"


def register() -> None:
    """Have `rhapsody.get_backend("orbit_zmq")` find the backend."""
    registry = sys.modules.get(REGISTRY)
    if hasattr(registry, "BackendRegistry"):  # else it is not there, or is being imported
        _tell(registry)
    else:
        sys.meta_path.insert(0, _WhenImported())


def _tell(registry: Any) -> None:
    registry.BackendRegistry.register_backend(NAME, BACKEND)


class _WhenImported:
    """Sees the registry's module being imported, and leaves with that."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                _tell(module)

            loader.exec_module = execute_and_tell
        return spec

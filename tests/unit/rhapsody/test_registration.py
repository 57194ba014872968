"""Rhapsody knows the backend `orbit_zmq` in whichever order the packages are imported, and nobody imports it in vain."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("rhapsody") is None, reason="rhapsody-py is not installed")


def printed_by(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("imports", ["orbit_rhapsody, rhapsody", "rhapsody, orbit_rhapsody", "orbit_rhapsody.client, rhapsody"])
def test_the_backend_is_registered_whichever_package_comes_first(imports: str):
    script = (
        f"import {imports}; print(type(rhapsody.get_backend('orbit_zmq')).__name__, rhapsody.discover_backends()['orbit_zmq'])"
    )

    assert printed_by(script) == "OrbitZmqBackend True"


def test_the_plugin_imports_neither_rhapsody_nor_the_backend():
    script = (
        "import orbit_rhapsody, sys; print([name for name in sys.modules if name.startswith(('rhapsody', 'asyncio', 'zmq'))])"
    )

    assert printed_by(script) == "[]"


def test_rhapsody_imports_the_backend_when_it_is_asked_for():
    script = (
        "import orbit_rhapsody, rhapsody, sys;"
        "watching = [one for one in sys.meta_path if type(one).__module__ == 'orbit_rhapsody.registration'];"
        "print('orbit_rhapsody.backend' in sys.modules, watching)"
    )

    assert printed_by(script) == "False []"

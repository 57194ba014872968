"""rhapsody-py's own tests of backends and sessions, run on an endpoint: from its sources, which the installed package has not.

`scripts/rhapsody-tests` fetches the sources of the version that is installed, and runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab import Lab

from orbit_zmq.children import environment_of_child

SOURCES = os.environ.get("RHAPSODY_SOURCES", "")
PATIENCE_S = 250.0

# What is left out tests the insides of one backend, or the registry, or tasks and states, which are Rhapsody's own here too.
FILES = (
    "tests/integration/test_backend_functionality.py",
    "tests/integration/test_task_api_backend_integration.py",
    "tests/integration/test_telemetry_e2e.py",  # where opentelemetry-sdk is installed
    "tests/unit/test_session.py",
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not SOURCES, reason="RHAPSODY_SOURCES names no folder with rhapsody-py's sources: scripts/rhapsody-tests"
    ),
]


def test_rhapsodys_own_tests_of_backends_and_sessions_pass_on_an_endpoint(lab: Lab):
    lab.start_endpoint("hpc1", plugins="rhapsody")
    helpers = Path(__file__).resolve().parents[1] / "helpers"
    environment = environment_of_child(**{name: lab.environment[name] for name in lab.environment if name.startswith("ORBIT_")})
    environment |= {"ORBIT_URL": lab.url, "PYTHONPATH": f"{helpers}{os.pathsep}{environment['PYTHONPATH']}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "rhapsody_on_endpoints", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(
        command, cwd=SOURCES, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.returncode == 0, done.stdout[-5_000:]
    assert " passed" in done.stdout.splitlines()[-1]

"""What the tests of tasks share: an endpoint that runs them, and a session on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab import Lab, running_lab

from orbit_rhapsody.client import RhapsodyClient


@pytest.fixture(scope="module")
def rhapsody_lab() -> Iterator[Lab]:
    """A broker, and the endpoint hpc1, which runs tasks; one of each for the tests of a file."""
    with running_lab() as made:
        made.start_endpoint("hpc1", url=made.tcp, plugins="rhapsody")
        yield made


@pytest.fixture(scope="module")
def client(rhapsody_lab: Lab) -> Any:
    return rhapsody_lab.client(rhapsody_lab.tcp)


@pytest.fixture
def rhapsody(client: Any) -> Iterator[RhapsodyClient]:
    """A session of one test, on the backends concurrent and noop."""
    plugin = client.get_plugin("hpc1", "rhapsody", backends=["concurrent", "noop"])
    assert isinstance(plugin, RhapsodyClient)
    yield plugin
    plugin.close()

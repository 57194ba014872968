"""A plugin of pytest that gives Rhapsody's own tests our backend under the names of the backends that they ask for.

For a run of its own, in the folder of Rhapsody's sources: `ORBIT_URL` says where the broker is, and the endpoint hpc1 serves
the backend of the same name. It also runs coroutines, for tests that are marked so.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
import rhapsody
import rhapsody.backends.execution.concurrent as concurrent

from orbit_rhapsody.backend import OrbitZmqBackend


class OnConcurrent(OrbitZmqBackend):
    """As Rhapsody's own is made; its executor is the endpoint's affair."""

    def __init__(self, executor: object = None, name: str = "concurrent") -> None:
        super().__init__("hpc1", ["concurrent"], name=name)


class OnDask(OrbitZmqBackend):
    def __init__(self, resources: object = None, name: str = "dask") -> None:
        super().__init__("hpc1", ["dask"], name=name)


class OnNoop(OrbitZmqBackend):
    def __init__(self, name: str = "noop") -> None:
        super().__init__("hpc1", ["noop"], name=name)


def pytest_configure(config: pytest.Config) -> None:
    registry: Any = rhapsody.BackendRegistry
    registry._backends = {"concurrent": OnConcurrent, "dask": OnDask, "noop": OnNoop}
    registry._initialized = True
    backends: Any = rhapsody.backends
    backends.ConcurrentExecutionBackend = concurrent.ConcurrentExecutionBackend = OnConcurrent


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True

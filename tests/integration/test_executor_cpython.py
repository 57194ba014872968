"""CPython's own tests of executors, from the installed test package, against the executor on an endpoint.

What is left out is named below with the reason. A distribution may install Python without these tests; then nothing runs here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from lab import running_lab

from orbit_rhapsody.executor import Executor

PLACES = {  # by class: its module from Python 3.12 on; before that all were in one
    "BaseTestCase": "util",
    "ExecutorMixin": "util",
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
    "InitializerMixin": "test_init",
    "FailingInitializerMixin": "test_init",
    "ProcessPoolExecutorTest": "test_process_pool",
}
OF_POOLS = "is about the threads or processes of a pool, which are not here"
BY_NAME = "starts a script with a pool of concurrent.futures; test_executor.py has the same with an executor"
LEFT_OUT = {
    "ExecutorShutdownTest.test_interpreter_shutdown": BY_NAME,
    "ExecutorShutdownTest.test_submit_after_interpreter_shutdown": BY_NAME,
    "ExecutorShutdownTest.test_hang_gh83386": BY_NAME,
    "ProcessPoolExecutorTest.test_max_workers_too_large": OF_POOLS,
    "ProcessPoolExecutorTest.test_killed_child": OF_POOLS,
    "ProcessPoolExecutorTest.test_traceback": "asks for a private class of the pool; test_executor.py has the traceback",
    "ProcessPoolExecutorTest.test_ressources_gced_in_workers": "needs objects that processes of one machine share",
    "ProcessPoolExecutorTest.test_saturation": OF_POOLS,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": OF_POOLS,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": OF_POOLS,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": OF_POOLS,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": OF_POOLS,
    "ProcessPoolExecutorTest.test_max_tasks_early_shutdown": OF_POOLS,
    "ProcessPoolExecutorTest.test_python_finalization_error": OF_POOLS,
    "ProcessPoolExecutorTest.test_process_pool_executor_terminate_workers": OF_POOLS,
    "ProcessPoolExecutorTest.test_process_pool_executor_kill_workers": OF_POOLS,
}
# Left out as a whole: ThreadPoolExecutorTest, ThreadPoolShutdownTest, ThreadPoolWaitTests, ProcessPoolShutdownTest (all that
# they add is about the threads and processes of a pool), ExecutorDeadlockTest (processes that crash), FutureTests (the class
# Future, without an executor), FailingInitializerResourcesTest (semaphores of multiprocessing), later versions' interpreters.


def cpython(name: str) -> Any:
    """A class of CPython's tests; the present tests are skipped where they are not installed."""
    for module in (f"test.test_concurrent_futures.{PLACES[name]}", "test.test_concurrent_futures"):
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("test"):
                raise
    pytest.skip("this Python was installed without its package test.test_concurrent_futures", allow_module_level=True)


class LabExecutor(Executor):
    """On the endpoint of the lab."""

    client: Any = None

    def __init__(self, **arguments: Any) -> None:
        super().__init__("hpc1", client=self.client, **arguments)

    @property
    def _broken(self) -> bool:
        """What the tests look at, for a pool has it."""
        return "lost" in repr(self)


@pytest.fixture(scope="module", autouse=True)
def _lab() -> Iterator[None]:
    with running_lab() as lab:
        lab.start_endpoint("hpc1", plugins="rhapsody")
        LabExecutor.client = lab.client()
        yield


def cases_of(name: str) -> list[str]:
    return [case for case in dir(cpython(name)) if case.startswith("test_")]


def without_left_out(name: str) -> dict[str, None]:
    return dict.fromkeys(case for case in cases_of(name) if f"{name}.{case}" in LEFT_OUT)


BaseTestCase: Any = cpython("BaseTestCase")
Made: Any = type("Made", (cpython("ExecutorMixin"),), {"executor_type": LabExecutor})


def suite(name: str, **more: Any) -> Any:
    """A class of CPython's tests with the executor on an endpoint."""
    bases = (Made, cpython(name), BaseTestCase)
    if issubclass(cpython(name), Made.__base__):
        bases = (cpython(name), Made, BaseTestCase)
    return type(f"Test{name}", bases, {**without_left_out(name), **more})


TestExecutor = suite("ExecutorTest")
TestWait = suite("WaitTests")
TestAsCompleted = suite("AsCompletedTests")
TestShutdown = suite("ExecutorShutdownTest")
TestInitializer = suite("InitializerMixin")
# The log is a pool's; here the error says what the initializer raised.
TestFailingInitializer = suite("FailingInitializerMixin", _assert_logged=lambda self, message: nullcontext())
TestMap = type("TestMap", (Made, BaseTestCase), {"test_map_chunksize": cpython("ProcessPoolExecutorTest").test_map_chunksize})


def test_every_case_of_these_classes_runs_or_is_left_out_for_a_reason() -> None:
    pools = {*cases_of("ProcessPoolExecutorTest")} - {*cases_of("ExecutorTest")} - {"test_map_chunksize"}

    assert {f"ProcessPoolExecutorTest.{case}" for case in pools} <= LEFT_OUT.keys()
    for name, kind in {"ExecutorTest": TestExecutor, "WaitTests": TestWait, "ExecutorShutdownTest": TestShutdown}.items():
        missing = {f"{name}.{case}" for case in cases_of(name) if getattr(kind, case) is None}
        assert missing <= LEFT_OUT.keys()
        assert len(missing) < len(cases_of(name))

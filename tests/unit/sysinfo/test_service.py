"""The plugin in a service: operations with and without a session, one provider for all sessions, the page's description."""

from __future__ import annotations

import asyncio
import platform
import threading
from pathlib import Path
from typing import Any

import pytest
from bench import served

from orbit_sysinfo import service
from orbit_sysinfo.service import SysInfoPlugin
from orbit_zmq.batch import BatchSystem
from orbit_zmq.plugin import Host


def plugin(host: Host | None = None) -> SysInfoPlugin:
    return SysInfoPlugin(host or Host(name="hpc1"))


def test_the_home_directory_and_the_host_need_no_session():
    async def scenario() -> None:
        async with served(plugin()) as bench:
            assert await bench.call("homedir", plugin="sysinfo") == {"homedir": str(Path.home())}
            said = await bench.call("host_role", plugin="sysinfo")
            assert list(said) == ["role", "scheduler", "psij_executor", "job_id", "python_version"]
            assert said["python_version"] == platform.python_version()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("batch", "role", "said"),
    [
        (BatchSystem(), "standalone", ("standalone", "none", "local", None)),
        (BatchSystem("pbs-aurora", "pbs"), "login", ("login", "pbs-aurora", "pbs", None)),
        (BatchSystem("slurm", "slurm", "4711"), "compute", ("compute", "slurm", "slurm", "4711")),
        (BatchSystem("slurm", "slurm"), "bridge", ("bridge", "slurm", "slurm", None)),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_the_host_says_what_the_batch_system_is(monkeypatch, batch, role, said):
    monkeypatch.setattr(service, "detect_batch_system", lambda: batch)

    async def scenario() -> None:
        async with served(plugin(Host(name="hpc1", role=role))) as bench:
            answer = await bench.call("host_role", plugin="sysinfo")
            assert tuple(answer.values())[:-1] == said

    asyncio.run(scenario())


def test_metrics_need_a_session_and_do_not_block_the_loop():
    made = plugin()
    may_end = threading.Event()

    def measure() -> dict[str, Any]:
        assert may_end.wait(60)
        return {"cpu": {}}

    made.provider.get_metrics = measure  # type: ignore[method-assign]

    async def scenario() -> None:
        async with served(made) as bench:
            sid = await bench.session("sysinfo")
            measuring = bench.start("metrics", plugin="sysinfo", session=sid)
            assert await bench.call("ping", plugin="sysinfo") == {}
            may_end.set()
            assert await measuring.result() == {"cpu": {}}

    asyncio.run(scenario())


def test_all_sessions_share_one_provider():
    made = plugin()

    assert made.create_session("a")._provider is made.create_session("b")._provider is made.provider


def test_the_routes_are_the_documented_ones():
    routes = {(made.method, made.path) for made in SysInfoPlugin.operations.values()}

    assert {("GET", "homedir"), ("GET", "host_role"), ("GET", "metrics/{sid}")} <= routes


def test_the_page_is_described_as_documented():
    assert SysInfoPlugin.ui_config == {
        "description": "Live CPU, memory, disk, network and GPU metrics.",
        "icon": "🖥️",
        "monitors": [
            {
                "auto_load": "metrics/{sid}",
                "css_class": "sysinfo-content",
                "id": "metrics",
                "title": "System Metrics",
                "type": "metrics",
            }
        ],
        "refresh_button": True,
        "title": "System Info",
    }

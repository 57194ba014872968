"""The plugins sysinfo and math from a client through a real broker to a real endpoint."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_math.client import AsyncMathClient, MathClient
from orbit_sysinfo.client import AsyncSysInfoClient, SysInfoClient
from orbit_zmq import AsyncClient
from orbit_zmq.errors import InvalidArgument, NotFound, RemoteError, SessionClosed
from tests.unit.sysinfo import recorded


@pytest.fixture
def sysinfo(lab: Lab) -> SysInfoClient:
    lab.start_endpoint("hpc1", plugins="sysinfo,math")
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "sysinfo")
    assert isinstance(plugin, SysInfoClient)
    return plugin


def test_a_client_sees_the_machine_of_the_endpoint(sysinfo):
    metrics = sysinfo.get_metrics()

    assert list(metrics) == ["system", "cpu", "memory", "disks", "network", "gpus"]
    assert metrics["memory"]["total"] > 0
    assert sysinfo.homedir() == str(Path.home())
    assert sysinfo.host_role()["role"] in ("login", "compute", "standalone")


def test_an_endpoint_serves_sysinfo_by_default(lab):
    lab.start_endpoint("hpc1", plugins="default")

    assert "sysinfo" in lab.client().endpoint("hpc1").plugins


def test_what_needs_no_session_is_answered_after_the_session_has_ended(sysinfo):
    sysinfo.unregister_session()

    assert sysinfo.homedir() == str(Path.home())
    with pytest.raises(InvalidArgument, match="needs a session"):
        sysinfo.get_metrics()


def test_a_session_that_another_client_has_closed_is_gone(sysinfo, lab):
    lab.client().call("hpc1", "sysinfo", "unregister_session", session=sysinfo.sid)

    with pytest.raises((SessionClosed, NotFound)):
        sysinfo.get_metrics()


def test_many_sessions_ask_at_once(sysinfo, lab):
    client = lab.client(lab.tcp)
    plugins = [client.get_plugin("hpc1", "sysinfo") for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda plugin: plugin.get_metrics(), plugins))

    assert {answer["system"]["hostname"] for answer in answers} == {sysinfo.get_metrics()["system"]["hostname"]}


def test_the_gpus_of_the_tool_that_the_endpoints_environment_names_are_seen(lab):
    tool = lab.place / "smi"
    tool.write_text(
        "#!/bin/sh\ncase \"$*\" in *utilization*) cat <<'EOF'\n"
        f"{recorded.NVIDIA_USE_MIG}EOF\n;; *) cat <<'EOF'\n{recorded.NVIDIA_FIND_A100}EOF\n;; esac\n"
    )
    tool.chmod(0o755)
    lab.environment["NVIDIA_SMI_PATH"] = str(tool)
    lab.start_endpoint("hpc1", plugins="sysinfo")
    plugin = lab.client().get_plugin("hpc1", "sysinfo")

    def used() -> list[tuple[Any, Any]]:
        gpus = [gpu for gpu in plugin.get_metrics()["gpus"] if gpu["vendor"] == "NVIDIA"]
        return [(gpu["util_gpu"], gpu["mem_used"]) for gpu in gpus]

    wait_until(lambda: used() == [(None, 87), (12.0, 400)], 100)  # a tool that was too slow is asked again after a minute


def test_math_calculates_and_remembers(sysinfo, lab):
    with lab.client().get_plugin("hpc1", "math") as plugin:
        assert isinstance(plugin, MathClient)
        assert plugin.add(2, 3) == {"op": "add", "a": 2, "b": 3, "result": 5}
        assert plugin.mul(2.5, 4)["result"] == 10.0
        with pytest.raises(ZeroDivisionError) as raised:
            plugin.div(1, 0)
        assert isinstance(raised.value, RemoteError)
        assert [(op["op"], op["result"]) for op in plugin.history()["ops"]] == [("add", 5), ("mul", 10.0)]


def test_math_tells_of_every_result(sysinfo, lab):
    told: list[Any] = []
    client = lab.client(lab.tcp)
    client.subscribe(lambda *event: told.append(event), plugin="math", topic="result")
    plugin = client.get_plugin("hpc1", "math")
    plugin.add(2, 3)
    with pytest.raises(ZeroDivisionError):
        plugin.div(1, 0)
    plugin.sub(2, 3)
    wait_until(lambda: len(told) == 2)

    assert told == [
        ("hpc1", "math", "result", {"op": "add", "a": 2, "b": 3, "result": 5, "count": 1}),
        ("hpc1", "math", "result", {"op": "sub", "a": 2, "b": 3, "result": -1, "count": 2}),
    ]


def test_the_async_clients_do_the_same(lab):
    lab.start_endpoint("hpc1", plugins="sysinfo,math")

    async def main() -> None:
        async with AsyncClient(url=lab.tcp, connect_timeout_s=60) as client:
            machine = await client.get_plugin("hpc1", "sysinfo")
            assert isinstance(machine, AsyncSysInfoClient)
            assert (await machine.get_metrics())["cpu"]["cores_logical"] >= 1
            math = await client.get_plugin("hpc1", "math")
            assert isinstance(math, AsyncMathClient)
            assert (await math.sub(2, 3))["result"] == -1
            with pytest.raises(ZeroDivisionError):
                await math.div(1.0, 0)

    asyncio.run(main())

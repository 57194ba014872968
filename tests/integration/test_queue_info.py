"""The plugin queue_info from a client through a real broker to a real endpoint, with a scheduler that is made of scripts."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from lab import Lab, wait_until
from shell import Shell

from orbit_queue_info.client import AsyncQueueInfoClient, QueueInfoClient
from orbit_zmq import AsyncClient
from orbit_zmq.errors import DeadlineExceeded, NotFound

RECORDED = Path(__file__).resolve().parents[1] / "unit" / "queue_info" / "recorded" / "slurm-22.05"
HANGS_S = 60
NOT_THERE = "echo 'You are not running a supported accounting_storage plugin' >&2; exit 1"
SCRIPTS = {
    "sinfo": f'case "$*" in *--version*) echo "slurm 22.05.8";; *%P*) echo "debug*";; *) cat {RECORDED}/sinfo.json;; esac',
    "squeue": f'case "$*" in *--json*) cat {RECORDED}/squeue.json;; *%N*) echo "n[1-2]";; esac',
    "scontrol": f'case "$2" in partition) cat {RECORDED}/partitions.txt;; *) cat {RECORDED}/reservations.txt;; esac',
    "scancel": "true", "sacctmgr": NOT_THERE, "sacct": NOT_THERE,
}  # fmt: skip


def make_commands(lab: Lab, **scripts: str) -> Path:
    """Scripts on the path of the endpoints that are started next."""
    folder = lab.place / "bin"
    folder.mkdir(exist_ok=True)
    for name, script in {**SCRIPTS, **scripts}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    lab.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    lab.environment["ORBIT_BATCH_SYSTEM"] = "slurm"
    return folder


@pytest.fixture
def queue_info(lab: Lab) -> QueueInfoClient:
    make_commands(lab)
    lab.start_endpoint("hpc1", plugins="queue_info")
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "queue_info")
    assert isinstance(plugin, QueueInfoClient)
    return plugin


def test_a_client_asks_as_it_is_used_to(queue_info):
    assert queue_info.backend() == "slurm"
    assert queue_info.is_enabled() is True
    assert list(queue_info.get_info()["queues"]) == ["debug", "long", "off"]
    assert len(queue_info.list_all_jobs("ann")["jobs"]) == 8
    assert [job["job_id"] for job in queue_info.list_jobs("long", user="*", force=True)["jobs"]] == ["8"]
    assert queue_info.list_allocations() == {"allocations": []}
    assert queue_info.cancel_job(1) == {"job_id": "1", "status": "canceled"}
    assert (queue_info.job_allocation(), queue_info.nodelist()) == (None, [])
    assert queue_info.job_nodes("1") == queue_info.job_nodes(1) == ["n1", "n2"]
    assert len(queue_info.list_finished_jobs(since=1.0, user="*")["jobs"]) == 2
    assert queue_info.list_reservations()["reservations"][0]["name"] == "maint"


def test_the_async_client_does_the_same(queue_info, lab):
    async def main() -> None:
        async with AsyncClient(url=lab.tcp) as client:
            plugin = await client.get_plugin("hpc1", "queue_info")
            assert isinstance(plugin, AsyncQueueInfoClient)
            assert await plugin.is_enabled() and await plugin.backend() == "slurm"
            assert (await plugin.hold_job(5))["status"] == "held" and (await plugin.release_job("5"))["status"] == "released"
            assert (await plugin.get_info(user="*"))["queues"]["debug"]["default"] is True

    asyncio.run(main())


def test_where_the_plugin_is_absent_it_is_not_enabled(lab):
    lab.start_endpoint("hpc1", plugins="sysinfo")
    client = lab.client()

    assert QueueInfoClient(client, "hpc1", "queue_info").is_enabled() is False
    with pytest.raises(NotFound, match="queue_info"):
        client.get_plugin("hpc1", "queue_info")


def test_a_login_node_serves_it_by_default(lab):
    make_commands(lab)
    lab.start_endpoint("hpc1", plugins="default")

    assert "queue_info" in lab.client().endpoint("hpc1").plugins


def test_what_a_role_leaves_to_a_request_is_named_with_the_option(lab):
    make_commands(lab)
    lab.start_endpoint("login", plugins="default", options=["--role", "login"])
    lab.start_endpoint("laptop", plugins="default", options=["--role", "standalone"])
    client = lab.client()

    with pytest.raises(NotFound, match="started with role login; add `--plugins default,rhapsody`"):
        client.get_plugin("login", "rhapsody")
    with pytest.raises(NotFound, match="no endpoint has plugin=rhapsody") as raised:
        client.find_endpoint(plugin="rhapsody", role="login")
    assert raised.value.hint == "login: started with role login; add `--plugins default,rhapsody`."
    shell = Shell(lab.environment)
    with shell.stack:
        run = shell.run
        asked = run("queue", "list", "--endpoint", "laptop").stderr
        assert "started with role standalone; add `--plugins default,queue_info`" in asked
        assert "add `--plugins default,rhapsody`" in run("call", "login", "rhapsody", "ping").stderr
        assert "started with role login; add" in run("plugin", "list").stdout


def test_a_clusters_bad_configuration_names_the_instance(lab):
    make_commands(lab)
    lab.start_endpoint("login", plugins="queue_info", options=["--plugin", "queue_info:hpc-b=conf=/no/such/file"])
    (absent,) = lab.client().endpoint("login").facts.absent

    assert absent["reason"].startswith("its instance hpc-b cannot be made: ")


def test_several_clusters_are_served_by_the_command_line_and_by_the_settings(lab):
    make_commands(lab, squeue='echo "$SLURM_CONF" | tr / -')
    for name in ("a.conf", "b.conf"):
        (lab.place / name).write_text("")
    settings = Path(lab.environment["ORBIT_CONFIG_DIR"])
    settings.mkdir(mode=0o700, exist_ok=True)
    (settings / "config.toml").write_text(f'[plugins.queue_info.hpc-a]\nconf = "{lab.place}/a.conf"\n')
    options = ["--plugin", f"queue_info:hpc-b=conf={lab.place}/b.conf"]
    lab.start_endpoint("login", plugins="queue_info", options=options)
    client = lab.client()

    assert sorted(client.endpoint("login").plugins) == ["hpc-a", "hpc-b", "queue_info", "test"]
    for instance, conf in (("hpc-a", "a.conf"), ("hpc-b", "b.conf")):
        assert client.get_plugin("login", instance).job_nodes(1) == [str(lab.place / conf).replace("/", "-")]


def test_an_endpoint_whose_sinfo_hangs_does_everything_else_and_ends(lab):
    folder = make_commands(lab)
    endpoint = lab.start_endpoint("hpc1", plugins="queue_info,sysinfo")
    plugin = lab.client().get_plugin("hpc1", "queue_info")
    hanging = f'case "$*" in *--version*) echo "slurm 22.05.8";; *) echo $$ > {folder}/pid; exec sleep {HANGS_S};; esac'
    (folder / "sinfo").write_text(f"#!/bin/sh\n{hanging}\n")
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        plugin.call("get_info", force=True, deadline_s=1)
    pid = wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip(), what="sinfo hangs")

    assert plugin.list_all_jobs("ann", force=True)["jobs"]
    assert lab.client().call("hpc1", "sysinfo", "homedir")
    assert time.monotonic() - began < HANGS_S
    endpoint.end()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="sinfo is gone")

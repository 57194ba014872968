"""The plugin queue_info in a running service: operations, routes, and what hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bench import FakeCall, served, until

from orbit_queue_info import service
from orbit_queue_info.queue_info import QueueInfo
from orbit_queue_info.service import QueueInfoPlugin
from orbit_zmq.batch import BatchSystem, detect_batch_system
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.errors import InvalidArgument, SchedulerFailed
from orbit_zmq.plugin import Host

SLURM = SlurmBatch("slurm", "slurm", present=("slurm",))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch):
    """Which batch system is there; prefetching is off, so that calls are counted."""

    def choose(found: BatchSystem) -> None:
        for module in (service, "orbit_queue_info.queue_info"):
            name = module if isinstance(module, str) else module.__name__
            monkeypatch.setattr(f"{name}.detect_batch_system", lambda: found)

    monkeypatch.setattr(QueueInfo, "start_prefetch", lambda self: None)
    choose(SLURM)
    return choose


def scenario(run: Any, *instances: QueueInfoPlugin) -> None:
    async def main() -> None:
        async with served(*(instances or (plugin(),))) as bench:
            await run(bench)

    asyncio.run(main())


def plugin(instance: str | None = None, **options: Any) -> QueueInfoPlugin:
    return QueueInfoPlugin(Host(name="hpc1", role="login", scheduler="slurm"), instance, **options)


def test_queues_jobs_and_allocations_are_answered(commands, system):
    commands.slurm()

    async def run(bench: Any) -> None:
        sid = await bench.session("queue_info")

        async def ask(name: str, **arguments: Any) -> Any:
            return await bench.call(name, arguments, plugin="queue_info", session=sid)

        assert list((await ask("get_info", user="*"))["queues"]) == ["debug", "long", "off"]
        assert len((await ask("list_all_jobs", user="ann"))["jobs"]) == 8
        assert [job["job_id"] for job in (await ask("list_jobs", queue="long", user="*"))["jobs"]] == ["8"]
        assert len((await ask("list_allocations", user="*", force=True))["allocations"]) == 5
        assert len((await ask("list_reservations"))["reservations"]) == 1
        assert len((await ask("list_finished_jobs", since=1, user="*", limit=3))["jobs"]) == 3
        assert len((await ask("list_array_jobs", job_id=3))["jobs"]) == 4
        with pytest.raises(InvalidArgument, match="user"):
            await ask("get_info", user="--help")

    scenario(run)


def test_jobs_are_canceled_held_and_released(commands, system):
    commands.make("scancel", "true")
    commands.make("scontrol", "true")

    async def run(bench: Any) -> None:
        sid = await bench.session("queue_info")
        for name, status in (("cancel_job", "canceled"), ("hold_job", "held"), ("release_job", "released")):
            answer = await bench.call(name, {"job_id": 17}, plugin="queue_info", session=sid)
            assert answer == {"job_id": "17", "status": status}
        with pytest.raises(InvalidArgument, match="no id of a job"):
            await bench.call("cancel_job", {"job_id": "--all"}, plugin="queue_info", session=sid)

    scenario(run)
    assert commands.calls() == ["scancel --verbose", "scontrol hold", "scontrol release"]


def test_what_needs_no_session(commands, system, monkeypatch):
    commands.slurm()

    async def run(bench: Any) -> None:
        async def ask(name: str, **arguments: Any) -> Any:
            return await bench.call(name, arguments, plugin="queue_info")

        assert await ask("backend") == {"backend": "slurm"}
        assert await ask("is_enabled") == {"available": True, "backend": "slurm", "reason": ""}
        assert await ask("job_allocation") == {"allocation": None}
        assert await ask("nodelist") == {"nodelist": []}
        commands.make("squeue", "echo 'n[1-2]'")
        assert await ask("job_nodes", native_id="17") == {"nodelist": ["n1", "n2"]}
        monkeypatch.setenv("SLURM_NNODES", "2")
        monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
        commands.make("squeue", "echo 1:00")
        system(SlurmBatch("slurm", "slurm", job_id="17"))
        with pytest.raises(SchedulerFailed, match="SLURM_JOB_NODELIST"):
            await ask("job_allocation")

    scenario(run)


@pytest.mark.parametrize(
    ("found", "backend", "reason"),
    [(BatchSystem(), "none", "no batch system"), (BatchSystem("lsf", "lsf"), "lsf", "does not read the lists of lsf")],
)
def test_it_says_why_it_tells_nothing(system, found, backend, reason):
    system(found)

    async def run(bench: Any) -> None:
        told = await bench.call("is_enabled", plugin="queue_info")
        assert (told["available"], told["backend"]) == (False, backend)
        assert reason in told["reason"]

    scenario(run)


def test_two_clusters_on_one_endpoint(commands, system, tmp_path):
    commands.make("squeue", 'echo "$SLURM_CONF" | tr -d ./')
    conf = tmp_path / "other.conf"
    conf.write_text("")

    async def run(bench: Any) -> None:
        for instance, expected in (("queue_info", ""), ("other", str(conf).replace("/", "").replace(".", ""))):
            answer = await bench.call("job_nodes", {"native_id": 1}, plugin=instance)
            assert answer["nodelist"] == ([expected] if expected else [])

    scenario(run, plugin(), plugin("other", conf=str(conf)))
    with pytest.raises(InvalidArgument, match="no such file"):
        plugin("third", conf="/no/such/slurm.conf")


def test_a_hundred_calls_at_once_cause_one_command_of_each_kind(commands, system):
    commands.slurm()
    gate = f"until [ -e {commands.folder}/go ]; do sleep 0.05; done"
    (commands.folder / "sinfo").write_text((commands.folder / "sinfo").read_text().replace("\n", f"\n{gate}\n", 1))
    made = plugin()

    async def run(bench: Any) -> None:
        sid = await bench.session("queue_info")
        calls = [
            bench.start("get_info", {"user": "ann", "force": number > 50}, plugin="queue_info", session=sid)
            for number in range(100)
        ]
        under_way: dict[str, Any] = made.queue_info._cache._under_way
        await until(lambda: "info:ann" in under_way and under_way["info:ann"]._condition._waiters)  # of who forces it
        (commands.folder / "go").touch()
        for call in calls:
            await call.result()

    scenario(run, made)
    assert sorted(commands.calls()) == ["sacctmgr --noheader", "scontrol show", "sinfo --json"]


def test_an_sinfo_that_hangs_blocks_nothing_else(commands, system):
    commands.slurm()
    commands.make("sinfo", f"touch {commands.folder}/began; exec sleep 60")

    async def run(bench: Any) -> None:
        sid = await bench.session("queue_info")
        hanging: list[FakeCall] = [
            bench.start("get_info", {"user": "ann"}, plugin="queue_info", session=sid, left_s=60) for _ in range(100)
        ]
        await until((commands.folder / "began").exists)
        assert await bench.call("ping", plugin="queue_info") == {}
        for name in ("list_all_jobs", "list_allocations", "list_reservations", "list_finished_jobs"):
            assert await bench.call(name, {"user": "ann"} if "reserv" not in name else {}, plugin="queue_info", session=sid)
        assert not any(call.answers for call in hanging)

    scenario(run)


def test_all_sessions_share_one_backend_that_outlives_them(commands, system):
    commands.slurm()
    made = plugin()

    async def run(bench: Any) -> None:
        for _ in range(3):
            sid = await bench.session("queue_info")
            await bench.call("get_info", {"user": "ann"}, plugin="queue_info", session=sid)
            await bench.call("unregister_session", plugin="queue_info", session=sid)

    scenario(run, made)
    assert commands.calls().count("sinfo --json") == 1


def test_the_routes_are_the_documented_ones():
    routes = {f"{made.method} {made.path}" for made in QueueInfoPlugin.operations.values()}

    assert routes >= {
        "GET backend", "GET is_enabled", "GET job_allocation", "GET nodelist", "GET job_nodes/{native_id}",
        "GET get_info/{sid}",
        "GET list_jobs/{sid}/{queue}", "GET list_all_jobs/{sid}", "GET list_allocations/{sid}", "POST cancel/{sid}/{job_id}",
    }  # fmt: skip


def test_the_page_is_described_as_documented():
    assert QueueInfoPlugin.ui_config == {
        "description": "Inspect batch partitions, jobs and allocations.",
        "icon": "📋",
        "monitors": [
            {
                "auto_load": "get_info/{sid}",
                "css_class": "queueinfo-content",
                "id": "partitions",
                "title": "Partitions / Queues",
                "type": "table",
            }
        ],
        "refresh_button": True,
        "title": "Queue Info",
    }


def test_this_machine_is_told_of_without_a_broker():
    assert detect_batch_system().name in ("slurm", "pbs", "pbs-aurora", "lsf", "flux", "none")

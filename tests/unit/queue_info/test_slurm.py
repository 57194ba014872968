"""QueueInfoSlurm: what is told of queues, jobs and allocations by each release, and how often Slurm is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orbit_queue_info.queue_info import EVERYBODY
from orbit_queue_info.slurm import QueueInfoSlurm
from orbit_zmq.batch.states import slurm_reason
from orbit_zmq.errors import InvalidArgument, NotFound, SchedulerFailed
from tests.unit.queue_info.recorded_outputs import PLACE


@pytest.fixture
def slurm(commands) -> QueueInfoSlurm:
    commands.slurm()
    return QueueInfoSlurm(clock=lambda: 0.0)


WAITING = [(4, "debug", 50), (9, "debug,long", 70), (6, "debug", 10), (7, "debug", 20), (8, "long", 90), (5, "debug", 0)]


def by_id(answer) -> dict[str, Any]:
    return {job["job_id"]: job for job in answer["jobs"]}


def told(record, **expected) -> None:
    assert {name: record[name] for name in expected} == expected


@pytest.mark.parametrize("with_json", [True, False])
def test_queues_are_told_by_json_of_22_05_and_by_text_alike(commands, slurm, with_json):
    if not with_json:
        commands.make("sinfo", "echo \"sinfo: unrecognized option '--json'\" >&2; exit 1")
    queues = slurm.get_info(EVERYBODY)["queues"]

    assert list(queues) == ["debug", "long", "off"]
    told(
        queues["debug"], state="UP", default=True, hidden=False, time_limit=1800, default_time_limit=None, nodes_total=2,
        nodes_available=2, max_nodes="unlimited", cpus_per_node=2, mem_per_node_bytes=1000 << 20, gpus_per_node=2,
        gpu_types={"a100": 2}, features=["fast", "a100"],
    )  # fmt: skip
    told(queues["long"], default=False, time_limit="unlimited", default_time_limit=86_400, max_nodes=1, nodes_total=1)
    told(queues["off"], state="DOWN", hidden=True)


def test_queues_are_told_by_what_24_11_says_of_partitions_where_scontrol_says_nothing(commands):
    commands.slurm("24.11")
    commands.make("scontrol", "true")
    queues = QueueInfoSlurm().get_info(EVERYBODY)["queues"]

    told(
        queues["cpu"], state="UP", time_limit=172_800, default_time_limit=3_600, nodes_total=50, nodes_available=49,
        nodes_idle=40, cpus_per_node=256, mem_per_node_bytes=1547680 << 20, gpus_per_node=0, features=["genoa", "ib"],
    )  # fmt: skip
    told(
        queues["gpu"], time_limit="unlimited", gpu_types={"l40s": 4}, gpus_per_node=4, nodes_total=4, nodes_available=4,
        nodes_idle=1, accounts=["admin", "ml"],
    )  # fmt: skip


def test_nodes_under_maintenance_are_not_available(commands):
    commands.slurm("25.05")
    commands.make("scontrol", "true")

    told(QueueInfoSlurm().get_info(EVERYBODY)["queues"]["cpu"], nodes_total=3, nodes_available=2, nodes_idle=2)


def test_jobs_of_22_05(slurm):
    jobs = by_id(slurm.list_all_jobs(EVERYBODY))

    told(
        jobs["1"], job_name="run1", user="ann", partition="debug", state="RUNNING", raw_state="RUNNING", reason=None, nodes=1,
        cpus=1, gpus=1, mem_bytes=1000 << 20, time_limit=1200, submit_time=1795245439.0, start_time=1795245440.0,
        end_time=1795246640.0, estimated_start=None, queue_position=None, node_list="n1", exit_code=None,
        work_dir="/home/ann/work", tres_alloc="cpu=1,node=1,billing=1", restart_cnt=0,
    )  # fmt: skip
    told(jobs["3"], state="FAILED", reason="NonZeroExitCode", exit_code=3, exit_signal=None, time_used=0)
    told(
        jobs["4"],
        state="PENDING",
        reason="Resources",
        start_time=None,
        end_time=None,
        estimated_start=1795246640.0,
        queue_position=1,
    )
    told(jobs["5"], state="HELD", raw_state="PENDING", reason="JobHeldUser", queue_position=None, estimated_start=None)
    told(jobs["6"], array_job_id="6", array_task_id=None, array_tasks="0-9%2", queue_position=2)
    told(jobs["7"], dependency="afterok:1(unfulfilled)", queue_position=3)
    told(jobs["8"], time_limit="unlimited", partition="long", queue_position=1)
    told(jobs["10"], state="CANCELLED")


def test_jobs_as_text_where_there_is_no_json(commands, slurm):
    text = PLACE / "slurm-22.05" / "squeue.txt"
    commands.make("squeue", f"case \"$*\" in *--json*) echo 'unrecognized option' >&2; exit 1;; *) cat {text};; esac")
    jobs = by_id(slurm.list_all_jobs("ann"))

    told(
        jobs["1"],
        job_name="done|job",
        state="DONE",
        time_limit=600,
        submit_time=1795247030.0,
        account="physics",
        node_list="n1",
    )
    told(jobs["4"], array_job_id="3", array_task_id=1, state="CANCELLED", time_used=6)
    slurm.list_all_jobs("ann", force=True)
    assert len([call for call in commands.calls() if call == "squeue --json"]) == 1


@pytest.mark.parametrize("release", ["23.11", "24.11"])
def test_jobs_of_later_releases(commands, release):
    commands.slurm(release)
    jobs = by_id(QueueInfoSlurm().list_all_jobs(EVERYBODY))

    told(jobs["525"], state="RUNNING", gpus=1, cpus=2, mem_bytes=4 << 30, time_limit=3600, start_time=1755290346.0, qos="admin")
    told(jobs["530"], state="PENDING", estimated_start=1755300000.0, queue_position=1)
    told(jobs["531"], state="HELD", reason="JobHeldAdmin")
    told(jobs["532"], time_limit="unlimited", array_tasks="3-9%2", array_job_id="532", queue_position=2)
    told(jobs["526"], state="RUNNING", raw_state="COMPLETING", exit_code=None)
    told(jobs["527"], state="FAILED", exit_code=3, exit_signal=None)
    told(jobs["528"], state="CANCELLED", exit_code=0, exit_signal=9)
    told(jobs["529"], state="FAILED", raw_state="TIMEOUT", reason="TimeLimit")


def test_jobs_of_23_02(commands):
    commands.slurm("23.02")
    jobs = by_id(QueueInfoSlurm().list_all_jobs("ann"))

    told(jobs["52175550"], state="HELD", reason="launch failed requeued held", array_job_id="52173767", array_task_id=1470)
    told(jobs["52173767"], state="DONE", node_list="cs66", exit_code=0, mem_bytes=4 << 30, time_used=253)


def test_jobs_are_those_of_the_user_and_of_the_queue_although_older_releases_print_all(slurm):
    assert slurm.list_all_jobs("nobody") == {"jobs": []}
    assert set(by_id(slurm.list_jobs("long", "ann"))) == {"8"}
    assert len(slurm.list_all_jobs(EVERYBODY)["jobs"]) == 8


def test_associations_are_told_and_narrow_the_partitions(commands, slurm):
    _, chemistry, first, second, _ = slurm.list_allocations(EVERYBODY)["allocations"]
    told(first, account="physics", user="nobody", partition="long", max_jobs="unlimited", qos=["normal"])
    told(second, partition="debug")
    told(chemistry, account="chemistry", fairshare=7, max_jobs=400, max_submit=900, max_wall=7200, allocated_node_hours=None)

    commands.make("sacctmgr", "echo 'physics|nobody|long|lab|1|normal||||||'")
    assert list(slurm.get_info("nobody")["queues"]) == ["long"]
    commands.make("sacctmgr", "true")
    assert list(slurm.get_info("root")["queues"]) == ["debug", "long", "off"]
    with pytest.raises(NotFound, match=r"There is no user 'no-such-user'.*--user"):
        slurm.get_info("no-such-user")


@pytest.mark.parametrize(
    ("raw", "reason", "exit_code", "expected"),
    [
        ("PENDING", "JobArrayTaskLimit", None, "JobArrayTaskLimit"),
        ("PENDING", "JobHeldUser", None, "JobHeldUser"),
        ("RUNNING", "BeginTime", None, None),
        ("COMPLETED", "JobArrayTaskLimit", 0, None),
        ("FAILED", "NonZeroExitCode", 3, "NonZeroExitCode"),
        ("FAILED", "BeginTime", 3, "NonZeroExitCode"),
        ("FAILED", "RaisedSignal:9(Killed)", 0, "RaisedSignal:9(Killed)"),
        ("TIMEOUT", "Resources", 0, "TimeLimit"),
        ("CANCELLED by 1000", "Dependency", 0, None),
    ],
)
def test_why_a_job_waited_is_no_reason_of_one_that_has_ended(raw, reason, exit_code, expected):
    assert slurm_reason(raw, reason, exit_code) == expected


def test_without_an_accounting_database_nothing_fails(commands):
    commands.slurm(accounting=False)
    slurm = QueueInfoSlurm()

    assert slurm.list_allocations("ann") == {"allocations": []}
    assert len(slurm.get_info("root")["queues"]) == 3
    assert set(by_id(slurm.list_finished_jobs(since=0.0, user="ann"))) == {"3", "10"}


def test_an_accounting_database_that_comes_back_is_seen_within_seconds(commands):
    commands.slurm(accounting=False)
    now = [0.0]
    slurm = QueueInfoSlurm(clock=lambda: now[0])
    assert slurm.list_allocations("nobody") == {"allocations": []}
    commands.slurm()
    now[0] += 5.0

    assert len(slurm.list_allocations("nobody")["allocations"]) == 5


def test_finished_jobs_are_told_by_the_accounting_the_newest_first(slurm):
    jobs = slurm.list_finished_jobs(since=1.0, user=EVERYBODY)["jobs"]

    assert [job["job_id"] for job in jobs] == ["4", "3", "1", "2"]
    told(jobs[0], state="CANCELLED", array_job_id="3", array_task_id=1, time_used=6, end_time=1795247037.0)
    told(jobs[3], state="FAILED", exit_code=3, account="chemistry", time_limit=600)
    assert len(slurm.list_finished_jobs(since=1.0, limit=2, user=EVERYBODY)["jobs"]) == 2
    with pytest.raises(InvalidArgument, match="limit is 0"):
        slurm.list_finished_jobs(limit=0)


def test_reservations_and_the_members_of_an_array(slurm):
    (reservation,) = slurm.list_reservations()["reservations"]
    told(reservation, name="maint", state="INACTIVE", nodes=1, node_list="n2", flags=["MAINT", "SPEC_NODES"], users=["root"])

    members = [job for job in slurm.list_array_jobs("3")["jobs"] if job["array_job_id"] == "3"]
    assert [job["array_task_id"] for job in members] == [1, 2]


def test_a_hundred_cold_calls_cause_one_command_of_each_kind(commands, slurm):
    with ThreadPoolExecutor(100) as pool:
        for call in [pool.submit(ask, "ann") for ask in (slurm.get_info, slurm.list_all_jobs) for _ in range(50)]:
            call.result(60)

    assert sorted(commands.calls()) == [
        "sacctmgr --noheader", "scontrol show", "sinfo --json", "squeue --json", "squeue --noheader",
    ]  # fmt: skip


def test_the_place_of_a_users_job_counts_the_jobs_of_others(commands, slurm):
    rows = "".join(f"{job}\x1f{queue}\x1f{priority}\x1e\n" for job, queue, priority in WAITING)
    (commands.folder / "waiting").write_text(rows)
    commands.make(
        "squeue", f'case "$*" in *--json*) cat {PLACE}/slurm-22.05/squeue.json;; *) cat {commands.folder}/waiting;; esac'
    )
    jobs = by_id(slurm.list_all_jobs("ann"))

    assert [jobs[name]["queue_position"] for name in ("4", "6", "7", "8", "5")] == [2, 4, 3, 1, None]


def test_both_prefetches_share_what_they_need(commands, slurm):
    slurm.start_prefetch()
    slurm.get_info()
    slurm.list_allocations()

    assert sorted(commands.calls()) == ["sacctmgr --noheader", "scontrol show", "sinfo --json"]


def test_our_own_cancel_makes_the_lists_new(commands, slurm):
    commands.make("scancel", "true")
    slurm.list_all_jobs("ann")
    slurm.batch.cancel("1")
    slurm.list_all_jobs("ann")

    assert [call for call in commands.calls() if call != "squeue --noheader"] == [
        "squeue --json",
        "scancel --verbose",
        "squeue --json",
    ]


def test_a_controller_that_is_down_is_said_and_not_asked_again_for_a_while(commands, slurm):
    commands.make("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    for _ in range(3):
        with pytest.raises(SchedulerFailed, match="Unable to contact slurm controller"):
            slurm.list_all_jobs("ann")
    assert commands.calls() == ["squeue --json"]


def test_an_output_that_is_too_large_as_json_is_asked_for_as_text(commands, slurm, monkeypatch):
    monkeypatch.setattr("orbit_zmq.batch.commands.OUTPUT_BYTES", 5_000)

    assert len(slurm.list_all_jobs("ann")["jobs"]) == 4


def test_another_cluster_is_asked_by_its_slurm_conf(commands, slurm, tmp_path):
    commands.make("squeue", f'echo "$SLURM_CONF" > {tmp_path}/conf; echo "n[1-3]"')

    assert QueueInfoSlurm("/etc/other/slurm.conf").batch.job_nodes(17) == ["n1", "n2", "n3"]
    assert (tmp_path / "conf").read_text() == "/etc/other/slurm.conf\n"


@pytest.mark.parametrize("native_id", [17, "17"])
def test_the_nodes_of_a_job_need_no_object(commands, native_id):
    commands.make("squeue", "echo 'n[1-3]'")
    assert QueueInfoSlurm.get_job_nodes(native_id, env={"SLURM_CONF": "/x"}) == ["n1", "n2", "n3"]
    commands.make("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert QueueInfoSlurm.get_job_nodes(native_id) == []

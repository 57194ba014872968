"""QueueInfoPBSPro: the same shape from PBS, by JSON where it works and by text where it does not."""

from __future__ import annotations

import time

import pytest

from orbit_queue_info.pbs import QueueInfoPBSPro, may_use
from orbit_queue_info.queue_info import EVERYBODY
from orbit_zmq.batch.pbs import parse_records
from tests.unit.queue_info.recorded_outputs import text


def told(record, **expected) -> None:
    assert {name: record[name] for name in expected} == expected


def local(text_of_date: str) -> float:
    return time.mktime(time.strptime(text_of_date))


def test_queues_by_json(commands):
    commands.pbs(json=True)
    queues = QueueInfoPBSPro().get_info(EVERYBODY)["queues"]

    told(
        queues["qexp"], state="UP", default=False, time_limit=3600, default_time_limit=3600, max_nodes=4, max_jobs_per_user=5,
        jobs_running=0, nodes_total=3, nodes_available=2, nodes_idle=1, cpus_per_node=36, gpus_per_node=4,
        mem_per_node_bytes=196608000 << 10, gpu_types={"gpu": 4},
    )  # fmt: skip
    told(queues["quick"], state="INACTIVE", default=True, time_limit=14_400, max_nodes="unlimited", jobs_pending=5)


def test_queues_by_text(commands):
    commands.pbs(json=False)
    queues = QueueInfoPBSPro().get_info(EVERYBODY)["queues"]

    told(
        queues["default"],
        state="UP",
        default=True,
        time_limit=2_592_000,
        max_jobs_per_user=30_000,
        nodes_total=1,
        gpus_per_node=3,
    )
    told(queues["M123"], time_limit="unlimited", min_time_limit=300, min_nodes=16, max_nodes=128, default=False)
    told(queues["M123"], nodes_total=2, nodes_available=1, nodes_idle=0)


def test_jobs_by_json(commands):
    commands.pbs(json=True)
    jobs = {job["job_id"]: job for job in QueueInfoPBSPro().list_all_jobs(EVERYBODY)["jobs"]}

    told(
        jobs["12860476"], user="ann", partition="charon_2h", state="RUNNING", raw_state="R", nodes=2, cpus=4, mem_bytes=8 << 30,
        time_limit=600, time_used=9, node_list="charon24,charon21", work_dir="/home/ann/work", restart_cnt=0,
        start_time=local("Tue Oct  4 21:23:21 2022"),
    )  # fmt: skip
    told(jobs["157"], state="HELD", time_limit=None, time_used=0, start_time=None)


def test_jobs_by_text_and_only_those_of_the_user(commands):
    commands.pbs(json=False)
    pbs = QueueInfoPBSPro()
    (bobs,) = pbs.list_all_jobs("bob")["jobs"]

    told(
        bobs,
        job_id="1391301",
        state="PENDING",
        queue_position=1,
        estimated_start=local("Wed Aug 19 12:00:00 2026"),
        work_dir="/home/bob/models",
    )
    told(pbs.list_jobs("workq", "ann")["jobs"][0], state="DONE", exit_code=0, work_dir="/lustre/ann", node_list="hb120v2-2")


def test_finished_jobs_and_members_of_an_array(commands):
    commands.pbs(json=False)
    pbs = QueueInfoPBSPro()
    finished = {job["job_id"]: job for job in pbs.list_finished_jobs(since=0.0, user=EVERYBODY)["jobs"]}

    told(finished["8"], state="DONE", end_time=local("Tue Feb 22 18:36:42 2022"))
    told(finished["1234[7]"], state="CANCELLED", raw_state="X", exit_code=None, exit_signal=15)
    (member,) = pbs.list_array_jobs("1234[]")["jobs"]
    told(member, array_job_id="1234[]", array_task_id=7)
    assert pbs.list_allocations("ann") == {"allocations": []}


def test_json_that_is_none_is_asked_for_once(commands):
    commands.pbs(json=False)
    pbs = QueueInfoPBSPro()
    for force in (False, True, True):
        pbs.list_all_jobs(EVERYBODY, force)

    assert len((commands.folder / "calls").read_text().split("json")) == 2


@pytest.mark.parametrize(
    ("user", "groups", "may"),
    [("ann", ["physics"], True), ("bob", ["physics"], True), ("ann", ["chemistry"], False), ("eve", ["physics"], False),
     ("ann", ["physics", "guests"], False)],
)  # fmt: skip
def test_a_queue_is_shown_to_those_who_may_use_it(user, groups, may):
    queues = parse_records(text("pbs/queues.txt"))

    assert may_use(queues["M123"], user, groups) is may
    assert may_use(queues["default"], user, groups)

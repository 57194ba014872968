"""What is said of a job of the batch system: why it waits, where it stands, and how it ended."""

from __future__ import annotations

from typing import Any

import pytest
from bench import run, served

from orbit_queue_info.explaining import explained, is_native_id, job_of
from orbit_queue_info.models import Job, shown
from orbit_queue_info.service import QueueInfoPlugin
from orbit_zmq.batch.reasons import SLURM, slurm_meaning
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.batch.states import SLURM_HELD_REASONS
from orbit_zmq.plugin import Host
from orbit_zmq.why import Explanation

NOW = 1_000_000.0


def said_of(**facts: Any) -> Explanation:
    return explained("7", shown(Job(job_id="7", **facts)), NOW)


@pytest.mark.parametrize(
    ("facts", "phase", "words"),
    [
        ({"state": "PENDING", "reason": "Priority", "partition": "debug", "queue_position": 3}, "waiting",
         "It waits in debug: jobs of higher priority wait before it (Priority); it is number 3 there."),
        ({"state": "PENDING", "reason": "Resources", "estimated_start": NOW + 5_400}, "waiting", ", in 1h30m."),
        ({"state": "PENDING", "reason": "Not Running: no nodes"}, "waiting", "It waits: Not Running: no nodes."),
        ({"state": "PENDING"}, "waiting", "It waits, and the batch system does not say why."),
        ({"state": "HELD", "reason": "JobHeldUser"}, "waiting", "its user holds it; `scontrol release` lets it go"),
        ({"state": "RUNNING", "partition": "debug", "node_list": "n1", "time_used": 75}, "running",
         "It runs in debug on n1, for 1m15s by now."),
        ({"state": "FAILED", "raw_state": "FAILED", "reason": "NonZeroExitCode", "exit_code": 3}, "ended",
         "It has ended: FAILED, NonZeroExitCode, exit code 3."),
        ({"state": "DONE", "raw_state": "COMPLETED"}, "ended", "It has ended: COMPLETED."),
        ({"state": "UNKNOWN", "raw_state": "ODD"}, "unknown", "The batch system says ODD of it."),
    ],
)  # fmt: skip
def test_a_job_is_explained(facts, phase, words):
    found = said_of(**facts)

    assert (found.phase, found.kind, found.native_id) == (phase, "job", "7")
    assert words in found.reason
    assert found.scheduler is not None and found.scheduler.reason == found.reason


def test_the_batch_systems_own_words_stay_beside_ours():
    part = said_of(
        state="PENDING", raw_state="PENDING", reason="QOSMaxJobsPerUserLimit", time_limit="unlimited", nodes=4
    ).scheduler

    assert part is not None
    assert (part.raw_state, part.raw_reason, part.time_limit_s, part.nodes) == ("PENDING", "QOSMaxJobsPerUserLimit", None, 4)
    assert "a limit of its QOS is reached (QOSMaxJobsPerUserLimit)" in part.reason


def test_reasons_of_slurm_mean_something():
    assert slurm_meaning("(Resources)") == slurm_meaning("Resources") == SLURM["Resources"]
    assert slurm_meaning("ReqNodeNotAvail, UnavailableNodes:n7") == SLURM["ReqNodeNotAvail"]
    assert slurm_meaning("AssocGrpCpuLimit") == "a limit of its account is reached"
    assert slurm_meaning("SomethingNew") == ""
    assert all(slurm_meaning(reason) for reason in SLURM_HELD_REASONS)


def test_an_id_names_a_job_or_a_member_of_an_array():
    jobs = [shown(Job(job_id="12")), shown(Job(job_id="15", array_job_id="12", array_task_id=3))]

    assert [(found or {}).get("job_id") for found in (job_of(item, jobs) for item in ("12", "12_3", "15", "3"))] == [
        "12", "15", "15", None,
    ]  # fmt: skip
    assert [is_native_id(item) for item in ("4711", "123.server", "12_3", "task.0001", "session.ab", "")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_the_plugin_looks_among_the_jobs_of_its_user_and_asks_nothing_for_other_ids(commands, monkeypatch):
    commands.slurm()
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setattr("orbit_queue_info.queue_info.current_user", lambda: "ann")
    monkeypatch.setattr("orbit_queue_info.queue_info.detect_batch_system", lambda: SlurmBatch("slurm", "slurm"))

    async def scenario() -> None:
        async with served(QueueInfoPlugin(Host(name="hpc1"))) as bench:
            waits, none = [await bench.call("why", {"item": item}, plugin="queue_info") for item in ("4", "task.0001")]
            (found,) = waits["found"]
            assert (found["explanation"]["phase"], found["explanation"]["scheduler"]["raw_reason"]) == ("waiting", "Resources")
            assert none == {"found": [], "unanswered": []}

    run(scenario)

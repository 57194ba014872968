"""The plugin jobs on a real Slurm: what is said of a job is true, whatever becomes of it, the endpoint, and the scheduler."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until
from slurmlab.broker import broker_at
from slurmlab.cluster import SlurmLab, slurm_lab
from slurmlab.counted import CountedCommands, too_many
from slurmlab.install import find

from orbit_jobs.client import JobsClient
from orbit_jobs.models import JobDryRun, JobHandle, JobStatus, JobStatusResult
from orbit_zmq.errors import OrbitError

pytestmark = pytest.mark.timeout(900)

PATIENCE_S = 240.0  # on a machine where much else goes on
BETWEEN_S = 1.0  # two questions of one kind to the scheduler
LATE = 2.0  # a command is written down when it runs, which on a busy machine is some time after it was started
LATEST_S = 5.0  # after its end a job is shown as running no longer


@dataclass(frozen=True)
class Wanted:
    """A job, and what has to be said of it in the end."""

    kind: str
    spec: dict[str, Any]
    status: JobStatus
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""


@dataclass
class Watch:
    """Looks at all jobs twice a second, from a client of its own."""

    jobs: JobsClient
    last_running: dict[str, float] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def look_always(self) -> None:
        while not self.over.wait(0.5):
            with suppress(OrbitError):  # the endpoint may be away
                asked = time.time()
                for job in self.jobs.list(["running"]):
                    self.last_running[job.job_id] = asked

    def shown_too_long_s(self, results: Sequence[JobStatusResult]) -> dict[str, float]:
        """For how long after its end each job was shown as running."""
        return {
            one.job_id: self.last_running[one.job_id] - one.detail["ended"]
            for one in results
            if one.job_id in self.last_running and one.detail.get("ended")
        }


@contextmanager
def watching(jobs: JobsClient) -> Iterator[Watch]:
    watch = Watch(jobs)
    thread = threading.Thread(target=watch.look_always, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join(60)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> CountedCommands:
    return CountedCommands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def lab(slurm: SlurmLab, commands: CountedCommands) -> Iterator[Lab]:
    with broker_at(slurm, PATH=commands.path, ORBIT_BATCH_SYSTEM="slurm") as made:
        made.start_endpoint("hpc1", plugins="jobs")
        yield made


@pytest.fixture(scope="module")
def jobs(lab: Lab) -> JobsClient:
    plugin = lab.client().get_plugin("hpc1", "jobs")
    assert isinstance(plugin, JobsClient)
    return plugin


def shell(text: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", text], "attributes": {"duration": 600}, **more}


def submitted(jobs: JobsClient, job: Any, **how: Any) -> JobHandle:
    handle = jobs.submit(job, **how)
    assert isinstance(handle, JobHandle)
    return handle


def a_success(number: int) -> Wanted:
    return Wanted("success", shell(f"sleep {number % 3}; echo {number}"), JobStatus.SUCCESSFUL, exit_code=0)


def a_failure(number: int) -> Wanted:
    code = 1 + number % 100
    return Wanted("failure", shell(f"sleep {number % 2}; exit {code}"), JobStatus.FAILED, code, reason=f"exit code {code}")


def one_that_kills_itself(number: int) -> Wanted:
    return Wanted("killed", shell("kill -9 $$"), JobStatus.FAILED, signal=signal.SIGKILL, reason="SIGKILL")


def one_that_kills_what_writes_its_record(number: int) -> Wanted:
    return Wanted("without a record", shell("kill -9 $PPID; exit 0"), JobStatus.FAILED, signal=signal.SIGKILL)


def one_to_cancel(number: int) -> Wanted:
    return Wanted("cancel", shell("exec sleep 20000"), JobStatus.CANCELLED, reason="cancel")


def one_cancelled_elsewhere(number: int) -> Wanted:
    return Wanted("scancel", shell("exec sleep 20000"), JobStatus.CANCELLED, reason="cancel")


def one_that_takes_too_long(number: int) -> Wanted:
    spec = shell("exec sleep 20000") | {"attributes": {"duration": 60}}
    return Wanted("timeout", spec, JobStatus.FAILED, reason="TimeLimit")


def one_on_a_node_that_dies(number: int) -> Wanted:
    custom = {"slurm.no-requeue": True, "slurm.nodelist": "n2"}
    spec = shell("exec sleep 20000") | {"attributes": {"duration": 600, "custom_attributes": custom}}
    return Wanted("node", spec, JobStatus.FAILED, reason="Node")


def is_right(wanted: Wanted, found: JobStatusResult) -> str:
    """What is wrong with it, or nothing."""
    detail = found.detail
    said = f"{wanted.kind} {found} {detail}"
    if found.status is not wanted.status:
        return said
    if wanted.exit_code is not None and detail.get("exit_code") != wanted.exit_code:
        return said
    if wanted.signal is not None and detail.get("signal") != wanted.signal:
        return said
    return said if wanted.reason.lower() not in str(detail.get("reason", "")).lower() else ""


def run_mixed(
    slurm: SlurmLab, jobs: JobsClient, commands: CountedCommands, wanted: list[Wanted], meanwhile: Callable[[], None]
) -> dict[str, float]:
    """Submit all, cancel what is to be cancelled, wait for all, and compare; how long each was shown as running too long."""
    commands.forget()
    with watching(jobs) as watch:
        handles = [submitted(jobs, one.spec) for one in wanted]
        meanwhile()
        for one, handle in zip(wanted, handles, strict=True):
            if one.kind == "cancel":
                jobs.cancel(handle, "no longer needed")
            elif one.kind == "scancel":
                slurm.run("scancel", str(handle.native_id))
        results = jobs.wait_all(handles, PATIENCE_S)
        wait_until(lambda: not jobs.list(["running", "pending"]), PATIENCE_S, "nothing is shown as unfinished")
    wrong = [said for one, found in zip(wanted, results, strict=True) if (said := is_right(one, found))]
    assert not wrong, "\n".join(wrong)
    asked = {command: too_many(commands.moments(command), BETWEEN_S) for command in ("squeue", "sacct")}
    assert all(more <= LATE for more in asked.values()), asked
    return watch.shown_too_long_s(results)


def test_every_outcome_is_right_with_exit_code_and_reason(slurm: SlurmLab, jobs: JobsClient, commands: CountedCommands) -> None:
    ends_by_itself = (a_success, a_failure, one_that_kills_itself, one_that_kills_what_writes_its_record)
    kinds = (*ends_by_itself, one_to_cancel, one_cancelled_elsewhere)
    run_mixed(slurm, jobs, commands, [kind(number) for number in range(3) for kind in kinds], lambda: None)


def test_the_members_of_an_array_each_have_their_outcome(jobs: JobsClient) -> None:
    array = submitted(jobs, shell("echo $ORBIT_ARRAY_INDEX; exit $((ORBIT_ARRAY_INDEX % 2))"), array="0-3,8%3")

    found = jobs.wait(array, PATIENCE_S)

    assert found.status is JobStatus.FAILED and found.detail["counts"] == {"successful": 3, "failed": 2}
    assert {index: one["exit_code"] for index, one in found.detail["members"].items()} == {
        "0": 0,
        "1": 1,
        "2": 0,
        "3": 1,
        "8": 0,
    }
    assert jobs.logs(array, member=8) == (b"8\n", b"")


def test_a_job_that_waits_for_others_is_left_to_the_scheduler(slurm: SlurmLab, jobs: JobsClient, tmp_path: Path) -> None:
    first = submitted(jobs, shell(f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"))
    second = submitted(jobs, shell("exit 4"), after=[first])
    third = submitted(jobs, shell("echo never"), after=[second])

    assert "afterok" in slurm.run("squeue", "--noheader", "--format=%E", f"--jobs={third.native_id}")
    (tmp_path / "go").touch()
    found = jobs.wait_all([first, second, third], PATIENCE_S)

    assert [one.status for one in found] == [JobStatus.SUCCESSFUL, JobStatus.FAILED, JobStatus.CANCELLED]
    assert f"{second.job_id}, which is failed" in found[2].detail["reason"]
    assert found[1].detail["started"] >= found[0].detail["ended"]


def test_what_is_shown_beforehand_is_what_slurm_has_got(slurm: SlurmLab, jobs: JobsClient, tmp_path: Path) -> None:
    spec = shell("exec sleep 20000", name="shown") | {"environment": {"SAID": "a 'b' $c"}, "resources": {"memory": "1GiB"}}
    shown = jobs.submit(spec, dry_run=True, key="the same", array="1-2")
    assert isinstance(shown, JobDryRun) and not shown.issues

    handle = submitted(jobs, spec, key="the same", array="1-2")
    again = submitted(jobs, spec, key="the same", array="1-2")

    slurm.run("scontrol", "write", "batch_script", str(handle.native_id), str(tmp_path / "script"))
    assert (tmp_path / "script").read_text() == shown.script
    assert again == handle and shown.job_id == handle.job_id
    jobs.cancel(handle)
    assert jobs.wait(handle, PATIENCE_S).status is JobStatus.CANCELLED


def test_a_job_that_slurm_starts_again_has_not_ended(slurm: SlurmLab, jobs: JobsClient, tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    spec = shell(f"if [ -e {mark} ]; then exit 7; fi; touch {mark}; exec sleep 20000")
    handle = submitted(jobs, spec | {"attributes": {"duration": 600, "custom_attributes": {"slurm.requeue": True}}})
    wait_until(mark.exists, PATIENCE_S, "it runs")

    slurm.run("scontrol", "requeue", str(handle.native_id))
    waits = ["squeue", "--noheader", "--states=pending", "--format=%T", f"--jobs={handle.native_id}"]
    wait_until(lambda: "PENDING" in slurm.run(*waits), PATIENCE_S, "it waits again")
    wait_until(lambda: jobs.status(handle).status is JobStatus.PENDING, PATIENCE_S, "that is known")
    # A node refuses a second start in the second in which it ended the first: "Job credential revoked".
    slurm.run("scontrol", "update", f"jobid={handle.native_id}", "starttime=now+3")

    found = jobs.wait(handle, PATIENCE_S)
    assert (found.status, found.detail["exit_code"]) == (JobStatus.FAILED, 7)


def test_an_endpoint_that_is_killed_knows_all_outcomes_when_it_is_back(slurm: SlurmLab) -> None:
    with broker_at(slurm, ORBIT_BATCH_SYSTEM="slurm") as lab:
        endpoint = lab.start_endpoint("hpc2", plugins="jobs")
        jobs = lab.client().get_plugin("hpc2", "jobs")
        wanted = [a_success(2), a_failure(7), one_that_kills_itself(0), one_cancelled_elsewhere(0), one_to_cancel(0)]
        handles = [submitted(jobs, one.spec) for one in wanted]
        held = submitted(jobs, ["true"], target="shell", after=[handles[0]])

        os.kill(endpoint.pid, signal.SIGKILL)
        slurm.run("scancel", str(handles[3].native_id))
        live = ",".join(str(handle.native_id) for handle in handles[:4])
        left = ["squeue", "--noheader", "--states=pending,running,completing", f"--jobs={live}"]
        wait_until(lambda: slurm.run(*left) == "", PATIENCE_S, "these have ended meanwhile")
        lab.start_endpoint("hpc2", plugins="jobs")
        jobs = lab.client().get_plugin("hpc2", "jobs")
        jobs.cancel(handles[4], "too late for nothing")

        found = jobs.wait_all([*handles, held], PATIENCE_S)
        assert [said for one, result in zip(wanted, found, strict=False) if (said := is_right(one, result))] == []
        assert found[4].detail["cancel_reason"] == "too late for nothing"
        assert found[5].status is JobStatus.SUCCESSFUL


def test_a_job_of_which_the_killed_endpoint_had_no_answer_is_found_again(slurm: SlurmLab, tmp_path: Path) -> None:
    kills = tmp_path / "sbatch"
    kills.write_text(f'#!/bin/sh\nsaid=$({find("sbatch")} "$@")\nrm {tmp_path}/once && kill -9 $PPID\necho "$said"\n')
    kills.chmod(0o755)
    (tmp_path / "once").touch()
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    with broker_at(slurm, PATH=path, ORBIT_BATCH_SYSTEM="slurm") as lab:
        lab.start_endpoint("hpc5", plugins="jobs")
        jobs = lab.client().get_plugin("hpc5", "jobs")
        spec = shell("exit 6", name="once-only")
        with pytest.raises(OrbitError):
            jobs.submit(spec, key="once")

        lab.start_endpoint("hpc5", plugins="jobs")
        jobs = lab.client().get_plugin("hpc5", "jobs")
        found = jobs.wait(submitted(jobs, spec, key="once"), PATIENCE_S)

        assert (found.status, found.detail["exit_code"]) == (JobStatus.FAILED, 6) and len(jobs.list()) == 1
    named = slurm.run("squeue", "--noheader", "--states=all", "--name=once-only", "--format=%i").split()
    assert named == [found.native_id]


def test_where_nobody_knows_how_a_job_has_ended_that_is_said(tmp_path: Path) -> None:
    with slurm_lab(accounting=False) as slurm, broker_at(slurm, ORBIT_BATCH_SYSTEM="slurm") as lab:
        endpoint = lab.start_endpoint("hpc3", plugins="jobs")
        jobs = lab.client().get_plugin("hpc3", "jobs")
        good, lost = submitted(jobs, ["true"]), submitted(jobs, shell(f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"))
        assert jobs.wait(good, PATIENCE_S).status is JobStatus.SUCCESSFUL
        record = Path(lost.metadata["directory"]) / "record"

        os.kill(endpoint.pid, signal.SIGKILL)
        (tmp_path / "go").touch()
        wait_until(lambda: record.exists() and '"exit_code": 0' in record.read_text(), PATIENCE_S, "it has ended")
        record.unlink()
        forget_all_jobs(slurm)
        lab.start_endpoint("hpc3", plugins="jobs")
        found = lab.client().get_plugin("hpc3", "jobs").wait_all([good, lost], PATIENCE_S)

        assert [one.status for one in found] == [JobStatus.SUCCESSFUL, JobStatus.FINISHED_UNKNOWN]
        assert "exit_code" not in found[1].detail


def forget_all_jobs(slurm: SlurmLab) -> None:
    """The controller is started without what it knew of jobs."""
    slurm.stop("slurmctld")
    for path in (slurm.place / "state").iterdir():
        if path.name.startswith(("job_state", "hash.")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    slurm.start_again("slurmctld")

    def has_none() -> bool:
        with suppress(AssertionError):
            return slurm.run("squeue", "--noheader", "--states=all") == ""
        return False

    wait_until(has_none, PATIENCE_S, "the controller has forgotten all jobs")


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_two_hundred_jobs_each_with_its_own_end(commands: CountedCommands) -> None:
    """Memory is not among them: without control groups Slurm lets a job have what it takes."""
    rest = (a_success, a_failure, one_that_kills_itself, one_to_cancel, one_cancelled_elsewhere)
    wanted = [one_on_a_node_that_dies(number) for number in range(3)]
    wanted += [one_that_takes_too_long(number) for number in range(4)]
    wanted += [rest[number % len(rest)](number) for number in range(200 - len(wanted))]
    with slurm_lab() as slurm, broker_at(slurm, PATH=commands.path, ORBIT_BATCH_SYSTEM="slurm") as lab:
        lab.start_endpoint("hpc4", plugins="jobs")
        jobs = lab.client().get_plugin("hpc4", "jobs")

        def a_node_dies() -> None:
            on_node = ["squeue", "--noheader", "--states=running", "--nodelist=n2", "--format=%l"]
            wait_until(lambda: slurm.run(*on_node).split().count("10:00") >= 3, PATIENCE_S, "jobs run on the node")
            slurm.stop("slurmd.n2")
            slurm.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
            slurm.start_again("slurmd.n2")
            wait_until(is_back, PATIENCE_S, "the node is there again")

        def is_back() -> bool:
            with suppress(AssertionError):  # it may have come back by itself
                slurm.run("scontrol", "update", "nodename=n2", "state=resume")
            return slurm.run("sinfo", "--noheader", "--nodes=n2", "--format=%T").startswith(("idle", "mixed", "alloc"))

        late = run_mixed(slurm, jobs, commands, wanted, a_node_dies)
    print(
        "jobs", Counter(one.kind for one in wanted), "shown as running for too long, at most:", max(late.values(), default=0.0)
    )
    assert max(late.values(), default=0.0) <= LATEST_S

"""Jobs of a batch system: what is shown is what is handed over, and each end is judged by all that is known of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbit_jobs import batch
from orbit_jobs.batch import BatchRunner
from orbit_jobs.models import Array, JobDryRun, JobHandle, JobStatus, JobStatusResult, JobValidationError
from orbit_jobs.runner import Job, build
from orbit_psij.models import JobSpec
from orbit_zmq.batch.outcome import NativeState
from orbit_zmq.errors import DeadlineExceeded, OrbitError, SchedulerFailed

SBATCH = '#!/bin/sh\ncp "$1" {place}/handed\necho "Submitted batch job 17"\n'
WALL_TIMES = {
    "slurm": "#SBATCH --time=1-2:0:0",
    "pbs": "#PBS -l walltime=26:0:0",
    "pbs_classic": "#PBS -l walltime=26:0:0",
    "lsf": "#BSUB -W 26:0",
    "cobalt": "#COBALT --time=1560",
}


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path with commands of Slurm that take everything; the script that was handed over is in `handed`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / name).write_text(SBATCH.format(place=tmp_path) if name == "sbatch" else "#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


@pytest.fixture
def without_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def runner(root: Path, executor: str = "slurm", **options: Any) -> BatchRunner:
    made = build({"runner": executor, "root": str(root), **options})
    assert isinstance(made, BatchRunner)
    return made


def shown(made: BatchRunner, job: Any) -> JobDryRun:
    found = made.submit(job, dry_run=True)
    assert isinstance(found, JobDryRun)
    return found


words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
specs = st.fixed_dictionaries(
    {"executable": st.just("/bin/true"), "arguments": st.lists(words, max_size=4)},
    optional={
        "name": names,
        "environment": st.dictionaries(names, words, max_size=3),
        "inherit_environment": st.booleans(),
        "stdout_path": st.just("a b.out"),
        "resources": st.fixed_dictionaries({}, optional={"process_count": st.integers(1, 4), "memory": st.just("2GiB")}),
        "attributes": st.fixed_dictionaries({}, optional={"duration": st.integers(1, 10**6), "queue_name": names}),
    },
)


@given(spec=specs, array=st.none() | st.sampled_from(["0-3", "1,5%2"]), after=st.lists(st.just("11"), max_size=1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_shown_is_byte_for_byte_what_is_handed_over(
    scheduler: Path, spec: dict[str, Any], array: str | None, after: list[str]
) -> None:
    made = runner(scheduler / "jobs", attributes={"account": "physics"})
    earlier = tuple(JobHandle(job_id=f"job.{one}", backend="slurm", native_id=one) for one in after)
    job = Job(JobSpec.of(spec), array=Array.parse(array) if array else None, after=earlier)

    before = shown(made, job)
    handle = made.submit(job)

    assert isinstance(handle, JobHandle) and handle.native_id == "17"
    assert (scheduler / "handed").read_bytes() == before.script.encode()
    assert before.command == f"sbatch {scheduler}/jobs/{job.job_id}/script" and before.job_id == handle.job_id
    assert '--account="physics"' in before.script


@pytest.mark.usefixtures("without_commands")
@pytest.mark.parametrize("executor", sorted(WALL_TIMES))
def test_a_job_is_shown_where_there_is_no_scheduler(executor: str, tmp_path: Path) -> None:
    job = {"executable": "/bin/true", "attributes": {"duration": "1-02:00:00"}}
    found = shown(runner(tmp_path / "jobs", executor), job)

    assert WALL_TIMES[executor] in found.script.splitlines()
    assert [(issue.kind, issue.severity) for issue in found.issues] == [("executor_not_available", "warning")]
    assert not (tmp_path / "jobs").exists()
    with pytest.raises(OrbitError, match="cannot be used"):
        runner(tmp_path / "jobs", executor).submit(job)


@pytest.mark.usefixtures("without_commands")
def test_what_a_scheduler_renders_of_arrays_and_dependencies(tmp_path: Path) -> None:
    spec = JobSpec.of({"executable": "/bin/true"})
    after = tuple(JobHandle(job_id=f"job.{one}", backend=name, native_id=one) for name, one in (("slurm", "8"), ("slurm", "9")))
    slurm, pbs = runner(tmp_path), runner(tmp_path, "pbs")

    script = shown(slurm, Job(spec, array=Array.parse("0-3%2"), after=after)).script
    assert {'#SBATCH --array="0-3%2"', '#SBATCH --dependency="afterok:8:9"'} <= set(script.splitlines())
    assert slurm.takes_after(after) and not pbs.takes_after(after) and not runner(tmp_path, "lsf").takes_after(())
    assert '#PBS -J "0-3"' in shown(pbs, Job(spec, array=Array.parse("0-3"))).script
    with pytest.raises(JobValidationError, match="takes no array like 1,4"):
        pbs.submit(Job(spec, array=Array.parse("1,4")), dry_run=True)
    with pytest.raises(JobValidationError, match="use array="):
        slurm.submit({"executable": "x", "attributes": {"custom_attributes": {"slurm.array": "0-3"}}}, dry_run=True)


@pytest.mark.usefixtures("without_commands")
def test_a_job_that_says_nothing_gets_what_the_target_says(tmp_path: Path) -> None:
    made = runner(tmp_path, attributes={"queue_name": "debug", "duration": 600}, resources={"node_count": 2})

    plain = shown(made, ["/bin/true"]).script
    other = shown(made, {"executable": "x", "attributes": {"queue_name": "long", "node_count": 3}}).script

    assert '--partition="debug"' in plain and "--nodes=2" in plain and "--time=0:10:0" in plain
    assert '--partition="long"' in other and "--nodes=3" in other and "--time=0:10:0" in other


# What is judged of a job


PENDING = NativeState("PENDING", "PENDING", reason="Resources", estimated_start=9.0)
RUNNING = NativeState("RUNNING", "RUNNING", node_list="n1")
TIMEOUT = NativeState("FAILED", "TIMEOUT", 0, 15, reason="TimeLimit")
DONE = NativeState("DONE", "COMPLETED", 0)
RECORD = '{"pid": 1, "pid_started": "1", "boot": "b", "host": "h", "native_id": "17", "started": 5, '


class Site:
    """What a scheduler and its accounting say, and a job that they may know."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runner = runner(root)
        self.states: dict[str, NativeState] | OrbitError = {}
        self.accounting: dict[str, NativeState] = {}
        self.asked: list[list[str]] = []
        self.directory = root / "job.1"
        self.directory.mkdir(parents=True)
        old = JobHandle(job_id="job.1", backend="slurm", native_id="17", metadata={"directory": str(self.directory)})
        self.handle = old.model_copy(update={"submitted_at": old.submitted_at.replace(year=2020)})
        self.now = 100.0
        monkeypatch.setattr(batch, "states", self._states)
        monkeypatch.setattr(batch, "accounting", self._accounting)
        monkeypatch.setattr("orbit_jobs.batch.time.monotonic", lambda: self.now)

    def _states(self, executor: str, ids: list[str]) -> dict[str, NativeState]:
        if isinstance(self.states, OrbitError):
            raise self.states
        return self.states

    def _accounting(self, executor: str, ids: list[str]) -> dict[str, NativeState]:
        self.asked.append(ids)
        return self.accounting

    def has_ended(self, exit_code: int, signal: str = "null", restarts: int | None = None) -> None:
        again = "" if restarts is None else f'"restarts": {restarts}, '
        (self.directory / "record").write_text(
            f'{RECORD}{again}"exit_code": {exit_code}, "signal": {signal}, "ended": 7, "problem": ""}}'
        )

    def has_begun(self) -> None:
        (self.directory / "record").write_text(f'{RECORD}"exit_code": null}}')

    def look(self) -> JobStatusResult | OrbitError:
        return self.runner.status_many([self.handle])[0]

    def status(self) -> JobStatus:
        found = self.look()
        assert isinstance(found, JobStatusResult)
        return found.status


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path / "jobs", monkeypatch)


def test_a_job_that_waits_says_for_what_and_until_when(site: Site) -> None:
    site.states = {"17": PENDING}
    found = site.runner.status(site.handle)

    assert found.status is JobStatus.PENDING
    assert (found.detail["reason"], found.detail["estimated_start"]) == ("Resources", 9.0) and not site.asked


def test_exit_code_0_counts_unless_the_scheduler_has_ended_the_job(site: Site) -> None:
    site.states = {"17": RUNNING}
    site.has_begun()
    assert site.status() is JobStatus.RUNNING
    site.has_ended(0)
    assert site.status() is JobStatus.RUNNING  # for the moment that the scheduler takes to say why
    site.states = {"17": TIMEOUT}
    assert site.status() is JobStatus.FAILED
    site.states = {"17": DONE}
    assert site.status() is JobStatus.SUCCESSFUL
    site.states = {"17": RUNNING}  # as when a node has been cut off
    site.look()
    site.now += batch.SETTLE_S

    assert site.status() is JobStatus.SUCCESSFUL and not site.asked


def test_a_failure_waits_a_moment_for_the_schedulers_reason(site: Site) -> None:
    site.states = {"17": RUNNING}
    site.has_ended(143, "15")
    assert site.status() is JobStatus.RUNNING
    site.states = {"17": TIMEOUT}
    found = site.look()

    assert isinstance(found, JobStatusResult) and found.status is JobStatus.FAILED
    assert (found.detail["reason"], found.detail["exit_code"], found.detail["ended"]) == ("TimeLimit", 143, 7)


def test_a_failure_does_not_wait_for_ever_for_a_reason(site: Site) -> None:
    site.states = {"17": RUNNING}
    site.has_ended(3)
    assert site.status() is JobStatus.RUNNING
    site.now += batch.SETTLE_S

    assert site.status() is JobStatus.FAILED


def test_a_job_that_was_ended_by_a_signal_may_be_started_again(site: Site) -> None:
    site.states = {"17": RUNNING}
    site.has_ended(143, "15")
    for _ in range(3):
        assert site.status() is JobStatus.RUNNING
        site.now += batch.SETTLE_S
    site.states = {"17": PENDING}
    assert site.status() is JobStatus.PENDING
    site.states = {"17": RUNNING}
    site.has_ended(143, "15")
    assert site.status() is JobStatus.RUNNING
    site.now += 1_000
    found = site.look()
    assert isinstance(found, JobStatusResult) and found.status is JobStatus.RUNNING and "ended" not in found.detail
    assert found.detail["reason"].startswith("It was ended by SIGTERM. Whether it is started again")
    site.states = {"17": NativeState("FAILED", "FAILED", 143, 15)}

    assert site.status() is JobStatus.FAILED


def test_a_run_that_a_signal_has_ended_is_over_where_a_scheduler_that_counts_its_starts_calls_it_running(site: Site) -> None:
    site.states = {"17": NativeState("RUNNING", "RUNNING", node_list="n1", restarts=0)}
    site.has_ended(137, "9", restarts=0)  # long ago
    assert site.status() is JobStatus.RUNNING
    site.now += batch.SETTLE_S

    assert site.status() is JobStatus.FAILED


def test_what_an_earlier_run_has_written_is_no_end_of_the_next(site: Site) -> None:
    again = NativeState("RUNNING", "RUNNING", node_list="n1", restarts=1)
    for exit_code, signal in ((143, "15"), (0, "null")):
        site.has_ended(exit_code, signal, restarts=0)
        for said in (again, dataclasses.replace(again, raw_state="COMPLETING"), dataclasses.replace(again, state="PENDING")):
            site.states = {"17": said}
            assert not site.status().is_finished
            site.now += 1_000
            assert not site.status().is_finished and not site.runner.status(site.handle).status.is_finished
    site.states = {"17": NativeState("FAILED", "FAILED", 1, restarts=1)}  # as of a node that refuses the next run
    site.look()
    site.now += batch.SETTLE_S
    found = site.look()

    assert isinstance(found, JobStatusResult) and found.status is JobStatus.FAILED
    assert (found.detail["exit_code"], found.detail["source"]) == (1, "scheduler") and "ended" not in found.detail


def test_a_run_that_is_cleared_away_and_was_not_counted_again_has_ended(site: Site) -> None:
    site.states = {"17": NativeState("RUNNING", "COMPLETING", restarts=1)}
    site.has_ended(137, "9", restarts=1)
    assert site.status() is JobStatus.RUNNING
    site.now += batch.SETTLE_S

    assert site.status() is JobStatus.FAILED


def test_without_a_record_the_accounting_says_it_and_then_the_scheduler(site: Site) -> None:
    site.has_begun()
    site.states = {"17": DONE}
    assert site.status() is JobStatus.RUNNING  # the record may be on its way
    site.now += batch.SETTLE_S
    site.accounting = {"17": dataclasses.replace(TIMEOUT, raw_state="OUT_OF_MEMORY", reason=None)}
    found = site.look()

    assert isinstance(found, JobStatusResult) and found.status is JobStatus.FAILED and site.asked[-1] == ["17"]
    assert (found.detail["reason"], found.detail["source"]) == ("OUT_OF_MEMORY", "accounting")
    site.accounting = {}
    assert site.runner.status(site.handle).detail["source"] == "scheduler"


def test_a_record_that_comes_late_still_counts(site: Site) -> None:
    site.states = {"17": DONE}
    assert site.status() is JobStatus.RUNNING
    site.now += batch.SETTLE_S
    site.has_ended(5)

    assert site.status() is JobStatus.FAILED


def test_where_nobody_knows_it_the_end_is_unknown_but_not_at_once(site: Site) -> None:
    site.has_begun()
    assert site.status() is JobStatus.RUNNING
    site.now += batch.SETTLE_S
    assert site.status() is JobStatus.FINISHED_UNKNOWN


def test_a_job_that_was_submitted_just_now_may_not_be_listed_yet(site: Site) -> None:
    site.handle = JobHandle(job_id="job.1", backend="slurm", native_id="17", metadata=site.handle.metadata)

    assert site.status() is JobStatus.PENDING
    site.now += 100
    assert site.status() is JobStatus.PENDING


def test_a_scheduler_that_does_not_answer_changes_nothing(site: Site) -> None:
    for fault in (SchedulerFailed("squeue: no controller"), DeadlineExceeded("squeue gave no answer")):
        site.states = fault
        assert site.look() is fault and not site.asked
        with pytest.raises(type(fault)):
            site.runner.status(site.handle)
    site.has_ended(4)
    assert site.look() is site.states  # nobody has said that no other run has begun since
    site.states = {"17": RUNNING}
    assert site.status() is JobStatus.RUNNING
    site.states = DeadlineExceeded("squeue gave no answer")
    site.now += batch.SETTLE_S
    assert site.status() is JobStatus.FAILED  # it has said so itself


@pytest.mark.parametrize(("exit_code", "signal"), [(143, "15"), (0, "null")])
def test_a_job_that_waits_to_be_started_again_has_not_ended_though_the_scheduler_falls_silent(
    site: Site, exit_code: int, signal: str
) -> None:
    site.has_ended(exit_code, signal)
    site.states = {"17": PENDING}
    assert site.status() is JobStatus.PENDING
    site.states = DeadlineExceeded("squeue gave no answer")
    for _ in range(3):
        assert site.look() is site.states
        site.now += 1_000


def test_a_signal_says_nothing_of_the_end_while_the_scheduler_is_silent(site: Site) -> None:
    site.states = {"17": RUNNING}
    site.status()
    site.has_ended(143, "15")
    site.states = DeadlineExceeded("squeue gave no answer")
    for _ in range(3):
        assert site.look() is site.states
        site.now += 1_000


def test_each_member_of_an_array_is_judged_for_itself(site: Site) -> None:
    site.handle = site.handle.model_copy(update={"metadata": {**site.handle.metadata, "array": "0-3"}})
    site.states = {"17_0": PENDING, "17_1": RUNNING, "17_2": TIMEOUT, "17_3": RUNNING}
    (site.directory / "record.3").write_text(f'{RECORD}"exit_code": 0, "signal": null, "ended": 7, "problem": ""}}')
    site.look()
    site.now += batch.SETTLE_S
    found = site.look()

    assert isinstance(found, JobStatusResult) and found.status is JobStatus.RUNNING
    said = {index: one["status"] for index, one in found.detail["members"].items()}
    assert said == {"0": "pending", "1": "running", "2": "failed", "3": "successful"}
    assert found.detail["members"]["2"]["reason"] == "TimeLimit" and site.asked[-1] == ["17_2"]


def test_a_handle_that_the_scheduler_has_no_name_for_cannot_be_asked_about(site: Site) -> None:
    with pytest.raises(JobValidationError, match="what the scheduler calls it"):
        site.runner.status(site.handle.model_copy(update={"native_id": None}))

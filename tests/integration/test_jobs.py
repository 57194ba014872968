"""The plugin jobs through a real broker: jobs belong to a user, and outlive sessions, clients and the endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from lab import Lab, running_lab, wait_until

from orbit_jobs.client import AsyncJobsClient, JobsClient
from orbit_jobs.models import JobDryRun, JobHandle, JobStatus, JobStatusResult, JobValidationError
from orbit_zmq import AsyncClient, Client
from orbit_zmq.errors import Conflict, DeadlineExceeded, InvalidArgument, NotFound, NotPermitted

pytestmark = pytest.mark.timeout(400)

WAIT_S = 90.0


@pytest.fixture(scope="module")
def site() -> Iterator[Lab]:
    """One endpoint without a batch system, for all tests that leave it as it is."""
    with running_lab() as lab:
        lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
        lab.start_endpoint("hpc1", plugins="jobs")
        yield lab


@pytest.fixture
def jobs(site: Lab) -> JobsClient:
    plugin = site.client().get_plugin("hpc1", "jobs")
    assert isinstance(plugin, JobsClient)
    return plugin


def submitted(jobs: JobsClient, job: Any, **how: Any) -> JobHandle:
    handle = jobs.submit(job, **how)
    assert isinstance(handle, JobHandle)
    return handle


def shell(text: str, **more: Any) -> dict[str, Any]:
    return {"executable": "sh", "arguments": ["-c", text], **more}


def test_a_job_is_submitted_waited_for_read_and_forgotten(jobs: JobsClient) -> None:
    handle = submitted(jobs, shell("echo out; echo err >&2; exit 3", name="mine"))
    found = jobs.wait(handle, WAIT_S)

    assert (handle.endpoint, handle.backend, handle.target, handle.metadata["name"]) == ("hpc1", "shell", "shell", "mine")
    assert (found.status, found.detail["exit_code"], found.detail["reason"]) == (
        JobStatus.FAILED, 3, "It ended with exit code 3."
    )  # fmt: skip
    assert jobs.logs(handle) == (b"out\n", b"err\n")
    assert list(jobs.follow(handle)) == [("stdout", b"out\n"), ("stderr", b"err\n")]
    assert jobs.status(handle.job_id) == found and handle.job_id in [job.job_id for job in jobs.list(["failed"])]

    jobs.forget(handle)

    with pytest.raises(NotFound, match="no job"):
        jobs.status(handle)
    assert not Path(handle.metadata["directory"]).exists()


def test_the_async_client_does_the_same(site: Lab) -> None:
    async def main() -> None:
        async with AsyncClient(url=site.url) as client:
            plugin = await client.get_plugin("hpc1", "jobs")
            assert isinstance(plugin, AsyncJobsClient)
            handle = await plugin.submit(["echo", "here"])
            assert isinstance(handle, JobHandle)
            assert [part async for part in plugin.follow(handle)] == [("stdout", b"here\n")]
            assert (await plugin.wait(handle, WAIT_S)).status is JobStatus.SUCCESSFUL
            assert (await plugin.targets())["default"] == "shell"

    asyncio.run(main())


def test_another_session_of_the_user_finds_the_job_of_one_that_was_closed(site: Lab, jobs: JobsClient) -> None:
    with site.client().get_plugin("hpc1", "jobs") as first:
        handle = submitted(first, ["sleep", "1000"])
    wait_until(lambda: jobs.status(handle).status is JobStatus.RUNNING, WAIT_S, "it runs on")

    assert jobs.cancel(handle, "enough").detail["cancel_reason"] == "enough"
    found = jobs.wait(handle, WAIT_S)
    assert (found.status, found.detail["cancel_reason"]) == (JobStatus.CANCELLED, "enough")
    assert jobs.cancel(handle).status is JobStatus.CANCELLED


def test_of_two_users_each_has_their_own_jobs_and_keys() -> None:
    with running_lab() as lab, ExitStack() as stack:
        lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
        lab.start_endpoint("hpc1", plugins="jobs", share="*:jobs:read,write,run")
        clients: dict[str, Any] = {}
        heard: dict[str, list[Any]] = {"ann": [], "bob": []}
        for name in heard:
            joined = lab.client().invite(name, "client", user=name, hosts=["127.0.0.1"])
            clients[name] = stack.enter_context(Client(join=joined.encode()))
            clients[name].subscribe(lambda *event, to=heard[name]: to.append(event[3]), endpoint="hpc1", plugin="jobs")
        ann, bob = (clients[name].get_plugin("hpc1", "jobs") for name in heard)
        hers = submitted(ann, ["sleep", "1000"], key="same")
        his = submitted(bob, ["true"], key="same")

        assert his.job_id != hers.job_id and [one.job_id for one in bob.list()] == [his.job_id]
        for ask in (bob.status, bob.cancel, bob.logs, bob.forget, clients["bob"].why):
            with pytest.raises(NotFound):
                ask(hers.job_id)
        with pytest.raises(NotFound):
            bob.submit(["true"], after=[hers])
        assert bob.wait(his, WAIT_S).status is JobStatus.SUCCESSFUL
        ann.cancel(hers)
        assert ann.wait(hers, WAIT_S).status is JobStatus.CANCELLED
        wait_until(lambda: "cancelled" in [one["status"] for one in heard["ann"]], WAIT_S, "she is told")
        wait_until(lambda: "successful" in [one["status"] for one in heard["bob"]], WAIT_S, "he is told")
        assert all({one["job_id"] for one in heard[name]} == {job.job_id} for name, job in (("ann", hers), ("bob", his)))


def test_each_change_is_told_and_the_end_once(site: Lab, jobs: JobsClient) -> None:
    heard: list[dict[str, Any]] = []

    def told(handle: JobHandle) -> list[str]:
        return [one["status"] for one in heard if one["job_id"] == handle.job_id]

    hear = site.client().subscribe(lambda *event: heard.append(event[3]), endpoint="hpc1", plugin="jobs", topic="job_status")
    first = submitted(jobs, shell("sleep 1; exit 4", name="told"))
    wait_until(lambda: "failed" in told(first), WAIT_S, "its end is told")
    second = submitted(jobs, ["true"])
    wait_until(lambda: "successful" in told(second), WAIT_S, "that of a later one is told")
    hear.unsubscribe()

    assert told(first) in (["pending", "running", "failed"], ["pending", "failed"])  # it may run between two looks
    end = next(one for one in heard if one["status"] == "failed")
    assert (end["exit_code"], end["reason"], end["name"]) == (4, "It ended with exit code 4.", "told")


def test_a_job_that_is_submitted_twice_under_one_key_is_one_job(jobs: JobsClient, tmp_path: Path) -> None:
    job = shell(f"echo began >>{tmp_path}/began")
    handles: list[JobHandle] = []
    threads = [threading.Thread(target=lambda: handles.append(submitted(jobs, job, key="one"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    jobs.wait(handles[0], WAIT_S)

    assert len(handles) == 8 and len({handle.native_id for handle in handles}) == 1
    assert submitted(jobs, job, key="one") == handles[0]
    assert (tmp_path / "began").read_text() == "began\n"
    with pytest.raises(Conflict, match="another key"):
        jobs.submit(shell("echo something else"), key="one")
    assert submitted(jobs, job, key="two").job_id != handles[0].job_id


def test_a_dry_run_submits_nothing_and_says_what_is_wrong(jobs: JobsClient) -> None:
    before = len(jobs.list())
    shown = jobs.submit(shell("true", environment={"A": "b"}), dry_run=True)

    assert isinstance(shown, JobDryRun) and "export A=b" in shown.script and shown.command.startswith("/bin/bash ")
    for dry_run in (True, False):
        with pytest.raises(JobValidationError) as caught:
            jobs.submit(["/no/such/program"], dry_run=dry_run)
        assert [(issue.kind, issue.ctx) for issue in caught.value.issues] == [
            ("missing_executable", {"executable": "/no/such/program"})
        ]
        with pytest.raises(JobValidationError, match="did you mean 'executable'"):
            jobs.submit({"executabel": "true"}, dry_run=dry_run)
    assert len(jobs.list()) == before


def test_what_is_not_there_is_said_by_name(jobs: JobsClient) -> None:
    with pytest.raises(NotFound, match=r"no target 'shel'.*'shell'"):
        jobs.submit(["true"], target="shel")
    with pytest.raises(NotFound, match=r"no job job\.none"):
        jobs.submit(["true"], after=["job.none"])
    with pytest.raises(InvalidArgument, match="no array"):
        jobs.submit(["true"], array="many")
    running = submitted(jobs, ["sleep", "1000"])
    with pytest.raises(Conflict, match="has not ended"):
        jobs.forget(running)
    with pytest.raises(DeadlineExceeded, match=r"1 of 1 jobs have not ended"):
        jobs.wait(running, 0.1)
    jobs.cancel(running)


def test_jobs_that_nobody_can_wait_for_are_held_here(site: Lab, jobs: JobsClient, tmp_path: Path) -> None:
    first = submitted(jobs, shell("until [ -e go ]; do sleep 0.1; done; echo 1 >>log", directory=str(tmp_path)))
    second = submitted(jobs, shell("echo 2 >>log", directory=str(tmp_path)), after=[first])
    bad = submitted(jobs, ["false"], after=[second])
    vain = submitted(jobs, shell("echo 4 >>log", directory=str(tmp_path)), after=[bad, first])
    dropped = submitted(jobs, ["true"], after=[bad])
    assert jobs.cancel(dropped, "not needed").status is JobStatus.CANCELLED
    why = site.client().call("hpc1", "jobs", "why", {"item": vain.job_id})["found"][0]["explanation"]
    assert f"It waits for the jobs {bad.job_id}" in why["reason"] and why["phase"] == "waiting"

    (tmp_path / "go").touch()
    found = jobs.wait_all([first, second, bad, vain], WAIT_S)

    assert [one.status.value for one in found] == ["successful", "successful", "failed", "cancelled"]
    assert f"{bad.job_id}, which is failed" in found[3].detail["reason"]
    assert (tmp_path / "log").read_text() == "1\n2\n"


def test_members_of_an_array_have_outcomes_of_their_own(jobs: JobsClient) -> None:
    handle = submitted(jobs, shell("echo $ORBIT_ARRAY_INDEX; exit $ORBIT_ARRAY_INDEX"), array="0-2%2")
    found = jobs.wait(handle, WAIT_S)

    assert {index: one["exit_code"] for index, one in found.detail["members"].items()} == {"0": 0, "1": 1, "2": 2}
    assert found.status is JobStatus.FAILED and jobs.logs(handle, member=2) == (b"2\n", b"")


def test_output_is_followed_byte_for_byte(jobs: JobsClient) -> None:
    line = "ä€𝄞" * 1_000
    handle = submitted(jobs, shell(f"for n in $(seq 400); do echo '{line}'; done"))

    got = b"".join(part for name, part in jobs.follow(handle) if name == "stdout")

    assert got == f"{line}\n".encode() * 400


def test_everything_is_reachable_over_http(site: Lab, jobs: JobsClient) -> None:
    handle = submitted(jobs, ["true"])
    jobs.wait(handle, WAIT_S)
    gateway = site.start_gateway()
    base = f"{gateway.ready['http']}/hpc1/jobs"
    headers = {"Authorization": f"Bearer {site.token()}"}

    found = requests.get(f"{base}/status/default/{handle.job_id}", headers=headers, timeout=60).json()
    assert JobStatusResult.model_validate(found).status is JobStatus.SUCCESSFUL
    shown = requests.post(
        f"{base}/submit/default", json={"command": ["true"], "dry_run": True}, headers=headers, timeout=60
    ).json()
    assert JobDryRun.model_validate(shown).script.startswith("#!/bin/bash")


def kill(endpoint: Any) -> None:
    os.kill(endpoint.pid, signal.SIGKILL)
    endpoint.end()


def test_jobs_outlive_the_endpoints_process(tmp_path: Path) -> None:
    with running_lab() as lab:
        lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
        endpoint = lab.start_endpoint("hpc2", plugins="jobs")
        jobs = lab.client().get_plugin("hpc2", "jobs")
        done = submitted(jobs, ["true"])
        jobs.wait(done, WAIT_S)
        ends = submitted(jobs, shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 5"), key="k")
        lives = submitted(jobs, ["sleep", "1000"])
        lost = submitted(jobs, ["sleep", "1000"])
        after = submitted(jobs, shell("echo $SECRET"), after=[done])
        secret = {"SECRET": "very-secret-word"}
        held = submitted(jobs, shell("echo $SECRET", environment=secret), after=[lives])
        wanted = {handle.job_id for handle in (ends, lives, lost)}
        wait_until(lambda: wanted <= {job.job_id for job in jobs.list(["running"])}, WAIT_S, "they run")
        jobs.wait(after, WAIT_S)

        kill(endpoint)
        stored = [path for path in (lab.place / "state").rglob("endpoint-*") if path.is_file()]
        assert stored and not any(b"very-secret-word" in path.read_bytes() for path in stored)
        (tmp_path / "go").touch()
        os.killpg(int(str(lost.native_id).partition(".")[0]), signal.SIGKILL)
        record = Path(ends.metadata["directory"]) / "record"
        wait_until(lambda: '"exit_code": 5' in record.read_text(), WAIT_S, "it has ended meanwhile")
        lab.start_endpoint("hpc2", plugins="jobs")
        jobs = lab.client().get_plugin("hpc2", "jobs")

        assert jobs.status(done).status is JobStatus.SUCCESSFUL and jobs.status(lives).status is JobStatus.RUNNING
        found = jobs.wait_all([ends, lost], WAIT_S)
        assert [one.status for one in found] == [JobStatus.FAILED, JobStatus.FINISHED_UNKNOWN]
        assert found[0].detail["exit_code"] == 5
        again = shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 5")
        assert submitted(jobs, again, key="k").job_id == ends.job_id
        assert jobs.status(held).status is JobStatus.PENDING
        jobs.cancel(lives)
        assert jobs.wait(held, WAIT_S).status is JobStatus.CANCELLED


def test_with_a_full_disk_jobs_are_refused_or_cancelled_and_later_ones_say_that_they_are_not_kept() -> None:
    with running_lab() as lab:
        lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
        endpoint = lab.start_endpoint("hpc3", plugins="jobs,psij")
        jobs, psij = (lab.client().get_plugin("hpc3", name) for name in ("jobs", "psij"))
        lives = submitted(jobs, ["sleep", "1000"])
        before = resource.prlimit(endpoint.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        for more in ({}, {"key": "once"}, {"after": [lives]}):
            with pytest.raises(NotPermitted, match="cannot be written"):
                jobs.submit(["true"], **more)
        with pytest.raises(NotPermitted, match="cannot be written"):
            psij.submit_job(shell("true"))
        jobs.cancel(lives)
        resource.prlimit(endpoint.pid, resource.RLIMIT_FSIZE, before)

        assert jobs.wait(lives, WAIT_S).status is JobStatus.CANCELLED
        later = submitted(jobs, ["true"], key="once")
        assert [one.job_id for one in jobs.list()] == [later.job_id, lives.job_id]
        assert "keeps nothing at present" in later.metadata["warnings"][0]
        assert "keeps nothing at present" in psij.submit_job(shell("true"))["warnings"][0]


def test_a_directory_that_cannot_be_is_refused_by_its_name(jobs: JobsClient) -> None:
    with pytest.raises(JobValidationError, match="There is no directory /xxx"):
        jobs.submit(shell("true", directory="/" + "x" * 400))


def test_what_has_no_id_is_no_job(jobs: JobsClient) -> None:
    with pytest.raises(InvalidArgument, match="None is no job"):
        jobs.status(None)  # type: ignore[arg-type]


def test_output_that_is_no_file_keeps_nobody_waiting(jobs: JobsClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    waiting = submitted(jobs, shell("echo out", stdout_path=str(tmp_path / "pipe")))
    endless = submitted(jobs, shell("echo out", stdout_path="/dev/zero", stderr_path="/dev/null"))
    nowhere = submitted(jobs, shell("echo out", stdout_path=str(tmp_path)))

    assert jobs.wait(endless, WAIT_S).status is JobStatus.SUCCESSFUL
    assert jobs.wait(nowhere, WAIT_S).detail["reason"] == "stdout cannot be written"
    assert [jobs.logs(one) for one in (waiting, endless, nowhere)] == [(b"", b"")] * 3
    assert (tmp_path / "pipe").read_bytes() == b"out\n"
    assert jobs.wait(waiting, WAIT_S).status is JobStatus.SUCCESSFUL


def test_what_is_known_of_a_job_is_kept_for_its_time_and_the_settings_name_targets() -> None:
    with running_lab() as lab:
        lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
        config = Path(lab.environment["ORBIT_CONFIG_DIR"])
        config.mkdir(mode=0o700, exist_ok=True)
        text = '[plugins.jobs.jobs]\nkeep_days = {days}\ndefault_target = "tmp"\n[plugins.jobs.jobs.targets.tmp]\n'
        more = f'runner = "shell"\ncwd = "{lab.place}"\n'
        (config / "config.toml").write_text(text.format(days=1) + more)
        endpoint = lab.start_endpoint("hpc3", plugins="jobs")
        jobs = lab.client().get_plugin("hpc3", "jobs")
        assert jobs.targets()["default"] == "tmp" and [one["name"] for one in jobs.targets()["targets"]] == ["tmp", "shell"]
        old = submitted(jobs, ["pwd"])
        jobs.wait(old, WAIT_S)
        assert jobs.logs(old)[0].decode().strip() == str(lab.place)
        lives = submitted(jobs, ["sleep", "1000"])

        endpoint.end()
        (config / "config.toml").write_text(text.format(days=0) + more)
        lab.start_endpoint("hpc3", plugins="jobs")
        jobs = lab.client().get_plugin("hpc3", "jobs")

        wait_until(lambda: [job.job_id for job in jobs.list()] == [lives.job_id], WAIT_S, "the old one is forgotten")
        wait_until(lambda: not Path(old.metadata["directory"]).exists(), WAIT_S, "with its files")
        jobs.cancel(lives)
        jobs.wait(lives, WAIT_S)
        assert json.loads(jobs.status(lives).model_dump_json())["status"] == "cancelled"

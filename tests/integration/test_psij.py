"""The plugin psij with jobs of this machine: what becomes of them through closed sessions and killed endpoints."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from lab import Lab, is_gone, running_lab, wait_until
from shell import Shell

from orbit_zmq.errors import InvalidArgument, NotFound, Unsupported

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 100.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        made.start_endpoint("hpc1", plugins="psij,test")
        yield made


@pytest.fixture
def psij(lab: Lab) -> Iterator[Any]:
    with lab.client().get_plugin("hpc1", "psij") as session:
        yield session
        session.close(cancel=True)


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script], **more}


def ended(psij: Any, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = psij.wait_job(job["job_id"], timeout=PATIENCE_S)
    return found


def test_a_job_ends_as_its_command_does_and_what_it_printed_is_there(psij: Any) -> None:
    job = psij.submit_job(shell("echo häß; echo oh >&2; exit 7", name="seven"))
    end = ended(psij, job)
    assert (end["state"], end["exit_code"], end["signal"], end["source"]) == ("FAILED", 7, None, "record")
    status = psij.get_job_status(job["job_id"])
    assert (status["stdout"], status["stderr"], status["stdout_offset"]) == ("häß\n", "oh\n", 6)
    assert psij.get_job_status(job["job_id"], stdout_offset=6, stderr_offset=3)["stdout"] == ""
    assert (status["name"], status["executable"], status["native_id"]) == ("seven", "/bin/sh", job["native_id"])


def test_every_change_is_told_and_the_end_once(psij: Any) -> None:
    heard: list[dict[str, Any]] = []
    psij.on_notification(lambda endpoint, plugin, topic, data: heard.append(data), topic="job_status")
    jobs = [psij.submit_job(shell(f"exit {code}"))["job_id"] for code in (0, 3)]
    cancelled = psij.submit_job(shell("exec sleep 1000"))["job_id"]
    wait_until(lambda: psij.get_job_status(cancelled)["state"] == "ACTIVE", PATIENCE_S)
    psij.cancel_job(cancelled)
    for job_id in (*jobs, cancelled):
        psij.wait_job(job_id, timeout=PATIENCE_S)
    wait_until(lambda: sum(data["state"] in ("COMPLETED", "FAILED", "CANCELED") for data in heard) == 3, PATIENCE_S)

    def told(job_id: str) -> list[str]:
        return [data["state"] for data in heard if data["job_id"] == job_id]

    assert [told(job_id)[-1] for job_id in (*jobs, cancelled)] == ["COMPLETED", "FAILED", "CANCELED"]
    assert all(told(job_id)[0] == "QUEUED" and len(set(told(job_id))) == len(told(job_id)) for job_id in (*jobs, cancelled))
    assert next(data["exit_code"] for data in heard if data["state"] == "FAILED") == 3


def test_closing_a_session_leaves_its_jobs_and_another_session_of_the_user_can_ask_for_them(lab: Lab, psij: Any) -> None:
    other = lab.client().get_plugin("hpc1", "psij")
    job = other.submit_job(shell("sleep 1; echo done"))
    other.close()
    assert job["job_id"] not in [one["job_id"] for one in psij.list_jobs()["jobs"]]
    assert job["job_id"] in [one["job_id"] for one in psij.list_jobs(all_sessions=True)["jobs"]]
    assert ended(psij, job)["state"] == "COMPLETED"
    assert psij.get_job_status(job["job_id"])["stdout"] == "done\n"


def test_a_session_may_be_closed_with_its_jobs(lab: Lab, psij: Any) -> None:
    other = lab.client().get_plugin("hpc1", "psij")
    job = other.submit_job(shell("exec sleep 1000"))
    other.close(cancel=True)
    assert ended(psij, job)["state"] == "CANCELED"
    wait_until(partial(is_over, job["native_id"]), PATIENCE_S, "its process is gone")


def test_a_canceled_job_that_does_not_listen_is_killed_with_its_children(psij: Any) -> None:
    job = psij.submit_job(shell("trap '' TERM; echo up; sleep 1000 & wait; sleep 1000"))
    wait_until(lambda: psij.get_job_status(job["job_id"])["stdout"], PATIENCE_S)
    session = int(job["native_id"].partition(".")[0])
    psij.cancel_job(job["job_id"])
    assert ended(psij, job)["state"] == "CANCELED"
    wait_until(lambda: not any(session_of(pid) == session and not is_over(str(pid)) for pid in psutil.pids()), PATIENCE_S)


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def test_a_job_that_has_ended_stays_as_it_is_when_it_is_canceled(psij: Any) -> None:
    job = psij.submit_job(shell("exit 0"))
    assert ended(psij, job)["state"] == "COMPLETED"
    assert psij.cancel_job(job["job_id"]) == {"job_id": job["job_id"], "status": "canceled"}
    assert psij.get_job_status(job["job_id"])["state"] == "COMPLETED"


def test_the_files_and_the_directory_of_a_job_may_have_blanks_in_their_names(psij: Any, tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    (place / "in put").write_text("from a file")
    spec = shell(
        "cat; pwd >&2", directory=str(place), stdin_path="in put", stdout_path="out put", stderr_path=str(place / "err")
    )
    status = psij.get_job_status(ended(psij, psij.submit_job(spec))["job_id"])
    assert (status["stdout"], status["stderr"]) == ("from a file", f"{place}\n")
    assert (place / "out put").read_text() == "from a file"


def test_launchers_and_scripts_before_and_after_do_not_speak_into_the_output(psij: Any, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_text("echo preparing; export PREPARED=yes\n")
    after.write_text(f"echo tidied >{tmp_path}/tidied\n")
    spec = shell("echo $PREPARED", pre_launch=str(before), post_launch=str(after))
    single = psij.submit_job(spec)
    several = psij.submit_job({**spec, "launcher": "multiple", "resources": {"process_count": 3}})
    assert (ended(psij, single)["exit_code"], ended(psij, several)["exit_code"]) == (0, 0)
    assert psij.get_job_status(single["job_id"])["stdout"] == "yes\n"
    assert psij.get_job_status(several["job_id"])["stdout"] == "yes\n" * 3
    assert (tmp_path / "tidied").read_text() == "tidied\n"


def test_what_cannot_be_is_refused_before_anything_is_done(psij: Any) -> None:
    with pytest.raises(InvalidArgument, match="no field 'argument'; did you mean 'arguments'"):
        psij.submit_job({"executable": "/bin/true", "argument": []})
    with pytest.raises(InvalidArgument, match="no executor 'slrum'"):
        psij.submit_job({"executable": "/bin/true"}, executor="slrum")
    with pytest.raises(Unsupported, match="bsub is not installed"):
        psij.submit_job({"executable": "/bin/true"}, executor="lsf")
    with pytest.raises(InvalidArgument, match="not an absolute path"):
        psij.submit_job({"executable": "/bin/true", "directory": "here"})
    with pytest.raises(NotFound, match="no job 'nothing' of yours"):
        psij.get_job_status("nothing")
    assert psij.list_jobs()["jobs"] == []


def test_executors_are_listed_and_the_reason_is_said_where_one_cannot_be_used(psij: Any) -> None:
    found = {one["name"]: one for one in psij.executors()["executors"]}
    assert found["local"]["available"] and "single" in found["local"]["launchers"]
    assert found["lsf"] == {
        "name": "lsf", "available": False, "reason": "bsub is not installed on this machine", "launchers": []
    }  # fmt: skip
    assert "flux" in found["flux"]["reason"] and not found["flux"]["available"]


def test_an_old_name_is_taken_with_a_warning(psij: Any) -> None:
    job = psij.submit_job({"executable": "/bin/true", "attributes": {"project_name": "physics"}})
    assert "attributes.account" in job["warnings"][0]
    assert psij.get_job_status(job["job_id"])["account"] == "physics"


def test_output_is_followed_while_it_is_written(psij: Any) -> None:
    job = psij.submit_job(shell("for i in 1 2 3; do echo ä$i; sleep 0.3; done"))
    assert b"".join(psij.follow_output(job["job_id"])).decode() == "ä1\nä2\nä3\n"


def test_a_killed_endpoint_finds_its_jobs_again_and_how_they_ended(tmp_path: Path) -> None:
    first, second = (f"until [ -e {tmp_path}/{name} ]; do sleep 0.1; done" for name in ("first", "second"))
    with running_lab() as lab:
        endpoint = lab.start_endpoint("hpc2", plugins="psij")
        psij = lab.client().get_plugin("hpc2", "psij", lifetime="persistent", sid="mine")
        ends_meanwhile = psij.submit_job(shell(f"{first}; echo out; exit 5"))
        goes_on = psij.submit_job(shell(f"{second}; exit 6"))
        leaves_nothing = psij.submit_job(shell(first))
        os.kill(endpoint.pid, signal.SIGKILL)
        endpoint.wait()
        (tmp_path / "first").touch()
        for job in (ends_meanwhile, leaves_nothing):
            wait_until(partial(is_over, job["native_id"]), PATIENCE_S)
        (lab.place / "state" / "psij" / leaves_nothing["job_id"] / "exit.json").unlink()

        lab.start_endpoint("hpc2", plugins="psij")
        psij = lab.client().get_plugin("hpc2", "psij", sid="mine")
        assert ended(psij, ends_meanwhile)["exit_code"] == 5
        assert psij.get_job_status(ends_meanwhile["job_id"])["stdout"] == "out\n"
        (tmp_path / "second").touch()
        assert ended(psij, goes_on)["exit_code"] == 6
        lost = ended(psij, leaves_nothing)
        assert (lost["state"], lost["exit_code"], lost["source"]) == ("FAILED", None, "none")


def is_over(native_id: str) -> bool:
    return is_gone(int(native_id.partition(".")[0]))


def test_the_routes_are_those_of_the_page(lab: Lab) -> None:
    gateway = lab.start_gateway()
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {lab.token()}"
    base = f"http://{gateway.ready['http'].removeprefix('http://')}/hpc1/psij"
    sid = http.post(f"{base}/register_session", json={}, timeout=60).json()["sid"]
    job = http.post(f"{base}/submit/{sid}", json={"job_spec": shell("echo häß")}, timeout=60).json()
    http.get(f"{base}/wait/{sid}/{job['job_id']}", params={"wait_s": PATIENCE_S}, timeout=PATIENCE_S + 30)
    path, offsets = f"{base}/status/{sid}/{job['job_id']}", {"stdout_offset": 1}
    assert http.get(path, params=offsets, timeout=60).json()["stdout"] == "äß\n"
    assert [one["job_id"] for one in http.get(f"{base}/list_jobs/{sid}", timeout=60).json()["jobs"]] == [job["job_id"]]
    assert http.post(f"{base}/cancel/{sid}/{job['job_id']}", timeout=60).json()["status"] == "canceled"
    refused = http.post(f"{base}/submit/{sid}", json={"job_spec": {"executable": "x", "nam": "y"}}, timeout=60)
    assert refused.status_code == 400 and "did you mean 'name'?" in refused.text


def test_why_says_what_a_job_does(lab: Lab, psij: Any) -> None:
    client = lab.client()
    running, done = psij.submit_job(shell("exec sleep 1000")), psij.submit_job(shell("exit 9"))
    wait_until(lambda: psij.get_job_status(running["job_id"])["state"] == "ACTIVE", PATIENCE_S)
    ended(psij, done)
    assert (client.why(running["job_id"]).phase, client.why(running["job_id"]).kind) == ("running", "job")
    assert "exit code 9" in client.why(done["job_id"]).reason


def test_a_worker_is_started_explained_and_stopped_by_its_name(lab: Lab) -> None:
    orbit, start = Shell(lab.environment), ("worker", "start", "--endpoint", "hpc1", "--executor", "local", "--duration", "10m")
    foreign = orbit.run(*start, "--name", "mine")
    assert foreign.returncode == 2 and "--name hpc1.mine" in foreign.stderr

    started = orbit.run(*start, "--name", "hpc1.mine", timeout_s=2 * PATIENCE_S)
    assert (started.returncode, started.stdout) == (0, "hpc1.mine\n"), started.stderr
    wait_until(lambda: orbit.json("why", "hpc1.mine")["phase"] == "running", PATIENCE_S, "it is known to run")
    assert orbit.json("why", "hpc1.mine")["kind"] == "job"
    assert orbit.run("worker", "stop", "hpc1.mine", "--endpoint", "hpc1", timeout_s=2 * PATIENCE_S).returncode == 0
    wait_until(lambda: orbit.json("why", "hpc1.mine")["phase"] == "ended", PATIENCE_S, "it is known to have ended")

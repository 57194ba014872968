"""`orbit job` on processes of this machine: submitted, previewed, followed, cancelled, and the exit code of each end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, running_lab, wait_until
from shell import ORBIT, Shell

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 100.0
ENDED = ("successful", "failed", "cancelled")
LINES = 20_000  # of some bytes each, in several writes


@pytest.fixture(scope="module")
def world() -> Iterator[Lab]:
    with running_lab() as made:
        made.environment["ORBIT_BATCH_SYSTEM"] = "none"
        made.start_endpoint("hpc1", plugins="jobs,test")
        yield made


@pytest.fixture
def shell(world: Lab) -> Iterator[Shell]:
    made = Shell(world.environment)
    with made.stack:
        yield made


def submit(shell: Shell, *words: str) -> str:
    """The id of a new job."""
    done = shell.run("job", "submit", "-q", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def script(text: str) -> list[str]:
    return ["--", "/bin/sh", "-c", text]


def ids(shell: Shell) -> list[str]:
    """Of all jobs, whatever those of other tests come to meanwhile."""
    return [str(job["job_id"]) for job in shell.json("job", "list")]


def status(shell: Shell, job_id: str) -> str:
    return str(shell.json("job", "show", job_id)["status"])


def wait_for(shell: Shell, job_id: str, *wanted: str) -> None:
    wait_until(lambda: status(shell, job_id) in wanted, PATIENCE_S, f"{job_id} is {' or '.join(wanted)}")


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [("exit 0", 0, "successful"), ("exit 3", 3, "failed"), ("kill -9 $$", 137, "failed"), ("no-such-program", 127, "failed")],
)
def test_who_waits_ends_with_the_exit_code_of_the_job(shell, text, code, status):
    done = shell.run("job", "submit", "--wait", "--json", *script(text))

    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["item"]["status"] == status
    assert done.stderr.startswith("orbit: job job.") and done.stderr.endswith(" is submitted to hpc1.\n")


def test_what_is_previewed_is_a_script_that_runs_and_submits_nothing(shell, tmp_path):
    before = ids(shell)
    out = tmp_path / "out"
    done = shell.run("job", "submit", "--dry-run", "--stdout", str(out), "--", "/bin/echo", "two  words")
    assert done.returncode == 0 and done.stderr.startswith("orbit: would run: /bin/bash ")
    assert ids(shell) == before

    directory = re.search(r"(\S+)/record", done.stdout)
    assert directory is not None and not Path(directory[1]).exists()
    made = tmp_path / "made"
    made.write_text(done.stdout.replace(directory[1], str(tmp_path)))
    assert subprocess.run(["/bin/bash", str(made)], timeout=60, check=False).returncode == 0
    assert out.read_text() == "two  words\n"
    known = json.loads(shell.run("job", "submit", "--dry-run", "--json", "--", "true").stdout)
    assert known["schema"] == "orbit.job.submit.dry_run"
    assert known["item"]["script"].startswith("#!/bin/bash\n") and known["item"]["issues"] == []


def test_jobs_are_listed_by_status_by_id_and_by_pattern(shell):
    good, bad = (submit(shell, "--name", name, *script(text)) for name, text in (("good", "exit 0"), ("bad", "exit 3")))
    for one in (good, bad):
        wait_for(shell, one, *ENDED)

    assert shell.run("job", "list", good, bad, "-q").stdout.split() == [bad, good]  # the newest first
    failed = shell.run("job", "list", "--state", "failed", "-q").stdout.split()
    assert bad in failed and good not in failed
    assert shell.run("job", "list", f"{good[:-1]}?", "-q").stdout.split() == [good]
    shown = shell.json("job", "show", bad[:-1])
    assert (shown["job_id"], shown["metadata"]["name"], shown["detail"]["exit_code"]) == (bad, "bad", 3)
    assert shell.json("job", "show", str(shown["native_id"]))["job_id"] == bad
    row = next(line for line in shell.run("job", "list").stdout.splitlines() if line.startswith(bad))
    assert row.split("\t")[:5] == [bad, "bad", "failed", "3", "It ended with exit code 3."]
    unknown = shell.run("job", "show", "nothing")
    assert unknown.returncode == 1 and "There is no job 'nothing'" in unknown.stderr
    several = shell.run("job", "show", "job.*")
    assert several.returncode == 2 and "One job is meant here" in several.stderr


def test_a_job_is_cancelled_with_a_reason_and_who_waits_hears_of_it(shell):
    job_id = submit(shell, "--", "sleep", "100")
    too_early = shell.run("job", "wait", job_id, "--timeout", "0.3s")
    assert too_early.returncode == 5 and f"1 of 1 jobs have not ended within 0.3 s: {job_id}" in too_early.stderr
    waiting = shell.start("job", "wait", job_id, "--json")

    asked = shell.run("job", "cancel", job_id, "--reason", "enough of it")
    assert asked.returncode == 0, asked.stderr
    assert waiting.stdout is not None
    (ended,) = json.loads(waiting.stdout.read())["items"]
    assert waiting.wait(PATIENCE_S) == 123
    assert (ended["status"], ended["detail"]["cancel_reason"]) == ("cancelled", "enough of it")
    again = shell.json("job", "cancel", job_id)
    assert [one["status"] for one in again] == ["cancelled"]
    nobody = shell.run("job", "cancel", "none-of-these*")
    assert (nobody.returncode, nobody.stdout.splitlines()[1:]) == (0, [])


def test_ctrl_c_ends_the_command_and_not_the_job(shell):
    command = [*ORBIT, "job", "submit", "--wait", "--", "sleep", "100"]
    with subprocess.Popen(command, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        job_id = waiting.stderr.readline().split()[2]
        wait_for(shell, job_id, "running")
        waiting.send_signal(signal.SIGINT)
        said = waiting.stderr.read()
        assert waiting.wait(PATIENCE_S) == 130
    assert said.strip() == f"orbit: job {job_id} goes on; `orbit job wait {job_id}` waits for it."
    assert status(shell, job_id) == "running"
    shell.run("job", "cancel", job_id)


def test_output_is_followed_byte_for_byte_until_the_job_ends(shell, tmp_path):
    go_on = tmp_path / "go-on"
    text = (
        f"printf 'é€ %s\\n' $(seq {LINES}); while ! test -e {go_on}; do sleep 0.05; done; printf '\\377\\000end'; echo err >&2"
    )
    job_id = submit(shell, *script(text))
    expected = "".join(f"é€ {number}\n" for number in range(1, LINES + 1)).encode()
    with subprocess.Popen(
        [*ORBIT, "job", "logs", "-f", job_id], env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as following:
        assert following.stdout is not None and following.stderr is not None
        assert following.stdout.read(len(expected)) == expected  # before the job has ended
        assert following.poll() is None
        go_on.touch()
        assert following.stdout.read() == b"\xff\x00end" and following.stderr.read() == b"err\n"
        assert following.wait(PATIENCE_S) == 0
    once = subprocess.run([*ORBIT, "job", "logs", job_id], env=shell.environment, capture_output=True, timeout=60, check=True)
    assert once.stdout == expected + b"\xff\x00end"


def test_members_of_an_array_have_an_outcome_each(shell):
    done = shell.run(
        "job", "submit", "--array", "0-2", "--wait", *script("echo $ORBIT_ARRAY_INDEX; test $ORBIT_ARRAY_INDEX != 1")
    )
    assert done.returncode == 1, done.stderr
    job_id = done.stdout.splitlines()[1].split("\t")[1]

    rows = [line.split("\t")[:3] for line in done.stdout.splitlines() if line[:2] in ("0\t", "1\t", "2\t")]
    assert rows == [["0", "successful", "0"], ["1", "failed", "1"], ["2", "successful", "0"]]
    assert shell.run("job", "logs", job_id, "--member", "2").stdout == "2\n"


def test_whose_output_of_an_array_is_meant_has_to_be_said(shell):
    array, single = submit(shell, "--array", "0-2%1", *script("true")), submit(shell, "--", "true")

    unsaid, none = shell.run("job", "logs", array), shell.run("job", "logs", array, "--member", "3")
    assert (unsaid.returncode, none.returncode) == (2, 2)
    assert "is an array" in unsaid.stderr and "no member 3" in none.stderr and "0-2." in none.stderr
    of_single = shell.run("job", "logs", single, "--member", "0")
    assert of_single.returncode == 2 and "is no array" in of_single.stderr


def test_what_is_passed_over_of_a_job_is_said_when_it_is_submitted(shell, tmp_path):
    done = shell.run("job", "submit", "-q", "--duration", "1h", "--queue", "debug", "--", "true")
    assert done.returncode == 0
    assert [line.split()[2] for line in done.stderr.splitlines()] == ["attributes.duration", "attributes.queue_name"]
    assert len(shell.json("job", "show", done.stdout.strip())["metadata"]["warnings"]) == 2

    gate = tmp_path / "gate"
    first = submit(shell, *script(f"until [ -e {gate} ]; do sleep 0.05; done"))
    held = shell.run("job", "submit", "-q", "--after", first, "--duration", "1h", "--", "true")
    assert held.returncode == 0 and "warning: attributes.duration" in held.stderr
    gate.touch()
    wait_for(shell, held.stdout.strip(), *ENDED)


def test_a_job_after_another_waits_for_it_and_why_says_so(shell, tmp_path):
    gate = tmp_path / "gate"
    first = submit(shell, *script(f"while ! test -e {gate}; do sleep 0.05; done"))
    second = submit(shell, "--after", "last", "--", "true")

    found = shell.json("why", second)
    assert (found["kind"], found["state"], found["phase"], found["at"]) == ("job", "pending", "waiting", "plugin")
    assert found["reason"] == f"It waits for the jobs {first}."
    wait_for(shell, first, "running")
    running = shell.json("why", first)
    assert (running["phase"], running["at"]) == ("running", None)
    gate.touch()
    assert shell.run("job", "wait", first, second).returncode == 0
    assert shell.json("why", second)["phase"] == "ended"


@pytest.mark.parametrize("option", ["--key", "--target", "--array", "--after", "--name", "--directory"])
def test_an_empty_value_is_not_taken_for_none(shell: Shell, option: str) -> None:
    before = ids(shell)
    assert shell.run("job", "submit", option, "", "--", "true").returncode in (1, 2)
    assert ids(shell) == before


def test_the_newest_job_is_meant_where_none_is_named(lab: Lab) -> None:
    lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
    lab.start_endpoint("hpc1", plugins="jobs")
    shell = Shell(lab.environment)
    none = shell.run("job", "show")
    assert none.returncode == 1 and "There is no last job. (Submit one: orbit job submit" in none.stderr
    submit(shell, *script("echo first"))
    newest = submit(shell, *script("echo second; exit 3"))

    assert shell.run("job", "wait").returncode == 3
    assert shell.json("job", "show")["job_id"] == newest
    assert shell.run("job", "logs").stdout == "second\n"
    assert shell.run("job", "list", "last", "-q").stdout.split() == [newest]


def test_jobs_that_have_ended_are_forgotten_and_no_others(lab: Lab) -> None:
    lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
    lab.start_endpoint("hpc1", plugins="jobs")
    shell = Shell(lab.environment)
    first, second = submit(shell, "--", "true"), submit(shell, "--", "true")
    assert shell.run("job", "wait", first, second).returncode == 0
    running = submit(shell, "--", "sleep", "100")
    for verb in ("forget", "cancel", "show", "wait", "logs"):
        empty = shell.run("job", verb, "")
        assert (empty.returncode, empty.stderr) == (2, "orbit: An empty text means no job. (Write its id, or `all`.)\n")
    assert len(shell.json("job", "list")) == 3 and status(shell, running) == "running"
    directory = Path(shell.json("job", "show", first)["metadata"]["directory"])
    assert directory.exists()

    for named in (running, "last"):
        refused = shell.run("job", "forget", named)
        assert refused.returncode == 1 and f"{running} has not ended" in refused.stderr
    assert shell.run("job", "forget", first, "-q").stdout.split() == [first] and not directory.exists()
    assert shell.run("job", "forget", "all", "-q").stdout.split() == [second]
    assert [one["job_id"] for one in shell.json("job", "list")] == [running]
    shell.run("job", "cancel", running)


def test_who_waits_goes_on_when_the_endpoint_is_killed_and_started_again(lab: Lab, tmp_path: Path) -> None:
    lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
    child, shell, gate = lab.start_endpoint("hpc1", plugins="jobs"), Shell(lab.environment), tmp_path / "gate"
    job_id = submit(shell, *script(f"echo begun; while ! test -e {gate}; do sleep 0.05; done; echo over; exit 7"))
    with shell.stack:
        waiting, following = shell.start("job", "wait", job_id, "--json"), shell.start("job", "logs", "-f", job_id)
        assert following.stdout is not None and following.stdout.readline() == "begun\n"
        wait_for(shell, job_id, "running")
        os.kill(child.pid, signal.SIGKILL)
        gate.touch()
        lab.start_endpoint("hpc1", plugins="jobs")

        assert waiting.stdout is not None
        (ended,) = json.loads(waiting.stdout.read())["items"]
        assert waiting.wait(PATIENCE_S) == 7
        assert (following.stdout.read(), following.wait(PATIENCE_S)) == ("over\n", 0)
        assert (ended["status"], ended["detail"]["exit_code"]) == ("failed", 7)


def test_where_several_endpoints_take_jobs_one_has_to_be_named(lab: Lab) -> None:
    lab.environment["ORBIT_BATCH_SYSTEM"] = "none"
    shell = Shell(lab.environment)
    nowhere = shell.run("job", "submit", "--", "true")
    assert nowhere.returncode == 1 and "No endpoint serves the plugin jobs" in nowhere.stderr
    for name in ("hpc1", "hpc2"):
        lab.start_endpoint(name, plugins="jobs")

    several = shell.run("job", "submit", "--", "true")
    assert several.returncode == 2 and "hpc1 jobs, hpc2 jobs" in several.stderr
    ids: dict[str, Any] = {name: submit(shell, "--endpoint", name, "--", "true") for name in ("hpc1", "hpc2")}
    assert shell.run("job", "wait", *ids.values()).returncode == 0
    assert [(one["endpoint"], one["job_id"]) for one in shell.json("job", "list")] == [
        ("hpc2", ids["hpc2"]),
        ("hpc1", ids["hpc1"]),
    ]
    refused = shell.run("job", "submit", "--endpoint", "hpc1", "--memory", "much", "--", "true")
    assert refused.returncode == 2 and "memory" in refused.stderr and refused.stderr.count("\n") == 1

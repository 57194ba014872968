"""`orbit task`, as a shell has it: tasks are submitted, run, looked at from other processes, chosen, ended and lost."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lab import Lab, running_lab, wait_until
from shell import ORBIT, Shell, terminal

from orbit_zmq import Client
from orbit_zmq.cli.main import main
from orbit_zmq.errors import OrbitError

PATIENCE_S = 120.0


class Done(NamedTuple):
    """What a command has said."""

    returncode: int
    stdout: str
    stderr: str


class Tasks(Shell):
    """Runs `orbit task`."""

    def task(self, *words: str, code: int = 0, said: str = "", **environment: str) -> Done:
        """In this process, which is faster and the same but for signals and terminals."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr("orbit_zmq.cli.connection.CONNECT_S", PATIENCE_S)
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(said.encode())))
            done = Done(main(["task", *words]), out.getvalue(), err.getvalue())
        assert done.returncode == code, done
        return done

    def items(self, *words: str, code: int = 0, **more: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.task(words[0], "--json", *words[1:], code=code, **more).stdout)["items"]
        return found

    def uids(self, *words: str, **more: Any) -> list[str]:
        return self.task(*words, **more).stdout.split()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """In the background, with both of its outputs."""
        started = subprocess.Popen(
            [*ORBIT, "task", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(started.wait, PATIENCE_S)
        self.stack.callback(started.kill)
        return started


@pytest.fixture(scope="module")
def two() -> Iterator[Lab]:
    """An endpoint that has the plugin, and one that has not."""
    with running_lab() as made:
        made.start_endpoint("hpc1", plugins="rhapsody")
        made.start_endpoint("other", plugins="test")
        yield made


@pytest.fixture
def shell(two: Lab) -> Iterator[Tasks]:
    made = Tasks(two.environment)
    with made.stack:
        yield made


@pytest.fixture
def alone(lab: Lab) -> Iterator[Tasks]:
    """With a broker of its own."""
    made = Tasks(lab.environment)
    with made.stack:
        yield made


@contextmanager
def readers_of(lab: Lab) -> Iterator[Callable[[], int]]:
    """What answers how many read the results of the session `default` now."""
    with Client(url=lab.url, connect_timeout_s=PATIENCE_S) as client:
        yield lambda: int(client.call("hpc1", "rhapsody", "statistics", session="default")["consumers"])


def until(gate: Path, before: str = ":", after: str = ":") -> list[str]:
    """A program that goes on when there is that file."""
    return ["sh", "-c", f"{before}; while [ ! -e {gate} ]; do sleep 0.05; done; {after}"]


def test_what_one_shell_has_submitted_another_one_sees_waits_for_and_reads(shell: Tasks) -> None:
    (uid,) = shell.uids("submit", "-q", "--env", "WORD=hello", "--cwd", "/", "--", "sh", "-c", "echo $WORD; pwd; echo no >&2")

    (awaited,) = shell.items("wait", uid)
    shown = json.loads(shell.task("show", uid, "--json").stdout)["item"]
    read = shell.task("logs", uid)

    assert (awaited["state"], awaited["exit_code"], awaited["endpoint"], awaited["session"]) == ("DONE", 0, "hpc1", "default")
    assert uid in shell.uids("list", "-q")
    assert (shown["uid"], shown["stdout"], shown["stderr"]) == (uid, "hello\n/\n", "no\n")
    assert (read.stdout, read.stderr) == ("hello\n/\n", "no\n")
    assert f"uid        {uid}" in shell.task("show", uid, ORBIT_OUTPUT="table").stdout
    assert shell.task("logs").stdout == read.stdout  # the last


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo out", 0, ""),
        ("exit 3", 3, ""),
        ("exit 255", 255, ""),
        ("kill -KILL $$", 137, "SIGKILL"),
        ("kill -TERM $$", 143, "SIGTERM"),
    ],
)
def test_run_ends_with_the_exit_code_of_its_task(shell: Tasks, script: str, code: int, words: str) -> None:
    assert words in shell.task("run", "--", "sh", "-c", script, code=code).stderr


def test_run_ends_with_the_code_of_the_error_where_the_task_has_none(shell: Tasks) -> None:
    late = shell.task("run", "--timeout", "0.2s", "sleep", "600", code=5)
    absent = shell.task("run", "--", "/no/such/program", code=127)
    refused = shell.task("run", "--ranks", "4", "--", "true", code=1)

    assert "ran longer than its timeout" in late.stderr
    assert absent.stderr.count("/no/such/program") == 1 and shell.task("run", "--", "/etc/passwd", code=126)
    assert "has no 'ranks'" in refused.stderr


def test_run_shows_what_is_written_while_the_task_runs(shell: Tasks, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = shell.begin("run", "--", *until(gate, "echo begun; echo wrong >&2", "printf 'no\\tend'"))
    assert running.stdout is not None
    assert running.stderr is not None
    assert (running.stdout.readline(), running.stderr.readline()) == ("begun\n", "wrong\n")

    gate.touch()

    assert running.wait(PATIENCE_S) == 0
    assert (running.stdout.read(), running.stderr.read()) == ("no\tend\n", "")


def test_a_task_that_writes_faster_than_is_read_waits_and_nothing_is_missing(shell: Tasks) -> None:
    done = shell.task("run", "--", "sh", "-c", "seq 1 200000; seq 1 10 >&2")

    assert done.stdout.split() == [str(number) for number in range(1, 200_001)]
    assert done.stderr.split() == [str(number) for number in range(1, 11)]


def test_the_output_of_a_task_is_followed_from_another_process(shell: Tasks, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (uid,) = shell.uids("submit", "-q", "--", *until(gate, "echo begun", "echo ended"))
    following = shell.begin("logs", "-f", uid)
    assert following.stdout is not None
    assert following.stdout.readline() == "begun\n"
    assert shell.task("logs", uid).stdout == "begun\n"

    gate.touch()

    assert following.wait(PATIENCE_S) == 0
    assert following.stdout.read() == "ended\n"
    again = [json.loads(line)["item"] for line in shell.task("logs", "-f", uid, "--json").stdout.splitlines()]
    assert [(line["uid"], line["number"], line["text"]) for line in again] == [(uid, 1, "begun"), (uid, 2, "ended")]


def test_several_runs_are_told_apart_and_the_first_failure_is_the_exit_code(shell: Tasks) -> None:
    done = shell.task(
        "run", "-n", "3", "--", "sh", "-c", "echo $ORBIT_TASK_NUMBER; [ $ORBIT_TASK_NUMBER = 1 ] || exit 4", code=4
    )

    lines = [line.partition(": ") for line in done.stdout.splitlines()]
    assert sorted((uid[-2:], text) for uid, _, text in lines) == [(".1", "1"), (".2", "2"), (".3", "3")]
    assert shell.uids("list", "last", "-q") == sorted(uid for uid, _, _ in lines)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_of_run_cancels_its_task_and_says_so(shell: Tasks, number: signal.Signals, code: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # what is ignored here, as under nohup, would be ignored there
    try:
        running = shell.begin("run", "--", "sh", "-c", "echo $$; exec sleep 600")
    finally:
        signal.signal(number, before)
    assert running.stdout is not None
    assert running.stderr is not None
    process = int(running.stdout.readline())

    running.send_signal(number)

    assert running.wait(PATIENCE_S) == code
    said = running.stderr.read()
    assert "Canceling task" in said
    assert "was canceled" in said
    (task,) = shell.items("list", "last")
    assert (task["state"], task["uid"] in said) == ("CANCELED", True)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_an_interrupt_that_comes_twice_at_once_is_one_and_the_task_is_canceled(shell: Tasks) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        running = shell.begin("run", "--", "sh", "-c", "echo $$; exec sleep 600")
    finally:
        signal.signal(signal.SIGINT, before)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()

    running.send_signal(signal.SIGINT)
    assert "Canceling task" in running.stderr.readline()
    running.send_signal(signal.SIGINT)

    assert running.wait(PATIENCE_S) == 130
    assert "was canceled" in running.stderr.read()
    assert [task["state"] for task in shell.items("list", "last")] == ["CANCELED"]


def test_a_task_ends_when_nobody_reads_what_it_writes_any_more(shell: Tasks) -> None:
    running = shell.begin("run", "--", "sh", "-c", "exec yes $$")
    assert running.stdout is not None
    process = int(running.stdout.readline())

    running.stdout.close()

    assert running.wait(PATIENCE_S) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_on_a_terminal_a_task_says_nothing_that_is_obeyed_and_ctrl_c_ends_it(shell: Tasks) -> None:
    with terminal(shell.environment, "task", "run", "--", "sh", "-c", r"printf 'red\033[31m\tx\n'; exec sleep 600") as screen:
        assert r"red\x1b[31m" in screen.wait_for("x\r\n", PATIENCE_S)

        screen.press("\x03")

        assert screen.wait(PATIENCE_S) == 130
        assert "was canceled" in screen.seen


def test_shells_that_run_tasks_at_the_same_time_get_their_own_ones(shell: Tasks) -> None:
    started = [shell.begin("run", "-n", "10", "--", "sh", "-c", f"sleep 0.2; echo {number}") for number in range(3)]

    for number, running in enumerate(started):
        said, _ = running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 0
        assert [line.partition(": ")[2] for line in said.splitlines()] == [str(number)] * 10


@pytest.mark.parametrize("command", ["logs -f", "wait"])
def test_an_interrupt_of_who_looks_on_leaves_the_task_alone(two: Lab, shell: Tasks, tmp_path: Path, command: str) -> None:
    gate = tmp_path / "gate"
    (uid,) = shell.uids("submit", "-q", "--", *until(gate, "echo begun"))
    watching = shell.begin(*command.split(), uid)
    if command == "wait":
        with readers_of(two) as readers:
            wait_until(readers, within_s=PATIENCE_S, what="a reader of results")
    else:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "begun\n"

    watching.send_signal(signal.SIGINT)

    assert watching.wait(PATIENCE_S) == 130
    assert shell.items("list", uid)[0]["state"] == "RUNNING"
    gate.touch()
    shell.task("wait", uid)


def test_waiting_ends_with_a_code_of_its_own_when_the_time_is_over(shell: Tasks, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    group = shell.uids("submit", "-q", "-n", "2", "--", *until(gate))[0].partition(".")[0]

    late = shell.task("wait", group, "--timeout", "0.5s", "--jsonl", code=5)
    states = [json.loads(line)["item"]["state"] for line in late.stdout.splitlines()]
    canceled = shell.items("cancel", f"{group}.2", "--reason", "no need")
    gate.touch()
    ended = shell.items("wait", f"{group}.1..2", code=1)

    assert json.loads(late.stderr)["error"]["exit_code"] == 5
    assert set(states) <= {"SUBMITTED", "RUNNING"}
    assert [(one["uid"], one["state"]) for one in canceled] == [(f"{group}.2", "CANCELED")]
    assert [(one["state"], one["reason"]) for one in ended] == [("DONE", ""), ("CANCELED", "no need")]
    assert shell.items("cancel", group) == []  # nothing is left to be ended


def test_tasks_come_from_standard_input_as_json(shell: Tasks) -> None:
    lines = "\n".join(json.dumps({"executable": "echo", "arguments": [word]}) for word in ("one", "two"))
    listed = [{"function": "math:hypot", "args": [3, 4], "uid": "from-a-list"}]

    group = shell.uids("submit", "-q", "--from-json", "-", said=lines)
    run = shell.task("run", "--from-json", "-", said=json.dumps(listed))

    assert [one["state"] for one in shell.items("wait", *group)] == ["DONE", "DONE"]
    assert shell.task("logs", group[0].partition(".")[0]).stdout == f"{group[0]}: one\n{group[1]}: two\n"
    assert run.stdout == "5.0\n"
    assert json.loads(shell.task("show", "from-a-list", "--json").stdout)["item"]["return_value"] == 5.0


@pytest.mark.parametrize("said", ["", "[", '{"executable": "true"}\n{"exec', '[{"executable": "true"}, 1]', '[{"uid": 7}]'])
def test_of_what_is_no_list_of_tasks_nothing_is_submitted(shell: Tasks, said: str) -> None:
    before = shell.uids("list", "-q")

    error = json.loads(shell.task("submit", "--from-json", "-", "--json", code=2, said=said).stderr)["error"]

    assert error["code"] == "invalid-argument"
    assert shell.uids("list", "-q") == before


def test_one_task_that_is_not_taken_is_named_and_the_others_run(shell: Tasks) -> None:
    tasks = [{"executable": "true"}, {"exec": "true"}, {"executable": "true", "colour": "red"}]
    done = shell.task("submit", "--from-json", "-", "--json", code=2, said=json.dumps(tasks))

    found = json.loads(done.stdout)["items"]
    assert "2 of 3 tasks were not taken" in done.stderr
    assert ["colour" in one["error"] for one in found] == [False, False, True]
    assert shell.items("wait", found[0]["uid"])[0]["state"] == "DONE"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "absent"), 1, "no task 'absent'"),
        (("wait", "runing"), 1, "no task 'runing'"),
        (("cancel", "0..", "--reason", "x"), 2, "no range"),
        (("cancel",), 2, "Missing argument"),
        (("list", "--session", "absent"), 1, "no session 'absent'"),
        (("list", "--endpoint", "absent"), 1, "no endpoint 'absent'"),
        (("list", "--endpoint", "other"), 1, "No endpoint serves the plugin rhapsody"),
        (("submit", "--endpoint", "other", "--", "true"), 1, "no plugin rhapsody"),
        (("submit",), 2, "no command to run"),
        (("submit", "-n", "0", "--", "true"), 2, "0 is not in the range"),
        (("submit", "-n", "2", "--from-json", "-"), 2, "leave the command and -n out"),
        (("submit", "--from-json", "/no/such/file"), 2, "No such file"),
        (("submit", "--env", "A", "--", "true"), 2, "NAME=VALUE"),
        (("submit", "--backend", "absent", "--", "true"), 2, "absent"),
        (("run", "--json"), 2, "no command to run"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(shell: Tasks, words: tuple[str, ...], code: int, said: str) -> None:
    shell.task("submit", "--", "true")

    assert said in shell.task(*words, code=code).stderr


def test_a_thousand_tasks_are_submitted_listed_chosen_and_awaited(shell: Tasks) -> None:
    tasks = [{"executable": "sh", "arguments": ["-c", f"exit {int(number % 100 == 0)}"]} for number in range(1, 1_001)]
    uids = shell.uids("submit", "-q", "--from-json", "-", said=json.dumps(tasks))
    group = uids[0].partition(".")[0]

    ended = shell.items("wait", "last", code=1)

    assert [one["uid"] for one in ended] == uids == [f"{group}.{number}" for number in range(1, 1_001)]
    assert Counter(one["state"] for one in ended) == {"DONE": 990, "FAILED": 10}
    assert set(shell.uids("list", "failed", "-q")) >= {f"{group}.{number}" for number in range(100, 1_001, 100)}
    assert shell.uids("list", f"{group}.100..{group}.199", "-q") == uids[99:199]
    assert len(shell.items("show", group)) == 1_000
    assert shell.task("logs", "-f", f"{group}.1..50").stdout == ""


def test_many_tasks_are_canceled_at_once(shell: Tasks) -> None:
    group = shell.uids("submit", "-q", "-n", "100", "--", "sleep", "600")[0].partition(".")[0]

    canceled = shell.items("cancel", group, "--reason", "too many")

    assert Counter(one["state"] for one in canceled) == {"CANCELED": 100}
    assert shell.items("wait", f"{group}.100", code=1)[0]["reason"] == "too many"


def test_another_backend_has_a_session_of_its_own_that_is_looked_at_as_well(shell: Tasks) -> None:
    (submitted,) = shell.items("submit", "--backend", "noop", "--", "sleep", "600")
    (awaited,) = shell.items("wait", submitted["uid"])
    own = shell.items("submit", "--backend", "concurrent", "--", "true")

    assert submitted["session"].startswith("default-noop-")
    assert (awaited["state"], awaited["session"]) == ("DONE", submitted["session"])
    assert shell.items("submit", "--backend", "noop", "--", "true")[0]["session"] == submitted["session"]
    assert [one["session"] for one in own] == ["default"]
    assert shell.task("run", "--backend", "noop", "--", "sleep", "600").stdout == ""


def test_a_session_of_a_program_is_looked_at_by_its_name_and_stays_with_its_holder(two: Lab, shell: Tasks) -> None:
    session = two.client().get_plugin("hpc1", "rhapsody", sid="monday", lifetime="persistent")

    def holders() -> list[str]:
        return [one["holder"] for one in session.list_sessions() if one["sid"] == "monday"]

    before = holders()
    session.submit_tasks([{"uid": "square", "function": pow, "args": [7, 2]}])

    assert [one["state"] for one in shell.items("wait", "square", "--session", "mon")] == ["DONE"]
    assert json.loads(shell.task("show", "square", "--session", "monday", "--json").stdout)["item"]["return_value"] == 49
    assert shell.task("run", "--session", "monday", "--backend", "concurrent", "--", "echo", "here").stdout == "here\n"
    assert "square" not in shell.uids("list", "-q")
    assert holders() == before
    assert session.wait_tasks(["square"], timeout=PATIENCE_S)[0]["return_value"] == 49


def test_commands_leave_no_reader_behind_for_whom_results_are_kept(two: Lab, shell: Tasks) -> None:
    (uid,) = shell.uids("submit", "-q", "--", "true")
    shell.task("wait", uid)
    shell.task("run", "--", "true")

    with readers_of(two) as readers:
        wait_until(lambda: readers() == 0, what="no reader")  # of a program that has ended, for an hour, if it has not left
    assert shell.items("list", uid)[0]["state"] == "DONE"


def test_selectors_of_tasks_and_backends_are_completed(shell: Tasks) -> None:
    (uid,) = shell.uids("submit", "-q", "--", "true")

    def completed(*words: str) -> list[str]:
        said = {"_ORBIT_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(ORBIT, env=shell.environment | said, capture_output=True, text=True, timeout=60, check=False)
        return [line.partition(",")[2] for line in done.stdout.split()]

    def is_completed_to(name: str, *words: str) -> None:
        """Who is slow for a moment is not waited for, and nothing is said then."""
        wait_until(lambda: completed("orbit", "task", *words) == [name], PATIENCE_S, f"{words} is completed to {name}")

    is_completed_to("cancel", "ca")
    is_completed_to(uid, "show", uid[:7])
    is_completed_to("last", "cancel", "la")
    is_completed_to("concurrent", "run", "--backend", "conc")


def test_where_nothing_was_submitted_there_is_nothing_and_no_session_is_made(lab: Lab, alone: Tasks) -> None:
    lab.start_endpoint(plugins="rhapsody")

    assert alone.items("list") == []
    assert "no such task" in alone.task("list", "failed", ORBIT_OUTPUT="table").stderr
    assert alone.task("wait", "all").stdout.splitlines()[1:] == []
    assert "no last task" in alone.task("show", code=1).stderr
    assert "no task 'x'" in alone.task("logs", "x", code=1).stderr
    assert alone.run("session", "list", "-q").stdout == ""


def test_without_an_endpoint_a_task_goes_where_the_plugin_is_and_is_found_there(lab: Lab, alone: Tasks) -> None:
    for name in ("hpc1", "hpc2"):
        lab.start_endpoint(name, plugins="rhapsody")
    lab.start_endpoint("other", plugins="test")

    here = [alone.items("submit", "--endpoint", name, "--", "echo", name)[0] for name in ("hpc1", "hpc2")]
    (anywhere,) = alone.items("submit", "--", "echo", "anywhere")

    assert [one["endpoint"] for one in here] == ["hpc1", "hpc2"]
    assert anywhere["endpoint"] in ("hpc1", "hpc2")
    everywhere = [*here, anywhere]
    assert {(one["uid"], one["state"]) for one in alone.items("wait", "all")} == {(one["uid"], "DONE") for one in everywhere}
    assert alone.task("logs", here[1]["uid"]).stdout == "hpc2\n"
    assert [one["uid"] for one in alone.items("list", "--endpoint", "hpc1") if one["uid"] != anywhere["uid"]] == [
        here[0]["uid"]
    ]


def test_a_task_whose_endpoint_is_killed_is_said_to_be_of_unknown_fate(lab: Lab, alone: Tasks, tmp_path: Path) -> None:
    endpoint = lab.start_endpoint(plugins="rhapsody")
    (before,) = alone.uids("submit", "-q", "--", "echo", "before")
    alone.task("wait", before)
    running = alone.begin("run", "--", *until(tmp_path / "gate", "echo begun"))
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"

    os.kill(endpoint.pid, signal.SIGKILL)
    endpoint.end()
    (tmp_path / "gate").touch()  # the program outlives its endpoint
    lab.start_endpoint(plugins="rhapsody")

    assert running.wait(PATIENCE_S) == 1
    assert running.stderr is not None
    assert "OutcomeUnknown" in running.stderr.read()
    assert alone.items("wait", "last", code=1)[0]["error"].startswith("OutcomeUnknown")
    assert alone.task("logs", before).stdout == "before\n"  # the lines are gone, the result is not


def test_with_its_endpoint_gone_a_list_is_an_error_and_not_an_empty_one(lab: Lab, alone: Tasks) -> None:
    endpoint = lab.start_endpoint(plugins="rhapsody")
    alone.task("run", "--", "true")
    endpoint.end()

    def is_said() -> bool:
        done = alone.run("task", "list")
        assert "Traceback" not in done.stderr
        return done.returncode != 0 and "orbit: " in done.stderr

    wait_until(is_said, within_s=PATIENCE_S, what="the endpoint to be missed")
    with pytest.raises(OrbitError):
        lab.client().resolve("hpc1")

"""What a job writes down of its own end, and when a process that has written none counts as running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import wait_until
from processes import names_below

from orbit_zmq.batch.exit_record import ExitRecord, Kind, boot_id, is_running, read_record, started_ticks, wrapped

WAIT_S = 60.0
SETTLED = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "ORBIT_ARRAY_INDEX": "5"}
WORDS = {word: f"its {word}" for word in ("record", "in", "out", "err", "kind", "id", "restarts", "signal", "stat", "boot")}


class Ran:
    """One command in its wrapper, and what it has left."""

    def __init__(self, place: Path, *command: str, kind: Kind = "local", **files: Path) -> None:
        named = {"record": place / "record", "stdout": place / "out", "stderr": place / "err"} | files
        self.done = subprocess.run(
            wrapped(command, **named, kind=kind),
            env=SETTLED | WORDS,
            cwd=place,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        self.record: Any = read_record(named["record"])


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], ExitRecord]]:
    """A job that runs, as the leader of a session of its own."""
    files = {"record": tmp_path / "record", "stdout": tmp_path / "out", "stderr": tmp_path / "err"}
    process = subprocess.Popen(wrapped(["sleep", "1000"], **files, kind="local"), start_new_session=True)
    yield process, cast(ExitRecord, wait_until(lambda: read_record(tmp_path / "record"), WAIT_S))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_command_has_its_own_environment(tmp_path: Path) -> None:
    Ran(tmp_path, "env")

    said = dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())
    assert {word: said[word] for word in WORDS} == WORDS


@pytest.mark.parametrize(
    ("command", "exit_code", "ended_by"),
    [
        (["true"], 0, None),
        (["sh", "-c", "exit 7"], 7, None),
        (["sh", "-c", "kill -9 $$"], 137, 9),
        (["sh", "-c", "exit 250"], 250, None),
        (["/no/such/program"], 127, None),
        (["/"], 126, None),
        (["exit"], 127, None),  # a word of the shell is no program
        (["ended", "0"], 127, None),  # nor is one of the wrapper's own functions
    ],
)
def test_a_record_has_the_exit_code_and_the_signal(
    tmp_path: Path, command: list[str], exit_code: int, ended_by: int | None
) -> None:
    ran = Ran(tmp_path, *command)

    assert ran.done.returncode == exit_code
    assert (ran.record.exit_code, ran.record.signal) == (exit_code, ended_by)
    assert ran.record.started <= ran.record.ended and ran.record.host == socket.gethostname()
    assert not is_running(ran.record) and not list(tmp_path.glob("*.new"))


def test_words_arrive_as_they_are_and_output_is_where_it_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the file")
    words = ["a b", "", "$HOME", "'\"\n*"]
    script = 'printf "[%s]" "$@"; cat; cat <&5; echo aside >&2; echo again >&6'
    Ran(tmp_path, "sh", "-c", script, "sh", *words, stdin=tmp_path / "in")

    assert (tmp_path / "out").read_text() == "".join(f"[{word}]" for word in words) + "from the fileagain\n"
    assert (tmp_path / "err").read_text() == "aside\n"


def test_standard_output_and_error_may_be_one_file(tmp_path: Path) -> None:
    Ran(tmp_path, "sh", "-c", "echo 1; echo 2 >&2; echo 3", stderr=tmp_path / "out")

    assert (tmp_path / "out").read_text() == "1\n2\n3\n"


def test_a_pipe_is_opened_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("piped",))
    writer.start()
    ran = Ran(tmp_path, "cat", stdin=tmp_path / "pipe")
    writer.join(WAIT_S)

    assert ran.record.exit_code == 0 and (tmp_path / "out").read_text() == "piped"


def test_a_record_says_how_often_slurm_has_started_the_job_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ran(tmp_path, "true", kind="batch").record.restarts == 0
    monkeypatch.setitem(SETTLED, "SLURM_RESTART_COUNT", "2")
    assert Ran(tmp_path, "true", kind="batch").record.restarts == 2
    assert Ran(tmp_path, "true", kind="local").record.restarts is None


@pytest.mark.parametrize("which", ["stdin", "stdout", "stderr"])
def test_a_file_that_cannot_be_opened_is_named_as_the_problem(tmp_path: Path, which: str) -> None:
    files: dict[str, Any] = {which: tmp_path / "absent" / "file"}
    ran = Ran(tmp_path, "true", **files)

    assert ran.record.exit_code == 126 and ran.record.problem.startswith(which)


@pytest.mark.parametrize(
    ("kind", "suffix", "native_id", "index"),
    [("batch", "", "17", "5"), ("array", ".3", "17", "3"), ("local", "", "", "5"), ("member", ".5", "", "5")],
)
def test_the_schedulers_variables_count_where_they_are_the_jobs_own(
    tmp_path: Path, kind: Kind, suffix: str, native_id: str, index: str
) -> None:
    Ran(tmp_path, "sh", "-c", "echo $ORBIT_ARRAY_INDEX", kind=kind)
    record = read_record(tmp_path / f"record{suffix}")

    assert record is not None and (record.exit_code, record.native_id) == (0, native_id)
    assert (tmp_path / f"out{suffix}").read_text() == f"{index}\n"


def test_a_job_that_is_asked_to_end_writes_its_end(tmp_path: Path, sleeper: tuple[subprocess.Popen[bytes], ExitRecord]) -> None:
    process, record = sleeper
    assert record.exit_code is None and is_running(record)
    wait_until(lambda: "sleep" in names_below(process.pid).values(), WAIT_S, "its command runs")

    os.killpg(process.pid, signal.SIGTERM)
    process.wait(WAIT_S)

    ended = read_record(tmp_path / "record")
    assert ended is not None and (ended.exit_code, ended.signal) == (143, 15)


@pytest.mark.parametrize("after_ms", range(0, 60, 6))
def test_a_job_that_is_asked_to_end_at_any_moment_ends(tmp_path: Path, after_ms: int) -> None:
    files = {"record": tmp_path / "record", "stdout": tmp_path / "out", "stderr": tmp_path / "err"}
    process = subprocess.Popen(wrapped(["sleep", "1000"], **files, kind="local"), start_new_session=True)
    threading.Event().wait(after_ms / 1000)  # what is tested are moments in its life
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    if process.poll() is None:  # a shell misses the signal in the instant in which it begins a process: who cancels asks again
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(WAIT_S)

    record = read_record(tmp_path / "record")
    if process.returncode == -signal.SIGTERM:  # before anything was begun
        assert record is None
    else:
        assert record is not None and (record.exit_code, record.signal, record.problem) == (143, 15, "")


def test_a_process_that_has_ended_and_that_nobody_has_asked_about_does_not_run(sleeper: Any) -> None:
    process, record = sleeper
    os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", WAIT_S, "a zombie")

    wait_until(lambda: not is_running(record), WAIT_S, "its command has ended, too")
    assert process.returncode is None


def test_another_process_of_the_same_number_is_not_the_job(sleeper: Any) -> None:
    _, record = sleeper

    assert is_running(record)
    assert not is_running(replace(record, pid_started=str(int(record.pid_started) - 1)))
    assert not is_running(replace(record, boot="another-boot"))
    assert not is_running(replace(record, host="another-host"))
    assert not is_running(replace(record, pid=1, pid_started="1"))


def test_a_command_that_outlives_its_wrapper_still_runs(sleeper: Any) -> None:
    process, record = sleeper
    wait_until(lambda: "sleep" in names_below(process.pid).values(), WAIT_S, "its command runs")
    process.kill()
    process.wait(WAIT_S)

    assert is_running(record)
    os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(record), WAIT_S)


def test_there_is_no_record_of_a_job_that_has_written_none(tmp_path: Path) -> None:
    assert read_record(tmp_path / "record") is None
    assert read_record(tmp_path) is None


@given(content=st.binary() | st.builds(lambda facts: json.dumps(facts).encode(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ExitRecord.__slots__, "more"]), inner),
)))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_what_is_no_record_is_none_or_a_sound_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record").write_bytes(content)
    found = read_record(tmp_path / "record")

    assert found is None or (type(found.pid) is int and isinstance(found.boot, str))


def test_this_process_is_told_by_its_start() -> None:
    record = ExitRecord(os.getpid(), started_ticks(os.getpid()), boot_id(), socket.gethostname(), "", 0.0)

    assert is_running(record) and started_ticks(2**22 + 1) == ""

"""Records of processes: believed only of the very process that wrote them, and only on its own machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orbit_zmq.background import check_no_secret, refuse_second, stop_process
from orbit_zmq.errors import Conflict, DeadlineExceeded, NotPermitted
from orbit_zmq.process_record import ENDPOINT, ProcessRecord, read_record, records_of


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORBIT_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as started:
        yield started
        started.kill()


def own() -> ProcessRecord:
    return ProcessRecord.of_this_process(ENDPOINT, "hpc1", log="/somewhere.log")


def test_a_record_is_found_by_kind_and_name_until_it_is_removed() -> None:
    own().write()
    assert read_record(ENDPOINT, "hpc1") == records_of(ENDPOINT)[0]
    record = read_record(ENDPOINT, "hpc1")
    assert record is not None and record.is_here() and record.is_alive() and record.log == "/somewhere.log"
    assert read_record(ENDPOINT, "hpc2") is None

    record.remove()
    assert records_of(ENDPOINT) == []


def test_a_newer_record_of_the_name_is_not_removed() -> None:
    older, newer = own(), replace(own(), started=1.0)
    newer.write()
    older.remove()

    assert read_record(ENDPOINT, "hpc1") == newer


def test_a_process_number_that_was_given_out_again_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    record = replace(own(), pid=sleeper.pid)
    assert record.is_alive()

    assert not replace(record, started=record.started - 3600.0).is_alive()  # that process began after the record


def test_a_process_that_is_gone_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    record = replace(own(), pid=sleeper.pid)
    sleeper.kill()
    sleeper.wait()

    assert not record.is_alive()
    refuse_second(record)


def test_a_process_of_another_host_is_not_ended_from_here_and_the_error_says_where() -> None:
    with pytest.raises(Conflict, match="login2") as caught:
        stop_process(replace(own(), hostname="login2"), 1.0)

    assert "ssh login2 orbit endpoint stop hpc1" in caught.value.hint


def test_a_part_of_another_process_is_not_ended_alone(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(Conflict, match="orbit up"):
        stop_process(replace(own(), pid=sleeper.pid, parent_pid=1), 1.0)

    assert sleeper.poll() is None


def test_one_that_does_not_end_is_said_after_the_time() -> None:
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        with pytest.raises(DeadlineExceeded, match="kill -9"):
            stop_process(replace(own(), pid=started.pid), 0.1)
        started.kill()


def test_a_second_one_of_the_name_is_refused() -> None:
    with pytest.raises(Conflict, match="orbit endpoint stop"):
        refuse_second(own())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', json.dumps({"kind": "endpoint", "pid": -1})])
def test_a_damaged_record_is_none(directory: Path, content: str) -> None:
    own().write()
    (directory / "endpoint.hpc1.json").write_text(content)

    assert read_record(ENDPOINT, "hpc1") is None and records_of(ENDPOINT) == []


def test_a_join_string_stays_out_of_command_lines(tmp_path: Path) -> None:
    (tmp_path / "join").write_text("orbit1:x")
    check_no_secret(str(tmp_path / "join"))
    check_no_secret(None)

    with pytest.raises(NotPermitted, match="file"):
        check_no_secret("orbit1:secret")

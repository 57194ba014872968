"""The running broker's record: found while its process lives, absent afterwards, removed only by its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orbit_zmq.runtime_file import (
    RuntimeFile,
    read_runtime_file,
    remove_runtime_file,
    runtime_file_path,
    write_runtime_file,
)


@pytest.fixture(autouse=True)
def _own_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBIT_RUNTIME_DIR", str(tmp_path))


RECORD = RuntimeFile(
    pid=os.getpid(),
    hostname=socket.gethostname(),
    ipc="/run/user/1/orbit/broker.sock",
    tcp="tcp://127.0.0.1:5670",
    public_key="k" * 40,
    epoch="00" * 16,
    started=time.time(),
)


def test_the_record_of_a_living_process_is_found() -> None:
    assert read_runtime_file() is None
    write_runtime_file(replace(RECORD, started=time.time()))

    found = read_runtime_file()
    assert found is not None and found.ipc == RECORD.ipc


def test_the_record_of_a_dead_process_counts_as_absent() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=30)
    write_runtime_file(replace(RECORD, pid=ended.pid))

    assert read_runtime_file() is None


def test_a_process_number_that_was_given_out_again_counts_as_absent() -> None:
    write_runtime_file(replace(RECORD, started=time.time() - 10 * 365 * 86_400))

    assert read_runtime_file() is None


def test_a_process_on_another_machine_is_believed_to_live() -> None:
    write_runtime_file(replace(RECORD, hostname="elsewhere.example.org", pid=2**22 - 7))

    found = read_runtime_file()
    assert found is not None and not found.is_here()


@pytest.mark.parametrize("damage", ["", "[]", "{}", "nonsense", '{"pid": 1}'])
def test_a_damaged_record_counts_as_absent(damage: str) -> None:
    runtime_file_path().write_text(damage)
    runtime_file_path().chmod(0o600)

    assert read_runtime_file() is None


def test_a_record_of_wrong_types_counts_as_absent() -> None:
    write_runtime_file(replace(RECORD, pid=True))

    assert read_runtime_file() is None


def test_only_its_own_process_removes_a_record() -> None:
    write_runtime_file(RECORD)

    assert remove_runtime_file(expected_pid=RECORD.pid + 1) is False
    assert runtime_file_path().exists()
    assert remove_runtime_file(expected_pid=RECORD.pid) is True
    assert not runtime_file_path().exists()
    assert remove_runtime_file(expected_pid=RECORD.pid) is False

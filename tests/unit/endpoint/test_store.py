"""The store with real files: what is kept is there again, whatever befalls the process, the disk, or the file."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orbit_zmq.endpoint import store as store_module
from orbit_zmq.endpoint import storefile
from orbit_zmq.endpoint.store import Store
from orbit_zmq.errors import Conflict
from orbit_zmq.plugin.store import SessionStore

PATIENCE_S = 60.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    opened = Store.open(directory, "hpc1")
    yield opened
    opened.close()


def flush(store: Store) -> None:
    kept = threading.Event()
    store.when_kept(kept.set)
    assert kept.wait(PATIENCE_S)


def fill_the_disk(store: Store) -> None:
    """What sqlite then says is what it says of a full disk."""
    with store._using:
        assert store._connection is not None
        store._connection.execute("PRAGMA max_page_count = 8")


def test_what_was_kept_is_there_again_in_the_order_of_the_keys(directory):
    first = Store.open(directory, "hpc1")
    first.keep_session("s1", b"facts")
    first.keep("s1", [("b/2", b"two"), ("b/1", b"one"), ("c", b"other"), ("gone", b"x")])
    first.keep("s2", [("b/1", b"not mine")])
    first.keep("s1", [("c", b"new")])
    first.drop("s1", ["gone"])
    first.close()

    second = Store.open(directory, "hpc1")
    assert second.sessions() == [("s1", b"facts")]
    assert second.items("s1", "b/") == [("b/1", b"one"), ("b/2", b"two")]
    assert second.items("s1", "") == [("b/1", b"one"), ("b/2", b"two"), ("c", b"new")]
    assert (second.get("s1", "c"), second.get("s1", "gone")) == (b"new", None)
    second.drop_session("s1")
    flush(second)
    assert (second.sessions(), second.items("s1", ""), second.items("s2", "")) == ([], [], [("b/1", b"not mine")])
    second.close()


def test_who_waits_is_told_once_all_before_it_is_on_disk(store):
    seen = []
    for number in range(1_000):
        store.keep("s", [(f"{number:04d}", b"x")])
        store.when_kept(lambda number=number: seen.append((number, len(store.items("s", "")) > number)))
    flush(store)

    assert [number for number, _ in seen] == list(range(1_000))
    assert all(is_there for _, is_there in seen)


def test_what_was_flushed_survives_a_kill(directory):
    code = """
import sys, threading
from pathlib import Path
from orbit_zmq.endpoint.store import Store
store = Store.open(Path(sys.argv[1]), "hpc1")
for number in range(1_000_000):
    store.keep("s", [(f"{number:07d}", b"x" * 100)])
    if number % 1_000 == 0:
        kept = threading.Event()
        store.when_kept(kept.set)
        kept.wait()
        print(number, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = 0
    while said < 5_000:
        said = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    said = max([said, *map(int, writer.stdout.read().split())])
    writer.wait(PATIENCE_S)
    writer.stdout.close()

    store = Store.open(directory, "hpc1")
    kept = [int(key) for key, _ in store.items("s", "")]
    store.close()
    assert kept == list(range(len(kept)))
    assert len(kept) > said


def test_a_second_process_is_told_who_has_the_store(directory, store, monkeypatch):
    monkeypatch.setattr(storefile, "LOCK_S", 0.1)

    with pytest.raises(Conflict, match=f"process {os.getpid()} on ") as caught:
        Store.open(directory, "hpc1")

    assert caught.value.details == {"path": str(store.path)}
    Store.open(directory, "hpc2").close()


@pytest.mark.parametrize(("filesystem", "journal"), [("ext4", "wal"), ("nfs4", "truncate"), ("", "truncate")])
def test_the_journal_is_one_that_the_file_system_can_bear(directory, monkeypatch, filesystem, journal):
    monkeypatch.setattr(storefile, "filesystem_of", lambda path: filesystem)

    store = Store.open(directory, "hpc1")
    store.keep("s", [("k", b"v")])
    flush(store)

    assert store._connection is not None
    with store._using:
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == (journal,)
        assert store._connection.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)
    assert not list(directory.glob("*-shm"))  # shared memory over a network is what breaks
    store.close()


def test_the_file_system_of_a_path_is_found():
    assert storefile.filesystem_of(Path("/proc/self/status")) == "proc"


def test_with_a_full_disk_it_goes_on_and_says_so(store, capfd):
    store.keep("s", [("first", b"x")])
    flush(store)
    fill_the_disk(store)

    store.keep("s", [("large", b"x" * 1_000_000)])
    flush(store)
    store.keep("s", [("later", b"x")])
    flush(store)

    assert "full" in store.fault
    assert store.dropped == 1
    assert [key for key, _ in store.items("s", "")] == ["first"]
    assert capfd.readouterr().err.count("store-off") == 1


def test_sessions_whose_last_writes_were_lost_are_told_so_until_they_have_dealt_with_it(directory):
    store = Store.open(directory, "hpc1")
    store.keep_session("s1", b"facts")
    store.keep_session("s2", b"facts")
    flush(store)
    fill_the_disk(store)
    store.keep("s1", [("large", b"x" * 1_000_000)])
    flush(store)
    store.close()

    for expected in ((True, True), (False, True)):  # one of them deals with it in the second life
        store = Store.open(directory, "hpc1")
        assert tuple(SessionStore(store, sid).may_lack_something() for sid in ("s1", "s2")) == expected
        SessionStore(store, "s1").set_complete()
        flush(store)
        store.close()


@pytest.mark.parametrize("damage", ["no store at all", "a page overwritten"])
def test_a_damaged_file_is_moved_aside_and_said_loudly(directory, capfd, damage):
    path = directory / "endpoint-hpc1.sqlite"
    if damage == "no store at all":
        path.write_bytes(b"what is this? " * 1_000)
    else:
        store = Store.open(directory, "hpc1")
        store.keep("s", [(f"{number:06d}", b"x" * 50) for number in range(5_000)])
        store.close()
        with path.open("r+b") as file:
            file.seek(20_000)
            file.write(b"\xff" * 40_000)
    before = path.read_bytes()

    store = Store.open(directory, "hpc1")
    store.keep("s", [("k", b"v")])
    flush(store)

    assert store.fault == ""
    assert store.items("s", "") == [("k", b"v")]
    (aside,) = [file for file in directory.glob("*.damaged-*") if not file.name.endswith(("-wal", "-journal"))]
    assert aside.read_bytes() == before
    assert "store-damaged" in capfd.readouterr().err
    store.close()


def test_a_file_of_a_newer_release_is_left_alone(directory):
    store = Store.open(directory, "hpc1")
    store.keep_session("s", b"facts")
    store.close()
    path = store.path
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {storefile.SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()

    later = Store.open(directory, "hpc1")

    assert "version 2" in later.fault
    assert later.sessions() == []
    later.keep_session("t", b"facts")
    flush(later)
    later.close()
    assert path.read_bytes() == before


def test_a_callback_that_fails_keeps_no_other_waiting(store):
    def fail() -> None:
        raise ValueError("on purpose")

    store.keep("s", [("k", b"v")])
    with suppress(ValueError):  # where it is kept already, who asks is told here and now
        store.when_kept(fail)

    flush(store)


def test_it_says_when_it_holds_more_than_it_may(store, monkeypatch):
    monkeypatch.setattr(store_module, "LIMIT_BYTES", 100_000)
    monkeypatch.setattr(store_module, "SIZE_S", 0.0)
    assert not store.is_over_limit

    store.keep("s", [("k", b"x" * 8_000_000)])
    flush(store)

    assert store.is_over_limit

    store.drop("s", ["k"])
    flush(store)

    assert not store.is_over_limit  # though the file is as large as before


def test_the_file_is_the_users_alone(store, directory):
    assert (store.path.stat().st_mode & 0o777) == 0o600
    assert json.loads((directory / "endpoint-hpc1.owner").read_text())["pid"] == os.getpid()

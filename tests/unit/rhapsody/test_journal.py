"""What a lasting session finds again: a real store, one life after the other, and a kill wherever it hurts."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from orbit_rhapsody import large, rules
from orbit_rhapsody import results as results_module
from orbit_rhapsody.batches import encode_batches
from orbit_rhapsody.codec import DONE, Portion, decode_batch, task_result
from orbit_rhapsody.journal import Journal
from orbit_rhapsody.large import BYTES, LargeValue
from orbit_rhapsody.preparation import Batch, Functions, PackedTask
from orbit_rhapsody.restoring import MOST_STARTS, restore
from orbit_rhapsody.results import Results
from orbit_rhapsody.service import RhapsodySession
from orbit_rhapsody.values import unpack_error
from orbit_zmq.endpoint.store import Store
from orbit_zmq.errors import InvalidArgument, NotPermitted, OutcomeUnknown, ResultExpired
from orbit_zmq.plugin import Host
from orbit_zmq.plugin.store import SessionStore

PATIENCE_S = 60.0


def tasks_in(body: bytes) -> list[PackedTask]:
    received = decode_batch(body)
    return Batch(received, Functions(), submitted=5.0, allow_pickled=True).tasks_of(received)


class Life:
    """One process's view of a session, from its start to its end."""

    def __init__(self, directory: Path) -> None:
        self.store = Store.open(directory, "hpc1")
        self.store.keep_session("s", b"facts")
        self.journal = Journal(SessionStore(self.store, "s"))
        self.results = Results(journal=self.journal)
        self.to_run = [task.uid for task in restore(self.results, self.journal, Functions(), allow_pickled=True)]
        self.flush()

    def submit(self, *uids: str, on_unknown: str = "fail") -> None:
        tasks = [(uid, {"function": "operator:add", "args": [uid, "!"]}) for uid in uids]
        for encoded in encode_batches(tasks):
            new, _ = self.results.admit(tasks_in(encoded.body), 5.0)
            self.journal.batch(encoded.body, 5.0, on_unknown, [task.uid for task in new])

    def start(self, *uids: str) -> None:
        assert asyncio.run(self.journal.starting(uids))

    def finish(self, *uids: str, padding: int = 0) -> None:
        records = [msgpack.packb({"uid": uid, "state": DONE, "return_value": b"x" * padding}) for uid in uids]
        self.results.finished([(uid, DONE, record) for uid, record in zip(uids, records, strict=True)])

    def flush(self) -> None:
        kept = threading.Event()
        self.store.when_kept(kept.set)
        assert kept.wait(PATIENCE_S)

    def fetch(self, after: int | None = 0, consumer: str = "c") -> Portion:
        self.flush()
        return Portion.decode(asyncio.run(self.results.fetch(consumer, after, 1 << 24, 0.0)).encode())

    def uids(self, after: int | None = 0, consumer: str = "c") -> list[str]:
        return [record["uid"] for record in self.fetch(after, consumer).records]

    def keys(self) -> list[str]:
        self.flush()
        return [key for key, _ in self.store.items("s", "")]

    def end(self) -> None:
        self.flush()
        self.store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def test_results_are_there_again_under_their_numbers(directory):
    life = Life(directory)
    life.submit("a", "b", "c")
    life.start("a", "b", "c")
    life.finish("b", "a")
    life.end()

    life = Life(directory)

    portion = life.fetch()
    assert [record["uid"] for record in portion.records][:2] == ["b", "a"]
    assert (portion.first, portion.after) == (1, 3)
    life.submit("d")
    life.finish("d")
    assert life.uids(after=3) == ["d"]
    life.end()


def test_only_what_was_started_and_has_no_result_is_of_unknown_fate(directory):
    life = Life(directory)
    life.submit("done", "started", "waiting")
    life.submit("started-again", on_unknown="rerun")
    life.start("done", "started", "started-again")
    life.finish("done")
    life.end()

    life = Life(directory)

    assert life.to_run == ["waiting", "started-again"]
    records = {record["uid"]: task_result(record) for record in life.fetch().records}
    assert records["done"]["state"] == "DONE"
    assert isinstance(records["started"]["exception"], OutcomeUnknown)
    assert set(records) == {"done", "started"}
    assert life.results.snapshot(["waiting"])[0]["times"]["submitted"] == 5.0
    life.end()


def test_a_task_is_not_started_again_and_again(directory):
    life = Life(directory)
    life.submit("deadly", on_unknown="rerun")
    for _ in range(MOST_STARTS):
        life.start("deadly")
        life.end()
        life = Life(directory)

    assert life.to_run == []
    (record,) = life.fetch().records
    assert "3 times" in str(task_result(record)["exception"])
    life.end()


def test_the_same_uid_is_known_after_a_restart_and_another_task_under_it_is_a_conflict(directory):
    life = Life(directory)
    life.submit("a", "b")
    life.finish("a")
    life.end()

    life = Life(directory)
    (same,) = encode_batches([("a", {"function": "operator:add", "args": ["a", "!"]})])
    (other,) = encode_batches([("b", {"function": "operator:add", "args": ["other"]})])

    assert life.results.admit(tasks_in(same.body), 6.0)[1].known == {0: "DONE"}
    assert list(life.results.admit(tasks_in(other.body), 6.0)[1].refused) == [0]
    life.end()


def test_a_consumer_goes_on_where_it_got_to(directory):
    life = Life(directory)
    life.submit("a", "b", "c")
    life.finish("a", "b", "c")
    life.uids(after=0, consumer="mine")
    life.uids(after=2, consumer="mine")
    life.end()

    life = Life(directory)

    assert life.results.unfetched("mine") == (2, ["c"])
    assert life.results.unfetched("other") == (0, ["a", "b", "c"])
    assert life.uids(after=None, consumer="mine") == ["c"]
    life.end()


def test_what_all_have_read_leaves_nothing_on_the_disk(directory, monkeypatch):
    monkeypatch.setattr(results_module, "KEPT_S", 1e9)
    life = Life(directory)
    life.results._log.retention_s = 0.0
    life.submit("a", "b")
    life.submit("c")
    life.start("a", "b", "c")
    life.finish("a", "b", "c")
    life.uids()
    life.uids(after=1)
    life.fetch(after=1)
    assert {"b/000000000001", "f/000000000001/a", "v/000000000002", "v/000000000003"} <= set(life.keys())
    life.fetch(after=3)
    life.fetch(after=3)

    assert life.keys() == ["k/c"]
    life.end()
    life = Life(directory)
    assert life.uids(after=3) == []
    life.submit("d")
    life.finish("d")
    assert life.uids(after=3) == ["d"]
    life.end()


def test_a_task_that_is_over_and_forgotten_does_not_run_again_beside_one_of_its_batch_that_is_not(directory):
    life = Life(directory)
    life.results._log.retention_s = 0.0
    life.submit("over", "waiting")
    life.start("over")
    life.finish("over")
    life.uids()
    life.fetch(after=1)
    life.fetch(after=1)
    assert life.results.snapshot(["over"]) == []
    life.end()

    life = Life(directory)

    assert life.to_run == ["waiting"]
    assert life.results.snapshot(["over"]) == []
    life.end()


def test_a_result_is_not_to_be_had_before_it_is_on_disk(directory):
    life = Life(directory)
    life.submit("a")
    life.flush()
    with life.store._using:  # the disk is slow
        life.finish("a")
        portion = asyncio.run(life.results.fetch("c", 0, 1 << 20, 0.0))
        assert portion.records == []
        assert life.results.snapshot(["a"])[0]["state"] != "DONE"

    assert life.uids() == ["a"]
    life.end()


def test_unfetched_results_beyond_a_bound_are_on_disk_alone_and_come_back_whole(directory, monkeypatch):
    monkeypatch.setattr(results_module, "SPILL_BYTES", 100_000)
    life = Life(directory)
    uids = [f"t{number}" for number in range(50)]
    life.submit(*uids)
    for uid in uids:
        life.finish(uid, padding=10_000)
    life.flush()

    assert life.results.statistics()["result_bytes"] <= 100_000
    records = life.fetch().records
    assert [record["uid"] for record in records] == uids
    assert {len(record["return_value"]) for record in records} == {10_000}
    assert asyncio.run(life.results.describe("t0"))["return_value"] == b"x" * 10_000  # type: ignore[index]
    assert life.results.snapshot(["t0"])[0]["partial"]
    life.end()


def test_a_record_that_cannot_be_read_from_the_disk_ends_as_expired(directory, monkeypatch):
    monkeypatch.setattr(results_module, "SPILL_BYTES", 0)
    life = Life(directory)
    life.submit("a")
    life.finish("a")
    life.flush()
    life.store.drop("s", ["v/000000000001"])

    (record,) = life.fetch().records

    assert isinstance(task_result(record)["exception"], ResultExpired)
    life.end()


def large_keys(life: Life) -> list[str]:
    found = life.keys()
    return [key for key in found if key.startswith(("w/", "l/"))]


async def read_value(life: Life, uid: str) -> bytes:
    return b"".join([chunk async for chunk in life.results.spool.read(uid)])


def test_a_large_value_is_there_after_a_restart_and_goes_with_its_result(directory, monkeypatch):
    monkeypatch.setattr(large, "CHUNK_BYTES", 1_000)
    monkeypatch.setattr(rules, "RETENTION_S", 0.0)
    value = bytes(range(256)) * 10
    first = Life(directory)
    first.submit("a", "b")
    first.results.spool.put("a", LargeValue(BYTES, [value]))
    assert asyncio.run(read_value(first, "a")) == value  # on disk or not
    first.finish("a")
    first.flush()
    assert asyncio.run(read_value(first, "a")) == value
    first.end()

    second = Life(directory)
    assert asyncio.run(read_value(second, "a")) == value
    assert large_keys(second) == ["l/a/000000", "l/a/000001", "l/a/000002", "w/a"]
    second.results.spool.put("a", LargeValue(BYTES, [value[:10]]))
    assert asyncio.run(read_value(second, "a")) == value[:10]
    second.finish("b")
    second.results.spool.drop(("a", "b"))
    assert large_keys(second) == []
    with pytest.raises(ResultExpired):
        asyncio.run(read_value(second, "a"))
    second.end()


def test_with_a_full_disk_a_large_value_is_kept_as_long_as_the_process_lives(directory):
    life = Life(directory)
    life.submit("a", "b")
    life.flush()
    life.store._connection.execute("PRAGMA max_page_count = 1")  # type: ignore[union-attr]
    value = bytes(10 << 20)
    life.results.spool.put("a", LargeValue(BYTES, [value]))
    life.flush()
    assert life.store.fault
    life.results.spool.put("b", LargeValue(BYTES, [value]))
    assert asyncio.run(read_value(life, "a")) == asyncio.run(read_value(life, "b")) == value
    life.results.close()
    life.end()


def test_results_that_nobody_fetches_expire_after_a_week(directory, monkeypatch):
    life = Life(directory)
    life.submit("old", "young")
    life.finish("old")
    life.flush()
    week_later = time.monotonic() + rules.KEPT_S + 100.0
    monkeypatch.setattr(time, "monotonic", lambda: week_later)
    life.finish("young")
    life.flush()

    assert life.results.expire() == 1
    assert life.results.expire() == 0

    monkeypatch.undo()
    portion = life.fetch()
    assert (portion.first, [record["uid"] for record in portion.records]) == (2, ["young"])
    life.end()


def test_where_too_much_is_kept_the_oldest_go_first(directory, monkeypatch):
    life = Life(directory)
    uids = [f"t{number:02d}" for number in range(20)]
    life.submit(*uids)
    life.finish(*uids)
    life.flush()
    monkeypatch.setattr(Store, "is_over_limit", property(lambda self: True))

    assert life.results.expire() == 3

    assert life.uids() == uids[3:]
    life.end()


def test_with_a_full_disk_results_go_on_from_memory(directory):
    life = Life(directory)
    life.submit("a", "b")
    life.finish("a")
    life.flush()
    with life.store._using:
        life.store._connection.execute("PRAGMA max_page_count = 8")  # type: ignore[union-attr]

    life.finish("b", padding=1_000_000)
    life.submit("c")
    assert life.uids() == ["a", "b"]
    life.start("c")
    life.finish("c")

    assert life.uids(after=2) == ["c"]
    assert "full" in life.results.statistics()["store_fault"]
    life.end()

    life = Life(directory)
    assert life.to_run == []  # for all that the disk says b was never started, and yet it has run
    with pytest.raises(InvalidArgument) as caught:
        life.fetch(after=3)
    assert caught.value.details == {"last": 2}
    assert isinstance(task_result(life.fetch(after=1).records[0])["exception"], OutcomeUnknown)
    life.submit("d")
    life.end()
    life = Life(directory)
    assert life.to_run == ["d"]
    life.end()


def test_nothing_starts_once_the_session_is_detached(directory):
    life = Life(directory)
    life.submit("a")
    life.flush()
    life.journal._store.detach()

    assert not asyncio.run(life.journal.starting(["a"]))

    life.end()
    life = Life(directory)
    assert life.to_run == ["a"]
    life.end()


def test_many_tasks_are_kept_in_little_time(directory):
    life = Life(directory)
    uids: list[Any] = [f"t{number}" for number in range(20_000)]
    for start in range(0, len(uids), 10_000):
        life.submit(*uids[start : start + 10_000])
    for start in range(0, len(uids), 256):
        life.start(*uids[start : start + 256])
        life.finish(*uids[start : start + 256])
    life.end()

    life = Life(directory)

    assert life.to_run == []
    assert life.results.statistics()["states"]["DONE"] == 20_000
    life.end()


def test_an_endpoint_that_is_started_anew_without_pickles_runs_none_of_those_that_it_kept(tmp_path):
    life = Life(tmp_path)
    (encoded,) = encode_batches([("t1", {"function": lambda: 1})])
    new, _ = life.results.admit(tasks_in(encoded.body), 5.0)
    life.journal.batch(encoded.body, 5.0, "fail", [task.uid for task in new])
    life.flush()
    life.store.close()

    async def scenario() -> list[tuple[str, type]]:
        store = Store.open(tmp_path, "hpc1")
        session = RhapsodySession("s", backends=["concurrent"])
        session.host = Host("hpc1", settings={"pickle": False})
        session.store = SessionStore(store, "s")
        session.spawner = asyncio.get_running_loop().create_task
        await session.initialize()
        portion = Portion.decode(await session.fetch("c", wait_s=PATIENCE_S))
        await session.close()
        await asyncio.to_thread(store.close)
        return [(record["state"], type(unpack_error(record["exception"]))) for record in portion.records]

    assert asyncio.run(scenario()) == [("FAILED", NotPermitted)]

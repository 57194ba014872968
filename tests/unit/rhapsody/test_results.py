"""Fetching while another thread finishes tasks: no window, no lost wake-up, no wait beyond the end."""

from __future__ import annotations

import asyncio
import threading
import time

import msgpack
import pytest

from orbit_rhapsody.codec import DONE, EXECUTABLE, FUNCTION, Portion, ReceivedBatch, full_record
from orbit_rhapsody.preparation import Batch, Functions, PackedTask
from orbit_rhapsody.results import Results
from orbit_rhapsody.rules import ResultLog
from orbit_rhapsody.service import RhapsodySession
from orbit_zmq.errors import Conflict, InvalidArgument, SessionClosed

PATIENCE_S = 60.0


def record(uid: str, **more: object) -> bytes:
    packed: bytes = msgpack.packb({"uid": uid, "state": DONE, **more})
    return packed


def tasks(*entries: tuple[str, int, bytes]) -> list[PackedTask]:
    received = ReceivedBatch(list(entries), {}, "")
    return Batch(received, Functions(), submitted=1.0, allow_pickled=True).tasks_of(received)


def results_with(*uids: str) -> Results:
    results = Results()
    results.admit(tasks(*((uid, FUNCTION, uid.encode()) for uid in uids)), 1.0)
    return results


def finish(results: Results, *uids: str) -> None:
    results.finished([(uid, DONE, record(uid)) for uid in uids])


def uids_of(portion: Portion) -> list[str]:
    return [entry["uid"] for entry in Portion.decode(portion.encode()).records]


def test_a_fetch_answers_at_once_when_there_is_anything():
    results = results_with("a", "b")
    finish(results, "a")

    portion = asyncio.run(asyncio.wait_for(results.fetch("c", 0, 1 << 20, 600.0), PATIENCE_S))

    assert uids_of(portion) == ["a"]


def test_a_fetch_that_waits_ends_with_the_first_completion_from_another_thread():
    results = results_with("a")

    async def scenario() -> Portion:
        fetch = asyncio.create_task(results.fetch("c", 0, 1 << 20, 600.0))
        await asyncio.sleep(0)
        threading.Thread(target=finish, args=(results, "a")).start()
        return await asyncio.wait_for(fetch, PATIENCE_S)

    assert uids_of(asyncio.run(scenario())) == ["a"]


def test_a_fetch_without_results_ends_empty_when_its_wait_is_over():
    started = time.monotonic()

    portion = asyncio.run(results_with("a").fetch("c", 0, 1 << 20, 0.05))

    assert portion.records == []
    assert portion.after == 0
    assert 0.04 <= time.monotonic() - started < PATIENCE_S


def test_who_reads_from_now_on_gets_what_comes_and_leaves_the_rest_to_others():
    results = results_with("before", "after")
    finish(results, "before")

    async def scenario() -> tuple[list[str], list[str]]:
        after = results.from_now("late")
        finish(results, "after")
        late = await results.fetch("late", after, 1 << 20, PATIENCE_S)
        results.leave("late")
        return uids_of(late), uids_of(await results.fetch("other", 0, 1 << 20, 0.0))

    assert asyncio.run(scenario()) == (["after"], ["before", "after"])
    assert results.statistics()["consumers"] == 1


def test_results_that_everybody_has_are_kept_for_a_day_in_the_session_default_and_elsewhere_for_as_long_as_is_said():
    sessions = [RhapsodySession("default"), RhapsodySession("x"), RhapsodySession("x", retention_s=5.0)]

    assert [session.retention_s for session in sessions] == [86_400.0, 600.0, 5.0]


def test_no_completion_is_missed_while_threads_and_fetches_race():
    uids = [f"t{number}" for number in range(2_000)]
    results = results_with(*uids)

    def finish_all() -> None:
        for uid in uids:
            finish(results, uid)

    async def fetch_all() -> list[str]:
        seen, after = list[str](), 0
        while len(seen) < len(uids):
            portion = await results.fetch("c", after, 200, PATIENCE_S)
            assert portion.records, "a fetch slept through a completion"
            after = portion.after
            seen += uids_of(portion)
        return seen

    thread = threading.Thread(target=finish_all)
    thread.start()
    assert asyncio.run(fetch_all()) == uids
    thread.join()


def test_closing_ends_the_fetches_that_wait():
    results = results_with("a")

    async def scenario() -> None:
        fetch = asyncio.create_task(results.fetch("c", 0, 1 << 20, 600.0))
        await asyncio.sleep(0)
        results.close()
        await asyncio.wait_for(fetch, PATIENCE_S)

    with pytest.raises(SessionClosed):
        asyncio.run(scenario())


def test_the_same_task_again_is_answered_from_memory_and_other_content_is_a_conflict_for_it_alone():
    results = results_with("a", "b")
    finish(results, "a")

    new, answer = results.admit(tasks(("a", FUNCTION, b"a"), ("b", FUNCTION, b"other"), ("c", FUNCTION, b"c")), 2.0)

    assert [task.uid for task in new] == ["c"]
    assert answer.known == {0: DONE}
    assert list(answer.refused) == [1]
    assert isinstance(answer.refused[1], Conflict)


def test_an_executable_is_not_the_same_task_as_a_function_with_equal_bytes():
    _, answer = results_with("a").admit(tasks(("a", EXECUTABLE, b"a")), 2.0)

    assert list(answer.refused) == [0]


def test_of_a_task_that_ends_twice_the_first_end_counts():
    results = results_with("a")
    finish(results, "a")
    finish(results, "a")

    assert results.statistics()["results_held"] == 1


def test_a_task_is_forgotten_with_its_result():
    results = Results(ResultLog(retention_s=0.0))
    results.admit(tasks(("a", FUNCTION, b"")), 1.0)
    finish(results, "a")

    asyncio.run(results.fetch("c", 0, 1 << 20, 0.0))
    assert [task["uid"] for task in results.snapshot(["a"])] == ["a"]
    asyncio.run(results.fetch("c", 1, 1 << 20, 0.0))

    assert results.snapshot(["a"]) == []
    assert results.statistics()["tasks_held"] == 0


def test_a_snapshot_has_results_where_there_are_some_and_leaves_unknown_tasks_out():
    results = results_with("a", "b")
    results.finished([("a", DONE, record("a", return_value=3))])
    results.started(["b"])

    assert results.snapshot(["a", "b", "nobody"]) == [
        full_record(record("a", return_value=3)),
        {"uid": "b", "state": "RUNNING", "times": {"submitted": 1.0}},
    ]


def test_a_snapshot_that_grows_too_large_names_the_rest_without_results(monkeypatch):
    monkeypatch.setattr("orbit_rhapsody.results.SNAPSHOT_BYTES", 30)
    results = results_with("a", "b")
    finish(results, "a", "b")

    first, second = results.snapshot(["a", "b"])

    assert "partial" not in first
    assert second["partial"] is True


def test_tasks_are_listed_in_the_order_of_their_submission_in_pages():
    results = results_with("a", "b", "c", "d")
    finish(results, "c")

    assert [task["uid"] for task in results.list_tasks(None, "", 3)] == ["a", "b", "c"]
    assert [task["uid"] for task in results.list_tasks(None, "c", 3)] == ["d"]
    assert [task["uid"] for task in results.list_tasks("DONE", "", 3)] == ["c"]
    with pytest.raises(InvalidArgument):
        results.list_tasks(None, "nobody", 3)

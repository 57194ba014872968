"""The client of the plugin rhapsody as a program meets it: waiting, streaming, listing, interrupts, and what is shown."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab import Lab, wait_until
from nbclient import NotebookClient

from orbit_rhapsody.client import AsyncRhapsodyClient, RhapsodyClient
from orbit_zmq import AsyncClient
from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound

PATIENCE_S = 60.0
SLOW: dict[str, Any] = {"executable": "/bin/sleep", "arguments": ["600"]}


def run_async(rhapsody_lab: Lab, main: Any) -> Any:
    """Run `main(plugin)` with a client of its own loop."""

    async def run() -> Any:
        async with AsyncClient(url=rhapsody_lab.url, connect_timeout_s=PATIENCE_S) as client:
            plugin = await client.get_plugin("hpc1", "rhapsody", backends=["concurrent", "noop"])
            assert isinstance(plugin, AsyncRhapsodyClient)
            return await main(plugin)

    return asyncio.run(run())


def add(left: Any, right: Any = 0) -> Any:
    return left + right


def complain(word: str) -> None:
    raise LookupError(word)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def held_until(path: str) -> str:
    """Ends when there is such a file."""
    deadline = time.monotonic() + PATIENCE_S
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path


def let_go(gate: Path) -> None:
    gate.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that tasks wait for; it is written at the end in any case."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def test_tasks_are_waited_for_by_uid_by_task_by_answer_and_by_result_in_the_order_asked(rhapsody: RhapsodyClient) -> None:
    tasks = [{"uid": f"t{number}", "function": add, "args": (number, 1)} for number in range(4)]
    answers = rhapsody.submit_tasks(tasks)
    (last,) = rhapsody.wait_tasks([answers[3]], timeout=PATIENCE_S)

    results = rhapsody.wait_tasks((last, "t1", tasks[0], answers[2], "t1"), timeout=PATIENCE_S)

    by_uid = {answer["uid"]: number for number, answer in enumerate(answers)}
    assert {by_uid[result["uid"]]: result["return_value"] for result in rhapsody.as_completed(by_uid)} == {
        0: 1,
        1: 2,
        2: 3,
        3: 4,
    }
    assert [result["uid"] for result in results] == ["t3", "t1", "t0", "t2", "t1"]
    assert [result["return_value"] for result in results] == [4, 2, 1, 3, 2]
    assert rhapsody.open_tasks == []


def test_dicts_are_handed_back_as_they_came_and_their_arguments_are_not_copied(rhapsody: RhapsodyClient) -> None:
    argument = [1, 2]
    tasks: list[dict[str, Any]] = [
        {"function": add, "args": (argument, [3])},
        {"uid": "mine", "executable": "/bin/echo", "arguments": ("a", 1), "backend": None},
    ]
    before = [dict(task) for task in tasks]

    rhapsody.wait_tasks(rhapsody.submit_tasks(iter(tasks)), timeout=PATIENCE_S)

    assert tasks == before
    assert tasks[0]["args"][0] is argument


def test_of_rhapsodys_objects_those_that_were_handed_in_come_back_with_their_results_in_them(rhapsody: RhapsodyClient) -> None:
    from rhapsody.api.task import ComputeTask

    tasks = [
        ComputeTask(function=add, args=(1, 2)),
        ComputeTask(executable="/bin/sh", arguments=["-c", "echo out; echo err >&2; exit 3"]),
        ComputeTask(function=complain, args=("why",)),
    ]
    before = [dict(task) for task in tasks]
    rhapsody.submit_tasks(tasks)
    assert [dict(task) for task in tasks] == before

    done = rhapsody.wait_tasks(tasks, timeout=PATIENCE_S)

    assert all(there is here for there, here in zip(tasks, done, strict=True))
    assert [task.state for task in tasks] == ["DONE", "FAILED", "FAILED"]
    assert tasks[0].return_value == 3
    assert (tasks[1].exit_code, tasks[1].stdout, tasks[1].stderr) == (3, "out\n", "err\n")
    assert isinstance(tasks[2].exception, LookupError) and "complain" in tasks[2].traceback
    assert [answer["state"] for answer in rhapsody.submit_tasks(tasks)] == ["DONE", "FAILED", "FAILED"]


def test_the_objects_end_as_they_do_in_a_session_of_rhapsody_itself(rhapsody_lab: Lab) -> None:
    from rhapsody import Session, get_backend
    from rhapsody.api.task import ComputeTask

    def tasks() -> list[Any]:
        return [
            ComputeTask(function=add, args=(1, 2)),
            ComputeTask(function=complain, args=("why",)),
            ComputeTask(executable="/bin/echo", arguments=["hi"]),
            ComputeTask(executable="/bin/sh", arguments=["-c", "echo no >&2; exit 3"]),
        ]

    async def awaited(task: Any) -> Any:
        try:
            return await task
        except Exception as error:
            return type(error), str(error).replace(task.uid, "")

    async def there() -> tuple[list[Any], list[Any]]:
        session = Session(backends=[await get_backend("concurrent")], work_dir=str(rhapsody_lab.place))
        mine = tasks()
        await session.submit_tasks(mine)
        await session.wait_tasks(mine)
        ends = [await awaited(task) for task in mine]
        await session.close()
        return mine, ends

    async def here(plugin: AsyncRhapsodyClient) -> tuple[list[Any], list[Any]]:
        mine = tasks()
        await plugin.submit_tasks(mine)
        await plugin.wait_tasks(mine, timeout=PATIENCE_S)
        return mine, [await awaited(task) for task in mine]

    (theirs, their_ends), (ours, our_ends) = asyncio.run(there()), run_async(rhapsody_lab, here)

    for name in ("state", "return_value"):
        assert [task[name] for task in ours] == [task[name] for task in theirs], name
    for name in ("exit_code", "stdout", "stderr"):  # what is said of a function there is what its backend makes up
        assert [task[name] for task in ours[2:]] == [task[name] for task in theirs[2:]], name
    assert [type(task.exception) for task in ours] == [type(task.exception) for task in theirs]
    assert our_ends[0] is ours[0] and our_ends[2] is ours[2]
    assert [our_ends[1], our_ends[3]] == [their_ends[1], their_ends[3]]


def test_rhapsodys_objects_can_be_awaited_many_at_a_time(rhapsody_lab: Lab) -> None:
    from rhapsody.api.task import ComputeTask

    async def main(plugin: AsyncRhapsodyClient) -> None:
        tasks = [ComputeTask(function=add, args=(number,)) for number in range(300)]
        failing = ComputeTask(function=complain, args=("why",))
        await plugin.submit_tasks([*tasks, failing])

        done = await asyncio.gather(*tasks)

        assert all(there is here for there, here in zip(tasks, done, strict=True))
        assert [task.return_value for task in done] == list(range(300))
        with pytest.raises(LookupError, match="why"):
            await failing

    run_async(rhapsody_lab, main)


def test_a_prompt_comes_back_with_its_answer(rhapsody: RhapsodyClient) -> None:
    from rhapsody.api.task import AITask

    task = AITask(prompt="Why?", model="none", backend="noop")
    rhapsody.submit_tasks([task])

    (done,) = rhapsody.wait_tasks([task], timeout=PATIENCE_S)

    assert done is task
    assert (done["state"], done["response"]) == ("DONE", True)


def test_as_completed_gives_each_as_it_comes_and_the_object_that_was_handed_in(rhapsody: RhapsodyClient, gate: Path) -> None:
    from rhapsody.api.task import ComputeTask

    slow, quick = ComputeTask(function=held_until, args=(str(gate),)), ComputeTask(function=add, args=(1,))
    rhapsody.submit_tasks([slow, quick])

    completed = iter(rhapsody.as_completed([slow, quick], timeout=PATIENCE_S))

    assert next(completed) is quick
    gate.touch()
    assert list(completed) == [slow] and slow.return_value == str(gate)


def test_map_gives_values_in_the_order_of_the_arguments(rhapsody: RhapsodyClient) -> None:
    delays = [0.2, 0.0, 0.1]

    assert list(rhapsody.map(pause, delays, timeout=PATIENCE_S)) == delays
    assert list(rhapsody.map(add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    assert list(rhapsody.map("math:sqrt", (4, 9))) == [2.0, 3.0]
    with pytest.raises(InvalidArgument, match="at least one"):
        list(rhapsody.map(add))


def test_map_raises_what_the_function_raised_where_its_value_would_be(rhapsody: RhapsodyClient) -> None:
    values = rhapsody.map(math.sqrt, [4, -1, 9])

    assert next(values) == 2.0
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        next(values)
    assert next(values, "over") == "over"


def test_map_ends_with_its_timeout(rhapsody: RhapsodyClient, gate: Path) -> None:
    with pytest.raises(DeadlineExceeded, match=r"1 tasks have not ended within 0\.2 s"):
        list(rhapsody.map(held_until, [str(gate)], timeout=0.2))


def test_map_of_the_async_client_does_the_same(rhapsody_lab: Lab) -> None:
    async def main(plugin: AsyncRhapsodyClient) -> list[Any]:
        return [value async for value in plugin.map(add, range(500), range(500), timeout=PATIENCE_S)]

    assert run_async(rhapsody_lab, main) == [2 * number for number in range(500)]


def test_a_wait_that_times_out_answers_the_present_states_and_loses_nothing(rhapsody: RhapsodyClient, gate: Path) -> None:
    answers = rhapsody.submit_tasks([{"function": add, "args": (1,)}, {"function": held_until, "args": (str(gate),)}])
    rhapsody.wait_tasks(answers[:1], timeout=PATIENCE_S)

    quick, slow = rhapsody.wait_tasks(answers, timeout=0.1)

    assert (quick["state"], quick["return_value"]) == ("DONE", 1)
    assert slow["state"] in {"SUBMITTED", "RUNNING"} and slow["return_value"] is None
    assert rhapsody.wait_tasks(answers, timeout=0)[0]["return_value"] == 1
    with pytest.raises(DeadlineExceeded, match=r"1 tasks have not ended within 0\.05 s"):
        list(rhapsody.as_completed([slow], timeout=0.05))
    assert rhapsody.open_tasks == [slow["uid"]]
    gate.touch()
    assert rhapsody.wait_tasks([slow], timeout=PATIENCE_S)[0]["return_value"] == str(gate)


def test_who_asks_for_all_in_slices_gets_all_though_the_endpoint_has_forgotten_the_first(rhapsody: RhapsodyClient) -> None:
    answers = rhapsody.submit_tasks(
        [{"function": many_bytes, "args": (500_000,)} for _ in range(200)] + [{"uid": "slow", **SLOW}]
    )
    uids = [answer["uid"] for answer in answers]

    def all_but_the_slow_one_are_fetched() -> bool:
        for result in rhapsody.wait_tasks(uids, timeout=0.5)[:-1]:
            result.clear()
        return bool(rhapsody.get_statistics()["fetched"] == 200)

    wait_until(all_but_the_slow_one_are_fetched, PATIENCE_S)
    rhapsody.cancel_task("slow")

    results = rhapsody.wait_tasks(uids, timeout=PATIENCE_S)
    assert [len(result["return_value"] or "") for result in results] == [500_000] * 200 + [0]
    with pytest.raises(NotFound):
        rhapsody.get_task(uids[0])


def test_who_stops_in_the_middle_of_as_completed_finds_the_rest_later(rhapsody: RhapsodyClient) -> None:
    answers = rhapsody.submit_tasks([{"function": add, "args": (number,)} for number in range(100)])
    wait_until(lambda: rhapsody.get_statistics()["states"]["DONE"] == 100)

    stream = rhapsody.as_completed(answers, timeout=PATIENCE_S)
    taken = [next(stream)["uid"] for _ in range(10)]
    stream.close()  # type: ignore[attr-defined]

    assert len(rhapsody._inbox) == 90
    rest = [
        result["uid"] for result in rhapsody.as_completed([a for a in answers if a["uid"] not in taken], timeout=PATIENCE_S)
    ]
    assert sorted(taken + rest) == sorted(answer["uid"] for answer in answers)


def test_tasks_are_listed_by_state_from_one_on_and_so_many(rhapsody: RhapsodyClient) -> None:
    uids = [f"t{number}" for number in range(20)]
    rhapsody.submit_tasks([{"uid": uid, "function": add, "args": (1,)} for uid in uids] + [{"uid": "slow", **SLOW}])
    rhapsody.wait_tasks(uids, timeout=PATIENCE_S)
    wait_until(lambda: rhapsody.get_task("slow")["state"] == "RUNNING")

    def listed(**arguments: Any) -> list[str]:
        return [task["uid"] for task in rhapsody.list_tasks(**arguments)["tasks"]]

    assert listed() == [*uids, "slow"]
    assert listed(state="RUNNING") == ["slow"]
    assert listed(state="DONE", limit=3) == uids[:3]
    assert listed(state="DONE", after="t2", limit=3) == uids[3:6]
    assert listed(after="t18") == ["t19", "slow"]
    assert listed(after="slow") == listed(limit=0) == listed(state="CANCELED") == []
    first = rhapsody.list_tasks(limit=1)["tasks"][0]
    assert (first["uid"], first["state"]) == ("t0", "DONE") and first["times"]["submitted"] <= time.time()


def test_long_lists_come_whole(rhapsody: RhapsodyClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbit_rhapsody._sync.client.LIST_TASKS", 7)
    answers = rhapsody.submit_tasks([{"function": add, "args": (1,)} for _ in range(50)])

    assert [task["uid"] for task in rhapsody.list_tasks()["tasks"]] == [answer["uid"] for answer in answers]
    assert len(rhapsody.list_tasks(limit=15)["tasks"]) == 15


def test_a_list_comes_whole_though_a_task_is_forgotten_between_its_portions(
    rhapsody: RhapsodyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody._sync.client.LIST_TASKS", 7)
    answers = rhapsody.submit_tasks([{"function": add, "args": (1,)} for _ in range(30)])
    call, forgotten = rhapsody.call, {answers[13]["uid"]}

    def call_when_forgotten(operation: str, **arguments: Any) -> Any:
        if arguments.get("after") in forgotten:
            forgotten.clear()
            raise InvalidArgument("list_tasks after a task that is not there any more")
        return call(operation, **arguments)

    monkeypatch.setattr(rhapsody, "call", call_when_forgotten)

    assert [task["uid"] for task in rhapsody.list_tasks()["tasks"]] == [answer["uid"] for answer in answers]
    assert not forgotten


def test_all_that_runs_is_canceled_with_one_call(rhapsody: RhapsodyClient, gate: Path) -> None:
    rhapsody.submit_tasks([{"uid": f"slow{number}", **SLOW} for number in range(3)])
    rhapsody.submit_tasks([{"uid": "thread", "function": held_until, "args": (str(gate),)}])
    wait_until(lambda: rhapsody.get_statistics()["states"]["RUNNING"] == 4)

    assert rhapsody.cancel_all_tasks("enough") == {"requested": 4, "canceled": 4, "unstoppable": 1}

    results = rhapsody.wait_tasks(["slow0", "slow1", "slow2", "thread"], timeout=PATIENCE_S)
    assert {(result["state"], result["reason"]) for result in results} == {("CANCELED", "enough")}
    assert rhapsody.cancel_all_tasks() == {"requested": 0, "canceled": 0, "unstoppable": 0}


def test_statistics_say_what_was_done_by_state_and_backend_how_fast_and_where_the_time_went(rhapsody: RhapsodyClient) -> None:
    tasks = [{"function": add, "args": (number,)} for number in range(50)]
    tasks += [{"function": add, "backend": "noop"} for _ in range(30)]
    answers = rhapsody.submit_tasks([*tasks, {"executable": "/bin/false"}, {"uid": "slow", **SLOW}])
    rhapsody.wait_tasks(answers[:-1], timeout=PATIENCE_S)
    wait_until(lambda: rhapsody.get_task("slow")["state"] == "RUNNING")

    found = rhapsody.get_statistics()

    assert found["states"] == {"SUBMITTED": 0, "RUNNING": 1, "DONE": 80, "FAILED": 1, "CANCELED": 0}
    assert found["backends"] == {
        "concurrent": {"DONE": 50, "FAILED": 1, "CANCELED": 0},
        "noop": {"DONE": 30, "FAILED": 0, "CANCELED": 0},
    }
    assert (found["submitted"], found["finished"], found["fetched"]) == (82, 81, 81)
    assert {stage: counts["tasks"] for stage, counts in found["stages"].items()} == {
        "accept": 82, "prepare": 82, "hand_over": 82, "keep": 81, "fetch": 81,
    }  # fmt: skip
    assert all(0 < counts["seconds"] < 60 and counts["times"] <= counts["tasks"] for counts in found["stages"].values())
    assert found["bytes"]["in"] > 0 and found["bytes"]["out"] > 0
    assert (found["queued"], found["in_flight"], found["tasks_held"]) == (0, 1, 82)
    wait_until(lambda: rhapsody.get_statistics()["events"]["tasks"] >= 81)
    wait_until(lambda: rhapsody.get_statistics()["rates_10s"]["finished"] > 0)


def test_threads_share_a_client_and_wait_without_end(rhapsody: RhapsodyClient) -> None:
    values: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        answers = rhapsody.submit_tasks([{"function": pause, "args": (number / 100,)}, {"function": add, "args": (number,)}])
        values[number] = [result["return_value"] for result in rhapsody.wait_tasks(answers)]

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert values == {number: [number / 100, number] for number in range(12)}
    assert len(rhapsody._inbox) == 0


def test_a_thread_whose_result_somebody_else_has_brought_does_not_wait_for_another(rhapsody: RhapsodyClient) -> None:
    """The one who fetches hands out what came for others; these go on at once, though nothing more is to come."""
    for _ in range(30):
        answers = rhapsody.submit_tasks([{"function": add, "args": (number,)} for number in range(8)])
        threads = [threading.Thread(target=rhapsody.wait_tasks, args=([answer],), daemon=True) for answer in answers]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert time.monotonic() - started < 15  # a poll for nothing takes 20


def test_two_clients_of_one_session_both_get_every_result(rhapsody_lab: Lab, rhapsody: RhapsodyClient) -> None:
    other = rhapsody_lab.client().get_plugin("hpc1", "rhapsody", sid=rhapsody.sid)
    answers = rhapsody.submit_tasks([{"function": pause, "args": (number / 1_000,)} for number in range(100)])
    found: dict[str, list[Any]] = {}

    def wait(name: str, plugin: RhapsodyClient) -> None:
        found[name] = [result["return_value"] for result in plugin.wait_tasks(answers, timeout=PATIENCE_S)]

    threads = [threading.Thread(target=wait, args=item, daemon=True) for item in {"ours": rhapsody, "theirs": other}.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert found["ours"] == found["theirs"] == [number / 1_000 for number in range(100)]
    assert len(other._inbox) == len(rhapsody._inbox) == 0


def test_a_wait_that_is_cancelled_leaves_the_others_and_the_client_as_they_were(rhapsody_lab: Lab, gate: Path) -> None:
    async def main(plugin: AsyncRhapsodyClient) -> None:
        answers = await plugin.submit_tasks([{"function": held_until, "args": (str(gate),)}, {"function": add, "args": (5,)}])
        other = asyncio.create_task(plugin.wait_tasks(answers, timeout=PATIENCE_S))
        for delay_s in (0.0, 0.001, 0.01, 0.05, 0.1):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(plugin.wait_tasks(answers), delay_s)

        let_go(gate)
        assert [result["return_value"] for result in await other] == [str(gate), 5]
        assert [result["return_value"] for result in await plugin.wait_tasks(answers, timeout=PATIENCE_S)] == [str(gate), 5]
        assert plugin._turn._holder is None and not plugin._turn._waiting

    run_async(rhapsody_lab, main)


def test_who_holds_the_turn_and_is_cancelled_hands_it_on(rhapsody_lab: Lab, gate: Path) -> None:
    async def main(plugin: AsyncRhapsodyClient) -> None:
        answers = await plugin.submit_tasks([{"function": held_until, "args": (str(gate),)}])
        holder = asyncio.create_task(plugin.wait_tasks(answers))
        await asyncio.sleep(0)
        follower = asyncio.create_task(plugin.wait_tasks(answers, timeout=PATIENCE_S))
        await asyncio.sleep(0.05)
        holder.cancel()
        with suppress(asyncio.CancelledError):
            await holder
        let_go(gate)

        assert (await follower)[0]["return_value"] == str(gate)

    run_async(rhapsody_lab, main)


INTERRUPTED = """
import random, signal, sys, threading, time
from orbit_zmq import Client

random.seed(7)
interrupts = 0
with Client(url=sys.argv[1], connect_timeout_s=60) as client:
    rhapsody = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    main = threading.main_thread().ident
    for round in range(40):
        answers = rhapsody.submit_tasks([{"function": "math:sqrt", "args": [n * n]} for n in range(100)])
        answers += rhapsody.submit_tasks([{"function": "time:sleep", "args": [0.02]}])
        timer = threading.Timer(random.uniform(0, 0.02), signal.pthread_kill, (main, signal.SIGINT))
        while True:
            try:
                if timer.ident is None:
                    timer.start()
                results = rhapsody.wait_tasks(answers, timeout=30)
                timer.join()
                break
            except KeyboardInterrupt:
                interrupts += 1
        values = [result["return_value"] for result in results]
        assert values == [*map(float, range(100)), None], values
        assert rhapsody.open_tasks == [], rhapsody.open_tasks
    print(interrupts, flush=True)
"""


def test_ctrl_c_in_a_wait_ends_the_wait_and_nothing_else(rhapsody_lab: Lab) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, rhapsody_lab.url],
        env=environment_of_child(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_events_carry_uid_and_state_to_who_listens_to_the_session(rhapsody: RhapsodyClient) -> None:
    heard: dict[str, dict[str, Any]] = {}
    rhapsody.on_notification(lambda endpoint, plugin, topic, data: heard.update({data["uid"]: data}), "task_status")

    answers = rhapsody.submit_tasks([{"function": add, "args": (number,)} for number in range(20)])
    rhapsody.submit_tasks([{"uid": "bad", "executable": "/bin/false"}])
    rhapsody.wait_tasks([*answers, "bad"], timeout=PATIENCE_S)

    wait_until(
        lambda: [data["state"] in ("DONE", "FAILED") for data in tuple(heard.values())] == [True] * 21,
        what="the last event of each",
    )
    assert {heard[answer["uid"]]["state"] for answer in answers} == {"DONE"}
    assert (heard["bad"]["uid"], heard["bad"]["state"], heard["bad"]["exit_code"]) == ("bad", "FAILED", 1)


def test_the_batch_size_is_an_upper_bound_for_events(client: Any) -> None:
    plugin = client.get_plugin("hpc1", "rhapsody", backends=["noop"], notify_batch_size=3, notify_batch_window=0.05)
    batches: list[list[dict[str, Any]]] = []
    plugin.on_notification(lambda endpoint, instance, topic, data: batches.append(data["tasks"]), "task_status_batch")
    answers = plugin.submit_tasks([{"function": add} for _ in range(100)])
    plugin.wait_tasks(answers, timeout=PATIENCE_S)

    wait_until(lambda: sum(map(len, tuple(batches))) == 100, what="all events, and one that comes alone is a batch, too")
    assert max(map(len, batches)) <= 3
    assert {task["state"] for batch in batches for task in batch} == {"DONE"}
    assert {task["uid"] for batch in batches for task in batch} == {answer["uid"] for answer in answers}


def test_a_window_of_a_minute_does_not_hold_up_one_event(client: Any) -> None:
    plugin = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"], notify_batch_window=60.0, notify_batch_size=1_000)
    heard = threading.Event()
    plugin.on_notification(lambda *event: heard.set(), "task_status")

    plugin.wait_tasks(plugin.submit_tasks([{"function": add, "args": (1,)}]), timeout=PATIENCE_S)

    assert heard.wait(50)


def many_bytes(count: int) -> bytes:
    return b"x" * count


def test_tasks_whose_results_everybody_has_leave_in_their_time(rhapsody: RhapsodyClient) -> None:
    """Beyond 64 MiB of fetched results the oldest leave at once, and with them their tasks; smaller ones after ten minutes."""
    for number in range(20):
        tasks = [{"uid": f"t{number}.{index}", "function": many_bytes, "args": (200_000,)} for index in range(20)]
        results = rhapsody.wait_tasks(rhapsody.submit_tasks(tasks), timeout=PATIENCE_S)
        assert {len(result["return_value"]) for result in results} == {200_000}
    rhapsody.wait_tasks(rhapsody.submit_tasks([{"uid": "small", "function": add, "args": (1,)}]), timeout=PATIENCE_S)

    with pytest.raises(NotFound, match=r"t0\.0"):
        rhapsody.get_task("t0.0")
    with pytest.raises(InvalidArgument, match=r"t0\.0"):
        rhapsody.wait_tasks(["t0.0"])
    assert rhapsody.get_task("t19.19")["state"] == "DONE"
    assert rhapsody.get_task("small")["state"] == "DONE"
    assert rhapsody.get_statistics()["result_bytes"] <= 65 << 20


def test_progress_is_shown_on_stderr_and_the_results_are_the_same(
    rhapsody: RhapsodyClient, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [{"function": add, "args": (number,)} for number in range(100)]

    answers = rhapsody.submit_tasks(tasks, progress=True)
    results = rhapsody.wait_tasks(answers, timeout=PATIENCE_S, progress=True)
    streamed = list(rhapsody.as_completed(answers, timeout=PATIENCE_S, progress=True))
    mapped = list(rhapsody.map(add, range(100), timeout=PATIENCE_S, progress=True))

    out, err = capfd.readouterr()
    assert [result["return_value"] for result in results] == list(range(100)) == mapped
    assert len(streamed) == 100
    assert out == ""
    assert re.match(r"tasks sent: 100 of 100 done, \d+ s\n", err)
    assert re.search(r"^tasks: 100 of 100 done, \d+ s$", err, re.MULTILINE) and "\x1b" not in err


NOTEBOOK = """
import orbit_zmq
orbit = orbit_zmq.local()
client = orbit.client()
rhapsody = client.get_plugin("local", "rhapsody")
answers = rhapsody.submit_tasks([{"function": "time:sleep", "args": [n / 50]} for n in range(20)])
results = rhapsody.wait_tasks(answers, timeout=60, progress=True)
orbit.close()
"""


def test_a_notebook_shows_one_line_of_progress_without_widgets(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(NOTEBOOK)]
    runner = NotebookClient(
        notebook, timeout=250, startup_timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    runner.execute(env=environment_of_child(IPYTHONDIR=str(tmp_path / "i"), JUPYTER_RUNTIME_DIR=str(tmp_path / "r")))

    shown = [output for output in notebook.cells[0].outputs if output.output_type == "display_data"]

    assert len(shown) == 1, notebook.cells[0].outputs
    assert set(shown[0].data) == {"text/plain", "text/html"}
    assert shown[0].data["text/plain"].startswith("tasks: 20 of 20 done")
    assert '<progress value="20" max="20">' in shown[0].data["text/html"]

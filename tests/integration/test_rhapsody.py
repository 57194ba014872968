"""Rhapsody tasks from a client through a real broker to a real endpoint, and their results back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, is_gone, wait_until

from orbit_rhapsody.client import AsyncRhapsodyClient, RhapsodyClient
from orbit_zmq import AsyncClient
from orbit_zmq.errors import Conflict, DeadlineExceeded, InvalidArgument, NotFound, NotPermitted, OrbitError

PATIENCE_S = 60.0


@pytest.fixture
def rhapsody(lab: Lab) -> Iterator[RhapsodyClient]:
    lab.start_endpoint("hpc1", plugins="rhapsody")
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    assert isinstance(plugin, RhapsodyClient)
    yield plugin
    plugin.cancel_all_tasks()


def add(left: Any, right: Any) -> Any:
    return left + right


def many_bytes(size: int) -> bytes:
    return b"x" * size


def many_numbers() -> dict[tuple[int], bytes]:
    return {(number,): b"y" * (20 << 20) for number in range(3)}


def complain(word: str) -> None:
    raise LookupError(word, 7)


def test_tasks_of_all_kinds_come_back_in_the_order_asked(rhapsody):
    tasks: list[dict[str, Any]] = [
        {"function": add, "args": (1, 2)},
        {"function": "math:hypot", "args": [3, 4]},
        {"executable": "/bin/sh", "arguments": ["-c", "echo out; echo err >&2; exit 3"]},
        {"function": complain, "args": ("why",)},
        {"function": add, "args": ((1,), (2,)), "uid": "mine"},
    ]
    before = [dict(task) for task in tasks]

    answers = rhapsody.submit_tasks(tasks)
    results = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)

    assert tasks == before
    assert [answer["state"] for answer in answers] == ["SUBMITTED"] * 5
    assert [result["uid"] for result in results] == [answer["uid"] for answer in answers]
    assert answers[4]["uid"] == "mine"
    assert [result["return_value"] for result in results] == [3, 5.0, None, None, (1, 2)]
    program, failed = results[2], results[3]
    assert (program["state"], program["exit_code"], program["stdout"], program["stderr"]) == ("FAILED", 3, "out\n", "err\n")
    assert isinstance(failed["exception"], LookupError)
    assert failed["exception"].args == ("why", 7)
    assert "in complain" in failed["traceback"]


def test_a_result_is_there_without_waiting_for_a_window(rhapsody):
    rhapsody.wait_tasks(rhapsody.submit_tasks([{"function": add, "args": (1, 1)}]), timeout=PATIENCE_S)
    took_s = []
    for _ in range(20):
        started = time.monotonic()
        rhapsody.wait_tasks(rhapsody.submit_tasks([{"function": add, "args": (1, 1)}]), timeout=PATIENCE_S)
        took_s.append(time.monotonic() - started)

    assert min(took_s) < 0.25  # a window of a quarter of a second at either end would hold up each of them


def test_thousands_of_tasks_in_one_call_come_back_once_each(lab):
    lab.start_endpoint("hpc1", plugins="rhapsody")
    plugin = lab.client().get_plugin("hpc1", "rhapsody", backends=["noop"])
    tasks = [{"function": add, "args": (number, "x" * 100)} for number in range(20_000)]

    answers = plugin.submit_tasks(tasks)
    seen = [result["uid"] for result in plugin.as_completed(answers, timeout=PATIENCE_S)]

    assert len(seen) == len(set(seen)) == 20_000
    assert set(seen) == {answer["uid"] for answer in answers}
    statistics = plugin.get_statistics()
    assert statistics["states"] == {"SUBMITTED": 0, "RUNNING": 0, "DONE": 20_000, "FAILED": 0, "CANCELED": 0}
    assert len(plugin.list_tasks()["tasks"]) == 20_000
    assert len(plugin._inbox) == 0


def test_a_wait_that_times_out_answers_the_present_states_and_raises_nothing(rhapsody):
    answers = rhapsody.submit_tasks(
        [{"function": add, "args": (1, 1)}, {"executable": "/bin/sleep", "arguments": ["600"], "uid": "slow"}]
    )
    rhapsody.wait_tasks(answers[:1], timeout=PATIENCE_S)
    wait_until(lambda: rhapsody.get_task("slow")["state"] == "RUNNING", what="the process runs")

    started = time.monotonic()
    (result,) = rhapsody.wait_tasks(["slow"], timeout=0.2)

    assert 0.2 <= time.monotonic() - started < PATIENCE_S
    assert (result["uid"], result["state"], result["return_value"]) == ("slow", "RUNNING", None)
    with pytest.raises(DeadlineExceeded, match="1 tasks"):
        list(rhapsody.as_completed(["slow"], timeout=0.05))


def test_a_uid_that_was_never_submitted_is_an_error_at_the_door(rhapsody):
    with pytest.raises(InvalidArgument, match="nobody"):
        rhapsody.wait_tasks(["nobody"])
    with pytest.raises(NotFound, match="nobody"):
        rhapsody.get_task("nobody")
    with pytest.raises(NotFound, match="nobody"):
        rhapsody.cancel_task("nobody")
    with pytest.raises(InvalidArgument):
        rhapsody.wait_tasks([5])


def test_results_can_be_asked_for_again_after_they_were_taken(rhapsody):
    answers = rhapsody.submit_tasks([{"function": add, "args": (2, 3)}])
    first = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)

    assert rhapsody.wait_tasks(answers, timeout=PATIENCE_S) == first
    assert rhapsody.get_task(answers[0]["uid"])["return_value"] == 5


def test_a_canceled_executable_is_dead(rhapsody, tmp_path: Path):
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600"
    rhapsody.submit_tasks([{"executable": "/bin/sh", "arguments": ["-c", script], "uid": "e"}])
    wait_until(pid_file.exists, what="the process runs")
    pid = int(pid_file.read_text())

    answer = rhapsody.cancel_task("e", reason="no longer needed")

    assert answer == {"uid": "e", "status": "canceled", "canceled": 1, "requested": 1, "unstoppable": 0}

    assert is_gone(pid)
    (result,) = rhapsody.wait_tasks(["e"], timeout=PATIENCE_S)
    assert (result["state"], result["reason"]) == ("CANCELED", "no longer needed")
    assert rhapsody.cancel_task("e")["status"] == "canceled"


def test_closing_the_session_ends_its_processes(rhapsody, tmp_path: Path):
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600"
    rhapsody.submit_tasks([{"executable": "/bin/sh", "arguments": ["-c", script]}])
    wait_until(pid_file.exists, what="the process runs")
    other = rhapsody._client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    answers = other.submit_tasks([{"executable": "/bin/true"}])

    rhapsody.unregister_session()

    assert is_gone(int(pid_file.read_text()))
    assert other.wait_tasks(answers, timeout=PATIENCE_S)[0]["state"] == "DONE"
    rhapsody.register_session(backends=["noop"])


def test_an_endpoint_that_stops_leaves_no_process_of_a_task_behind(lab, tmp_path: Path):
    endpoint = lab.start_endpoint("hpc1", plugins="rhapsody")
    plugin = lab.client().get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    pid_file = tmp_path / "pid"
    stubborn = f"trap '' INT TERM; echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; while :; do sleep 0.05; done"
    plugin.submit_tasks([{"executable": "/bin/sh", "arguments": ["-c", stubborn]}, {"function": "time:sleep", "args": [600]}])
    wait_until(pid_file.exists, what="the process runs")

    assert endpoint.end() == 0  # it did not have to be killed

    wait_until(lambda: is_gone(int(pid_file.read_text())), what="the program has ended")


def test_the_same_uid_with_the_same_task_is_answered_from_memory_and_with_another_it_is_a_conflict(rhapsody, tmp_path: Path):
    count = tmp_path / "count"
    task = {"uid": "u", "executable": "/bin/sh", "arguments": ["-c", f"echo x >> {count}"]}
    rhapsody.wait_tasks(rhapsody.submit_tasks([task]), timeout=PATIENCE_S)

    again, other, good = rhapsody.submit_tasks(
        [task, {"uid": "u", "executable": "/bin/false"}, {"uid": "v", "executable": "/bin/true"}]
    )

    assert again == {"uid": "u", "state": "DONE"}
    assert other["state"] == "FAILED"
    assert isinstance(other["exception"], Conflict)
    results = rhapsody.wait_tasks([again, good], timeout=PATIENCE_S)
    assert [result["state"] for result in results] == ["DONE", "DONE"]
    assert count.read_text() == "x\n"


def test_a_uid_that_another_client_uses_in_the_same_session_is_a_conflict_and_no_wrong_result(rhapsody):
    other = rhapsody._client.get_plugin("hpc1", "rhapsody", sid=rhapsody.sid)
    rhapsody.submit_tasks([{"uid": "u", "function": add, "args": (1, 1)}])

    (answer,) = other.submit_tasks([{"uid": "u", "function": add, "args": (2, 2)}])
    (theirs,) = other.wait_tasks(["u"], timeout=PATIENCE_S)
    (ours,) = rhapsody.wait_tasks(["u"], timeout=PATIENCE_S)

    assert isinstance(answer["exception"], Conflict)
    assert (theirs["state"], type(theirs["exception"])) == ("FAILED", Conflict)
    assert ours["return_value"] == 2


def test_sessions_with_equal_uids_do_not_touch_each_other(rhapsody):
    other = rhapsody._client.get_plugin("hpc1", "rhapsody")
    rhapsody.submit_tasks([{"uid": "u", "function": add, "args": (1, 1)}])
    other.submit_tasks([{"uid": "u", "function": add, "args": (2, 2)}])

    assert rhapsody.wait_tasks(["u"], timeout=PATIENCE_S)[0]["return_value"] == 2
    assert other.wait_tasks(["u"], timeout=PATIENCE_S)[0]["return_value"] == 4


def test_another_client_of_the_session_can_wait_for_its_tasks(rhapsody):
    answers = rhapsody.submit_tasks([{"function": add, "args": (1, 1)}, {"executable": "/bin/sleep", "arguments": ["0.2"]}])
    other = rhapsody._client.get_plugin("hpc1", "rhapsody", sid=rhapsody.sid)

    assert [result["state"] for result in other.wait_tasks(answers, timeout=PATIENCE_S)] == ["DONE", "DONE"]
    assert len(other._inbox) == 0


def test_bad_tasks_fail_alone_and_calls_of_the_wrong_shape_are_refused(rhapsody):
    good = {"function": add, "args": (1, 1)}

    answers = rhapsody.submit_tasks(
        [good, {"function": add, "executable": "/bin/true"}, {"function": add, "args": (threading.Lock(), 1)}, good]
    )
    results = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)

    assert [result["state"] for result in results] == ["DONE", "FAILED", "FAILED", "DONE"]
    assert all(isinstance(result["exception"], InvalidArgument) for result in results[1:3])
    for tasks in ({"function": add}, "tasks", 5, [5], [{"uid": 5}], [{"uid": ""}]):
        with pytest.raises(InvalidArgument):
            rhapsody.submit_tasks(tasks)
    assert rhapsody.submit_tasks([]) == []
    assert rhapsody.wait_tasks([]) == []


def test_values_arrive_as_they_were_sent(rhapsody):
    values = [None, 2**70, float("inf"), "\ud800", b"\x00\xff", (1, [2, {"a": {3}}]), {1: "one"}, 1j, "ü" * 100_000]

    results = rhapsody.wait_tasks(
        rhapsody.submit_tasks([{"function": lambda value: value, "args": (value,)} for value in values]), timeout=PATIENCE_S
    )

    assert [result["return_value"] for result in results] == values


def test_a_result_of_many_megabytes_arrives_whole(rhapsody):
    (result,) = rhapsody.wait_tasks(rhapsody.submit_tasks([{"function": lambda: b"x" * (20 << 20)}]), timeout=PATIENCE_S)

    assert len(result["return_value"]) == 20 << 20


def test_a_return_value_that_is_too_large_for_a_message_arrives_whole(rhapsody):
    plain, odd = rhapsody.submit_tasks([{"function": many_bytes, "args": [70 << 20]}, {"function": many_numbers}])

    first, second = rhapsody.wait_tasks([plain, odd], timeout=60)

    assert (first["state"], second["state"]) == ("DONE", "DONE")
    assert first["return_value"] == b"x" * (70 << 20)
    assert second["return_value"] == {(number,): b"y" * (20 << 20) for number in range(3)}
    assert "return_ref" not in first
    assert rhapsody.get_task(odd["uid"])["return_value"] == second["return_value"]


def test_several_threads_wait_with_one_client_and_each_gets_its_own(rhapsody):
    answers: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        tasks = [{"function": add, "args": (number, index)} for index in range(50)]
        results = rhapsody.wait_tasks(rhapsody.submit_tasks(tasks), timeout=PATIENCE_S)
        answers[number] = [result["return_value"] for result in results]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {number: [number + index for index in range(50)] for number in range(8)}
    assert len(rhapsody._inbox) == 0


def test_a_quick_task_is_not_held_up_by_one_who_waits_for_a_slow_one(rhapsody):
    rhapsody.submit_tasks([{"uid": "slow", "executable": "/bin/sleep", "arguments": ["600"]}])
    slow = threading.Thread(target=rhapsody.wait_tasks, args=(["slow"],), daemon=True)
    slow.start()

    (result,) = rhapsody.wait_tasks(rhapsody.submit_tasks([{"function": add, "args": (1, 1)}]), timeout=PATIENCE_S)

    assert result["return_value"] == 2
    assert slow.is_alive()
    rhapsody.cancel_task("slow")
    slow.join(PATIENCE_S)
    assert not slow.is_alive()


@pytest.mark.parametrize("name", ["dragon", "nonsense"])
def test_a_backend_that_is_not_there_is_named_with_those_that_are(rhapsody, name):
    with pytest.raises(OrbitError) as caught:
        rhapsody._client.get_plugin("hpc1", "rhapsody", backends=[name])

    assert name in str(caught.value)
    assert "concurrent, noop" in str(caught.value)


def test_backends_that_are_no_list_are_refused_by_name(rhapsody):
    with pytest.raises(InvalidArgument, match="backends"):
        rhapsody._client.get_plugin("hpc1", "rhapsody", backends="noop")


def test_a_session_without_pickles_takes_functions_by_name_and_plain_values_alone(rhapsody):
    plain = rhapsody._client.get_plugin("hpc1", "rhapsody", allow_pickled_tasks=False)

    results = plain.wait_tasks(
        plain.submit_tasks(
            [
                {"function": "math:sqrt", "args": [4]},
                {"function": add, "args": (1, 1)},
                {"function": "math:sqrt", "args": [2**70]},
            ]
        ),
        timeout=PATIENCE_S,
    )

    assert results[0]["return_value"] == 2.0
    assert [type(result["exception"]) for result in results[1:]] == [NotPermitted, NotPermitted]


def test_no_task_is_lost_or_run_twice_while_the_connection_is_cut(lab, tmp_path: Path):
    lab.start_endpoint("hpc1", plugins="rhapsody")
    proxy = lab.proxy(lab.tcp)
    plugin = lab.client(proxy.address).get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    log = tmp_path / "log"

    def note(number: int) -> int:
        with log.open("a") as file:
            file.write(f"{number}\n")
        return number

    returned = []
    for start in range(0, 1_000, 50):  # one cut somewhere between submit and the last result of each round
        cut = threading.Timer(start / 1_000 * 0.05, proxy.cut)
        cut.start()
        tasks = [{"function": note, "args": (number,)} for number in range(start, start + 50)]
        results = plugin.wait_tasks(plugin.submit_tasks(tasks), timeout=60)
        returned += [result["return_value"] for result in results]
        cut.join()

    assert returned == list(range(1_000))
    assert sorted(map(int, log.read_text().split())) == list(range(1_000))


def test_the_async_client_does_the_same(lab):
    lab.start_endpoint("hpc1", plugins="rhapsody")

    async def main() -> None:
        async with AsyncClient(url=lab.url, connect_timeout_s=PATIENCE_S) as client:
            plugin = await client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
            assert isinstance(plugin, AsyncRhapsodyClient)

            async def one(number: int) -> Any:
                answers = await plugin.submit_tasks([{"function": add, "args": (number, 1)}])
                return (await plugin.wait_tasks(answers, timeout=PATIENCE_S))[0]["return_value"]

            assert await asyncio.gather(*map(one, range(50))) == list(range(1, 51))
            answers = await plugin.submit_tasks([{"function": add, "args": (number, 1)} for number in range(100)])
            seen = {result["return_value"] async for result in plugin.as_completed(answers, timeout=PATIENCE_S)}
            assert seen == set(range(1, 101))
            assert len(plugin._inbox) == 0

    asyncio.run(main())


def test_rhapsodys_own_task_objects_are_taken_as_they_are(rhapsody):
    from rhapsody.api.task import ComputeTask

    tasks = [ComputeTask(function=add, args=(1, 2)), ComputeTask(executable="/bin/echo", arguments=["hi"])]
    before = [dict(task) for task in tasks]

    answers = rhapsody.submit_tasks(tasks)
    assert [dict(task) for task in tasks] == before
    results = rhapsody.wait_tasks(answers, timeout=PATIENCE_S)

    assert all(result["uid"].startswith(task.uid) for result, task in zip(results, tasks, strict=True))
    assert (results[0]["return_value"], results[1]["stdout"]) == (3, "hi\n")
    assert (tasks[0].return_value, tasks[1].stdout) == (3, "hi\n")


def test_each_task_is_told_as_an_event_alone_or_in_batches(lab):
    lab.start_endpoint("hpc1", plugins="rhapsody")
    client = lab.client(lab.tcp)
    plugin = client.get_plugin("hpc1", "rhapsody", backends=["concurrent"])
    each: dict[str, dict[str, Any]] = {}
    batches: list[dict[str, Any]] = []

    def tell(endpoint: str, instance: str, topic: str, data: dict[str, Any]) -> None:
        assert (endpoint, instance, topic) == ("hpc1", "rhapsody", "task_status")
        assert each.get(data["uid"], {"state": "RUNNING"})["state"] == "RUNNING"
        each[data["uid"]] = data

    client.subscribe(tell, topic="task_status")
    client.subscribe(lambda endpoint, instance, topic, data: batches.extend(data["tasks"]), topic="task_status_batch")
    tasks: list[dict[str, Any]] = [
        {"uid": "plain", "function": add, "args": (1, 2)},
        {"uid": "large", "function": add, "args": ("x" * 2_000, "y")},
        {"uid": "exit", "executable": "/bin/sh", "arguments": ["-c", "exit 3"]},
        {"uid": "raises", "function": complain, "args": ("two\nlines",)},
        *({"uid": f"many.{number}", "function": add, "args": (number, 1)} for number in range(200)),
    ]
    plugin.wait_tasks(plugin.submit_tasks(tasks), timeout=PATIENCE_S)

    ended = lambda events: sorted(event["uid"] for event in tuple(events) if event["state"] != "RUNNING")  # noqa: E731
    wait_until(lambda: len(ended(each.values())) == len(tasks) and len(ended(batches)) == len(tasks))
    assert all(set(event) == {"uid", "state", "exit_code", "error", "return_value"} for event in each.values())
    assert (each["plain"]["state"], each["plain"]["return_value"], each["plain"]["error"]) == ("DONE", 3, None)
    assert (each["large"]["state"], each["large"]["return_value"]) == ("DONE", None)
    assert (each["exit"]["state"], each["exit"]["exit_code"]) == ("FAILED", 3)
    assert each["raises"]["state"] == "FAILED" and "two" in each["raises"]["error"] and "\n" not in each["raises"]["error"]
    assert [each[f"many.{number}"]["return_value"] for number in range(200)] == list(range(1, 201))
    assert ended(batches) == sorted(each)

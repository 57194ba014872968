"""An endpoint is killed and started anew: its lasting sessions are there again, and who waits for their tasks is answered."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_rhapsody.client import AsyncRhapsodyClient, RhapsodyClient
from orbit_zmq import AsyncClient, Client
from orbit_zmq.errors import (
    BrokerUnreachable,
    Conflict,
    EndpointLost,
    NotFound,
    OrbitError,
    OutcomeUnknown,
    ResultExpired,
    SessionClosed,
)

PATIENCE_S = 100.0
pytestmark = pytest.mark.timeout(300)


def kill(child: Any) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.end()


def has_ended(child: Any) -> bool:
    return child.exit_code() is not None


def appending(path: Path, word: str, then: str = "") -> dict[str, Any]:
    """A task that leaves a trace of each of its executions."""
    return {"executable": "/bin/sh", "arguments": ["-c", f"echo {word} >> {path}; {then}"]}


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def rhapsody(client: Client, **arguments: Any) -> RhapsodyClient:
    plugin = client.get_plugin("hpc1", "rhapsody", **{"lifetime": "persistent", **arguments})
    assert isinstance(plugin, RhapsodyClient)
    return plugin


def test_sessions_are_there_again_with_their_owner_and_arguments(lab: Lab):
    endpoint = lab.start_endpoint(plugins="test,rhapsody")
    client = lab.client()
    lasting = client.get_plugin("hpc1", "test", sid="lasting", lifetime="persistent", initialize_s=0.01)
    timed = client.get_plugin("hpc1", "test", lifetime="ttl", ttl=600)
    passing = client.get_plugin("hpc1", "test")
    client.call("hpc1", "test", "echo", {"text": "x"}, session="default")
    before = {entry["sid"]: entry for entry in lasting.list_sessions()}
    assert before[passing.sid]["kept"] is False
    pid = lasting.where(text="x")["pid"]

    kill(endpoint)
    lab.start_endpoint(plugins="test,rhapsody")

    wait_until(lambda: {entry["status"] for entry in lasting.list_sessions()} == {"ready"}, what="initialize has run again")
    after = {entry["sid"]: entry for entry in lasting.list_sessions()}
    assert after == {sid: entry for sid, entry in before.items() if sid != passing.sid}
    assert all(entry["kept"] for entry in after.values())
    assert sorted(entry["lifetime"] for entry in after.values()) == ["persistent", "persistent", "ttl"]
    assert lasting.where(text="x")["pid"] != pid
    assert timed.echo(text="still here") == "still here"
    with pytest.raises(NotFound):
        passing.echo(text="gone")
    passing.close()


def test_a_session_that_was_closed_stays_closed(lab: Lab):
    endpoint = lab.start_endpoint()
    plugin = lab.client().get_plugin("hpc1", "test", sid="mine", lifetime="persistent")
    plugin.unregister_session()

    kill(endpoint)
    lab.start_endpoint()

    assert plugin.list_sessions() == []


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_whoever_waits_over_a_restart_gets_every_result_and_no_task_runs_twice(lab: Lab, tmp_path: Path, how: str):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client())
    trace, gate = tmp_path / "trace", tmp_path / "gate"
    held = f"while [ ! -e {gate} ]; do sleep 0.05; done"
    done = plugin.submit_tasks([appending(trace, f"done{number}") for number in range(20)])
    wait_until(lambda: plugin.get_statistics()["states"]["DONE"] == 20, what="the first twenty are done")
    # More than run at once, so that some are of unknown fate and the others have not been started.
    tasks = [{**appending(trace, f"held{number}", held), "uid": f"held{number}"} for number in range(30)]
    waiting = plugin.submit_tasks([{**tasks[0]}, *tasks[1:]])
    wait_until(lambda: "held0" in lines(trace), what="some are running")
    results: list[dict[str, Any]] = []
    waiter = threading.Thread(target=lambda: results.extend(plugin.wait_tasks([*done, *waiting], timeout=PATIENCE_S)))
    waiter.start()

    if how == "killed":
        kill(endpoint)
    else:
        endpoint.end()
    gate.touch()
    lab.start_endpoint(plugins="rhapsody")
    waiter.join(PATIENCE_S)

    assert [result["state"] for result in results[:20]] == ["DONE"] * 20
    for result in results[20:]:
        assert result["state"] == "DONE" or isinstance(result["exception"], OutcomeUnknown)
    unknown = {result["uid"] for result in results[20:] if result["state"] == "FAILED"}
    assert "held0" in unknown
    executions = lines(trace)
    assert len(executions) == len(set(executions))
    assert {f"done{number}" for number in range(20)} <= set(executions)


def test_tasks_that_had_not_been_started_run_after_the_restart(lab: Lab, tmp_path: Path, monkeypatch):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client())
    trace, gate = tmp_path / "trace", tmp_path / "gate"
    os.mkfifo(gate)
    writer = os.open(gate, os.O_RDWR)
    held = f"read line < {gate}"  # a thousand that look again and again would hold up the machine
    # As many as an endpoint runs at once take every place; the function's place is not theirs.
    blockers = [{**appending(trace, "b", held), "uid": f"b{number}"} for number in range(1_100)]
    plugin.submit_tasks(blockers)
    wait_until(lambda: plugin.get_statistics()["queued"] > 0 and len(lines(trace)) > 10, what="all places are taken")
    late = plugin.submit_tasks([appending(trace, "late")])

    kill(endpoint)
    os.write(writer, b"\n" * 4 * len(blockers))
    lab.start_endpoint(plugins="rhapsody")

    (result,) = plugin.wait_tasks(late, timeout=PATIENCE_S)
    assert result["state"] == "DONE"
    assert lines(trace).count("late") == 1
    os.close(writer)


def test_a_task_of_unknown_fate_runs_again_where_its_submitter_allows_it(lab: Lab, tmp_path: Path):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client())
    trace, gate = tmp_path / "trace", tmp_path / "gate"
    held = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    again = plugin.submit_tasks([appending(trace, "again", held)], on_unknown="rerun")
    never = plugin.submit_tasks([appending(trace, "never", held)])
    wait_until(lambda: set(lines(trace)) == {"again", "never"}, what="both run")

    kill(endpoint)
    gate.touch()
    lab.start_endpoint(plugins="rhapsody")

    first, second = plugin.wait_tasks([*again, *never], timeout=PATIENCE_S)
    assert (first["state"], second["state"]) == ("DONE", "FAILED")
    assert isinstance(second["exception"], OutcomeUnknown)
    assert sorted(lines(trace)) == ["again", "again", "never"]


def test_a_task_that_ends_its_endpoint_each_time_is_not_run_for_ever(lab: Lab, tmp_path: Path):
    trace = tmp_path / "trace"
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client(), sid="mine", on_unknown="rerun")
    plugin.submit_tasks([{**appending(trace, "x", "sleep 0.3; kill -9 $PPID; sleep 5"), "uid": "deadly"}])

    for _ in range(3):
        wait_until(partial(has_ended, endpoint), what="the task has ended its endpoint")
        endpoint.end()
        try:
            endpoint = lab.start_endpoint(plugins="rhapsody")
        except OrbitError:  # it was ended before it could say that it was ready
            continue

    (result,) = plugin.wait_tasks(["deadly"], timeout=PATIENCE_S)
    assert isinstance(result["exception"], OutcomeUnknown)
    assert "3 times" in str(result["exception"])
    assert len(lines(trace)) == 3


def test_tasks_of_a_session_that_does_not_come_back_are_lost_and_say_so(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client(), lifetime="ephemeral")
    tasks = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["600"]}])

    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")

    (result,) = plugin.wait_tasks(tasks, timeout=PATIENCE_S)
    assert isinstance(result["exception"], EndpointLost)
    assert "without the session" in str(result["exception"])


def test_tasks_that_the_endpoint_could_not_keep_are_lost_and_say_so(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client())
    tasks = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["600"]}])
    kill(endpoint)
    with sqlite3.connect(lab.place / "state" / "endpoint-hpc1.sqlite") as connection:
        connection.execute("DELETE FROM items")  # as if the disk had been full since the session was opened
    connection.close()
    lab.start_endpoint(plugins="rhapsody")
    lab.client().attach(plugin.sid)  # waits until the session is ready again

    waiter = threading.Thread(target=lambda: found.extend(plugin.wait_tasks(tasks, timeout=PATIENCE_S)))
    found: list[dict[str, Any]] = []
    waiter.start()
    wait_until(lambda: plugin.get_statistics()["consumers"] == 1, what="it is asked for results")
    plugin.wait_tasks(plugin.submit_tasks([{"executable": "/bin/true"}]), timeout=PATIENCE_S)
    waiter.join(PATIENCE_S)

    (result,) = found
    assert isinstance(result["exception"], EndpointLost)
    assert "without the task" in str(result["exception"])


def test_the_async_client_attaches_too(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    first = rhapsody(lab.client(), sid="mine", consumer="script")
    first.submit_tasks([{"function": "operator:add", "args": [1, number]} for number in range(5)])
    wait_until(lambda: first.get_statistics()["states"]["DONE"] == 5, what="all are done")
    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")

    async def main() -> list[Any]:
        async with AsyncClient(url=lab.url) as client:
            plugin = await client.attach("mine", consumer="script")
            assert isinstance(plugin, AsyncRhapsodyClient)
            return [result["return_value"] async for result in plugin.as_completed(timeout=PATIENCE_S)]

    assert sorted(asyncio.run(main())) == [1, 2, 3, 4, 5]


def test_tasks_of_an_endpoint_that_stays_away_are_lost_after_that_time(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    client = lab.stack.enter_context(Client(url=lab.url, endpoint_away_s=8.0))
    plugin = rhapsody(client)
    tasks = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["600"]}])

    kill(endpoint)
    started = time.monotonic()
    (early,) = plugin.wait_tasks(tasks, timeout=0.1)
    (result,) = plugin.wait_tasks(tasks, timeout=PATIENCE_S)

    assert (early["state"], early["exception"]) == ("SUBMITTED", None)
    assert isinstance(result["exception"], EndpointLost)
    assert time.monotonic() - started < PATIENCE_S


def test_a_timeout_is_kept_though_nobody_answers(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client())
    tasks = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["600"]}])
    os.kill(endpoint.pid, signal.SIGSTOP)

    started = time.monotonic()
    (result,) = plugin.wait_tasks(tasks, timeout=1.0)
    took = time.monotonic() - started

    os.kill(endpoint.pid, signal.SIGCONT)
    assert result["state"] in ("SUBMITTED", "RUNNING")
    assert took < 4 * (1.0 + 1.0 + 5.0)
    plugin.cancel_all_tasks()


def test_tasks_are_given_up_when_the_broker_stays_away(lab: Lab, monkeypatch, caplog):
    monkeypatch.setattr("orbit_rhapsody._sync.reading.POLL_S", 0.2)
    monkeypatch.setattr("orbit_rhapsody._sync.reading.FETCH_GRACE_S", 0.2)
    monkeypatch.setattr("orbit_zmq.client.patience.WARN_S", 0.5)
    lab.start_endpoint(plugins="rhapsody")
    client = lab.stack.enter_context(Client(url=lab.url, broker_away_s=8.0))
    plugin = rhapsody(client)
    tasks = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["600"]}])

    assert lab.broker is not None
    kill(lab.broker)

    (early,) = plugin.wait_tasks(tasks, timeout=0.5)
    (result,) = plugin.wait_tasks(tasks, timeout=PATIENCE_S)
    assert early["state"] == "SUBMITTED"
    assert isinstance(result["exception"], BrokerUnreachable)
    assert "8 s" in str(result["exception"])


def test_results_that_were_not_read_are_read_by_the_next_process_of_that_consumer(lab: Lab, tmp_path: Path):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    first = rhapsody(lab.client(), sid="mine", consumer="script")
    read = first.submit_tasks(
        [{"function": "operator:add", "args": [1, number], "uid": f"read{number}"} for number in range(5)]
    )
    first.wait_tasks(read, timeout=PATIENCE_S)
    first.wait_tasks(
        first.submit_tasks([{"function": "operator:add", "args": [0, 0], "uid": "acknowledges"}]), timeout=PATIENCE_S
    )
    first.submit_tasks([{"function": "operator:add", "args": [2, number], "uid": f"new{number}"} for number in range(5)])
    wait_until(lambda: first.get_statistics()["states"]["DONE"] == 11, what="all are done")
    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")

    second = lab.client().attach("mine", consumer="script")

    assert isinstance(second, RhapsodyClient)
    assert {f"new{number}" for number in range(5)} <= set(second.open_tasks)
    assert not {f"read{number}" for number in range(5)} & set(second.open_tasks)
    results = {result["uid"]: result["return_value"] for result in second.as_completed(timeout=PATIENCE_S)}
    assert {f"new{number}": 2 + number for number in range(5)}.items() <= results.items()
    assert second.open_tasks == []


def test_a_value_too_large_for_a_message_outlives_the_endpoint(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client(), sid="large", consumer="reader")
    plugin.submit_tasks([{"uid": "large", "function": bytes, "args": [50 << 20]}])
    wait_until(lambda: plugin.get_statistics()["states"]["DONE"] == 1, what="it is done")

    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")

    (result,) = plugin.wait_tasks(["large"], timeout=PATIENCE_S)
    assert result["exception"] is None
    assert result["return_value"] == bytes(50 << 20)
    plugin.unregister_session()


def test_a_value_that_was_discarded_stays_so_though_the_endpoint_is_killed_at_once(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client(), sid="discarded", results="reference")
    results = plugin.wait_tasks(
        plugin.submit_tasks([{"function": bytes, "args": [5_000_000]} for _ in range(5)]), timeout=PATIENCE_S
    )

    plugin.discard(results)
    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")

    for result in results:
        with pytest.raises(ResultExpired):
            plugin.fetch(result)
    plugin.unregister_session()


def test_a_value_is_fetched_over_a_restart_of_the_endpoint(lab: Lab):
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client(), sid="fetched", results="reference")
    (result,) = plugin.wait_tasks(plugin.submit_tasks([{"function": bytes, "args": [50 << 20]}]), timeout=PATIENCE_S)
    values: list[bytes] = []
    fetching = threading.Thread(target=lambda: values.extend(plugin.fetch(result) for _ in range(20)))
    fetching.start()
    wait_until(lambda: values, what="the first one is there")

    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")
    fetching.join(PATIENCE_S)

    assert [len(value) for value in values] == [50 << 20] * 20
    plugin.unregister_session()


def test_what_a_killed_endpoint_has_left_in_its_temporary_directory_is_removed_by_the_next_one(lab: Lab, tmp_path: Path):
    lab.environment["TMPDIR"] = str(tmp_path)
    endpoint = lab.start_endpoint(plugins="rhapsody")
    plugin = rhapsody(lab.client(), lifetime="ephemeral", results="reference")
    plugin.wait_tasks(plugin.submit_tasks([{"function": bytes, "args": [5_000_000]}]), timeout=PATIENCE_S)
    (left,) = tmp_path.glob("orbit-values-*")
    (tmp_path / f"orbit-values-{os.getpid()}-alive-{socket.gethostname()}").mkdir()
    (tmp_path / f"orbit-values-{endpoint.pid}-elsewhere-another.machine").mkdir()

    kill(endpoint)
    lab.start_endpoint(plugins="rhapsody")

    wait_until(lambda: not left.exists(), what="it is removed")
    assert len(list(tmp_path.glob("orbit-values-*"))) == 2


def test_a_session_is_attached_to_by_its_id_alone(lab: Lab):
    lab.start_endpoint(plugins="test,rhapsody")
    mine = lab.client().get_plugin("hpc1", "test")
    other = lab.client()

    attached = other.attach(mine.sid)

    assert attached.where(text="x")["sid"] == mine.sid
    assert [entry["holder"] for entry in attached.list_sessions()] == [other.name]
    attached.close()
    assert mine.echo(text="goes on") == "goes on"
    mine.unregister_session()
    with pytest.raises((NotFound, SessionClosed)):
        lab.client().attach(attached.sid or "session.00000000")


def test_a_second_process_of_the_same_endpoint_is_told(lab: Lab):
    first = lab.start_endpoint()

    with pytest.raises(Conflict) as caught:
        lab.start_endpoint()

    assert f"process {first.pid} on" in str(caught.value)


def test_a_store_that_is_damaged_is_moved_aside_and_the_endpoint_starts(lab: Lab):
    endpoint = lab.start_endpoint()
    lab.client().get_plugin("hpc1", "test", lifetime="persistent", sid="mine")
    kill(endpoint)
    file = lab.place / "state" / "endpoint-hpc1.sqlite"
    for path in file.parent.glob("endpoint-hpc1.sqlite*"):
        path.write_bytes(b"nonsense " * 1_000)

    lab.start_endpoint()

    assert lab.client().get_plugin("hpc1", "test").echo(text="x") == "x"
    assert list(file.parent.glob("endpoint-hpc1.sqlite.damaged-*"))
    assert "store-damaged" in lab.log_of("hpc1")

"""Several clients on one endpoint: their tasks do not touch each other, and none of them keeps another from its share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lab import Lab, running_lab

from orbit_zmq import Client
from orbit_zmq.errors import Conflict, NotFound

PATIENCE_S = 60.0
SHARE = 0.4


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One endpoint, which may be used by everybody, to run code, too."""
    with running_lab() as made:
        made.start_endpoint("hpc1", plugins="rhapsody", share="*:rhapsody:read,write,run")
        yield made


@pytest.fixture(scope="module")
def users(lab: Lab) -> Iterator[dict[str, Client]]:
    with ExitStack() as stack:
        admin = lab.client()
        made = {}
        for name in ("ann", "bob"):
            joined = admin.invite(name, "client", user=name, hosts=["127.0.0.1"])
            made[name] = stack.enter_context(Client(join=joined.encode(), connect_timeout_s=PATIENCE_S))
        yield made


def add(left: Any, right: Any) -> Any:
    return left + right


def test_tasks_with_equal_uids_of_two_users_do_not_touch_each_other(users: dict[str, Client]):
    plugins = {name: client.get_plugin("hpc1", "rhapsody", backends=["concurrent"]) for name, client in users.items()}
    for name, plugin in plugins.items():
        plugin.submit_tasks([{"uid": f"task.{number}", "function": add, "args": (name, number)} for number in range(100)])
        plugin.submit_tasks([{"uid": "slow", "executable": "/bin/sleep", "arguments": ["600"]}])

    assert plugins["ann"].cancel_all_tasks()["canceled"] >= 1
    with pytest.raises(NotFound):
        users["bob"].call("hpc1", "rhapsody", "statistics", session=plugins["ann"].sid)
    for name, plugin in plugins.items():
        results = plugin.wait_tasks([f"task.{number}" for number in range(100)], timeout=PATIENCE_S)
        finished = [result for result in results if result["state"] == "DONE"]
        assert all(result["return_value"].startswith(name) for result in finished if isinstance(result["return_value"], str))
    assert plugins["bob"].get_task("slow")["state"] in ("SUBMITTED", "RUNNING")
    assert plugins["ann"].wait_tasks(["slow"], timeout=PATIENCE_S)[0]["state"] == "CANCELED"
    for plugin in plugins.values():
        plugin.close()


def test_a_uid_that_comes_again_is_answered_from_memory_and_with_another_task_it_is_a_conflict_of_that_task(lab: Lab):
    with lab.client().get_plugin("hpc1", "rhapsody", backends=["concurrent"]) as plugin:
        task = {"uid": "once", "function": "time:time"}
        (first,) = plugin.wait_tasks(plugin.submit_tasks([task]), timeout=PATIENCE_S)
        answers = plugin.submit_tasks([task, {"uid": "once", "function": "os:getpid"}, {"uid": "new", "function": "os:getpid"}])
        once, new = plugin.wait_tasks(["once", "new"], timeout=PATIENCE_S)

    assert [answer["state"] for answer in answers] == ["DONE", "FAILED", "SUBMITTED"]
    assert isinstance(answers[1]["exception"], Conflict)
    assert once["return_value"] == first["return_value"]
    assert new["state"] == "DONE"


def rates_of_both(clients: list[Client], backend: str, tasks: Callable[[], list[dict[str, Any]]]) -> list[float]:
    """Tasks a second of each client while all of them work: counted until the first has finished."""
    plugins = [client.get_plugin("hpc1", "rhapsody", backends=[backend]) for client in clients]
    ready, over = threading.Barrier(len(clients)), threading.Event()
    done = [0] * len(clients)

    def work(number: int) -> None:
        batch = tasks()
        ready.wait(PATIENCE_S)
        answers = plugins[number].submit_tasks(batch)
        for _ in plugins[number].as_completed(answers, timeout=PATIENCE_S):
            done[number] += not over.is_set()
        over.set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clients))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    assert over.wait(PATIENCE_S)
    elapsed = time.monotonic() - started
    for thread in threads:
        thread.join(PATIENCE_S)
    for plugin in plugins:
        plugin.close()
    return [count / elapsed for count in done]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("backend", "tasks"),
    [
        ("noop", lambda: [{"function": "os:getpid", "args": ()} for _ in range(20_000)]),
        ("concurrent", lambda: [{"executable": "/bin/true"} for _ in range(500)]),
    ],
    ids=["functions", "executables"],
)
def test_two_clients_share_an_endpoint_and_neither_gets_less_than_two_fifths(
    users: dict[str, Client], backend: str, tasks: Any
):
    shares = []
    for _ in range(3):
        rates = rates_of_both(list(users.values()), backend, tasks)
        shares.append(min(rates) / sum(rates))
        print(f"{backend}: {[round(rate) for rate in rates]} tasks/s, the smaller share {shares[-1]:.2f}")
        if shares[-1] >= SHARE:
            break

    assert max(shares) >= SHARE

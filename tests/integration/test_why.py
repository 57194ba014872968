"""`client.why` and `orbit why`: where a task or a session is and why it is not further, asked of real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, running_lab, wait_until
from shell import Shell

from orbit_rhapsody import backends, engine, service
from orbit_zmq import AsyncClient, Client
from orbit_zmq.errors import Conflict, NotFound
from orbit_zmq.plugin import Caller, Explanation, Host, Plugin, PluginSession, operation
from orbit_zmq.testing import serve
from orbit_zmq.why import SchedulerPart, Why

PATIENCE_S = 60.0
TASKS = 100  # more than there are threads


def wait_for_file(path: str) -> str:
    """What a task does until somebody writes the file."""
    deadline = time.monotonic() + 100
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    return path


@pytest.fixture(scope="module")
def world() -> Iterator[Lab]:
    """A broker and an endpoint that nobody harms."""
    with running_lab() as made:
        made.start_endpoint("hpc1", plugins="rhapsody,test")
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that tasks wait for; it is written at the end in any case."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@contextmanager
def session_of(lab: Lab, **arguments: Any) -> Iterator[Any]:
    with (
        Client(url=lab.url, connect_timeout_s=PATIENCE_S) as client,
        client.get_plugin("hpc1", "rhapsody", **arguments) as plugin,
    ):
        yield plugin
        plugin.cancel_all_tasks()


def waits_for(gate: Path, count: int) -> list[dict[str, Any]]:
    return [{"function": wait_for_file, "args": [str(gate)]} for _ in range(count)]


def once(client: Client, uid: str, phase: str, **which: Any) -> Why:
    """What is said once it is in that phase."""

    def said() -> Why | None:
        found = client.why(uid, **which)
        return found if found.phase == phase else None

    found = wait_until(said, PATIENCE_S, f"{uid} is {phase}")
    assert found is not None
    return found


def test_a_task_waits_behind_others_at_the_limit_of_its_plugin(world, gate):
    with session_of(world, backends=["concurrent"]) as plugin, Client(url=world.url, connect_timeout_s=PATIENCE_S) as asking:
        uids = [answer["uid"] for answer in plugin.submit_tasks(waits_for(gate, TASKS))]

        def when_full() -> Why | None:
            said = asking.why(uids[-1])
            is_full = said.plugin is not None and said.plugin.running == said.plugin.limit
            return said if is_full and said.plugin is not None and said.plugin.facts else None

        found = wait_until(when_full, PATIENCE_S, "all threads are busy")

        assert found is not None and found.plugin is not None and found.plugin.limit is not None
        assert (found.kind, found.at, found.phase, found.scheduler) == ("task", "plugin", "waiting", None)
        assert (found.plugin.ahead, found.plugin.facts) == (TASKS - found.plugin.limit - 1, {"backend": "concurrent"})
        assert found.reason.startswith("The backend concurrent has it and runs ") and found.reason.endswith(" are before it.")
        before = asking.why(uids[-2]).plugin
        assert before is not None and before.ahead == TASKS - found.plugin.limit - 2
        assert asking.why(uids[0]).phase == "running"
        assert found.session is not None and (found.session.sid, found.session.state) == (plugin.sid, "ready")
        assert found.endpoint is not None and (found.endpoint.name, found.endpoint.state) == ("hpc1", "present")
        assert found.broker is not None and found.broker.state in ("ok", "queued")
        assert found.client is not None and not found.client.is_here  # another client holds the session
        own = plugin._client.why(uids[-1])
        assert own.client is not None and own.client.is_here and (own.client.state, own.client.unsent) == ("open", 0)

        gate.touch()
        plugin.wait_tasks(uids, timeout=PATIENCE_S)
        done = asking.why(uids[-1])
        assert (done.phase, done.state, done.at, done.reason) == ("ended", "DONE", None, "It has ended: DONE.")


def test_a_task_that_runs_or_has_ended_is_said_to(world):
    with session_of(world) as plugin:
        client = plugin._client
        uid = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["100"]}])[0]["uid"]
        running = once(client, uid, "running")
        assert (running.state, running.at, running.reason) == ("RUNNING", None, "It runs on the backend concurrent.")

        plugin.cancel_task(uid, reason="enough of it")
        ended = once(client, uid, "ended")
        assert (ended.state, ended.reason) == ("CANCELED", "It has ended: CANCELED, enough of it.")
        failed = plugin.submit_tasks([{"function": "math:sqrt", "args": [-1]}, {"executable": "/bin/false"}])
        plugin.wait_tasks(failed, timeout=PATIENCE_S)
        reasons = [client.why(one["uid"]).reason for one in failed]
        assert "ValueError: " in reasons[0] and reasons[1] == "It has ended: FAILED, exit code 1."


def test_the_async_client_asks_the_same(world):
    async def main() -> None:
        async with AsyncClient(url=world.url, connect_timeout_s=PATIENCE_S) as client:
            plugin: Any = await client.get_plugin("hpc1", "rhapsody")
            uid = (await plugin.submit_tasks([{"function": "math:hypot", "args": [3, 4]}]))[0]["uid"]
            await plugin.wait_tasks([uid])
            found = await client.why(uid)
            assert (found.phase, found.kind, found.session and found.session.sid) == ("ended", "task", plugin.sid)
            assert str(found).splitlines()[0] == "It has ended: DONE."

    asyncio.run(main())


def test_an_unknown_id_is_said_to_be_unknown(world):
    with (
        Client(url=world.url, connect_timeout_s=PATIENCE_S) as client,
        pytest.raises(NotFound, match=r"no task, job or session 'task\.none' of yours"),
    ):
        client.why("task.none")

    done = Shell(world.environment).run("why", "task.none")
    assert done.returncode == 1 and done.stderr.startswith("orbit: there is no task") and done.stderr.count("\n") == 1
    nothing = Shell(world.environment).run("why", "")
    assert nothing.returncode == 2 and "nothing is asked about" in nothing.stderr


def test_an_id_that_is_there_twice_has_to_be_told_apart(world):
    with session_of(world) as one, session_of(world) as other, Client(url=world.url, connect_timeout_s=PATIENCE_S) as asking:
        for plugin in (one, other):
            plugin.wait_tasks(plugin.submit_tasks([{"uid": "twice", "function": "math:hypot", "args": [3, 4]}]))

        with pytest.raises(Conflict, match="there are 2 things with the id 'twice'") as raised:
            asking.why("twice")
        assert {place.split()[-1] for place in raised.value.details["places"]} == {one.sid, other.sid}
        found = asking.why("twice", session=other.sid)
        assert found.session is not None and found.session.sid == other.sid


def test_another_users_things_are_unknown(world):
    """An endpoint that serves somebody else is not heard of here: what it has is not of this user."""
    with session_of(world) as plugin:
        uid = plugin.submit_tasks([{"function": "math:hypot", "args": [3, 4]}])[0]["uid"]
        with Client(url=world.url, connect_timeout_s=PATIENCE_S) as asking:
            with pytest.raises(NotFound):
                asking.why(uid, plugin="test")
            assert asking.why(uid, plugin="rhapsody").kind == "task"
            with pytest.raises(NotFound):
                asking.why(uid, endpoint="hpc2")


def test_a_session_is_initializing_ready_failed_or_closed(world):
    with Client(url=world.url, connect_timeout_s=PATIENCE_S) as client:
        opened = client.call("hpc1", "test", "register_session", {"initialize_s": 60, "lifetime": "persistent"})["sid"]
        starting = client.why(opened)
        assert (starting.kind, starting.state, starting.phase, starting.at) == ("session", "initializing", "waiting", "session")
        assert starting.reason.startswith("It is being set up, for ")
        with pytest.raises(NotFound, match=r"nobody who answers knows 'task\.x'") as raised:
            client.why("task.x")
        assert f"session {opened} of test is still being set up" in raised.value.hint

        client.call("hpc1", "test", "unregister_session", session=opened)
        closed = client.why(opened)
        assert (closed.state, closed.phase, closed.reason) == ("closed", "ended", "It has been closed.")
        failing = client.call("hpc1", "test", "register_session", {"initialize_error": "no disk"})["sid"]
        failed = once(client, failing, "ended")
        assert (failed.state, failed.reason) == ("failed", "It could not be set up: no disk.")
        with client.get_plugin("hpc1", "test") as plugin:
            ready = client.why(plugin.sid)
            assert (ready.state, ready.phase, ready.at) == ("ready", "ready", None)
            assert ready.session is not None and ready.session.holder == client.name


def test_the_command_shows_sentences_to_people_and_the_model_to_programs(world):
    shell = Shell(world.environment)
    with session_of(world) as plugin:
        uid = plugin.submit_tasks([{"executable": "/bin/sleep", "arguments": ["100"]}])[0]["uid"]
        once(plugin._client, uid, "running")

        assert shell.run("why", uid, "--session", plugin.sid, "-q").stdout == f"{uid}\n"
        shown = shell.run("why", uid)
        assert shown.returncode == 0, shown.stderr
        assert "reason\tIt runs on the backend concurrent." in shown.stdout
        assert "endpoint\tpresent\thpc1 is present" in shown.stdout
        said = json.loads(shell.run("why", uid, "--json").stdout)
        assert (said["schema"], said["version"]) == ("orbit.why", 1)
        assert Why.model_validate(said["item"]).session == plugin._client.why(uid).session or said["item"]["session"]["sid"]
        begun = shell.json("why", plugin.sid[:-1])
        assert (begun["id"], begun["kind"]) == (plugin.sid, "session")
        assert begun["reason"].startswith("It is ready: 0 tasks wait in it, and 1 are with its backends")


def test_a_session_whose_backend_is_being_started_says_which(monkeypatch):
    may_start, start = threading.Event(), backends.start_backend

    async def start_when_allowed(*arguments: Any) -> Any:
        await asyncio.to_thread(may_start.wait, PATIENCE_S)
        return await start(*arguments)

    with serve("rhapsody", backends=["noop"]) as running:
        monkeypatch.setattr(engine, "start_backend", start_when_allowed)
        client = running.client
        sid = client.call("testing", "rhapsody", "register_session", {"backends": ["concurrent"]})["sid"]
        try:
            found = client.why(sid)
            assert (found.state, found.phase, found.at) == ("initializing", "waiting", "session")
            assert found.reason == "Its backend concurrent is being started, for which it has 2m."
        finally:
            may_start.set()
        assert "0 tasks wait in it" in once(client, sid, "ready").reason


def test_a_task_that_its_client_cannot_send_yet_waits_there_for_room(monkeypatch, gate):
    monkeypatch.setattr(service, "QUEUED_BYTES", 100_000)
    monkeypatch.setattr(service, "ROOM_S", 0.05)
    monkeypatch.setattr(engine, "FUNCTIONS_IN_FLIGHT", 1)
    with serve("rhapsody", backends=["concurrent"]) as running:
        plugin: Any = running.plugin
        once(running.client, plugin.submit_tasks(waits_for(gate, 1))[0]["uid"], "running")
        many = [{"uid": f"many.{n}", "function": "math:sqrt", "args": [n]} for n in range(1_000)]
        plugin.submit_tasks(many[:-1])
        wait_until(lambda: "it takes no more at present" in running.client.why(plugin.sid).reason, PATIENCE_S, "it is full")
        sending = threading.Thread(target=plugin.submit_tasks, args=(many[-1:],))
        sending.start()
        try:

            def held_up() -> Why | None:
                with suppress(NotFound):
                    said = running.client.why("many.999")
                    return said if "bytes of tasks wait" in said.reason else None
                return None

            found = wait_until(held_up, PATIENCE_S, "the client says what it waits for")
            assert found is not None
            assert (found.kind, found.state, found.phase, found.at) == ("task", "unsent", "waiting", "client")
            assert found.client is not None and found.client.is_here and found.client.unsent == 1
            assert found.plugin is not None and "it takes no more at present" in found.plugin.reason
            queued = running.client.why("many.2")
            assert (queued.phase, queued.at, queued.plugin and queued.plugin.ahead) == ("waiting", "plugin", 2)
            assert queued.reason == "1 of at most 1 functions are with the backends; 2 others are before it."
            with (
                Client(url=running.client._link.place.address, connect_timeout_s=PATIENCE_S) as other,
                pytest.raises(NotFound, match=r"many\.999"),
            ):
                other.why("many.999")
        finally:
            gate.touch()
            sending.join(PATIENCE_S)


@pytest.fixture
def patient_lab() -> Iterator[Lab]:
    """Whose broker does not take an endpoint for lost, however long it is silent."""
    with running_lab("--interval", "lost_s=600") as made:
        yield made


def test_what_is_at_an_endpoint_that_is_stopped_is_said_to_wait_for_it(patient_lab, gate):
    lab = patient_lab
    child, shell = lab.start_endpoint("hpc1", plugins="rhapsody"), Shell(lab.environment)
    client = lab.client()
    plugin = client.get_plugin("hpc1", "rhapsody")
    uid = plugin.submit_tasks(waits_for(gate, 1))[0]["uid"]
    once(client, uid, "running")
    os.kill(child.pid, signal.SIGSTOP)
    try:
        silent = client.why(uid, deadline_s=0.5)
        assert (silent.phase, silent.at) == ("unknown", "endpoint")
        wait_until(lambda: client.endpoint("hpc1").facts.state == "suspect", PATIENCE_S, "hpc1 is suspect")

        found = client.why(uid)
        assert (found.kind, found.state, found.phase, found.at) == ("task", "open", "unknown", "endpoint")
        assert found.endpoint is not None and found.endpoint.state == "suspect" and (found.endpoint.silent_for_s or 0) > 5
        assert found.reason.startswith("hpc1 is suspect: nothing has been heard of it for ")
        session = shell.json("why", plugin.sid)
        assert (session["kind"], session["at"], session["endpoint"]["state"]) == ("session", "endpoint", "suspect")
        by_session = shell.json("why", uid, "--session", plugin.sid)
        assert (by_session["at"], by_session["phase"]) == ("endpoint", "unknown")
        other = shell.run("why", uid)
        assert other.returncode == 1
        assert "nobody who answers knows" in other.stderr and "hpc1 is suspect, silent for" in other.stderr
    finally:
        os.kill(child.pid, signal.SIGCONT)
    assert once(client, uid, "running").at is None


def test_what_was_at_an_endpoint_that_is_gone_is_said_to_have_gone_with_it(lab, gate):
    child, shell = lab.start_endpoint("hpc1", plugins="rhapsody"), Shell(lab.environment)
    client = lab.client()
    uid = client.get_plugin("hpc1", "rhapsody").submit_tasks(waits_for(gate, 1))[0]["uid"]
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: "hpc1" not in client.topology(), PATIENCE_S, "hpc1 is lost")

    found = client.why(uid)
    assert (found.phase, found.at, found.broker) == ("unknown", "endpoint", None)
    assert found.endpoint is not None and (found.endpoint.state, found.endpoint.lost_for_s is not None) == ("lost", True)
    assert found.reason.startswith("hpc1 was lost ")
    done = shell.run("why", uid)
    assert done.returncode == 1 and "hpc1 was lost" in done.stderr


def test_without_a_broker_a_client_says_what_it_knows_itself(lab, gate):
    lab.start_endpoint("hpc1", plugins="rhapsody")
    client = lab.client()
    uid = client.get_plugin("hpc1", "rhapsody").submit_tasks(waits_for(gate, 1))[0]["uid"]
    os.kill(lab.broker.pid, signal.SIGKILL)
    wait_until(lambda: not client.is_connected, PATIENCE_S, "the client has seen it")

    found = client.why(uid)
    assert (found.state, found.phase, found.at) == ("open", "unknown", "broker")
    assert found.broker is not None and found.broker.state == "away"
    assert found.reason.startswith("No broker answers: ")


class QueuedSession(PluginSession):
    """One item that waits, one whose hook fails."""

    async def why(self, item: str) -> Explanation | None:
        if item == "broken":
            raise ZeroDivisionError("in a hook")
        return (
            None if item != "mine" else Explanation(kind="thing", state="queued", phase="waiting", reason="It waits.", ahead=2)
        )

    @operation(effect="read")
    async def echo(self, text: str) -> str:
        return text


class Queued(Plugin):
    """Jobs of which the batch system is asked."""

    plugin_name = "queued"
    session_class = QueuedSession

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        native_id = {"job.1": "4711", "job.2": "4712"}.get(item)
        if native_id is None:
            return None
        return Explanation(kind="job", state="pending", phase="waiting", reason="It was submitted.", native_id=native_id)


class Batch(Plugin):
    """In place of queue_info, with a job that waits and one that runs."""

    plugin_name = "batch_of_one"
    session_class = QueuedSession

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        if item == "4712":
            run = SchedulerPart(state="RUNNING", reason="It runs on n1.", native_id=item)
            return Explanation(kind="job", state="RUNNING", phase="running", reason=run.reason, native_id=item, scheduler=run)
        if item != "4711":
            return None
        part = SchedulerPart(state="PENDING", reason="It is number 3.", native_id=item, place=3, estimated_start=2e9)
        return Explanation(kind="job", state="PENDING", phase="waiting", reason=part.reason, native_id=item, scheduler=part)


def test_a_plugin_explains_its_items_and_the_batch_system_those_that_are_jobs_of_it():
    with serve(Queued, Batch(Host(), "queue_info")) as running:
        client = running.client
        mine = client.why("mine")
        assert (mine.kind, mine.at, mine.reason, mine.plugin and mine.plugin.ahead) == ("thing", "plugin", "It waits.", 2)
        with pytest.raises(NotFound, match="nobody who answers") as raised:
            client.why("broken")
        assert "ZeroDivisionError: in a hook" in raised.value.hint

        job = client.why("job.1")
        assert (job.kind, job.state, job.phase, job.at, job.reason) == (
            "job", "pending", "waiting", "scheduler", "It is number 3.",
        )  # fmt: skip
        assert job.scheduler is not None and (job.scheduler.place, job.scheduler.estimated_start) == (3, 2e9)
        assert client.why("4711").scheduler == job.scheduler
        unseen = client.why("job.2")  # its plugin has not seen it start
        assert (unseen.state, unseen.phase, unseen.at, unseen.reason) == ("pending", "running", None, "It runs on n1.")

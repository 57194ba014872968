"""Calls from a client through a real broker to a real endpoint, and back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from lab import Lab, wait_until

import orbit_zmq
from orbit_zmq import AsyncClient
from orbit_zmq.errors import (
    AddressTaken,
    BrokerUnreachable,
    Busy,
    Canceled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OrbitError,
    OutcomeUnknown,
    RemoteError,
    RemoteTraceback,
    TooLarge,
)

BEGUN_S = 7.0  # a call has begun by then, even if the machine stands still for a while


@pytest.fixture
def plugin(lab: Lab) -> Iterator[orbit_zmq.PluginClient]:
    lab.start_endpoint("hpc1")
    return lab.client(lab.tcp).get_plugin("hpc1", "test")


def test_a_call_reaches_the_endpoint_and_comes_back(plugin):
    assert plugin.echo(text="hello") == "hello"
    assert plugin.call("echo_any", value={"a": [1, None, b"x", 1 << 90]}) == {"a": [1, None, b"x", 1 << 90]}


def test_the_client_lists_endpoints_and_their_plugins(lab):
    lab.start_endpoint("hpc1")
    lab.start_endpoint("hpc2", url=lab.tcp)
    client = lab.client()

    assert sorted(endpoint.name for endpoint in client.endpoints()) == ["hpc1", "hpc2"]
    assert client.endpoint("hpc2").plugins["test"]["plugin"] == "test"


def test_an_async_client_does_the_same_with_many_calls_at_once(lab):
    lab.start_endpoint("hpc1")

    async def main() -> list[str]:
        async with AsyncClient(url=lab.tcp) as client:
            plugin = await client.get_plugin("hpc1", "test")
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(plugin.call("echo", text=str(n))) for n in range(100)]
            return [call.result() for call in calls]

    assert asyncio.run(main()) == [str(n) for n in range(100)]


def test_a_client_serves_many_threads(plugin):
    answers: dict[int, str] = {}

    def ask(n: int) -> None:
        answers[n] = plugin.echo(text=str(n))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {n: str(n) for n in range(20)}


def test_the_blocking_client_works_inside_a_running_loop(plugin):
    async def main() -> str:
        return plugin.echo(text="from a loop")

    assert asyncio.run(main()) == "from a loop"


def test_after_a_fork_the_client_says_so(plugin):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            plugin.echo(text="x")
            message = "no error"
        except OrbitError as error:
            message = str(error)
        os.write(write, message.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    assert "fork" in os.read(read, 1000).decode()
    os.close(read)
    assert plugin.echo(text="the parent is well") == "the parent is well"


def test_ctrl_c_ends_a_waiting_program_cleanly(lab):
    lab.start_endpoint("hpc1")
    script = (
        "import orbit_zmq\n"
        f"with orbit_zmq.Client(url={lab.tcp!r}) as client:\n"
        "    plugin = client.get_plugin('hpc1', 'test')\n"
        "    try:\n"
        "        print('waiting', flush=True)\n"
        "        plugin.sleep(seconds=25)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=lab.environment, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    said, _ = program.communicate(timeout=60)
    assert said == "interrupted\n"
    assert program.returncode == 0


@pytest.mark.parametrize(
    ("operation", "arguments", "error", "says"),
    [
        ("no_such", {}, NotFound, "no_such"),
        ("echo", {"txt": "x"}, InvalidArgument, "txt"),
        ("echo", {}, InvalidArgument, "text"),
        ("echo", {"text": 5}, InvalidArgument, "text"),
        ("echo", {"text": "x" * (65 << 20)}, TooLarge, "limit"),
        ("echo", {"text": object()}, InvalidArgument, "object"),
    ],
)
def test_bad_input_is_an_error_that_names_it(plugin, operation, arguments, error, says):
    with pytest.raises(error, match=says):
        plugin.call(operation, **arguments)
    assert plugin.echo(text="still well") == "still well"


def test_an_unknown_endpoint_plugin_and_session_are_not_found(plugin):
    client = plugin._client
    with pytest.raises(NotFound, match="nowhere"):
        client.get_plugin("nowhere", "test")
    with pytest.raises(NotFound, match=r"tset.*test"):
        client.get_plugin("hpc1", "tset")
    with pytest.raises(NotFound, match=r"session\.00000000"):
        client.call("hpc1", "test", "echo", {"text": "x"}, session="session.00000000")


@pytest.mark.parametrize("deadline_s", [0, -1, float("nan"), float("inf"), True, 1e-9])
def test_a_deadline_that_cannot_be_kept_is_refused(plugin, deadline_s):
    with pytest.raises(InvalidArgument, match="deadline_s"):
        plugin.call("echo", text="x", deadline_s=deadline_s)


def test_a_deadline_ends_the_call(plugin):
    with pytest.raises(DeadlineExceeded, match="did not end within"):  # so say client, broker and endpoint
        plugin.call("sleep", seconds=20, deadline_s=0.2)


def test_a_listening_place_that_is_taken_is_an_error_that_names_it(lab):
    with pytest.raises(AddressTaken, match="listens at"):
        lab.start_broker()
    lab.environment["ORBIT_RUNTIME_DIR"] += "2"
    with pytest.raises(AddressTaken, match="listens at tcp"):
        lab.start_broker(tcp=lab.tcp)


def test_no_broker_is_an_error_that_names_the_place(lab):
    lab.broker.end()
    with pytest.raises(BrokerUnreachable, match="ipc:"), orbit_zmq.Client(url=lab.url, connect_timeout_s=0.5):
        pass


def test_a_remote_exception_has_its_type_and_its_traceback(plugin):
    with pytest.raises(ValueError, match="on purpose") as caught:
        plugin.fail(kind="ValueError", message="on purpose")
    assert isinstance(caught.value, OrbitError)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "service.py" in str(caught.value.__cause__)


def test_an_exception_whose_type_is_not_here_is_a_remote_error_with_the_same_facts(plugin):
    with pytest.raises(RemoteError, match="strange") as caught:
        plugin.fail(kind="OddError", message="strange")
    assert caught.value.remote_type.endswith("OddError")
    assert "OddError" in caught.value.remote_traceback


def test_streams_go_both_ways(plugin):
    assert plugin.count(data=(bytes([n]) * 100_000 for n in range(50))) == 5_000_000
    assert sum(map(len, plugin.produce(total_bytes=5_000_000))) == 5_000_000
    assert b"".join(plugin.copy(data=[b"a" * 70_000, b"b", b""])) == b"a" * 70_000 + b"b"


def test_a_stream_that_breaks_ends_with_its_error(plugin):
    with pytest.raises(RemoteError, match="in the middle"):
        list(plugin.produce_and_fail(total_bytes=1_000_000))


def test_leaving_a_stream_early_frees_it(plugin):
    with plugin.produce(total_bytes=1 << 40) as stream:
        next(stream)
    wait_until(lambda: not plugin._client.endpoints()[0].facts.load["running"])
    assert plugin.echo(text="x") == "x"


def test_large_arguments_and_results_travel_whole(plugin):
    value = os.urandom(20 << 20)
    assert plugin.call("echo_any", value=value, deadline_s=60) == value


def test_a_canceled_call_is_canceled_over_there(lab):
    lab.start_endpoint("hpc1")

    async def main() -> None:
        async with AsyncClient(url=lab.url) as client:
            plugin = await client.get_plugin("hpc1", "test")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await plugin.call("sleep", seconds=25)
            async with asyncio.timeout(60):
                while (await client.endpoints())[0].facts.load["running"] > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_an_operation_hears_why_its_call_was_canceled(lab):
    lab.start_endpoint("hpc1")

    async def main() -> None:
        async with AsyncClient(url=lab.url) as client:
            plugin = await client.get_plugin("hpc1", "test")
            call = asyncio.ensure_future(plugin.call("note_cancel", seconds=50))
            while (await client.endpoints())[0].facts.load["running"] == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            call.cancel("another one was faster")
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(DeadlineExceeded):
                await plugin.call("note_cancel", seconds=50, deadline_s=BEGUN_S)

    asyncio.run(main())
    wait_until(lambda: len(lab.executed()) == 2, what="both are canceled over there")
    first, second = lab.executed()
    assert first == "canceled:another_one_was_faster"
    assert second == "canceled:its_deadline_has_passed" or "did_not_end_within" in second


def test_ctrl_c_on_the_command_line_cancels_the_call_over_there(lab):
    lab.start_endpoint("hpc1")
    command = [sys.executable, "-m", "orbit_zmq.cli", "call", "hpc1", "test", "note_cancel", "seconds=50"]
    started = subprocess.Popen(command, env=lab.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    client = lab.client()
    wait_until(lambda: client.endpoints()[0].facts.load["running"] > 0, what="the call runs")
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    wait_until(lambda: lab.executed() == ["canceled:interrupted"], what="it is canceled over there")
    assert "canceled" in said


def test_more_calls_than_an_endpoint_runs_at_once_are_busy(lab):
    lab.start_endpoint("hpc1")

    async def main() -> None:
        async with AsyncClient(url=lab.url) as client:
            plugin = await client.get_plugin("hpc1", "test")
            calls = [asyncio.ensure_future(plugin.call("sleep", seconds=200, deadline_s=300)) for _ in range(1500)]
            ended, running = await asyncio.wait(calls, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            for call in running:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert {type(call.exception()) for call in ended} == {Busy}
            assert len(running) > 100

    asyncio.run(main())


def test_a_killed_endpoint_ends_its_calls_with_a_typed_error_in_time(lab):
    endpoint = lab.start_endpoint("hpc1", url=lab.tcp)
    plugin = lab.client(lab.tcp).get_plugin("hpc1", "test")
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            plugin.once(key="killed", seconds=25)
        except OrbitError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: "killed" in lab.executed())
    os.kill(endpoint.pid, signal.SIGKILL)
    thread.join(16.0)
    assert [type(error) for error in caught] == [OutcomeUnknown]


def test_an_endpoint_whose_loop_is_blocked_is_busy_and_not_lost(lab, tmp_path):
    gate = tmp_path / "gate"
    lab.start_endpoint("hpc1")
    client = lab.client()
    plugin = client.get_plugin("hpc1", "test")
    thread = threading.Thread(target=lambda: plugin.block(seconds=200, until=str(gate), deadline_s=300))
    thread.start()
    wait_until(lambda: client.endpoint("hpc1").facts.state == "busy", what="busy")
    wait_until(lambda: "loop-blocked" in lab.log_of("hpc1"), what="a log line")
    assert "def block" in lab.log_of("hpc1") or "in block" in lab.log_of("hpc1")
    gate.touch()
    thread.join(60)
    wait_until(lambda: client.endpoint("hpc1").facts.state == "present", what="present")


def test_an_endpoint_ends_in_time_though_a_plugin_will_not(lab):
    endpoint = lab.start_endpoint("hpc1")
    plugin = lab.client().get_plugin("hpc1", "test")

    def wait() -> None:
        with pytest.raises(OrbitError):
            plugin.ignore_cancel(seconds=100)

    thread = threading.Thread(target=wait)
    thread.start()
    watcher = lab.client()
    wait_until(lambda: watcher.endpoints()[0].facts.load["running"])
    os.kill(endpoint.pid, signal.SIGTERM)
    wait_until(lambda: endpoint.exit_code() is not None)
    thread.join(60)
    assert not thread.is_alive()


def test_a_closed_client_ends_its_calls(lab):
    lab.start_endpoint("hpc1")
    client = orbit_zmq.Client(url=lab.url)
    plugin = client.get_plugin("hpc1", "test")
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            plugin.sleep(seconds=20)
        except OrbitError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: client.endpoints()[0].facts.load["running"])
    client.close()
    thread.join(60)
    assert len(caught) == 1
    with pytest.raises((Canceled, OrbitError)):
        plugin.echo(text="x")

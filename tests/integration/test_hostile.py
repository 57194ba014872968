"""What goes wrong stays with the call that it happens to; everybody else is served on."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from lab import CuttableProxy, Lab, is_gone, wait_until

import orbit_zmq
from orbit_zmq import AsyncClient
from orbit_zmq.errors import BrokerUnreachable, DeadlineExceeded, InvalidArgument, OrbitError, RemoteError


@pytest.fixture
def plugin(lab: Lab) -> orbit_zmq.PluginClient:
    lab.start_endpoint("hpc1")
    made: orbit_zmq.PluginClient = lab.client(lab.tcp).get_plugin("hpc1", "test")
    return made


def test_streams_go_both_ways_at_once_however_long_they_are(plugin):
    pieces = [bytes([n]) * 100_000 for n in range(100)]
    assert b"".join(plugin.copy(data=iter(pieces))) == b"".join(pieces)


def test_streams_both_ways_survive_a_cut_in_the_middle(lab):
    line = lab.proxy(lab.tcp)
    lab.start_endpoint("hpc1")
    pieces = [bytes([n]) * 1000 for n in range(60)]

    async def source(line: CuttableProxy) -> AsyncIterator[bytes]:
        for number, piece in enumerate(pieces):
            if number % 20 == 10:
                line.cut()
            await asyncio.sleep(0.01)
            yield piece

    async def main() -> bytes:
        async with AsyncClient(url=line.address) as client:
            plugin = await client.get_plugin("hpc1", "test")
            return b"".join([piece async for piece in await plugin.call("copy", data=source(line))])

    assert asyncio.run(main()) == b"".join(pieces)


def test_a_source_that_yields_something_else_fails_its_own_call(plugin):
    with pytest.raises(InvalidArgument, match="str"):
        plugin.count(data=["text"])
    assert plugin.echo(text="well") == "well"


def test_a_source_that_raises_raises_in_the_caller(plugin):
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("the file is gone")

    with pytest.raises(KeyError, match="the file is gone"):
        plugin.count(data=broken())
    assert plugin.echo(text="well") == "well"


def test_a_source_that_yields_nothing_does_not_outlast_the_deadline(plugin):
    def silent() -> Iterator[bytes]:
        threading.Event().wait(5)
        yield b""

    with pytest.raises(DeadlineExceeded):
        plugin.count(data=silent(), deadline_s=0.3)


@pytest.mark.parametrize("kind", ["ExceptionGroup", "BaseException", "GeneratorExit", "SystemExit", "KeyboardInterrupt"])
def test_whatever_a_plugin_raises_ends_its_call_alone(plugin, kind):
    with pytest.raises((OrbitError, TypeError)):
        plugin.fail(kind=kind, message="on purpose")
    assert plugin.echo(text="well") == "well"


def test_a_plugin_that_forks_leaves_no_second_loop(plugin):
    child = plugin.fork()
    assert child > 0
    assert plugin.echo(text="well") == "well"
    wait_until(lambda: is_gone(child), what="the end of the copy")
    assert plugin.echo(text="well") == "well"


def test_an_exception_whose_text_is_no_text_arrives(plugin):
    with pytest.raises(ValueError, match="bad"):
        plugin.fail_oddly()
    assert plugin.echo(text="well") == "well"


def test_an_exception_group_arrives_as_a_remote_error(plugin):
    with pytest.raises(RemoteError, match="several"):
        plugin.fail_in_a_group()
    assert plugin.echo(text="well") == "well"


def test_the_first_call_may_come_from_many_threads(lab):
    lab.start_endpoint("hpc1")
    client = lab.stack.enter_context(orbit_zmq.Client(url=lab.url))
    fresh = orbit_zmq.Client(url=lab.url)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(fresh.endpoints()))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    fresh.close()
    assert found == [1] * 10
    assert len(client.endpoints()) == 1


def test_a_client_that_found_no_broker_may_try_again(lab):
    client = orbit_zmq.Client(url=f"{lab.url}2", connect_timeout_s=0.3)
    for _ in range(2):
        with pytest.raises(BrokerUnreachable):
            client.endpoints()
    client.close()


def test_cancels_made_while_the_line_is_down_reach_the_endpoint_later(lab):
    line = lab.proxy(lab.tcp)
    lab.start_endpoint("hpc1")
    watcher = lab.client()

    def running() -> int:
        [endpoint] = watcher.endpoints()
        return int(endpoint.facts.load["running"])

    async def main() -> None:
        async with AsyncClient(url=line.address) as client:
            plugin = await client.get_plugin("hpc1", "test")
            tasks = [asyncio.ensure_future(plugin.call("sleep", seconds=100, deadline_s=300)) for _ in range(50)]
            await asyncio.to_thread(wait_until, lambda: running() == 50)
            line.cut()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(wait_until, lambda: running() == 0)

    asyncio.run(main())


def test_clients_that_are_dropped_leave_no_thread_and_no_descriptor(lab):
    lab.start_endpoint("hpc1")
    lab.client().endpoints()
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for _ in range(10):
        orbit_zmq.Client(url=lab.url).endpoints()
    gc.collect()
    wait_until(lambda: threading.active_count() <= before[1])
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before[0] + 2)

"""Calls to whichever endpoint has the plugin, sessions that are found by plugin, and deadlines that bound the finding too."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from lab import Lab
from shell import Shell

from orbit_zmq import AsyncClient, Client
from orbit_zmq.errors import BrokerUnreachable, Conflict, DeadlineExceeded, InvalidArgument, NotFound


def test_a_call_to_anywhere_runs_once_on_an_endpoint_that_has_the_plugin(lab: Lab):
    lab.start_endpoint("hpc1", plugins="test")
    lab.start_endpoint("hpc2", plugins="math")
    client = lab.client()
    for _ in range(10):
        assert client.call("*", "math", "add", {"a": 1, "b": 2}, session="default")["result"] == 3
    with client.get_plugin("*", "math") as plugin:
        assert plugin.endpoint == "hpc2"
    assert client.find_endpoint(plugin="math").name == "hpc2"
    with pytest.raises(NotFound, match="no endpoint has plugin=none") as raised:
        client.call("*", "none", "add")
    assert "List what is there" in raised.value.hint
    with pytest.raises(NotFound, match="scheduler=flux"):
        client.find_endpoint(plugin="math", scheduler="flux")
    shell = Shell(lab.environment)
    assert shell.json("call", "*", "math", "add", "a=1", "b=2")["result"] == 3


def test_many_calls_to_anywhere_are_spread_over_those_that_have_the_plugin(lab: Lab):
    lab.start_endpoint("hpc1")
    lab.start_endpoint("hpc2")

    async def main() -> set[int]:
        async with AsyncClient(url=lab.url, connect_timeout_s=60) as client:
            async with asyncio.TaskGroup() as group:
                calls = [
                    group.create_task(client.call("*", "test", "where", {"text": "x"}, session="default")) for _ in range(40)
                ]
            return {call.result()["pid"] for call in calls}

    assert len(asyncio.run(main())) == 2


def test_the_default_session_of_a_plugin_is_attached_to_by_naming_the_plugin(lab: Lab):
    lab.start_endpoint("hpc1", plugins="test,math")
    client = lab.client()
    client.call("hpc1", "test", "echo", {"text": "x"}, session="default")

    attached = client.attach("default", plugin="test")
    assert (attached.endpoint, attached.sid) == ("hpc1", "default")
    assert attached.echo(text="x") == "x"
    attached.close()
    assert [entry["sid"] for entry in attached.list_sessions()] == ["default"]
    assert client.attach("default", endpoint="hpc1", plugin="math").add(a=1, b=2)["result"] == 3  # opened by this

    with pytest.raises(InvalidArgument, match="endpoint='hpc1', plugin='rhapsody'"):
        client.attach("default")
    with pytest.raises(NotFound, match="no endpoint has a plugin none"):
        client.attach("default", plugin="none")
    lab.start_endpoint("hpc2")
    with pytest.raises(Conflict, match="hpc1, hpc2 have a plugin test"):
        client.attach("default", plugin="test")
    assert client.attach("default", endpoint="hpc2", plugin="test").endpoint == "hpc2"


def test_a_session_whose_id_is_at_two_endpoints_is_attached_to_by_naming_one(lab: Lab):
    lab.start_endpoint("hpc1")
    lab.start_endpoint("hpc2")
    client = lab.client()
    for endpoint in ("hpc1", "hpc2"):
        client.get_plugin(endpoint, "test", sid="twice", lifetime="persistent")
    with pytest.raises(Conflict, match="Name the endpoint"):
        client.attach("twice")
    assert client.attach("twice", endpoint="hpc2").endpoint == "hpc2"


def test_who_attaches_without_holding_leaves_the_session_to_its_holder(lab: Lab):
    lab.start_endpoint("hpc1")
    holding = lab.client().get_plugin("hpc1", "test")
    holder = holding.list_sessions()[0]["holder"]

    watching = lab.client().attach(holding.sid, hold=False)
    assert watching.echo(text="x") == "x"
    watching.close()

    assert holding.list_sessions()[0]["holder"] == holder
    assert holding.echo(text="still here") == "still here"


def test_the_deadline_of_a_call_bounds_the_search_for_its_endpoint(lab: Lab):
    lab.start_endpoint("hpc1")
    client = lab.client()
    client.connect()
    assert lab.broker is not None
    os.kill(lab.broker.pid, signal.SIGSTOP)
    try:
        for endpoint in ("hpc1", "*"):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.call(endpoint, "test", "echo", {"text": "x"}, session="default", deadline_s=1.0)
            assert 0.9 <= time.monotonic() - began <= 25.0  # the default deadline is longer
    finally:
        os.kill(lab.broker.pid, signal.SIGCONT)
    assert client.call("hpc1", "test", "echo", {"text": "x"}, session="default") == "x"


def test_the_deadline_of_a_call_bounds_the_wait_for_a_broker(lab: Lab):
    assert lab.broker is not None
    lab.broker.end()
    client = Client(url=lab.tcp, connect_timeout_s=60.0)
    began = time.monotonic()
    with pytest.raises((BrokerUnreachable, DeadlineExceeded)):
        client.call("hpc1", "test", "echo", {"text": "x"}, deadline_s=1.0)
    assert time.monotonic() - began <= 25.0
    client.close()

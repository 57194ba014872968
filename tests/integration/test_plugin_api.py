"""Plugins over real connections: instances, changes at run time, lost holders, calls on behalf of a session's owner."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_testplugin import TestPlugin
from orbit_zmq import AsyncClient, Client
from orbit_zmq.endpoint import session_record
from orbit_zmq.errors import Conflict, NotFound, ShuttingDown
from orbit_zmq.plugin import Caller, Host, Plugin, PluginSession, operation
from orbit_zmq.testing import NAME, Running, serve

CALLS = 4_000


class LabelSession(PluginSession):
    """Says whom it belongs to."""

    @operation(effect="write")
    async def label(self, number: int) -> dict[str, Any]:
        return {"sid": self.sid, "number": number}

    @operation(effect="run")
    async def who_is_there(self) -> dict[str, Any]:
        """What this session's own client sees of another plugin."""
        other = await self.client.get_plugin(NAME, "test")
        seen = await self.client.call(NAME, "test", "whoami")
        return {"seen": seen, "sid": other.sid, "holder": (await other.list_sessions())[0]["holder"]}


class LabelPlugin(Plugin):
    plugin_name = "label"
    session_class = LabelSession

    @operation(effect="read")
    async def relayed(self, caller: Caller) -> dict[str, Any]:
        seen: dict[str, Any] = await self.client.call(NAME, "test", "whoami")
        return {"caller": caller.user, "seen": seen["user"], "by": seen["name"]}


def serves(client: Client, instance: str) -> bool:
    return instance in client.endpoint(NAME).plugins


def sessions_of(running: Running) -> int:
    return int(running.endpoint.pulse()["load"]["sessions"])


def test_a_plugin_that_is_added_or_removed_is_seen_by_all_soon() -> None:
    with serve(TestPlugin) as running, Client(url=running.client._link.place.address, connect_timeout_s=60) as other:
        other.call(NAME, "test", "ping")  # it knows the endpoint as it was
        running.endpoint.add_plugin(LabelPlugin, "late")
        both = (running.client, other)
        for client in both:
            wait_until(partial(serves, client, "late"), 20)
            assert client.get_plugin(NAME, "late").label(3)["number"] == 3
        assert running.client.get_plugin(NAME, "label").plugin == "late"  # by type
        with pytest.raises(Conflict):
            running.endpoint.add_plugin(LabelPlugin, "late")
        with pytest.raises(NotFound, match="no plugin 'nobodys'"):
            running.endpoint.add_plugin("nobodys")
        running.endpoint.remove_plugin("late")
        wait_until(lambda: not any(serves(client, "late") for client in both), 20)
        for client in both:
            with pytest.raises(NotFound):
                client.get_plugin(NAME, "late")
        endpoint = running.endpoint
    with pytest.raises(ShuttingDown):
        endpoint.add_plugin(LabelPlugin)


class WatchingPlugin(Plugin):
    """Remembers what it was told of the topology, one view at a time, and fails each time."""

    plugin_name = "watching"
    session_class = LabelSession

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.seen: list[list[str]] = []
        self.may_go_on = asyncio.Event()

    async def on_topology_change(self, endpoints: dict[str, Any]) -> None:
        self.seen.append(sorted(endpoints[NAME]["plugins"]))
        await self.may_go_on.wait()
        raise asyncio.CancelledError


def knows(plugin: WatchingPlugin, name: str) -> bool:
    return bool(plugin.seen) and name in plugin.seen[-1]


def test_a_topology_hook_that_takes_long_is_given_the_newest_view_alone() -> None:
    with serve(LabelPlugin) as running:
        quick, slow = (running.endpoint.add_plugin(WatchingPlugin, name) for name in ("quick", "slow"))
        assert isinstance(quick, WatchingPlugin) and isinstance(slow, WatchingPlugin)
        quick.may_go_on.set()
        wait_until(lambda: slow.seen and quick.seen)
        for name in ("more1", "more2", "more3"):
            running.endpoint.add_plugin(LabelPlugin, name)
            wait_until(partial(knows, quick, name))
        assert len(slow.seen) == 1
        assert running.endpoint._loop is not None
        running.endpoint._loop.call_soon_threadsafe(slow.may_go_on.set)
        wait_until(lambda: len(slow.seen) == 2)
        assert slow.seen[1] == ["label", "more1", "more2", "more3", "quick", "slow"]


def test_plugins_with_a_topology_hook_leave_no_task_behind_when_they_go() -> None:
    with serve(LabelPlugin) as running:

        def tasks() -> int:
            assert running.endpoint._loop is not None
            return len(asyncio.all_tasks(running.endpoint._loop))

        before = tasks()
        for number in range(10):
            made = running.endpoint.add_plugin(WatchingPlugin, f"watching{number}")
            assert isinstance(made, WatchingPlugin)
            wait_until(partial(knows, made, LabelPlugin.plugin_name))
            running.endpoint.remove_plugin(f"watching{number}")
        wait_until(lambda: tasks() <= before)


class StubbornSession(PluginSession):
    """Takes no notice of being canceled when it is closed."""

    may_end = threading.Event()

    async def close(self) -> dict[str, Any]:
        while not self.may_end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
        return await super().close()


class StubbornPlugin(Plugin):
    plugin_name = "stubborn"
    session_class = StubbornSession


def test_a_session_that_will_not_close_does_not_hold_up_the_end_of_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbit_zmq.endpoint.endpoint.READY_S", 250.0)
    try:
        with serve(LabelPlugin, StubbornPlugin) as running:
            running.client.call(NAME, "stubborn", "register_session", {"lifetime": "persistent"})
            started = time.monotonic()
            running.endpoint.stop()
            assert time.monotonic() - started < 100  # it would be 250 s
    finally:
        StubbornSession.may_end.set()


def test_a_plugin_may_add_another_instance_from_within_a_call() -> None:
    class Breeding(LabelPlugin):
        plugin_name = "breeding"

        @operation(effect="run")
        async def breed(self, name: str) -> None:
            running.endpoint.add_plugin(LabelPlugin, name)

    with serve(Breeding) as running:
        running.plugin.breed("child")
        assert running.client.get_plugin(NAME, "child").label(1)["number"] == 1


def test_a_session_whose_client_process_dies_ends_some_time_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_record, "RECLAIM_S", 0.2)
    with serve(LabelPlugin) as running:
        url = running.client._link.place.address
        client = Client(url=url, connect_timeout_s=60)
        for arguments in ({}, {"lifetime": "persistent"}, {"ttl": 600}):
            client.call(NAME, "label", "register_session", arguments)
        assert sessions_of(running) == 4
        client.close()  # it has no plugin client that would close them
        wait_until(lambda: sessions_of(running) == 3)
        assert running.plugin.label(1)["number"] == 1


def test_a_session_that_is_attached_to_lives_with_its_new_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_record, "RECLAIM_S", 0.2)
    with serve(LabelPlugin) as running:
        first = Client(url=running.client._link.place.address, connect_timeout_s=60)
        sids = [first.call(NAME, "label", "register_session")["sid"] for _ in range(2)]
        attached = running.client.get_plugin(NAME, "label", sid=sids[0])
        first.close()
        wait_until(lambda: sessions_of(running) == 2)
        assert attached.label(7) == {"sid": sids[0], "number": 7}
        attached.close()  # leaves a session that was there before
        assert sessions_of(running) == 2


def test_a_session_and_a_plugin_call_others_on_behalf_of_the_owner() -> None:
    with serve(LabelPlugin, TestPlugin) as running:
        user = running.client.call(NAME, "test", "whoami")["user"]
        there = running.plugin.who_is_there()
        assert there["seen"] == {"user": user, "name": NAME}
        assert there["holder"] == NAME
        assert running.plugin.relayed() == {"caller": user, "seen": user, "by": NAME}
        assert sessions_of(running) == 2
        running.plugin.unregister_session()
        wait_until(lambda: sessions_of(running) == 0, what="what the session had opened is closed with it")


def test_several_instances_and_default_sessions_from_the_command_line(lab: Lab) -> None:
    lab.start_endpoint("hpc1", plugins="test:left,test:right")
    client = lab.client()
    assert sorted(client.endpoint("hpc1").plugins) == ["left", "right"]
    with pytest.raises(NotFound, match="several instances of plugin test: left, right"):
        client.get_plugin("hpc1", "test")
    for instance in ("left", "right"):
        command = ["call", "hpc1", instance, "once", f"key={instance}", "--url", lab.url]
        done = subprocess.run(
            [sys.executable, "-m", "orbit_zmq.cli", *command], env=lab.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        (session,) = client.call("hpc1", instance, "list_sessions")["sessions"]
        assert session["sid"] == "default"


def test_interleaved_calls_arrive_where_endpoint_plugin_and_session_say(lab: Lab) -> None:
    pids = {name: lab.start_endpoint(name, plugins="test:left,test:right").pid for name in ("hpc1", "hpc2")}

    async def scenario() -> None:
        async with AsyncClient(url=lab.url, connect_timeout_s=60) as client:
            plugins = [await client.get_plugin(name, instance) for name in ("hpc1", "hpc2") for instance in ("left", "right")]
            await call_all(client, plugins)
            assert lab.broker is not None
            os.kill(lab.broker.pid, signal.SIGKILL)
            lab.broker.end()
            lab.start_broker(tcp=None)
            await call_all(client, plugins)

    async def call_all(client: AsyncClient, plugins: list[Any]) -> None:
        room = asyncio.Semaphore(64)

        async def one(number: int) -> None:
            plugin = random.choice(plugins)
            text = f"{plugin.endpoint}/{plugin.plugin}/{number}"
            async with room:
                if number % 4:
                    answer = await plugin.where(text, deadline_s=100)
                else:
                    answer = await client.call("", "", "where", {"text": text}, session=plugin.sid, deadline_s=100)
            assert answer == {"sid": plugin.sid, "pid": pids[plugin.endpoint], "text": text}

        await asyncio.gather(*(one(number) for number in range(CALLS)))
        for plugin in plugins:
            listed = await client.call(plugin.endpoint, plugin.plugin, "list_sessions")
            assert [session["sid"] for session in listed["sessions"]] == [plugin.sid]

    started = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - started < 240


def test_instances_may_be_made_before_the_endpoint() -> None:
    with serve(LabelPlugin(Host(), "one"), LabelPlugin(Host(), "two")) as running:
        assert {plugin.host.name for plugin in running.endpoint.plugins} == {NAME}
        assert running.plugin.plugin == "one"


def test_clients_see_what_is_absent_with_the_reason() -> None:
    class Elsewhere(LabelPlugin):
        plugin_name = "elsewhere"

        @classmethod
        def is_enabled(cls, host: Host) -> bool:
            return False

    class Broken(LabelPlugin):
        plugin_name = "broken"

        def __init__(self, host: Host) -> None:
            raise OSError("no such device")

    with serve(LabelPlugin, Elsewhere, Broken) as running:
        endpoint = running.client.endpoint(NAME)
        assert list(endpoint.plugins) == ["label"]
        reasons = {entry["plugin"]: entry["reason"] for entry in endpoint.facts.absent}
        assert reasons == {
            "elsewhere": "not applicable on this host",
            "broken": "cannot be made: OSError: no such device",
        }
        with pytest.raises(NotFound, match="has no plugin broken: cannot be made: OSError: no such device"):
            endpoint.get_plugin("broken")


def test_notebooks_show_tables_in_which_every_text_is_escaped() -> None:
    class Evil(LabelPlugin):
        plugin_name = "evil"
        version = "<b>1</b>"

        @operation(effect="read")
        async def shout(self, text: str = "<i>") -> str:
            """<script>alert(1)</script>"""
            return text

        @operation(effect="write")
        async def tell(self, topic: str, text: str) -> None:
            self.send_notification(topic, text)

    with serve(Evil) as running:
        running.plugin.tell("<script>topic</script>", "<b>data</b>")
        running.events.wait_for("<script>topic</script>")
        assert repr(running.events) == "<1 events, topics <script>topic</script>>"
        for shown in (running.client, running.client.endpoint(NAME), running.plugin, running.events, running.events[0]):
            page = shown._repr_html_()
            assert page.startswith("<table>") and not {"<script", "<b>", "<i>"} & set(re.findall(r"<\w+>?", page))
        assert "shout(text: str = &#x27;&lt;i&gt;&#x27;" in running.plugin._repr_html_()
        assert "shout" in dir(running.plugin) and running.plugin.shout("x") == "x"
